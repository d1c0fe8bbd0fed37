"""Who is in which label subset, fold and side: stratified, by patient, the same for every encoder."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from volssl.errors import ConfigError, DataError
from volssl.evaluation.patients import Patients, all_held, deal, each_held, patients_of, ranked
from volssl.evaluation.target import Groups, Ints, Target
from volssl.names import private

LEAST = 2  # patients per class: with one, no fold could hold a class out and still train on it


def choose(target: Target, groups: Groups, budget: float | int, seed: int, where: str = "") -> Ints:
    """Rows of the patients that a label budget leaves, sorted; they come with all of their rows.

    A share (float) is of the patients of each class, of all patients for labels, of each third for a number. A count
    (int) is of patients with each class, with and without each label, in each third; where there are fewer, all are
    taken. A patient with several classes counts for each, and for a share stands in the highest. Never fewer than two
    of each, since with one no fold could hold it out and still train on it: the rarest are chosen first.

    Nested: with the same seed, a smaller share is part of a larger one, and a smaller count of a larger one. Where
    each patient has one class (or a number), so is a count of a share that comes to no fewer of each.

    Args:
        target: N rows. groups: (N,) patients. budget: a share in (0, 1], or a count. where: for messages.

    Raises:
        ConfigError: a count below two.
        DataError: nothing varies, or fewer than two patients have a class, or a label, or lack it.
    """
    if isinstance(budget, int) and budget < LEAST:
        raise ConfigError(f"per_class: {budget} is too few: a fold that holds one out needs another to train on")
    patients = _enough(target, groups, where)
    place, strata = _in_random_order(patients.stratum, np.random.default_rng(seed))
    if isinstance(budget, int):
        return patients.rows(each_held(patients.held, place, budget))
    chosen = each_held(patients.held, place, LEAST)
    for stratum in strata:
        first = stratum[np.argsort(~chosen[stratum], kind="stable")]
        chosen[first[: round(budget * len(first))]] = True
    return patients.rows(chosen)


def _in_random_order(stratum: Ints, rng: np.random.Generator) -> tuple[Ints, list[Ints]]:
    """(P,) each patient's place in its stratum, and the patients of each stratum in that order."""
    place, strata = np.empty_like(stratum), []
    for one in np.unique(stratum):
        strata.append(rng.permutation(np.flatnonzero(stratum == one)))
        place[strata[-1]] = np.arange(len(strata[-1]))
    return place, strata


def budget_note(target: Target, groups: Groups, budget: float | int, where: str = "") -> str | None:
    """A line on a budget that cannot be kept to: below two of each class, or above what there is; else None.

    Raises:
        ConfigError, DataError: as ``choose``.
    """
    patients = _enough(target, groups, where)
    if isinstance(budget, int):
        short = [f"{name} has {n}" for name, n in zip(patients.names, patients.count, strict=True) if n < budget]
        return f"{budget} patients per class: {', '.join(short)}: all of them are taken" if short else None
    wanted = round(budget * len(patients))
    taken = len(np.unique(patients.member[choose(target, groups, budget, 0, where)]))
    what = f"{100 * budget:g} % of {len(patients)} patients are {wanted}, and two of each class are needed"
    return f"{what}: {taken} are taken" if taken > wanted else None


def subset(y: Ints, groups: Groups, fraction: float, seed: int) -> Ints:
    """As ``choose``, of classes.

    Args:
        y: (N,) classes 0..K-1. groups: (N,) patients. fraction: in (0, 1].
    """
    return choose(_classes(y), groups, float(fraction), seed)


def folds(y: Ints, groups: Groups, most: int, seed: int) -> list[tuple[Ints, Ints]]:
    """(training rows, held-out rows) of at most ``most`` folds, as few as the rarest class has patients.

    Every row is held out once; no patient is on both sides; every training side holds all classes. Where patients have
    several classes, a training side of scikit-learn's folds may not: then patients are dealt out as those with labels.

    Args:
        y: (N,) two classes or more. groups: (N,) patients.

    Raises:
        ValueError: a class has fewer than two patients, or there is one class only.
        DataError: no folds were found of which every training side holds all classes.
    """
    labels, names = (tuple(np.asarray(given).tolist()) for given in (y, groups))
    return [(train.copy(), held.copy()) for train, held in _folds(labels, names, most, seed)]


@lru_cache(maxsize=256)
def _folds(labels: tuple[int, ...], names: tuple[object, ...], most: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Every encoder asks for the same ones, and scikit-learn takes as long over them as a probe does."""
    y, groups = np.array(labels, dtype=np.int64), np.unique(np.array(names), return_inverse=True)[1]
    classes = np.unique(y)
    k = min([most, *(len(np.unique(groups[y == label])) for label in classes)])
    if len(classes) < 2 or k < LEAST:
        raise ValueError("folds need two patients of each class")
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # a second, which sides need not wait

    single = len(np.unique(groups)) == len(groups)
    kind = StratifiedKFold if single else StratifiedGroupKFold
    parts = kind(k, shuffle=True, random_state=seed).split(y, y, None if single else groups)
    made = [(train, held) for train, held in parts if len(held)]
    if all(len(np.unique(y[train])) == len(classes) for train, _ in made):
        return made
    return _dealt(patients_of(_classes(y), groups), k, seed)


def folds_of(target: Target, groups: Groups, most: int, seed: int, where: str = "") -> list[tuple[Ints, Ints]]:
    """As ``folds``, for a target of any kind.

    Of labels, every training side knows each label from both sides; there are as few folds as the rarest side has
    patients. Of a number, every fold has one of any ``most`` patients that are next to one another.

    Raises:
        DataError: nothing varies, or fewer than two patients have a class, or a label, or lack it; or as ``folds``.
    """
    patients = _enough(target, groups, where)
    if target.kind == "classes":
        return folds(target.values, groups, most, seed)
    if target.kind == "labels":
        return _dealt(patients, min(most, int(patients.count.min())), seed, where)
    k, rng = min(most, len(patients)), np.random.default_rng(seed)
    lots = np.concatenate([rng.permutation(k) for _ in range(0, len(patients), k)])
    return _sides(patients, lots[ranked(target.values, patients.member)], k)


def held_out(target: Target, groups: Groups, share: float, seed: int) -> tuple[Ints, Ints]:
    """(rows to fit, rows held out) of one split by patient, for early stopping.

    The held-out patients are about ``share`` of those of each class (label, absence of a label, third of a number), and
    at least one; at least one of each is left to fit, so that of a class of one patient none is held out.

    Args:
        target: N rows. groups: (N,) patients. share: in (0, 1).

    Raises:
        DataError: no split was found that leaves one of each to fit.
    """
    patients = patients_of(target, groups)
    some = patients.count > 0
    held, count = patients.held[:, some], patients.count[some]
    out = np.minimum(np.maximum(np.round(share * count), 1), count - 1)
    part = deal(held, np.column_stack([count - out, out]), seed, lambda part: all_held(held[part == 0]))
    return patients.rows(part == 0), patients.rows(part == 1)


def require_disjoint(train_groups: Groups, test_groups: Groups, where: str = "") -> None:
    """No patient is on both sides.

    Raises:
        DataError: some are (``leak``); how many, and the first.
    """
    if len(shared := np.intersect1d(train_groups, test_groups)):
        what = f"{len(shared)} patients are in training and test rows, such as {private(shared[0], 'patient')}"
        raise DataError("leak", f"{what}: keep each on one side", where)


def check_sides(train: Target, test: Target, where: str = "") -> None:
    """What is asked was trained on, and on both sides something varies.

    A label that the test rows know from one side only is no error while others vary: metrics leave it out.

    Raises:
        DataError: a side is empty or holds one class (number) only, the training rows know a label from one side only,
            or the test rows hold a class that no training row has.
    """
    for side, rows in (("training", train), ("test", test)):
        if fault := _sameness(rows, side):
            raise DataError("labels", fault, where)
    if train.kind == "classes" and len(unseen := np.setdiff1d(test.values, train.values)):
        name, n = train.names[unseen[0]], int((test.values == unseen[0]).sum())
        what = f"{n} test rows are {name}, and no training row is"
        raise DataError("labels", f"{what}: add some to train on, or leave those rows out", where)


def require_foldable(target: Target, groups: Groups, where: str = "") -> None:
    """Of each class, label and absence of one there are patients for two folds at least that leave two to train on.

    Raises:
        DataError: there are not; how many there are.
    """
    patients = _enough(target, groups, where)
    least, rare = LEAST + 1, int(patients.count.argmin())
    count, name = (len(patients), "") if target.kind == "number" else (patients.count[rare], patients.names[rare])
    if count < least:
        have = f"{name} has {count} of {len(patients)} patients" if name else f"there are {count} patients"
        what = f"{have}, and without a column split three are needed: a fold holds one out and trains on two"
        raise DataError("labels", f"{what}; add labelled ones, or leave it out", where)


def _sameness(rows: Target, side: str) -> str | None:
    """What does not vary, and what to do about it."""
    if not len(rows):
        return f"there are no {side} rows: look at the column split"
    if rows.kind == "labels":
        varied = [(column == 1).any() and (column == 0).any() for column in rows.values.T]
        if all(varied) or (side == "test" and any(varied)):
            return None
        name = rows.names[varied.index(False)]
        return f"the {side} rows do not hold {name} and its absence both: leave it out of target.columns, or add rows"
    if len(np.unique(rows.values)) > 1:
        return None
    value = rows.names[rows.values[0]] if rows.kind == "classes" else f"{rows.names[0]} {rows.values[0]:g}"
    return f"all {len(rows)} {side} rows are {value}, so there is nothing to tell apart: add others"


def _classes(y: Ints) -> Target:
    return Target("classes", y, tuple(f"class {k}" for k in range(int(y.max()) + 1)))


def _enough(target: Target, groups: Groups, where: str) -> Patients:
    """Patients such that two have each thing."""
    if fault := _sameness(target, "labelled"):
        raise DataError("labels", fault, where)
    patients = patients_of(target, groups)
    if (count := patients.count).min() < LEAST:
        rare = int(count.argmin())
        what = f"{patients.names[rare]} has {count[rare]} of {len(patients)} patients, and two are needed"
        raise DataError("labels", f"{what}: add labelled ones, merge it with another, or leave it out", where)
    return patients


def _dealt(patients: Patients, k: int, seed: int, where: str = "") -> list[tuple[Ints, Ints]]:
    wanted = np.repeat(patients.count[:, None] / k, k, axis=1)

    def good(part: Ints) -> bool:
        return all(all_held(patients.held[part != fold]) for fold in range(k))

    return _sides(patients, deal(patients.held, wanted, seed, good, where), k)


def _sides(patients: Patients, part: Ints, k: int) -> list[tuple[Ints, Ints]]:
    return [(patients.rows(part != fold), patients.rows(part == fold)) for fold in range(k)]
