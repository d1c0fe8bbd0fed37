"""Balanced scores become answers: probabilities at the training rows' prevalence, and what is called from where on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import log_expit, softmax

from volssl.evaluation.statistics import youden
from volssl.evaluation.target import Floats, Groups, Ints, Predicted, Target, binary_probability

LEAST = 2  # patients on each side of a label, without which no patient could be held out


def of_classes(score: Floats, train: Target, held_out: Floats | None) -> Predicted:
    """The answer of a model of classes that weigh alike, by Bayes' rule at each class's share of the training rows.

    Args:
        score: (M,) logits of class 1, or (M, K) log-odds of each of K > 2 classes. train: the N training rows.
        held_out: (N,) scores of them by models that had not seen their patients: Youden's threshold on these calls
        class 1. Read for two classes alone.
    """
    share = shares(train)
    if not train.binary:
        return Predicted(score, softmax(log_expit(score) + np.log(share), axis=1))
    assert held_out is not None
    called = score >= youden(train.values, held_out)
    return Predicted(score, binary_probability(score, float(share[1])), called)


def by_label(
    train: Target, groups: Groups, rows: int, one: Callable[[Ints, Target], tuple[Floats, Floats]]
) -> Predicted:
    """The answer of a model of its own for each label, from the training rows where the label is known.

    A label with fewer than two patients on a side cannot be learnt: its score is 0, its probability its share of the
    known rows (half where there are none), and it is never called.

    Args:
        train: (N, L) labels. rows: M. one: of the training rows where a label is known, and whether it is absent or
        present there: scores (M,), and held-out scores of those training rows as for ``of_classes``.
    """
    answers = []
    for values in train.values.T:
        known = np.flatnonzero(values >= 0)
        sides = Target("classes", values[known], ("absent", "present"))
        if _learnable(sides, groups[known]):
            score, held_out = one(known, sides)
            answers.append(of_classes(score, sides, held_out))
        else:
            share = float(sides.values.mean()) if len(known) else 0.5
            answers.append(Predicted(np.zeros(rows), np.tile([1 - share, share], (rows, 1)), np.zeros(rows, np.bool_)))
    return Predicted(
        np.column_stack([answer.score for answer in answers]),
        np.column_stack([answer.probability[:, 1] for answer in answers if answer.probability is not None]),
        np.column_stack([answer.called for answer in answers if answer.called is not None]),
    )


def _learnable(sides: Target, groups: Groups) -> bool:
    return all(len(np.unique(groups[sides.values == side])) >= LEAST for side in (0, 1))


def shares(train: Target) -> Floats:
    """(K,) of the training rows that are of each class.

    Raises:
        ValueError: a class has none.
    """
    counts = np.bincount(train.values, minlength=len(train.names))
    if absent := [name for name, count in zip(train.names, counts, strict=True) if not count]:
        raise ValueError(f"no training row is of class {absent[0]}: leave the class out, or give rows of it")
    share: Floats = counts / len(train)
    return share
