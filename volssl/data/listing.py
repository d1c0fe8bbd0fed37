"""What ``data.root`` names: a folder of volumes, or a ``labels.csv`` that lists them with their classes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from volssl.data.door import Found, Kind, find
from volssl.errors import DataError

Finder = Callable[[Path], tuple[list[Found], list[DataError]]]


@dataclass(frozen=True)
class Listed:
    """A volume and the index of its class, -1 where unknown."""

    found: Found
    label: int = -1


def listing(root: str, kinds: frozenset[Kind]) -> tuple[list[Listed], list[DataError]]:
    """Every volume of these kinds that the root names: ``listing_by`` of the door's ``find``."""
    return listing_by(root, partial(find, kinds=kinds))


def listing_by(root: str, finder: Finder) -> tuple[list[Listed], list[DataError]]:
    """Everything that the finder sees where the root points, and one error for each that cannot be used.

    In a CSV (columns ``path,label`` and any others; paths relative to the file) a row names a file or a
    folder, all of whose volumes get its label. Classes are numbered in the order of their names, numbers by value; an
    empty label is unknown.

    Raises:
        DataError: the root is missing or holds nothing or only what another ``data.name`` reads, or the CSV is not
            such a table.
    """
    path = Path(root)
    if path.is_file() and path.suffix.lower() == ".csv":
        listed, bad = _tabled(path, finder)
    else:
        found, bad = finder(path)
        listed = [Listed(one) for one in found]
    if bad and not listed and all(error.code == "kind" for error in bad):
        raise bad[0]
    return listed, bad


def _tabled(path: Path, finder: Finder) -> tuple[list[Listed], list[DataError]]:
    rows = _rows(path)
    numbers = {name: i for i, name in enumerate(_classes({label for _, label in rows if label}))}
    listed: list[Listed] = []
    bad: list[DataError] = []
    for name, label in rows:
        try:
            found, errors = _named(path, name, finder)
        except DataError as error:
            found, errors = [], [error]
        listed += [Listed(one, numbers.get(label, -1)) for one in found]
        bad += errors
    return listed, bad


def _rows(path: Path) -> list[tuple[str, str]]:
    """(path, label) of each row, the path in its simplest form."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            if missing := {"path", "label"} - set(reader.fieldnames or ()):
                raise DataError("labels", f"has no column {' and '.join(sorted(missing))}", str(path))
            rows = [((row["path"] or "").strip(), (row["label"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("labels", f"is no table in UTF-8 ({error})", str(path)) from error
    if nameless := [i for i, (name, _) in enumerate(rows, start=1) if not name]:
        raise DataError("labels", f"row {nameless[0]} names no path", str(path))
    rows = [(PurePosixPath(name).as_posix(), label) for name, label in rows]
    if twice := next(_repeated(name for name, _ in rows), None):
        raise DataError("labels", f"names {twice} twice: leave one row", str(path))
    return rows


def _repeated(names: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _classes(names: set[str]) -> list[str]:
    return sorted(names, key=int if all(name.isdecimal() for name in names) else None)


def _named(table: Path, name: str, finder: Finder) -> tuple[list[Found], list[DataError]]:
    """The volumes of one row, called by the row's path and what follows in it."""
    target = table.parent / name
    if not target.exists():
        raise DataError("missing", f"{table.name} names it, but it is not there", str(target))
    found, bad = finder(target)
    if target.is_file():
        return [replace(one, id=name) for one in found], bad
    return [replace(one, id=_below(name, one.id)) for one in found], bad


def _below(folder: str, name: str) -> str:
    if name == "." or name.startswith(".#"):
        return folder + name[1:]
    return f"{folder}/{name}"
