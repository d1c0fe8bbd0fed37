"""Probes on arrays alone: frozen features in, scores out, and what they are worth with intervals, paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from volssl.evaluation.linear import FOLDS, linear_probe
from volssl.evaluation.splits import folds
from volssl.evaluation.statistics import CLASS_METRICS, Estimate, bootstrap, class_metrics, estimate
from volssl.evaluation.target import Floats, Groups, Ints


@dataclass(frozen=True, slots=True)
class Scores:
    """score of N test rows: (N,) logits of class 1, or (N, K) log-odds of each of K > 2 classes.

    fold: (N,) which model scored a row, None if one scored all; rows of different models are not ranked together.
    """

    score: Floats
    fold: Ints | None = None


@dataclass(frozen=True, slots=True)
class Worth:
    """What encoders are worth on the same test rows.

    scores: per encoder, those of each seed. values: encoder -> one of ``CLASS_METRICS`` -> (seeds, R + 1),
    column 0 from the rows themselves, the others from resampled patients. redrawn: resamples that lacked a class.
    """

    scores: Mapping[str, Sequence[Scores]]
    values: Mapping[str, Mapping[str, Floats]]
    redrawn: int

    def estimate(self, encoder: str, metric: str = "auc") -> Estimate:
        """Mean over seeds with its 95 % interval over patients."""
        return estimate(self.values[encoder][metric])

    def difference(self, encoder: str, other: str, metric: str = "auc") -> Estimate:
        """``encoder - other``, paired: both on the same resampled patients, seed by seed."""
        return estimate(self.values[encoder][metric] - self.values[other][metric])


def probe(
    encoders: Mapping[str, tuple[Floats, Floats]],
    train_y: Ints,
    test_y: Ints,
    *,
    train_groups: Groups,
    test_groups: Groups,
    resamples: int = 1000,
    seed: int = 0,
) -> Worth:
    """A linear probe on each encoder's features, all with the same folds and the same resampled patients.

    Args:
        encoders: name to features of the training rows (N, D) and of the test rows (M, D); D may differ.
        train_y, test_y: (N,) and (M,) classes 0..K-1. train_groups, test_groups: (N,) and (M,) patients.

    Raises:
        ValueError: a patient is on both sides, the sides hold different classes, or as ``linear_probe``.
    """
    if len(shared := np.intersect1d(train_groups, test_groups)):
        raise ValueError(f"{len(shared)} patients are in training and test rows, such as {shared[0]}: split by patient")
    if not np.array_equal(held := np.unique(train_y), others := np.unique(test_y)):
        raise ValueError(f"the training rows hold the classes {held.tolist()}, the test rows {others.tolist()}")
    scores = {
        name: [Scores(linear_probe(train, train_y, test, groups=train_groups, seed=seed).scores)]
        for name, (train, test) in encoders.items()
    }
    return measure(scores, test_y, groups=test_groups, resamples=resamples)


def cross_fit(x: Floats, y: Ints, *, groups: Groups, seed: int = 0) -> Scores:
    """Scores of every row by a linear probe of the other folds' patients, which chooses its own regularisation.

    For sets too small to set a test part aside. The folds depend on y, groups and seed alone, so that the
    scores of two encoders are paired.

    Args:
        x: (N, D). y: (N,) classes 0..K-1. groups: (N,) patients.

    Raises:
        ValueError: as ``linear_probe``, for the training side of any fold.
    """
    fold, parts = np.zeros(len(y), dtype=np.int64), []
    for i, (train, held) in enumerate(folds(y, groups, FOLDS, seed)):
        fold[held] = i
        parts.append((held, linear_probe(x[train], y[train], x[held], groups=groups[train], seed=seed).scores))
    scores = np.empty((len(y), *parts[0][1].shape[1:]))
    for held, part in parts:
        scores[held] = part
    return Scores(scores, fold)


def measure(scores: Mapping[str, Sequence[Scores]], y: Ints, *, groups: Groups, resamples: int = 1000) -> Worth:
    """What scores are worth: ``CLASS_METRICS`` over one set of resampled patients that all encoders share.

    Args:
        scores: encoder to its scores of the same N rows, one entry per seed. y: (N,) classes 0..K-1. groups:
        (N,) patients.

    Raises:
        ValueError: y holds one class only.
    """
    drawn = bootstrap(y, groups, resamples, seed=0)
    values = {}
    for name, seeds in scores.items():
        each = [class_metrics(y, one.score, drawn.weight, one.fold) for one in seeds]
        values[name] = {metric: np.stack([one[metric] for one in each]) for metric in CLASS_METRICS}
    return Worth(scores, values, drawn.redrawn)
