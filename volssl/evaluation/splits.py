"""Who is in which label subset and which fold: stratified, by patient, the same for every encoder."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from volssl.evaluation.target import Groups, Ints

LEAST = 2  # patients per class: with one, no fold could hold a class out and still train on it


def subset(y: Ints, groups: Groups, fraction: float, seed: int) -> Ints:
    """Rows of a stratified share of the patients, at least two per class, sorted.

    Nested: with the same seed a smaller fraction is part of a larger one. A patient stands in the class of the
    highest label (any positive exam makes one positive), and comes with all exams.

    Args:
        y: (N,) classes 0..K-1. groups: (N,) patients. fraction: in (0, 1].
    """
    names, member = np.unique(groups, return_inverse=True)
    highest = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(highest, member, y)
    rng = np.random.default_rng(seed)
    keep = np.zeros(len(names), dtype=bool)
    for label in np.unique(highest):
        patients = rng.permutation(np.flatnonzero(highest == label))
        keep[patients[: max(LEAST, round(fraction * len(patients)))]] = True
    return np.flatnonzero(keep[member])


def folds(y: Ints, groups: Groups, most: int, seed: int) -> list[tuple[Ints, Ints]]:
    """(training rows, held-out rows) of at most ``most`` folds, as few as the rarest class has patients.

    Every row is held out once; no patient is on both sides; every training side holds all classes.

    Args:
        y: (N,) two classes or more. groups: (N,) patients.

    Raises:
        ValueError: a class has fewer than two patients, or there is one class only.
    """
    classes = np.unique(y)
    k = min([most, *(len(np.unique(groups[y == label])) for label in classes)])
    if len(classes) < 2 or k < LEAST:
        raise ValueError("folds need two patients of each class")
    single = len(np.unique(groups)) == len(groups)
    kind = StratifiedKFold if single else StratifiedGroupKFold
    parts = kind(k, shuffle=True, random_state=seed).split(y, y, None if single else groups)
    made = [(train, held) for train, held in parts if len(held)]
    if any(len(np.unique(y[train])) < len(classes) for train, _ in made):
        raise ValueError("a fold's training side lacks a class: too few patients")
    return made
