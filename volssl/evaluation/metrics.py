"""What is reported of a model's answers to a target of each kind, over many resamples at once."""

from __future__ import annotations

import math

import numpy as np

from volssl.evaluation.ranking import one_vs_rest, ratio, running
from volssl.evaluation.statistics import agreement, decide, f1_scores
from volssl.evaluation.target import Floats, Ints, Kind, Predicted, Target

BINS = 15  # of calibration, as in Guo et al. 2017

_CALLS = ("auroc", "average_precision", "accuracy", "balanced_accuracy", "f1", "kappa", "sensitivity", "specificity")
METRICS: dict[Kind, tuple[str, ...]] = {  # the first decides
    "classes": (*_CALLS, "brier", "calibration_error"),
    "labels": (*_CALLS, "brier", "calibration_error"),
    "number": ("r2", "mae", "rmse", "pearson", "spearman"),
}
RANGE: dict[Kind, tuple[float, float]] = {  # of the one that decides
    "classes": (0.0, 1.0),
    "labels": (0.0, 1.0),
    "number": (-math.inf, 1.0),
}


def metrics_of(target: Target, predicted: Predicted, weight: Floats) -> dict[str, Floats]:
    """Each of ``METRICS`` of each resample that the answer allows, in their order.

    Classes, of two of them class 1 being the positive one:
        auroc, average_precision: as ``ranking``, of K > 2 classes the mean of one against the rest; rows of different
        models are not ranked together. accuracy, balanced_accuracy, f1, kappa: as ``agreement``, of the class called at
        the balanced operating point; kappa of two classes, or of more that are ``ordered``, since it weighs distances.
        sensitivity, specificity: for K = 2, at ``predicted.called``. brier: mean squared distance between probability
        and truth (Brier 1950), of class 1 for K = 2 (0 to 1), else summed over classes (0 to 2). calibration_error:
        over ``BINS`` bins of equal width of the probability of the class called, the mean distance between that
        probability and the share that is right (Guo et al. 2017, arXiv 1706.04599, equation 3).
    Labels:
        the mean over labels of the same, each over the rows where it is known; but f1 is that of the label present, not
        the mean with that of its absence. A label that a resample knows from one side only is left out of the means of
        that resample.
    A number:
        r2: 1 - squared error / squared distance from the mean of the test rows themselves. mae, rmse: in its unit.
        pearson, spearman: correlations, the latter of midranks. Models that scored different rows share the unit, so
        that rows are taken together.

    Args:
        target: N rows. predicted: of the same rows; without a ``probability`` or ``called``, what needs it is left out.
        weight: (R, N), how often resample r holds row n; ones give the plain number.

    Returns:
        name -> (R,); NaN where undefined: a class of no weight, correlations with a constant.

    Raises:
        ValueError: a score is not finite, or no label is both present and absent.
    """
    of = {"classes": _of_classes, "labels": _of_labels, "number": _of_number}[target.kind]
    found = of(target, predicted, weight)
    return {name: found[name] for name in METRICS[target.kind] if name in found}


def _of_classes(target: Target, predicted: Predicted, weight: Floats) -> dict[str, Floats]:
    y, score = target.values, predicted.score
    seen = slice(None) if score.ndim == 1 else np.unique(y)
    auroc, precision = (each[seen].mean(axis=0) for each in one_vs_rest(y, score, weight, predicted.fold))
    found = {"auroc": auroc, "average_precision": precision, **agreement(y, decide(score), weight)}
    if not (target.ordered or target.binary):
        del found["kappa"]
    if predicted.called is not None:
        found["sensitivity"] = ratio(weight @ (predicted.called & (y == 1)), weight @ (y == 1))
        found["specificity"] = ratio(weight @ (~predicted.called & (y == 0)), weight @ (y == 0))
    if predicted.probability is not None:
        found["brier"] = _brier(y, predicted.probability, weight)
        found["calibration_error"] = _calibration_error(y, predicted.probability, weight)
    return found


def _brier(y: Ints, p: Floats, weight: Floats) -> Floats:
    squares = ((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1) / (2 if p.shape[1] == 2 else 1)
    return ratio(weight @ squares, weight.sum(axis=1))


def _calibration_error(y: Ints, p: Floats, weight: Floats) -> Floats:
    confidence = p.max(axis=1)
    apart = (p.argmax(axis=1) == y) - confidence
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence, "left")  # the upper edge belongs to a bin
    in_bins = weight @ (np.eye(BINS)[bins] * apart[:, None])
    return ratio(np.abs(in_bins).sum(axis=1), weight.sum(axis=1))


def _of_labels(target: Target, predicted: Predicted, weight: Floats) -> dict[str, Floats]:
    varied = np.flatnonzero((target.values == 1).any(axis=0) & (target.values == 0).any(axis=0))
    if not len(varied):
        raise ValueError(f"{', '.join(target.names)}: no label is both present and absent")
    each = [_of_label(target, predicted, weight, label) for label in varied.tolist()]
    means = {}
    for name in each[0]:
        values = np.stack([one[name] for one in each])
        known = np.isfinite(values)
        means[name] = ratio(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0))
    return means


def _of_label(target: Target, predicted: Predicted, weight: Floats, label: int) -> dict[str, Floats]:
    """One label as two classes, over the rows where it is known; NaN throughout where only one of them has weight."""
    rows = np.flatnonzero(target.values[:, label] >= 0)
    one, weight = _label(target, predicted, label, rows), weight.T[rows].T
    y = one[0].values
    found = _of_classes(*one, weight)
    found["f1"] = f1_scores(y, decide(one[1].score), weight)[:, 1]
    both = (weight @ y > 0) & (weight @ (1 - y) > 0)
    return {name: np.where(both, values, np.nan) for name, values in found.items()}


def _label(target: Target, predicted: Predicted, label: int, rows: Ints) -> tuple[Target, Predicted]:
    p, called, fold = predicted.probability, predicted.called, predicted.fold
    answer = Predicted(
        predicted.score[rows, label],
        None if p is None else np.column_stack([1 - p[rows, label], p[rows, label]]),
        None if called is None else called[rows, label],
        None if fold is None else fold[rows],
    )
    return Target("classes", target.values[rows, label], ("absent", "present")), answer


def _of_number(target: Target, predicted: Predicted, weight: Floats) -> dict[str, Floats]:
    y, miss, total = target.values, predicted.score - target.values, weight.sum(axis=1)
    squared, spread = weight @ miss**2, _centred(y[:, None], weight.T)[1]
    return {
        "r2": 1 - ratio(squared, spread),
        "mae": weight @ np.abs(miss) / total,
        "rmse": np.sqrt(squared / total),
        "pearson": _correlation(y[:, None], predicted.score[:, None], weight.T),
        "spearman": _correlation(_midranks(y, weight.T), _midranks(predicted.score, weight.T), weight.T),
    }


def _centred(x: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """(N, R) x less its mean over each resample, and (R,) the sum of squares of that, 0 where it is but rounding."""
    apart = x - np.einsum("nr,nr->r", weight, np.broadcast_to(x, weight.shape)) / weight.sum(axis=0)
    squares = np.einsum("nr,nr,nr->r", weight, apart, apart)
    negligible = weight.sum(axis=0) * (1e-13 * np.abs(x).max()) ** 2
    return apart, np.where(squares > negligible, squares, 0.0)


def _correlation(x: Floats, y: Floats, weight: Floats) -> Floats:
    """(R,) Pearson's, of x and y (N, R or 1) under weights (N, R)."""
    (x, x_squares), (y, y_squares) = _centred(x, weight), _centred(y, weight)
    return ratio(np.einsum("nr,nr,nr->r", weight, x, y), np.sqrt(x_squares * y_squares))


def _midranks(x: Floats, weight: Floats) -> Floats:
    """(N, R) the mean place of each value among those drawn, equal ones sharing it; weights (N, R) are counts."""
    order = np.argsort(x, kind="stable")
    below = running(weight[order])
    first, last = (np.searchsorted(x[order], x, side) for side in ("left", "right"))
    ranks: Floats = (below[first] + below[last] + 1) / 2
    return ranks
