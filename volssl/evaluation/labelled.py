"""A labelled data set, opened: rows and their target, whose they are, and which are trained and tested on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from volssl.data import VolumeConfig
from volssl.data.identity import Identity, identify
from volssl.data.items import PreparedSource, Readers
from volssl.data.masks import read_mask
from volssl.errors import DataError
from volssl.evaluation import MasksConfig, SetConfig, StudyConfig
from volssl.evaluation.card import Card
from volssl.evaluation.contestants import Contestant, source_config
from volssl.evaluation.findings import SetCard
from volssl.evaluation.foresight import require_sides, sides, sizes
from volssl.evaluation.metrics import METRICS
from volssl.evaluation.splits import budget_note, check_sides, choose, folds_of, require_disjoint
from volssl.evaluation.statistics import Resamples, bootstrap_of, patients_tested
from volssl.evaluation.table import Rows, read_targets
from volssl.evaluation.target import Groups, Ints, Target
from volssl.names import private, typed

Report = Callable[[str], None]
Budget = float | int


@dataclass(frozen=True, slots=True)
class Part:
    """Positions of the rows that one model is fitted to, before the label budget, and of those that it scores."""

    train: Ints
    test: Ints


@dataclass
class LabelledSet:
    """One data set of a study, its N rows in the order of its sources, without those that have no answer.

    rows: (N,) their positions in the sources. target: of masks, their places by size, so that subsets and folds hold
    large and small ones. parts: one, or as many as there are folds. resamples: of the test rows.
    """

    name: str
    config: SetConfig
    everybody: tuple[Contestant, ...]
    sources: Mapping[str, PreparedSource]
    table: Rows
    target: Target
    masks: Mapping[str, tuple[Tensor, ...]]
    parts: tuple[Part, ...]
    resamples: Resamples
    notes: tuple[str, ...] = ()
    _chosen: dict[tuple[int, Budget, int], Ints] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> Ints:
        return self.table.rows

    @property
    def _voxels(self) -> Target | None:
        """Of masks, how many voxels each holds."""
        held = [float((mask > 0).sum()) for mask in next(iter(self.masks.values()), ())]
        return Target("number", np.array(held), ("voxels",)) if held else None

    @cached_property
    def test(self) -> Ints:
        """(M,) every row that is tested, sorted."""
        return np.sort(np.concatenate([part.test for part in self.parts]))

    @property
    def metric(self) -> str:
        """The one that decides."""
        return "dice" if isinstance(self.config.target, MasksConfig) else METRICS[self.target.kind][0]

    def source(self, card: Card) -> PreparedSource:
        """The items as the card prepares them."""
        return self.sources[_prepared(card)]

    def masks_of(self, card: Card) -> tuple[Tensor, ...]:
        """Of each row, (*region) int64 on the voxels of its item as the card prepares it."""
        return self.masks[_prepared(card)]

    @property
    def classes(self) -> tuple[str, ...]:
        """What the values 1, 2, ... of masks are; of other targets, what they name."""
        target = self.config.target
        return target.classes if isinstance(target, MasksConfig) else self.target.names

    def items_key(self, card: Card) -> str:
        """What names all items as the card prepares them."""
        if (known := self._keys.get(name := _prepared(card))) is None:
            source, told = self.source(card), hashlib.sha256(name.encode())
            for item, fingerprint in zip(source.ids, source.fingerprints, strict=True):
                told.update(os.fsencode(f"{item}\0{fingerprint}\n"))  # a name of a file need not be UTF-8
            known = self._keys[name] = told.hexdigest()
        return known

    def key(self, card: Card) -> str:
        """What names the items, the rows, and all that the table and the masks say of them, voxels included."""
        if (known := self._keys.get(name := f"rows {_prepared(card)}")) is None:
            says = [self.target.kind, self.target.names, self.classes, self.table.patients.tolist()]
            told = hashlib.sha256(json.dumps([self.items_key(card), *says]).encode())
            for array in (self.rows, self.target.values):
                told.update(np.ascontiguousarray(array).tobytes())
            for mask in self.masks.get(_prepared(card), ()):
                told.update(f"{tuple(mask.shape)}".encode() + mask.contiguous().numpy().tobytes())
            known = self._keys[name] = told.hexdigest()
        return known

    def chosen(self, part: int, budget: Budget, seed: int) -> Ints:
        """The training rows that a label budget leaves: the same for everybody."""
        key = (part, budget, seed)
        if key not in self._chosen:
            train = self.parts[part].train
            mine = choose(self.target.at(train), self.table.patients[train], budget, seed, f"sets.{self.name}")
            self._chosen[key] = train[mine]
        return self._chosen[key]

    def identity(self, card: Card) -> Identity:
        """What tells its items from others, patients of the table included."""
        named = self.table.patients if self.table.has_patients else ()
        prefix = f"{self.config.whose} "
        told = {int(row): str(name).removeprefix(prefix) for row, name in zip(self.rows, named, strict=False)}
        known = {row: name for row, name in told.items() if not name.startswith("item ")}
        return identify(self.source(card), patients=known)

    def card(self) -> SetCard:
        """The set in words and numbers."""
        source = next(iter(self.sources.values()))
        return SetCard(
            name=self.name,
            what=f"{self.config.data.name}, {Path(self.config.data.root).name}",
            items=len(self.target),
            patients=len(np.unique(self.table.patients)) if self.table.has_patients else 0,
            test=len(self.test),
            kind=self.config.target.name,
            metric=self.metric,
            counts=_counts(self._voxels or self.target),
            left_out=tuple(str(error) for error in source.bad),
            notes=self.notes,
            tested=patients_tested(self.target.at(self.test), self.table.patients[self.test]),
        )


def open_set(
    name: str, config: SetConfig, study: StudyConfig, everybody: tuple[Contestant, ...], seed: int, report: Report
) -> LabelledSet:
    """Read every item once per preprocessing, the table, and decide who is trained and tested on.

    Raises:
        DataError, ConfigError: in one line, whatever of the data, the table or the sides cannot be used.
    """
    where = typed(f"sets.{name}")
    if not everybody:
        raise DataError("encoder", "has nobody to evaluate: name encoders, or floors: [pixels]", where)
    sources = _sources(config, study, everybody, report, where)
    table = read_targets(config, next(iter(sources.values())), where)
    masks = _masks(config, everybody, sources, table)
    target = table.target or _places(masks)
    require_sides(config, table, target, where)
    parts, notes = _parts(config, target, table, where, seed)
    for part in parts:
        require_disjoint(table.patients[part.train], table.patients[part.test], where)
        if not masks:
            check_sides(target.at(part.train), target.at(part.test), where)
    test = np.sort(np.concatenate([part.test for part in parts]))
    resamples = _resamples(table.target and table.target.at(test), table.patients[test], study.bootstrap, seed, where)
    train = parts[0].train
    for budget in (*study.per_class, *study.fractions):
        if told := budget_note(target.at(train), table.patients[train], budget, where):
            notes.append(told)
    notes += _not_done(config, study, everybody)
    return LabelledSet(name, config, everybody, sources, table, target, masks, parts, resamples, (*table.notes, *notes))


def _prepared(card: Card) -> str:
    return f"{card.preprocessing.model_dump_json()} {card.region}"


def _sources(
    config: SetConfig, study: StudyConfig, everybody: tuple[Contestant, ...], report: Report, where: str
) -> dict[str, PreparedSource]:
    """By preprocessing; all read the same items."""
    found: dict[str, PreparedSource] = {}
    for one in everybody:
        if (key := _prepared(one.card)) in found:
            continue
        report(f"reading {where.removeprefix('sets.')}")
        found[key] = _built(one.card, config, study)
        other = next(iter(found.values()))
        if [*found[key].ids] != [*other.ids]:  # of tiles they are made when asked for, each time anew
            lacks = next(iter(set(found[key].ids) ^ set(other.ids)))
            what = f"{one.name} and the encoders before it cannot all read the same items, such as {private(lacks)}"
            raise DataError("items", f"{what}: mend or leave out those items", where)
    return found


def _built(card: Card, config: SetConfig, study: StudyConfig) -> PreparedSource:
    """What cannot be read is told in one line, with the first of it: a table is mended row by row."""
    try:
        return source_config(card, config, study.cache).build(card.region, readers=Readers(study.workers))
    except DataError as error:
        what, *items = error.message.splitlines()
        first = f"; the first: {items[0].strip()}" if items else ""
        raise DataError(error.code, what + first, error.where) from None


def _masks(
    config: SetConfig, everybody: tuple[Contestant, ...], sources: Mapping[str, PreparedSource], table: Rows
) -> dict[str, tuple[Tensor, ...]]:
    """By preprocessing, the mask of each row on the voxels of its item."""
    if not isinstance(config.target, MasksConfig):
        return {}
    found: dict[str, tuple[Tensor, ...]] = {}
    root, classes = Path(config.data.root).parent, len(config.target.classes)
    for one in everybody:
        if (key := _prepared(one.card)) in found:
            continue
        data = one.card.preprocessing
        if not isinstance(data, VolumeConfig):
            what = f"{one.name} was trained on {data.name}: masks are of volumes"
            raise DataError("mask", what, typed("sets"))
        names = [root / sources[key].ids[int(row)] for row in table.rows]
        pairs = zip(table.masks, names, strict=True)
        found[key] = tuple(read_mask(m, image, data, one.card.region, classes=classes) for m, image in pairs)
    return found


def _places(masks: Mapping[str, tuple[Tensor, ...]]) -> Target:
    return sizes(np.array([int((mask > 0).sum()) for mask in next(iter(masks.values()))]))


def _resamples(target: Target | None, patients: Groups, n: int, seed: int, where: str) -> Resamples:
    """Of masks (None) every resample will do: Dice is of one volume."""
    if target is not None:
        try:
            return bootstrap_of(target, patients, n, seed)
        except DataError as error:
            raise DataError(error.code, error.message, where) from None
    names, member = np.unique(patients, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return Resamples(np.asfortranarray(np.vstack([np.ones(len(member)), drawn[:, member]])), 0)


def _not_done(config: SetConfig, study: StudyConfig, everybody: tuple[Contestant, ...]) -> list[str]:
    """A line for what the study asks for and this set does not allow."""
    if isinstance(config.target, MasksConfig):
        asked = [key for key in ("fusion", "robustness", "convergence") if getattr(study, key)]
        return [f"left out, because it is not done of masks: {', '.join(asked)}"] if asked else []
    there = [one.name for one in everybody if one.build and not one.floor]
    short = [i for i, one in enumerate(study.fusion, 1) if len({*there} & {*(one.encoders or there)}) < 2]
    return [f"fusion {i} is left out: this set has fewer than two of its encoders" for i in short]


def _parts(config: SetConfig, target: Target, table: Rows, where: str, seed: int) -> tuple[tuple[Part, ...], list[str]]:
    if table.split is not None:
        return (Part(*sides(config, table)),), []
    parts = tuple(Part(*sides) for sides in folds_of(target, table.patients, config.folds, seed, where))
    return parts, [f"no column split: each item is tested once, in {len(parts)} folds by patient"]


def _counts(target: Target) -> dict[str, float]:
    """Of rows of each class or label, or mean and standard deviation of a number."""
    if target.kind == "number":
        return {"mean": float(target.values.mean()), "sd": float(target.values.std(ddof=1))}
    if target.kind == "labels":
        return {name: float((column == 1).sum()) for name, column in zip(target.names, target.values.T, strict=True)}
    return {name: float((target.values == k).sum()) for k, name in enumerate(target.names)}
