"""Where the items of a manifest lie: its roots are walked again, and a file is meant whose keyed path is listed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from volssl.data.door import Found, natural, walk
from volssl.data.fingerprint import combined
from volssl.data.manifest import AGAIN, KINDS, OK, Ids, Manifest, below, key_path, open_manifest
from volssl.data.seen import key_mark, read_key
from volssl.errors import DataError
from volssl.names import typed


@dataclass(frozen=True, slots=True)
class _File:
    """A file that a manifest names. text: its path below its root."""

    path: Path
    text: str

    @property
    def folder(self) -> str:
        return PurePosixPath(self.text).parent.as_posix()


def located(path: Path, kind: str) -> list[tuple[Found, str]]:
    """Every item of a kind that a manifest lists, as ``door.find`` would find it, and its keyed patient or "".

    No header is read. What the manifest leaves out is its own business. A folder of pictures is a stack where all of
    its pictures could be read.

    Raises:
        DataError: ``manifest`` or ``key``: it, or the key beside it, cannot be used; ``kind``: it lists nothing of this
            kind; ``missing``: roots or files are not where they were.
    """
    manifest = open_manifest(path)
    ids, rows = _ids(manifest), list(manifest.usable(kind))
    pictures = _pictures(manifest) if kind == "stack" else []
    if not rows and not pictures:
        raise _nothing(manifest, kind)
    files = _walked(manifest, ids, [*rows, *pictures])
    return sorted([*_items(rows, files), *_stacks(pictures, files)], key=lambda one: one[0].id)


def whereabouts(manifest: Manifest, rows: Iterable[dict[str, Any]]) -> Iterator[Found]:
    """The files of some rows, in their order.

    Raises:
        DataError: as ``located``.
    """
    rows = list(rows)
    files = _walked(manifest, _ids(manifest), rows)
    return (_found(row, [files[name] for name in row["files"]], row["id"]) for row in rows)


def _ids(manifest: Manifest) -> Ids:
    path = key_path(manifest.path)
    key = read_key(path)
    if key is None or key_mark(key) != manifest.key:
        what = "the key of the manifest is not beside it" if key is None else "is the key of another manifest"
        raise DataError("key", f"{what}: put its own back, or {AGAIN}", typed(path))
    return Ids(key)


def _walked(manifest: Manifest, ids: Ids, rows: Sequence[dict[str, Any]]) -> dict[str, _File]:
    """Keyed name -> file, of all that the rows name; those that could not be read may be gone."""
    wanted = {name for row in rows for name in row["files"] or ()}
    needed = {name for row in rows if row["sha256"] for name in row["files"]}
    files: dict[str, _File] = {}
    for number, root in enumerate(manifest.roots):
        if not root.exists():
            raise DataError("missing", f"a root of the manifest is gone: bring it back, or {AGAIN}", str(root))
        base = root if root.is_dir() else root.parent
        for _, held in walk(root, []):
            for file in held:
                text = below(len(manifest.roots), number, file.relative_to(base).as_posix())
                if (name := ids("file", text)) in wanted:
                    files[name] = _File(file, text)
    if missing := len(needed - files.keys()):
        what = (
            f"{missing} of {len(needed)} files are no longer where the manifest has them: bring them back, or {AGAIN}"
        )
        raise DataError("missing", what, str(manifest.path))
    return files


def _pictures(manifest: Manifest) -> list[dict[str, Any]]:
    """All rows of files that are pictures by their names, as far as their rows say."""
    return [row for row in manifest if row["format"] == "images" and row["files"]]


def _nothing(manifest: Manifest, kind: str) -> DataError:
    held = Counter(row["kind"] for row in manifest if row["status"] == OK)
    others = ", ".join(f"{held[name]} of data.name: {name}" for name in KINDS if held[name])
    if not others:
        return DataError("empty", f"the manifest lists nothing that can be read: {AGAIN}", str(manifest.path))
    return DataError("kind", f"the manifest lists nothing of data.name: {kind}, but {others}", str(manifest.path))


def _found(row: dict[str, Any], files: list[_File], name: str) -> Found:
    flat = row["frames"]
    several = row["format"] == "dicom" and row["kind"] == "volume"
    frames = [*zip(flat[::2], flat[1::2], strict=True)] if flat else [(i, 0) for i in range(len(files) * several)]
    paths = tuple(file.path for file in files)
    return Found(name, row["format"], paths, _coded(row), tuple(frames), row["sha256"], row["times"] or 1)


def _coded(row: dict[str, Any]) -> str:
    """In place of a series' description, which a manifest does not hold: such as ``MR GR+IR 3D``."""
    return " ".join(filter(None, (row["modality"], row["sequence"])))


def _items(rows: Iterable[dict[str, Any]], files: dict[str, _File]) -> Iterator[tuple[Found, str]]:
    """A series is called by its folder and, where that holds several, by which of them it is."""
    series: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        own = [files[name] for name in row["files"]]
        if row["format"] == "dicom" and row["kind"] == "volume":
            series[own[0].folder].append(row)
        else:
            yield _found(row, own, own[0].text), row["patient"] or ""
    for folder, members in series.items():
        width = len(str(len(members)))
        for i, row in enumerate(members, start=1):
            name = folder if len(members) == 1 else f"{folder}#{i:0{width}}"
            yield _found(row, [files[file] for file in row["files"]], name), row["patient"] or ""


def _stacks(rows: Iterable[dict[str, Any]], files: dict[str, _File]) -> Iterator[tuple[Found, str]]:
    """The folders of which every picture was read to its end, if only to say that it is of one value."""
    folders: defaultdict[str, list[tuple[_File, dict[str, Any]]]] = defaultdict(list)
    for row in rows:
        if file := files.get(row["files"][0]):
            folders[file.folder].append((file, row))
    for folder, members in folders.items():
        if all(row["sha256"] for _, row in members):
            members.sort(key=lambda one: natural(one[0].path))
            content = combined([row["sha256"] for _, row in members])
            yield Found(folder, "images", tuple(file.path for file, _ in members), sha256=content), ""
