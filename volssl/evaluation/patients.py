"""Patients: what their rows hold, and how they are picked or dealt out so that every part holds all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volssl.errors import DataError
from volssl.evaluation.target import Floats, Groups, Ints, Target

THIRDS = 3  # of a number: low, middle and high take the place of classes
TRIES = 20  # at dealing patients out so that every training side holds everything

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Patients:
    """P patients of N rows.

    member: (N,) whose a row is. held: (P, C) which of C things a patient has: a class, a label or its absence, a third
    of the number. names: what they are called. stratum: (P,) of what a share is taken: of the highest class, of
    everybody for labels, of the third.
    """

    member: Ints
    held: Bools
    names: tuple[str, ...]
    stratum: Ints

    def __len__(self) -> int:
        return len(self.held)

    @property
    def count(self) -> Ints:
        """(C,) how many have each thing."""
        return np.asarray(self.held.sum(axis=0))

    def rows(self, chosen: Bools) -> Ints:
        """Rows of the chosen patients (P,), sorted."""
        return np.flatnonzero(chosen[self.member])


def patients_of(target: Target, groups: Groups) -> Patients:
    """Who has what, patients in the order of their names.

    Args:
        target: N rows, N > 0. groups: (N,) whose they are.
    """
    member = np.unique(groups, return_inverse=True)[1]
    if target.kind == "number":
        return _thirds(target, member)
    if target.kind == "labels":
        cells = np.hstack([target.values == 1, target.values == 0])
        names = (*target.names, *(f"no {name}" for name in target.names))
    else:
        classes = np.unique(target.values)
        cells, names = target.values[:, None] == classes, tuple(target.names[k] for k in classes)
    held = np.zeros((int(member.max()) + 1, len(names)), dtype=bool)
    np.logical_or.at(held, member, cells)
    highest = len(names) - 1 - held[:, ::-1].argmax(axis=1)
    return Patients(member, held, names, highest if target.kind == "classes" else np.zeros_like(highest))


def ranked(values: Floats, member: Ints) -> Ints:
    """(P,) the place of each patient's mean value, from 0."""
    means = np.bincount(member, values) / np.bincount(member)
    return np.argsort(np.argsort(means, kind="stable"))


def _thirds(target: Target, member: Ints) -> Patients:
    """Fewer parts where they would have fewer than two patients."""
    place = ranked(target.values, member)
    bins = max(1, min(THIRDS, len(place) // 2))
    third = place * bins // len(place)
    names = tuple(f"part {i + 1} of {bins} of {target.names[0]}" for i in range(bins))
    return Patients(member, np.eye(bins, dtype=bool)[third], names, third)


def each_held(held: Bools, place: Ints, enough: int) -> Bools:
    """(P,) patients such that each thing is had by ``enough``, or by all who have it; the rarest first.

    One more of each at a time, so that those for fewer are part of those for more.

    Args:
        held: (P, C). place: (P,) the lowest comes first.
    """
    chosen = np.zeros(len(held), dtype=bool)
    rarest = np.argsort(held.sum(axis=0), kind="stable")
    for wanted in range(1, enough + 1):
        for thing in rarest:
            others = np.flatnonzero(held[:, thing] & ~chosen)
            if held[chosen, thing].sum() < wanted and len(others):
                chosen[others[place[others].argmin()]] = True
    return chosen


def all_held(held: Bools) -> bool:
    """Whether each of C things is had by one of these patients (P, C)."""
    return bool(held.any(axis=0).all())


def deal(held: Bools, wanted: Floats, seed: int, good: Callable[[Ints], bool], where: str = "") -> Ints:
    """(P,) the part that each patient is in, such that parts have what they want: iterative stratification.

    The thing that the fewest of the patients left have is dealt out first, each patient to the part that lacks most
    of it, then to the one that lacks most patients, then by lot (Sechidis et al. 2011, algorithm 1).

    Args:
        held: (P, C). wanted: (C, parts) how many patients with each thing a part wants. good: whether parts will do;
        they are dealt again if not.

    Raises:
        DataError: none of ``TRIES`` deals will do.
    """
    for attempt in range(TRIES):
        part = _deal_once(held, wanted.astype(np.float64), np.random.default_rng([seed, attempt]))
        if good(part):
            return part
    what = "no split by patient was found that leaves every class, or label and its absence, to train on"
    raise DataError("labels", f"{what}: add patients, or leave the rarest out", where)


def _deal_once(held: Bools, wanted: Floats, rng: np.random.Generator) -> Ints:
    part = np.full(len(held), -1, dtype=np.int64)
    room = wanted.sum(axis=0) / wanted.sum() * len(held)
    while len(left := np.flatnonzero(part < 0)):
        count = held[left].sum(axis=0)
        rarest = int(np.where(count > 0, count, len(held) + 1).argmin())
        lack = wanted[rarest] if count.any() else room
        for patient in rng.permutation(left[held[left, rarest]] if count.any() else left):
            part[patient] = to = np.lexsort((rng.random(len(room)), room, lack))[-1]
            wanted[held[patient], to] -= 1
            room[to] -= 1
    return part
