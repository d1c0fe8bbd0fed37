"""Metrics over many resamples at once, the patient-level bootstrap, and paired differences.

Every metric takes weights of shape (R, N): how often resample r holds exam n. A row of ones gives the plain
number, so the estimate and its interval come from one formula. scikit-learn's functions take one resample at
a time; the tests hold these against them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from volssl.errors import DataError
from volssl.evaluation.patients import patients_of
from volssl.evaluation.ranking import auc, one_vs_rest_auc, ratio
from volssl.evaluation.target import Floats, Groups, Ints, Target

ROUNDS = 1000  # of redrawing: by then, one resample in a hundred is usable at best
LEAST = 8  # test patients of the rarest class; with fewer, intervals of 95 % hold the truth less than 9 times in 10
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


def bootstrap(y: Ints, groups: Groups, n: int, seed: int) -> Resamples:
    """Draw ``n`` resamples of whole groups (patients) with replacement, as many groups as there are.

    Not stratified: the share of positives varies as it would in another cohort, and PPV and NPV with it. A
    resample in which a class is absent has no AUC: it is drawn again and counted. One set of resamples
    serves every score on the same exams, so that differences are paired.

    Args:
        y: (N,) classes. groups: (N,) which patient each exam belongs to.

    Raises:
        ValueError: y holds one class only.
        DataError: a class is so rare that resamples hardly ever hold all.
    """
    of_class = np.unique(y)[:, None] == y
    if len(of_class) < 2:
        raise ValueError("y must hold both classes, or all of several")
    return _draw(groups, n, seed, lambda weight: (weight @ of_class.T == 0).any(axis=1))


def bootstrap_of(target: Target, groups: Groups, n: int, seed: int) -> Resamples:
    """As ``bootstrap``, for a target of any kind.

    Drawn again is a resample that lacks a class, in which no label is both present and absent, or in which a number
    is everywhere the same.

    Raises:
        ValueError: so it is in the sample itself.
        DataError: as ``bootstrap``.
    """
    if target.kind == "classes":
        return bootstrap(target.values, groups, n, seed)
    useless = _no_label_varies if target.kind == "labels" else _one_number
    if useless(target.values, np.ones((1, len(target))))[0]:
        raise ValueError(f"{', '.join(target.names)}: nothing varies")
    return _draw(groups, n, seed, lambda weight: useless(target.values, weight))


def _no_label_varies(values: NDArray[Any], weight: Floats) -> NDArray[np.bool_]:
    one_sided: NDArray[np.bool_] = ((weight @ (values == 1) == 0) | (weight @ (values == 0) == 0)).all(axis=1)
    return one_sided


def _one_number(values: NDArray[Any], weight: Floats) -> NDArray[np.bool_]:
    drawn = weight > 0
    least, most = np.where(drawn, values, np.inf).min(axis=1), np.where(drawn, values, -np.inf).max(axis=1)
    same: NDArray[np.bool_] = least == most
    return same


def _draw(groups: Groups, n: int, seed: int, useless: Callable[[Floats], NDArray[np.bool_]]) -> Resamples:
    """Weights lie in memory exam by exam, which is how metrics go through them."""
    names, member = np.unique(groups, return_inverse=True)
    rng, share = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    weight = np.ones((n + 1, len(groups)), order="F")
    redrawn, bad = 0, np.arange(1, n + 1)
    weight[bad] = rng.multinomial(len(names), share, size=n)[:, member]
    for _ in range(ROUNDS):
        bad = bad[useless(weight[bad])]
        if not len(bad):
            return Resamples(weight, redrawn)
        redrawn += len(bad)
        weight[bad] = rng.multinomial(len(names), share, size=len(bad))[:, member]
    raise DataError("labels", f"{len(names)} patients are too few to resample: hardly a resample holds every class")


def patients_tested(target: Target, groups: Groups) -> float:
    """How many test patients an interval rests on, to be held against ``LEAST``.

    Of the rarest class; of labels, of the rarer side (there, or not) of the label in the middle; of a number, half of
    all, as if above and below its median.

    Args:
        target: the N test rows. groups: (N,) patients.
    """
    count = patients_of(target, groups).count
    if target.kind == "number":
        return float(count.sum()) / 2
    if target.kind == "labels":
        return float(np.quantile(count.reshape(2, -1).min(axis=0), 0.5, method="lower"))
    return float(count.min())


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
    return {
        "auc": auc(y, score, weight),
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "ppv": ratio(tp, tp + fp),
        "npv": ratio(tn, tn + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "kappa": kappa(y, called.astype(np.int64), weight),
    }


def agreement(y: Ints, called: Ints, weight: Floats) -> dict[str, Floats]:
    """How the classes called agree with the true ones.

    balanced_accuracy: mean over classes of the share of each that is called it. f1: mean over classes of ``f1_scores``.
    kappa: Cohen's, weighted by the squared distance between classes (Cohen 1968), so their order counts; for two
    classes it is the plain one. Means are over the classes that y holds.

    Args:
        y, called: (N,) 0..K-1. weight: (R, N).

    Returns:
        name -> (R,); NaN where a class has no weight, except accuracy, and kappa where all rows are one class.
    """
    right = called == y
    of_class = np.unique(y)[:, None] == y
    return {
        "accuracy": ratio(weight @ right, weight.sum(axis=1)),
        "balanced_accuracy": ratio(weight @ (of_class & right).T, weight @ of_class.T).mean(axis=1),
        "f1": f1_scores(y, called, weight).mean(axis=1),
        "kappa": kappa(y, called, weight),
    }


def f1_scores(y: Ints, called: Ints, weight: Floats) -> Floats:
    """(R, classes) 2 TP / (2 TP + FP + FN) of each class that y holds, in their order; NaN where it has no weight."""
    true, taken = (np.unique(y)[:, None] == given for given in (y, called))
    size = weight @ true.T
    scores = ratio(2 * (weight @ (true & taken).T), size + weight @ taken.T)
    return np.where(size > 0, scores, np.nan)


def kappa(y: Ints, called: Ints, weight: Floats) -> Floats:
    """(R,) 1 - observed / expected squared distance, the latter where ``called`` knew nothing of ``y``.

    E (y - c)^2 of independent y and c is E y^2 + E c^2 - 2 E y E c, so no table of K x K is needed.
    """
    moments = weight @ np.stack([y, called, y**2 + called**2, (y - called) ** 2], axis=1)
    by_chance = weight.sum(axis=1) * moments[:, 2] - 2 * moments[:, 0] * moments[:, 1]
    return ratio(by_chance - weight.sum(axis=1) * moments[:, 3], by_chance)


def class_metrics(y: Ints, score: Floats, weight: Floats, fold: Ints | None = None) -> dict[str, Floats]:
    """The ``CLASS_METRICS`` of each resample; the class called is the one of the highest score.

    auc: mean of ``one_vs_rest_auc``. balanced_accuracy: mean over classes of the share of it that is called it.

    Args:
        y: (N,) 0..K-1. score: (N, K), column k higher for class k; or logits (N,) for K = 2, where class 1 is
        called from 0 on. weight: (R, N). fold: as for ``one_vs_rest_auc``.

    Returns:
        name -> (R,); NaN where a class has no weight, except accuracy.
    """
    agreed = agreement(y, decide(score), weight)
    area = one_vs_rest_auc(y, score, weight, fold).mean(axis=0)
    return {"auc": area, **{name: agreed[name] for name in CLASS_METRICS[1:]}}


def decide(score: Floats) -> Ints:
    """(N,) the class called at the balanced operating point: of the largest score; class 1 from a logit of 0 on."""
    called: Ints = (score >= 0).astype(np.int64) if score.ndim == 1 else score.argmax(axis=1)
    return called


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
        values: (seeds, R + 1), or (R + 1,) of one; column 0 from the sample itself.

    Returns:
        95 % interval over patients; ``sd`` over seeds (0 for one seed). NaN where the number itself is
        undefined.
    """
    values = np.atleast_2d(values)
    mean = values.mean(axis=0)
    drawn = mean[1:][np.isfinite(mean[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    sd = values[:, 0].std(ddof=1) if len(values) > 1 else 0.0
    return Estimate(float(mean[0]), float(low), float(high), float(sd))


def in_words(difference: Estimate, this: str, other: str, what: str, tested: float | None = None) -> str:
    """A plain sentence on a paired difference ``this - other``; "within noise" where the interval holds 0.

    Where fewer than ``LEAST`` were ``tested``, neither is called better.
    """
    low, high = difference.low, difference.high
    numbers = f"{what} {difference.value:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    if tested is not None and tested < LEAST:
        return f"{this} and {other} have too few test patients to be told apart: {numbers}"
    if low > 0:
        return f"{this} is better than {other}: {numbers}"
    if high < 0:
        return f"{this} is worse than {other}: {numbers}"
    return f"{this} and {other} differ within noise: {numbers}"
