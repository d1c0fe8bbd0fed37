"""Binary metrics over many resamples at once, the patient-level bootstrap, and paired differences.

Every metric takes weights of shape (R, N): how often resample r holds exam n. A row of ones gives the plain
number, so the estimate and its interval come from one formula. scikit-learn's functions take one resample at
a time; the tests hold these against them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
METRICS = ("auc", "accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "kappa")


@dataclass(frozen=True, slots=True)
class Resamples:
    """weight (R + 1, N): row 0 is the sample itself. redrawn: how many resamples had one class."""

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
    resample in which one class is absent has no AUC: it is drawn again and counted. One set of resamples
    serves every score on the same exams, so that differences are paired.

    Args:
        y: (N,) 0 or 1. groups: (N,) which patient each exam belongs to.

    Raises:
        ValueError: y holds one class only.
    """
    if len(np.unique(y)) != 2:
        raise ValueError("y must hold both classes")
    names, member = np.unique(groups, return_inverse=True)
    rng, share = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    weight = rng.multinomial(len(names), share, size=n)[:, member].astype(np.float64)
    redrawn = 0
    while len(bad := np.flatnonzero((weight @ y == 0) | (weight @ (1 - y) == 0))):
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
