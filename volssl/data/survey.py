"""Sources of which one file holds many items: every file is looked into once, and what was seen is remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from volssl.data.cache_file import DamagedError, Spacing, fetch, make_folder, store
from volssl.data.cache_work import run
from volssl.data.door import Found, Kind, walk
from volssl.data.fingerprint import Stamp, stamp
from volssl.data.items import HERE, Readers, Report
from volssl.data.preflight import guard
from volssl.errors import DataError

SUFFIX = ".seen"  # not an item: a few numbers, which no ceiling deletes
Look = Callable[[Found], tuple[Tensor, Spacing]]


@dataclass(frozen=True)
class Seen:
    """What a look into a file in the state ``stamp`` brought: a tensor and a few numbers."""

    stamp: Stamp
    values: Tensor
    numbers: Spacing


def one_per_file(
    root: Path, kind: Kind, wanted: Callable[[Path], bool], what: str
) -> tuple[list[Found], list[DataError]]:
    """Every wanted file under ``root`` (a folder, or one file), sorted by its path relative to it.

    Args:
        wanted: decides by name or header; its DataError says why a file that should be one is left out.
        what: is looked for, in words.

    Raises:
        DataError: ``missing`` if ``root`` does not exist, ``empty`` if it holds nothing wanted.
    """
    found: list[Found] = []
    errors: list[DataError] = []
    with guard("unreadable", root):
        if not root.exists():
            raise DataError("missing", "no such file or folder: check data.root", str(root))
        base = root if root.is_dir() else root.parent
        for file in (file for _, files in walk(root, errors) for file in files):
            try:
                if wanted(file):
                    found.append(Found(file.relative_to(base).as_posix(), kind, (file,)))
            except DataError as error:
                errors.append(error)
    if not found and not errors:
        raise DataError("empty", f"holds no {what}: look at data.root and data.name", str(root))
    return sorted(found, key=lambda one: one.id), errors


def survey(
    found: Sequence[Found],
    look: Look,
    settings: str,
    cache: str,
    *,
    readers: Readers = HERE,
    report: Report | None = None,
) -> list[Seen | DataError]:
    """Look into every file, in processes of which one may crash; what was seen before is read from ``cache``.

    Args:
        look: a function that pickles. settings: all that its result depends on beside the file.
        readers, report: as in ``build_cache``.

    Raises:
        RunError: the folder cannot be written.
    """
    folder = make_folder(cache)
    seen: dict[int, Seen | DataError] = {}
    tasks: dict[int, _Task] = {}
    for i, one in enumerate(found):
        task = _Task(one, look, settings, folder)
        known = readers.refused(one.id) or task.recall()
        if known is None:
            tasks[i] = task
        else:
            seen[i] = known
    for i, result in run(tasks, readers.workers, readers.timeout):
        seen[i] = result
        if report:
            report(len(seen), len(found), str(result) if isinstance(result, DataError) else "")
    return [seen[i] for i in range(len(found))]


@dataclass(frozen=True)
class _Task:
    """One file to look into."""

    found: Found
    look: Look
    settings: str
    folder: Path

    @property
    def id(self) -> str:
        return self.found.id

    def recall(self) -> Seen | DataError | None:
        """What is remembered of the file in its present state; an error where it is not there."""
        try:
            state = stamp(self.found.files)
            path = self._path(state)
            values, numbers = fetch(path)
        except (FileNotFoundError, DamagedError):
            return None
        except DataError as error:
            return error
        return Seen(state, values, numbers)

    def __call__(self) -> Seen | DataError:
        try:
            state = stamp(self.found.files)
            values, numbers = self.look(self.found)
            if stamp(self.found.files).digest != state.digest:
                raise DataError("changed", "changed while it was read: run again", self.id)
            if state.settled:
                store(self._path(state), values, numbers)
        except DataError as error:
            return error
        return Seen(state, values, numbers)

    def _path(self, state: Stamp) -> Path:
        name = hashlib.sha256(f"{self.settings}\0{state.digest}".encode()).hexdigest()
        return self.folder / (name + SUFFIX)
