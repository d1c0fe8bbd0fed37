"""A ``labels.csv`` (torch-free): which files it names, of which split, and how its classes are numbered."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from volssl.errors import DataError
from volssl.names import private
from volssl.regular import open_regular

UNKNOWN = ("", "na", "nan")  # beside numbers below zero
READ = ("path", "label", "split", "patient")
LISTED, WIDTH = 5, 40  # words of a table that a message shows, and letters of each


@dataclass(frozen=True)
class Row:
    """path: of a file or folder, relative to the table, in its simplest form.

    label: the index of its class among those of all splits, as ``classes`` says; written: as it stands there.
    patient: whose it is, as it stands there.
    """

    path: str
    label: int
    split: str = ""
    patient: str = ""
    written: str = ""


def is_table(root: Path) -> bool:
    """Whether it is a file called ``.csv``."""
    return root.suffix.lower() == ".csv" and root.is_file()


def rows(table: Path, split: str | None) -> list[Row]:
    """The rows of a split; of ``all``, or of a table that has no such column and where none is asked for, every one.

    Raises:
        DataError: ``labels``: no such table, or it has a column ``split`` and none is asked for, or not that one.
    """
    found, has_splits = _read(table)
    if twice := next(_repeated(row.path for row in found), None):
        raise DataError("labels", f"names {private(twice)} twice: leave one row", str(table))
    if split == "all":
        return found
    if not has_splits:
        if split is None:
            return found
        raise DataError("labels", f"has no column split: leave out data.split ({split})", str(table))
    held = _some(sorted({row.split or "(empty)" for row in found})) or "nothing"
    if split is None:
        what = f"has a column split ({held}): say which to read, data.split, such as train, or all"
        raise DataError("labels", what, str(table))
    if chosen := [row for row in found if row.split == split]:
        return chosen
    raise DataError("labels", f"has no row of data.split {split} but {held}", str(table))


def class_names(table: Path) -> dict[int, str]:
    """How the first label of each class is written, by the class's index; nothing of unknown labels.

    Raises:
        DataError: ``labels``: no such table.
    """
    known = [row for row in rows(table, "all") if row.label >= 0]
    return {row.label: row.written for row in reversed(known)}


def classes(labels: Iterable[str]) -> dict[str, int]:
    """The index of each label's class: in the order of their values where all are numbers, of their names otherwise.

    ``1`` and ``1.0`` are one class. An empty label, ``NA``, ``NaN`` and numbers below zero are unknown: -1.
    """
    numbers = {label: _number(label) for label in labels}
    unknown = {label for label, number in numbers.items() if label.lower() in UNKNOWN or (number or 0) < 0}
    known = {label: number for label, number in numbers.items() if label not in unknown}
    values = {label: number for label, number in known.items() if number is not None}
    index: dict[str, int] = dict.fromkeys(unknown, -1)
    if len(values) == len(known):
        ranks = {value: i for i, value in enumerate(sorted(set(values.values())))}
        return index | {label: ranks[value] for label, value in values.items()}
    return index | {label: i for i, label in enumerate(sorted(known))}


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read(table: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The names of its columns, and every row as column to value; without the spaces around them, "" where absent.

    Raises:
        DataError: ``labels``: no CSV in UTF-8 with commas, a column named twice, or no path in some row.
    """
    try:
        with open_regular(table) as f, TextIOWrapper(f, newline="", encoding="utf-8-sig") as text:
            header, *lines = [*csv.reader(text)] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("labels", f"is no table in UTF-8 ({error})", str(table)) from error
    names = [name.strip() for name in header]
    if "path" not in names:
        what = "has no column path" + (": separate its columns by commas" if _semicolons(header) else "")
        raise DataError("labels", what, str(table))
    if twice := next(_repeated(filter(None, names)), None):
        raise DataError("labels", f"has two columns {_some([twice])}: rename one", str(table))
    found = [dict(zip_longest(names, map(str.strip, line[: len(names)]), fillvalue="")) for line in lines if line]
    if nameless := [i for i, row in enumerate(found, start=1) if not row["path"]]:
        raise DataError("labels", f"row {nameless[0]} names no path", str(table))
    return tuple(filter(None, names)), found


def _some(words: Sequence[str]) -> str:
    """The first words of a table, and of each its beginning: any column may be called ``split``."""
    told = ", ".join(word if len(word) <= WIDTH else f"{word[:WIDTH]}..." for word in words[:LISTED])
    return told + (f" and {len(words) - LISTED} more" if len(words) > LISTED else "")


def _semicolons(header: list[str]) -> bool:
    return any("path" in name.split(separator) for name in header for separator in (";", "\t"))


def _read(table: Path) -> tuple[list[Row], bool]:
    """Every row, and whether there is a column of splits."""
    columns, lines = read(table)
    found = [[line.get(key, "") for key in READ] for line in lines]
    index = classes(label for _, label, *_ in found)
    rows = [Row(simplest(path), index[label], split, patient, label) for path, label, split, patient in found]
    return rows, "split" in columns


def simplest(path: str) -> str:
    """Its simplest form, by which items are called."""
    return PurePosixPath(path).as_posix()


def _repeated(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)
