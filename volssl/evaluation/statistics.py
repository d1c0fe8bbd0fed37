"""Metrics over many resamples at once, the patient-level bootstrap, and paired differences.

Every metric takes weights of shape (R, N): how often resample r holds exam n. A row of ones gives the plain
number, so the estimate and its interval come from one formula. scikit-learn's functions take one resample at
a time; the tests hold these against them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from volssl.evaluation.target import Floats, Ints

METRICS = ("auc", "accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "kappa")
CLASS_METRICS = ("auc", "accuracy", "balanced_accuracy")


@dataclass(frozen=True, slots=True)
class Resamples:
    """weight (R + 1, N): row 0 is the sample itself. redrawn: how many resamples lacked a class."""

    weight: Floats
    redrawn: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval over resampled patients, and its standard deviation over seeds."""

    value: float
    low: float
    high: float
    sd: float = 0.0


def bootstrap(y: Ints, groups: NDArray[np.generic], n: int, seed: int) -> Resamples:
    """Draw ``n`` resamples of whole groups (patients) with replacement, as many groups as there are.

    Not stratified: the share of positives varies as it would in another cohort, and PPV and NPV with it. A
    resample in which a class is absent has no AUC: it is drawn again and counted. One set of resamples
    serves every score on the same exams, so that differences are paired.

    Args:
        y: (N,) classes. groups: (N,) which patient each exam belongs to.

    Raises:
        ValueError: y holds one class only.
    """
    of_class = np.unique(y)[:, None] == y
    if len(of_class) < 2:
        raise ValueError("y must hold both classes, or all of several")
    names, member = np.unique(groups, return_inverse=True)
    rng, share = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    weight = rng.multinomial(len(names), share, size=n)[:, member].astype(np.float64)
    redrawn = 0
    while len(bad := np.flatnonzero((weight @ of_class.T == 0).any(axis=1))):
        redrawn += len(bad)
        weight[bad] = rng.multinomial(len(names), share, size=len(bad))[:, member]
    return Resamples(np.vstack([np.ones(len(y)), weight]), redrawn)


def auc(y: Ints, score: Floats, weight: Floats) -> Floats:
    """Area under the ROC curve of each resample: P(positive > negative) + P(equal) / 2.

    Args:
        y: (N,) 0 or 1. score: (N,), higher means positive. weight: (R, N).

    Returns:
        (R,), NaN where a class has no weight.
    """
    if not np.isfinite(score).all():
        raise ValueError("scores must be finite")
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # each run of equal scores is one step of the curve
    positive = np.add.reduceat((weight * y)[:, order], starts, axis=1)
    negative = np.add.reduceat((weight * (1 - y))[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    return _ratio((positive * (below + negative / 2)).sum(1), positive.sum(1) * negative.sum(1))


def binary_metrics(y: Ints, score: Floats, threshold: float, weight: Floats) -> dict[str, Floats]:
    """The eight ``METRICS`` of each resample; an exam is called positive when ``score >= threshold``.

    Args:
        y: (N,) 0 or 1. score: (N,). weight: (R, N).

    Returns:
        name -> (R,); NaN where undefined (PPV when nothing is called positive).
    """
    called = score >= threshold
    tp, fp = weight @ (called & (y == 1)), weight @ (called & (y == 0))
    fn, tn = weight @ (~called & (y == 1)), weight @ (~called & (y == 0))
    total = tp + fp + fn + tn
    agreed = (tp + tn) / total
    by_chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
    return {
        "auc": auc(y, score, weight),
        "accuracy": agreed,
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "ppv": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "kappa": _ratio(agreed - by_chance, 1 - by_chance),
    }


def auc_within(y: Ints, score: Floats, weight: Floats, fold: Ints) -> Floats:
    """AUC over the pairs of rows that one model has scored, where each fold of a cross-fit has its own model.

    Scores of different models have no common scale, so ranking them together mixes their offsets into the
    result (Forman and Scholz 2010). Every pair counts once: large folds count for more.

    Args:
        y: (N,) 0 or 1. score: (N,). weight: (R, N). fold: (N,).

    Returns:
        (R,), NaN where no fold has weight on both sides.
    """
    parts = [np.flatnonzero(fold == f) for f in np.unique(fold)]
    areas = np.stack([auc(y[p], score[p], weight[:, p]) for p in parts])
    pairs = np.stack([(weight[:, p] @ y[p]) * (weight[:, p] @ (1 - y[p])) for p in parts])
    return _ratio(np.where(pairs > 0, areas * pairs, 0.0).sum(axis=0), pairs.sum(axis=0))


def one_vs_rest_auc(y: Ints, score: Floats, weight: Floats, fold: Ints | None = None) -> Floats:
    """Each class's AUC against all others together, of each resample.

    Args:
        y: (N,) 0..K-1. score: (N, K), column k higher for class k; or (N,) for K = 2, higher for class 1.
        weight: (R, N). fold: (N,) which model scored a row, see ``auc_within``; one model where absent.

    Returns:
        (K, R), or (1, R) for K = 2; NaN where the class or all others have no weight. Without folds, the mean
        over K is scikit-learn's ``roc_auc_score(multi_class="ovr")``.
    """
    sides = [(y, score)] if score.ndim == 1 else [((y == k).astype(np.int64), s) for k, s in enumerate(score.T)]
    if fold is None:
        return np.stack([auc(one, s, weight) for one, s in sides])
    return np.stack([auc_within(one, s, weight, fold) for one, s in sides])


def class_metrics(y: Ints, score: Floats, weight: Floats, fold: Ints | None = None) -> dict[str, Floats]:
    """The ``CLASS_METRICS`` of each resample; the class called is the one of the highest score.

    auc: mean of ``one_vs_rest_auc``. balanced_accuracy: mean over classes of the share of it that is called it.

    Args:
        y: (N,) 0..K-1. score: (N, K), column k higher for class k; or logits (N,) for K = 2, where class 1 is
        called from 0 on. weight: (R, N). fold: as for ``one_vs_rest_auc``.

    Returns:
        name -> (R,); NaN where a class has no weight, except accuracy.
    """
    called = (score >= 0).astype(np.int64) if score.ndim == 1 else score.argmax(axis=1)
    right = called == y
    of_class = np.arange(2 if score.ndim == 1 else score.shape[1])[:, None] == y
    recalls = _ratio(weight @ (of_class & right).T, weight @ of_class.T)
    return {
        "auc": one_vs_rest_auc(y, score, weight, fold).mean(axis=0),
        "accuracy": weight @ right / weight.sum(axis=1),
        "balanced_accuracy": recalls.mean(axis=1),
    }


def youden(y: Ints, score: Floats) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden 1950), for ``score >= threshold``.

    It lies halfway between the lowest score called positive and the next lower one. To be called with
    training scores that come from models which have not seen the exam.
    """
    fpr, tpr, cuts = roc_curve(y, score, drop_intermediate=False)
    gain = np.round(tpr - fpr, 12)  # so that equal fractions tie, and the highest threshold is taken
    best = 1 + int(np.argmax(gain[1:]))  # cut 0 is infinity: nothing is called positive
    return float(cuts[best] if best + 1 == len(cuts) else (cuts[best] + cuts[best + 1]) / 2)


def estimate(values: Floats) -> Estimate:
    """Mean over seeds with the percentile interval of that mean over resamples.

    Args:
        values: (seeds, R + 1), column 0 from the sample itself.

    Returns:
        95 % interval over patients; ``sd`` over seeds (0 for one seed). NaN where the number itself is
        undefined.
    """
    mean = values.mean(axis=0)
    drawn = mean[1:][np.isfinite(mean[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    sd = values[:, 0].std(ddof=1) if len(values) > 1 else 0.0
    return Estimate(float(mean[0]), float(low), float(high), float(sd))


def in_words(difference: Estimate, this: str, other: str, what: str) -> str:
    """A plain sentence on a paired difference ``this - other``; "within noise" where the interval holds 0."""
    low, high = difference.low, difference.high
    numbers = f"{what} {difference.value:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    if low > 0:
        return f"{this} is better than {other}: {numbers}"
    if high < 0:
        return f"{this} is worse than {other}: {numbers}"
    return f"{this} and {other} differ within noise: {numbers}"


def _ratio(a: Floats, b: Floats) -> Floats:
    quotient: Floats = np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) != 0)
    return quotient
