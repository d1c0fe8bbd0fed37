"""The manifest of ``volssl index`` (torch-free): its columns, its keyed ids, and how it is checked when it is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volssl.data.child import decode
from volssl.data.preflight import check_regular
from volssl.errors import DataError, RunError
from volssl.names import LENGTH, identifier, typed

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2  # raise it when the columns, or what they mean, change
SUFFIX = ".parquet"
ABOUT = "volssl"  # under which the file's metadata has what it says of itself
KINDS = ("volume", "image", "video", "slide", "stack")  # the data.name that reads an item
OK, LEFT_OUT = "ok", "left out"
ROWS = 4096  # of a row group
BATCH = 1024  # rows that are looked at together
WIDEST = 2**31  # bytes that a group of rows may take, uncompressed
AGAIN = "run volssl index again"

_ID, _SHA = re.compile(f"[0-9a-f]{{{LENGTH}}}"), re.compile("[0-9a-f]{64}")
_FORMATS = {"dicom", "nifti", "npy", "images", "slide", "video"}
_TEXTS = (
    *("id", "status", "reason", "kind", "format", "modality", "sequence", "orientation", "plane", "sha256"),
    *("patient", "study", "series"),
)
_NUMBERS = ("tilt", "thickness", "mean", "sd", "low", "p1", "median", "p99", "high", "foreground")
_COUNTS = ("channels", "times", "slices", "bits")
_LISTS = {"shape": "int64", "spacing": "float64", "files": "string", "frames": "int32"}


def schema() -> pa.Schema:
    """The columns, in order; ``docs/data.md`` says what each holds."""
    import pyarrow as pa

    columns = {name: pa.string() for name in _TEXTS}
    columns |= {name: pa.list_(pa.field("element", getattr(pa, kind)())) for name, kind in _LISTS.items()}
    columns |= dict.fromkeys(_COUNTS, pa.int32()) | {"bytes": pa.int64()} | dict.fromkeys(_NUMBERS, pa.float64())
    return pa.schema([pa.field(name, kind, nullable=name not in ("id", "status")) for name, kind in columns.items()])


@dataclass(frozen=True, slots=True)
class Ids:
    """Keyed names: without the key nobody can try names until one fits."""

    key: bytes

    def __call__(self, kind: str, text: str) -> str:
        """HMAC-SHA-256 of what is called ``text`` among its kind; the text never leaves."""
        return identifier(self.key, text, kind)


def below(roots: int, number: int, path: str) -> str:
    """What a path relative to the ``number``-th root is called: its root stands in front where there are several."""
    return path if roots == 1 else f"{number}/{path}"


def key_path(manifest: Path) -> Path:
    """Where the key of its ids lies."""
    return manifest.with_name(manifest.name + ".key")


def is_manifest(root: Path) -> bool:
    """Whether it is a file called ``.parquet``."""
    return root.suffix.lower() == SUFFIX and root.is_file()


class Seal:
    """Of rows, one after the other: what a damaged file does not have."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rows as they are read, with every column."""
        for row in rows:
            self._digest.update(json.dumps(row, sort_keys=True).encode())

    def __str__(self) -> str:
        return self._digest.hexdigest()


def about(roots: Sequence[str], key: int, seal: Seal) -> dict[str, str]:
    """What the file says of itself. key: the mark of the one that its ids are made with."""
    told = {"format": FORMAT, "roots": list(roots), "key": key, "seal": str(seal)}
    return {ABOUT: json.dumps(told)}


@dataclass(frozen=True)
class Manifest:
    """A manifest that has the columns it should.

    roots: the folders that were walked; key: the mark of the one that its ids are made with; seal: of its rows.
    """

    path: Path
    roots: tuple[Path, ...]
    key: int
    seal: str

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every row, checked, a batch at a time.

        Raises:
            DataError: ``manifest``: it is damaged, which may show only at the end, or no manifest after all.
        """
        seal = Seal()
        for rows in islice(_contents(self.path, rows=True), 1, None):
            with _refusing(self.path):
                seal.add(rows)
                if faulty := next((name for row in rows if (name := _fault(row))), None):
                    raise DataError("manifest", f"a row has an impossible {faulty}: {AGAIN}", str(self.path))
            yield from rows
        if str(seal) != self.seal:
            raise DataError("manifest", f"damaged: {AGAIN}", str(self.path))

    def usable(self, kind: str) -> Iterator[dict[str, Any]]:
        """The rows of items of a kind."""
        return (row for row in self if row["status"] == OK and row["kind"] == kind)


def open_manifest(path: Path) -> Manifest:
    """Look at what a file says that it holds, before any of it is read.

    Raises:
        DataError: ``manifest``: no Parquet file, or not one that ``volssl index`` of this version wrote.
    """
    check_regular(path)
    with _refusing(path):
        (told,) = _contents(path, rows=False)
        roots = tuple(Path(typed(path.parent / _root(root))) for root in told["roots"])  # the user wrote them then
        if not roots:
            raise ValueError("no roots")
        return Manifest(path, roots, int(told["key"]), str(told["seal"]))


def count(path: Path, kind: str) -> tuple[int, int]:
    """How many items of a kind it lists, and how many time points they have; folders of pictures are no stacks here.

    Raises:
        DataError: ``manifest``, as ``open_manifest``.
    """
    times = [row["times"] or 1 for row in open_manifest(path).usable(kind)]
    return len(times), sum(times)


def _contents(path: Path, *, rows: bool) -> Iterator[Any]:
    """What ``manifest_file.contents`` gives, read by a process that may die of it."""
    arrays = decode("manifest", path, rows)
    while True:
        with _refusing(path):
            array = next(arrays, None)
            told = None if array is None else json.loads(array.tobytes())
        if told is None:
            return
        yield told


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        if error.code in ("manifest", "not_a_file", "missing", "permission", "timeout"):
            raise
        raise DataError("manifest", f"cannot be read ({error.code}): {AGAIN}", str(path)) from None
    except RunError:
        raise
    except Exception:  # whatever a reader of damaged files throws; its words are not ours
        raise DataError("manifest", f"cannot be read: {AGAIN}", str(path)) from None


def _root(text: object) -> Path:
    if not isinstance(text, str) or "\0" in text or not text:
        raise ValueError("a root is no path")
    return Path(text)


def _fault(row: dict[str, Any]) -> str:
    """The first column of a row that no ``volssl index`` wrote; empty where there is none."""
    files, frames = row["files"] or [], row["frames"] or []
    usable = row["status"] == OK
    sound = {
        "id": _ID.fullmatch(row["id"] or ""),
        "status": row["status"] in (OK, LEFT_OUT),
        "kind": row["kind"] in KINDS or not usable,
        "format": row["format"] in _FORMATS or not usable,
        "sha256": _SHA.fullmatch(row["sha256"] or "") or (row["sha256"] is None and not usable),
        "files": all(file and _ID.fullmatch(file) for file in files) and (files or not usable),
        "frames": len(frames) % 2 == 0
        and all(n is not None and n >= 0 for n in frames)
        and all(n < len(files) for n in frames[::2]),
        "patient": row["patient"] is None or _ID.fullmatch(row["patient"]),
        "modality": len(row["modality"] or "") <= LENGTH,
        "sequence": len(row["sequence"] or "") <= 2 * LENGTH,
        "times": row["times"] is None or row["times"] > 0,
    }
    return next((name for name, good in sound.items() if not good), "")
