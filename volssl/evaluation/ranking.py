"""How well scores rank rows, over many resamples at once: areas under ROC curves and average precision."""

from __future__ import annotations

import numpy as np

from volssl.evaluation.target import Floats, Ints

BLOCK = 64  # resamples at once, so that running sums stay in the processor's cache


def auc(y: Ints, score: Floats, weight: Floats) -> Floats:
    """Area under the ROC curve of each resample: P(positive > negative) + P(equal) / 2.

    Args:
        y: (N,) 0 or 1. score: (N,), higher means positive. weight: (R, N).

    Returns:
        (R,), NaN where a class has no weight.
    """
    return ranking(y, score, weight)[0]


def auc_within(y: Ints, score: Floats, weight: Floats, fold: Ints) -> Floats:
    """AUC over the pairs of rows that one model has scored, where each fold of a cross-fit has its own model.

    Scores of different models have no common scale, so ranking them together mixes their offsets into the
    result (Forman and Scholz 2010). Every pair counts once: large folds count for more.

    Args:
        y: (N,) 0 or 1. score: (N,). weight: (R, N). fold: (N,).

    Returns:
        (R,), NaN where no fold has weight on both sides.
    """
    return ranking(y, score, weight, fold)[0]


def ranking(y: Ints, score: Floats, weight: Floats, fold: Ints | None = None) -> tuple[Floats, Floats]:
    """AUC and average precision of each resample.

    Average precision is the mean over positives of the precision where the threshold is their score, which is
    scikit-learn's. With folds, a positive's precision is among the rows that its own model has scored; a fold without
    weight on both sides ranks nothing and is left out.

    Args:
        y: (N,) 0 or 1. score: (N,), higher means positive. weight: (R, N). fold: (N,) as for ``auc_within``.

    Returns:
        (R,) twice, NaN where no fold has weight on both sides.
    """
    if not np.isfinite(score).all():
        raise ValueError("scores must be finite")
    parts = [np.arange(len(y))] if fold is None else [np.flatnonzero(fold == f) for f in np.unique(fold)]
    sums = [sum(_rank(y[p], score[p], weight[i : i + BLOCK], p) for p in parts) for i in range(0, len(weight), BLOCK)]
    won, pairs, precise, positive = np.concatenate(sums, axis=1)
    return ratio(won, pairs), ratio(precise, positive)


def _rank(y: Ints, score: Floats, weight: Floats, rows: Ints) -> Floats:
    """(4, R) sums over ``rows``: pairs won (a tie is half a win), pairs, precision at each positive, positives.

    Only the positives are gone through after one running sum over all rows: against all rows, positives win half of
    their pairs with one another, which is known and taken off.
    """
    order = np.argsort(score, kind="stable")
    hits = order[y[order] == 1]
    level, own = score[order], score[hits]
    every, hit = weight.T[rows[order]], weight.T[rows[hits]]
    every_below, hit_below = running(every), running(hit)
    first, last = np.searchsorted(level, own, "left"), np.searchsorted(level, own, "right")
    positive = hit_below[-1]
    pairs = positive * (every_below[-1] - positive)
    won = np.einsum("nr,nr->r", hit, every_below[first] + every_below[last]) / 2 - positive**2 / 2
    called = every_below[-1] - every_below[first]
    true = positive - hit_below[np.searchsorted(own, own, "left")]
    precise = np.einsum("nr,nr->r", hit, true / np.where(called > 0, called, 1.0))
    return np.where(pairs > 0, np.stack([won, pairs, precise, positive]), 0.0)


def running(weight: Floats) -> Floats:
    """(N, R) to (N + 1, R): the sum of the first 0, 1, ... N rows."""
    total = np.zeros((len(weight) + 1, weight.shape[1]))
    np.cumsum(weight, axis=0, out=total[1:])
    return total


def one_vs_rest(y: Ints, score: Floats, weight: Floats, fold: Ints | None = None) -> tuple[Floats, Floats]:
    """Each class's AUC and average precision against all others together, of each resample.

    Args:
        y: (N,) 0..K-1. score: (N, K), column k higher for class k; or (N,) for K = 2, higher for class 1.
        weight: (R, N). fold: (N,) which model scored a row, see ``auc_within``; one model where absent.

    Returns:
        (K, R) twice, or (1, R) for K = 2; NaN where the class or all others have no weight. Without folds, the mean
        over K is scikit-learn's ``roc_auc_score(multi_class="ovr")`` and macro ``average_precision_score``.
    """
    sides = [(y, score)] if score.ndim == 1 else [((y == k).astype(np.int64), s) for k, s in enumerate(score.T)]
    areas, precisions = zip(*(ranking(one, s, weight, fold) for one, s in sides), strict=True)
    return np.stack(areas), np.stack(precisions)


def one_vs_rest_auc(y: Ints, score: Floats, weight: Floats, fold: Ints | None = None) -> Floats:
    """The AUC of ``one_vs_rest`` alone, (K, R) or (1, R)."""
    return one_vs_rest(y, score, weight, fold)[0]


def ratio(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    quotient: Floats = np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) != 0)
    return quotient
