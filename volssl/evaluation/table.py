"""The table of an evaluation set: what each item of its source is, whose it is, and on which side it stands."""

from __future__ import annotations

import difflib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volssl.data.archive import labels_of
from volssl.data.image_config import ImageConfig
from volssl.data.items import PreparedSource
from volssl.data.table import UNKNOWN, classes, is_table, read, simplest
from volssl.errors import DataError
from volssl.evaluation import ClassesConfig, LabelsConfig, MasksConfig, NumberConfig, SetConfig
from volssl.evaluation.target import Ints, Target
from volssl.names import private, withheld

NAMED = 3  # of several faults, those that a message names
PRESENCE = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "true": 1, "false": 0, "-1": -1, "-1.0": -1}


@dataclass(frozen=True, slots=True)
class Rows:
    """What the table says of the N items that it says enough of.

    rows: (N,) their positions in the source. target: None for masks, whose paths are ``masks``. patients: (N,) names;
    each table row's own where ``has_patients`` is false. split: (N,) values of the column, None without one.
    notes: what a reader should know, a line each.
    """

    rows: Ints
    target: Target | None
    masks: tuple[Path, ...]
    patients: NDArray[np.str_]
    has_patients: bool
    split: NDArray[np.str_] | None
    notes: tuple[str, ...]


def read_targets(config: SetConfig, source: PreparedSource, where: str) -> Rows:
    """Join the table that ``config.data.root`` names with the items of its source.

    Rows without an answer (empty, NA, NaN; for classes also numbers below zero) are left out and counted in a note.
    Where a patient is not named (likewise), the items of that row are one patient's and nobody else's, which a note
    says.

    Raises:
        DataError: ``labels``: there is no table; a column, a value, a mask or a split is not as it must be; called
            ``where``.
    """
    root = Path(config.data.root)
    if isinstance(config.data, ImageConfig) and config.data.archive:
        return _of_archive(config, source, root, where)
    if not is_table(root):
        what = f"{root} is no table: let data.root name a labels.csv with a column path"
        raise DataError("labels", what, where)
    table = _Table(root, where)
    of_item = table.of(source.ids)
    target, masks, known = _answers(config, table, of_item)
    rows = np.flatnonzero(known)
    if not len(rows):
        raise DataError("labels", f"no row of {root.name} says what its item is: fill the column in", where)
    below = _below_zero(config, table, of_item[~known])
    if below and target is not None and len(np.unique(target.values[rows])) == 1:
        what = f"all {len(rows)} labelled rows are {target.names[target.values[rows[0]]]}, and {below} below zero"
        raise DataError("labels", f"{what} are left out as unknown: write 0 for what is absent, not -1", where)
    notes = [_left_out(len(known) - len(rows), below)] if len(rows) < len(known) else []
    patients, has_patients = _patients(config, table, of_item[rows], notes)
    split = _split(config, table, of_item[rows], where, notes)
    return Rows(
        rows,
        target.at(rows) if target else None,
        tuple(masks[i] for i in rows) if masks else (),
        patients,
        has_patients,
        split,
        tuple(notes),
    )


class _Table:
    """Columns of strings, and which row an item of the source is of."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        self.names, self.lines = read(path)

    def of(self, ids: Sequence[str]) -> Ints:
        """(N,) the row of each item: of its path, or of the longest path that its name begins with."""
        row = {simplest(line["path"]): i for i, line in enumerate(self.lines)}
        found = [next((row[name] for name in _stems(item) if name in row), -1) for item in ids]
        if -1 in found:
            raise DataError("labels", f"{self.path.name} has no row for {private(ids[found.index(-1)])}", self.where)
        return np.array(found, dtype=np.int64)

    def column(self, name: str) -> list[str]:
        """Its values in the order of the rows."""
        if name not in self.names:
            near = self.near(name)
            meant = f"did you mean {near}?" if near else f"there is {', '.join(self.names)}"
            raise DataError("labels", f"{self.path.name} has no column {name}: {meant}", self.where)
        return [line[name] for line in self.lines]

    def near(self, name: str) -> str | None:
        """The column that is called most like it, if any is."""
        return next(iter(difflib.get_close_matches(name, self.names, 1, 0.6)), None)

    def at(self, name: str, rows: Ints) -> list[str]:
        """Its values at some rows."""
        column = self.column(name)
        return [column[row] for row in rows]

    def parsed(self, name: str, parse: Callable[[str], Any], wanted: str) -> list[Any]:
        """Its values, each as ``parse`` reads it; None is a value that it cannot read."""
        values = [parse(value) for value in self.column(name)]
        if None in values:
            row = values.index(None)
            given = self.lines[row][name]
            what = f"{self.path.name}, row {row + 1}, column {name}: {withheld(repr(given))} is not {wanted}"
            raise DataError("labels", what, self.where)
        return values


def _stems(item: str) -> list[str]:
    """What the row of an item may be called: its own name, or what stands before a ``/``, a ``#`` or an ``@``."""
    cuts = [i for i, letter in enumerate(item) if letter in "/#@"]
    return [item, *(item[:cut] for cut in reversed(cuts))]


def _answers(config: SetConfig, table: _Table, rows: Ints) -> tuple[Target | None, tuple[Path, ...], NDArray[np.bool_]]:
    """Of every item, and whether it is known."""
    wanted = config.target
    if isinstance(wanted, MasksConfig):
        given = table.at(wanted.column, rows)
        known = np.array([name.lower() not in UNKNOWN for name in given], dtype=bool)
        masks = tuple(table.path.parent / name for name in given)
        _require_masks([mask for mask, named in zip(masks, known, strict=True) if named], table.where)
        return None, masks, known
    if isinstance(wanted, NumberConfig):
        numbers = np.array(table.parsed(wanted.column, _number, "a number"))[rows]
        return Target("number", numbers, (wanted.column,)), (), ~np.isnan(numbers)
    if isinstance(wanted, LabelsConfig):
        if not wanted.columns:
            raise DataError("labels", "target.columns is missing: name the columns of 0 and 1", table.where)
        each = [table.parsed(name, _presence, "0, 1 or empty") for name in wanted.columns]
        values = np.array(each, dtype=np.int64).T[rows]
        return Target("labels", values, wanted.columns), (), np.any(values >= 0, axis=1)
    target = _classes(wanted, table).at(rows)
    return target, (), target.values >= 0


def _classes(wanted: ClassesConfig, table: _Table) -> Target:
    """Of every row of the table, -1 where it is unknown; in the order of ``wanted.order``, of numbers, or of names."""
    written = table.column(wanted.column)
    index = classes(written)
    names = {number: label for label, number in reversed(index.items()) if number >= 0}
    if wanted.order:
        _require_all(wanted.order, [names[k] for k in range(len(names))], table, wanted.column)
        index |= {label: wanted.order.index(label) for label in wanted.order}
        names = dict(enumerate(wanted.order))
    y = np.array([index[label] for label in written], dtype=np.int64)
    ordered = bool(wanted.order) or all(_number(name) is not None for name in names.values())
    return Target("classes", y, tuple(names[k] for k in range(len(names))), ordered)


def _require_all(order: Sequence[str], names: Sequence[str], table: _Table, column: str) -> None:
    """The order holds each class once and nothing else."""
    said = f"target.order {', '.join(order)}"
    if lost := [name for name in names if name not in order]:
        raise DataError("labels", f"{said} lacks {lost[0]}, which {column} holds: give it its place", table.where)
    if idle := [name for i, name in enumerate(order) if name not in names or name in order[:i]]:
        what = f"{said} names {idle[0]}, which no row is, or twice"
        raise DataError("labels", f"{what}: {column} holds {', '.join(names)}", table.where)


def _below_zero(config: SetConfig, table: _Table, rows: Ints) -> int:
    """How many of these rows, whose class is unknown, have a number below zero."""
    if not isinstance(config.target, ClassesConfig):
        return 0
    return sum((_number(label) or 0) < 0 for label in table.at(config.target.column, rows))


def _number(text: str) -> float | None:
    if text.lower() in UNKNOWN:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _presence(text: str) -> int | None:
    return -1 if text.lower() in UNKNOWN else PRESENCE.get(text.lower())


def _require_masks(masks: Sequence[Path], where: str) -> None:
    if gone := [mask for mask in masks if not os.path.isfile(mask)]:  # of a name too long Path.is_file raises
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise DataError("missing", f"{private(gone[0])}{more}: the table names it, but it is not there", where)


def _patients(config: SetConfig, table: _Table, rows: Ints, notes: list[str]) -> tuple[NDArray[np.str_], bool]:
    """Items of one row, such as the slices of a volume, are one patient's in any case."""
    alone, whose = [f"item {row}" for row in rows], config.whose
    if config.group is None and whose not in table.names:
        near = table.near(whose)
        meant = f" (if {near} says whose an item is, write group: {near})" if near else ""
        notes.append(f"no column {whose}: each row is taken as a patient of its own{meant}")
        return np.array(alone), False
    given = table.at(whose, rows)
    nobody = [name.lower() in UNKNOWN for name in given]
    if any(nobody):
        notes.append(f"{sum(nobody)} items name no {whose}: each row is taken as one of its own")
    each = zip(given, nobody, alone, strict=True)
    return np.array([own if unnamed else f"{whose} {name}" for name, unnamed, own in each]), True


def _split(config: SetConfig, table: _Table, rows: Ints, where: str, notes: list[str]) -> NDArray[np.str_] | None:
    if "split" not in table.names:
        return None
    split = np.array(table.at("split", rows))
    _require_sides(config, split, where)
    if idle := len(split) - np.isin(split, (*config.train, *config.test)).sum():
        notes.append(f"{idle} items are of no split that train or test names")
    return split


def _require_sides(config: SetConfig, split: NDArray[np.str_], where: str) -> None:
    """Each side's names are there, and none is on both."""
    held = Counter(split.tolist())
    for key, names in (("train", config.train), ("test", config.test)):
        if unknown := [name for name in names if name not in held]:
            have = ", ".join(f"{name or '(empty)'} ({count})" for name, count in sorted(held.items()))
            raise DataError("labels", f"{key}: no row has split {unknown[0]} but {have}: write {key}: [...]", where)
    if both := set(config.train) & set(config.test):
        raise DataError("leak", f"split {sorted(both)[0]} is in train and in test: leave it in one", where)


def _of_archive(config: SetConfig, source: PreparedSource, root: Path, where: str) -> Rows:
    """Its rows are called ``split/number``."""
    if config.group is not None:
        raise DataError("labels", f"an .npz names no patients: leave group ({config.group}) out", where)
    split, number = zip(*(name.split("/") for name in source.ids), strict=True)
    labels: Mapping[str, NDArray[np.int64]] = {name: labels_of(root, name) for name in dict.fromkeys(split)}
    if len({held.shape[1] for held in labels.values()}) > 1:
        raise DataError("labels", f"the splits of {root.name} have labels of several widths: mend the file", where)
    held = np.stack([labels[side][int(i)] for side, i in zip(split, number, strict=True)])
    target, known = _archived(config, held, where)
    rows, sides = np.flatnonzero(known), np.array(split)[known]
    notes = ["an .npz names no patients: each image is taken as a patient of its own"]
    if len(rows) < len(held):
        notes.append(_left_out(len(held) - len(rows)))
    _require_sides(config, sides, where)
    patients = np.array([f"item {row}" for row in rows])
    return Rows(rows, target.at(rows), (), patients, False, sides, tuple(notes))


def _archived(config: SetConfig, held: NDArray[np.int64], where: str) -> tuple[Target, NDArray[np.bool_]]:
    """The target of labels (N, columns), and (N,) whether a row is known: numbers below zero are not."""
    wanted, column = config.target, getattr(config.data, "label_column", None) or 0
    if isinstance(wanted, LabelsConfig):
        names = wanted.columns or tuple(f"label {i}" for i in range(held.shape[1]))
        if len(names) != held.shape[1]:
            what = f"target.columns names {len(names)}, the archive has {held.shape[1]}: name each, or none"
            raise DataError("labels", what, where)
        if not np.isin(held, (-1, 0, 1)).all():
            raise DataError("labels", "the archive holds more than 0, 1 and -1: use target: classes", where)
        return Target("labels", held, names), np.any(held >= 0, axis=1)
    if isinstance(wanted, ClassesConfig):
        known = held[:, column] >= 0
        values, index = np.unique(held[known, column], return_inverse=True)
        y = np.full(len(held), -1)
        y[known] = index
        if wanted.order:
            raise DataError("labels", "an .npz numbers its classes: leave target.order out", where)
        return Target("classes", y, tuple(str(value) for value in values), ordered=True), known
    if isinstance(wanted, NumberConfig):
        return Target("number", held[:, column].astype(np.float64), (wanted.column,)), np.full(len(held), True)
    raise DataError("labels", "an .npz has no masks: use a labels.csv of volumes", where)


def _left_out(count: int, below: int = 0) -> str:
    negative = f" ({below} of them have a label below zero, which stands for unknown)" if below else ""
    return f"{count} items without an answer are left out{negative}"
