"""k nearest neighbours by cosine: what features are worth to something that has nothing to fit."""

from __future__ import annotations

import numpy as np

from volssl.evaluation.linear import finite
from volssl.evaluation.logistic import log_odds
from volssl.evaluation.prevalence import by_label, of_classes, shares
from volssl.evaluation.target import Floats, Groups, Ints, Predicted, Target

BLOCK = 2**22  # similarities at once, 32 MiB


def knn(
    train_x: Floats, train: Target, test_x: Floats, *, groups: Groups, k: int = 20, temperature: float = 0.07
) -> Predicted:
    """Each test row is what its nearest training rows are, weighted by ``exp(cosine / temperature)``.

    The weighted vote of Wu et al. 2018 (arXiv 1805.01978, section 3.4). Beside the k neighbours, one vote of their mean
    weight is shared out among the classes as they are among the training rows: that keeps odds finite, and of two
    classes rows rank as by the neighbours alone. Scores weigh classes alike: a class's votes are divided by its share.
    Of two classes, and of labels, the threshold is chosen on the training rows, whose neighbours are other patients'.

    labels: one after the other, with neighbours of which the label is known; one with fewer than two patients on a side
    gets a score of 0. number: the neighbours' weighted mean.

    Args:
        train_x: (N, D). train: their N targets. test_x: (M, D). groups: (N,) patients of the training rows. k: all rows
        where there are fewer. A row of zeros is equally near to all.

    Raises:
        ValueError: features are not finite, a class has no training row, or there is one patient alone.
    """
    keys, queries, groups = _unit(finite(train_x)), _unit(finite(test_x)), np.asarray(groups)
    if train.kind == "number":
        return Predicted(_means(queries, keys, train.values[:, None], k, temperature)[:, 0])

    def scored(rows: Ints, of: Target) -> tuple[Floats, Floats]:
        given = keys[rows], of, k, temperature
        return _odds(queries, *given), _odds(keys[rows], *given, others=groups[rows])

    if train.kind == "labels":
        return by_label(train, groups, len(queries), scored)
    if not train.binary:
        return of_classes(_odds(queries, keys, train, k, temperature), train, None)
    if len(np.unique(groups)) < 2:
        raise ValueError("the training rows are of one patient: a threshold needs two")
    score, held_out = scored(np.arange(len(train)), train)
    return of_classes(score, train, held_out)


def _unit(x: Floats) -> Floats:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Floats = x / np.where(length > 0, length, 1)
    return unit


def _odds(
    queries: Floats, keys: Floats, train: Target, k: int, temperature: float, others: Groups | None = None
) -> Floats:
    """(Q, K), or (Q,) of two classes: log-odds of votes that are divided by the classes' shares."""
    share, voters = shares(train), min(k, len(keys))
    votes = _means(queries, keys, np.eye(len(share))[train.values], k, temperature, others)
    return log_odds(np.log((voters * votes + share) / share))


def _means(
    queries: Floats, keys: Floats, values: Floats, k: int, temperature: float, others: Groups | None = None
) -> Floats:
    """(Q, C) weighted means of the neighbours' values (N, C), some queries at a time.

    Args:
        others: (N,) patients, where the queries are the keys themselves: neighbours are other patients'.
    """
    parts = []
    for rows in np.array_split(np.arange(len(queries)), 1 + len(queries) * len(keys) // BLOCK):
        near = queries[rows] @ keys.T
        if others is not None:
            near[others[rows, None] == others] = -np.inf
        nearest = np.argpartition(-near, min(k, len(keys)) - 1)[:, :k]
        cosine = np.take_along_axis(near, nearest, axis=1)
        weight = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / temperature)
        parts.append(np.einsum("qk,qkc->qc", weight, values[nearest]) / weight.sum(axis=1, keepdims=True))
    return np.concatenate(parts)
