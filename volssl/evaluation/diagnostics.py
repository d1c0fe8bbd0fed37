"""What a report draws of predictions: ROC curves, reliability, confusion, as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, roc_curve

from volssl.evaluation.target import Floats, Ints, Predicted, Target

BINS = 10
GRID = np.linspace(0, 1, 401)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Of each bin that holds predictions: their mean, the share that came true with its 95 % interval, and how many."""

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    count: Ints


def roc(target: Target, predicted: Predicted) -> Floats | None:
    """Sensitivity on ``GRID``, shares of false alarms: the mean over classes or labels, each against the rest.

    Rows of different models are not ranked together: within a class, curves of folds are averaged, each
    weighing as many pairs as it ranks, so that the area is ``auc_within``.

    Returns:
        (401,), or None where no class has rows on both sides.
    """
    curves = [curve for y, score, fold in _sides(target, predicted) if (curve := _one(y, score, fold)) is not None]
    return np.mean(curves, axis=0) if curves else None


def _sides(target: Target, predicted: Predicted) -> Iterator[tuple[Ints, Floats, Ints]]:
    fold = np.zeros(len(target), dtype=np.int64) if predicted.fold is None else predicted.fold
    if target.binary:
        yield target.values, predicted.score, fold
    elif target.kind == "classes":
        yield from (((target.values == k).astype(np.int64), s, fold) for k, s in enumerate(predicted.score.T))
    elif target.kind == "labels":
        for y, s in zip(target.values.T, predicted.score.T, strict=True):
            known = y >= 0
            yield y[known], s[known], fold[known]


def _one(y: Ints, score: Floats, fold: Ints) -> Floats | None:
    curves, pairs = [], []
    for rows in (fold == f for f in np.unique(fold)):
        positive = int(y[rows].sum())
        if 0 < positive < rows.sum():
            false, true, _ = roc_curve(y[rows], score[rows])
            curves.append(np.interp(GRID, false, true))
            pairs.append(positive * (rows.sum() - positive))
    return np.average(curves, axis=0, weights=pairs) if curves else None


def reliability(target: Target, predicted: Predicted) -> Reliability | None:
    """Of class 1 where there are two, of the class called where there are more, of all labels together.

    Returns:
        ten bins of equal width, empty ones left out (Guo et al. 2017, arXiv 1706.04599), with Wilson intervals; None
        where there are no probabilities.
    """
    if predicted.probability is None:
        return None
    p, y = _claims(target, predicted.probability)
    at = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    bins = [at == b for b in np.unique(at)]
    tests = [binomtest(int(y[b].sum()), int(b.sum())).proportion_ci(method="wilson") for b in bins]
    return Reliability(
        np.array([p[b].mean() for b in bins]),
        np.array([y[b].mean() for b in bins]),
        np.array([t.low for t in tests]),
        np.array([t.high for t in tests]),
        np.array([b.sum() for b in bins]),
    )


def _claims(target: Target, probability: Floats) -> tuple[Floats, Ints]:
    """Probabilities and whether what they were given to came true."""
    if target.binary:
        return probability[:, 1], target.values
    if target.kind == "classes":
        return probability.max(axis=1), (probability.argmax(axis=1) == target.values).astype(np.int64)
    known = target.values >= 0
    return probability[known], target.values[known]


def confusion(target: Target, predicted: Predicted) -> Ints | None:
    """Counts of true (rows) by called (columns): (K, K) of classes, (L, 2, 2) of labels; None for a number.

    Called is what ``predicted.called`` says, and without it the class of the highest score, or a label from 0 on.
    """
    if target.kind == "number":
        return None
    called = predicted.called if predicted.called is not None else _called(target, predicted.score)
    if target.kind == "classes":
        return np.asarray(confusion_matrix(target.values, called, labels=range(len(target.names))))
    known = [(y[y >= 0], c[y >= 0]) for y, c in zip(target.values.T, called.T, strict=True)]
    return np.stack([confusion_matrix(y, c, labels=[0, 1]) for y, c in known])


def _called(target: Target, score: Floats) -> Ints:
    many = target.kind == "classes" and not target.binary
    return score.argmax(axis=1) if many else (score >= 0).astype(np.int64)
