"""From balanced scores to probabilities at the prevalence, and to what is called: by hand and by loops."""

from __future__ import annotations

import numpy as np
import pytest

from volssl.evaluation.logistic import log_odds
from volssl.evaluation.prevalence import by_label, of_classes
from volssl.evaluation.target import Floats, Ints, Target

TWO, THREE = ("no", "yes"), ("a", "b", "c")


def test_two_classes_by_hand() -> None:
    """One positive in four: balanced odds 3 and 1 become 3 x 1/3 = 1 and 1/3, probabilities 1/2 and 1/4.

    Held-out scores 0, 1, 3 of the negatives and 2 of the positive: from 1.5 on, sensitivity 1 and specificity 2/3; so
    log 3 = 1.1 and log 1 = 0 are not called. Control: with 1 instead of 2 held out, the cut is lower and log 3 is.
    """
    train, score = Target("classes", np.array([0, 0, 0, 1]), TWO), np.log([3.0, 1.0])
    answer = of_classes(score, train, np.array([0.0, 1.0, 3.0, 2.0]))
    assert answer.probability is not None
    np.testing.assert_allclose(answer.probability, [[1 / 2, 1 / 2], [3 / 4, 1 / 4]])
    assert answer.called is not None
    assert answer.called.tolist() == [False, False]
    lower = of_classes(score, train, np.array([0.0, 0.5, 3.0, 1.0])).called
    assert lower is not None
    assert lower.tolist() == [True, False]


def test_three_classes_are_bayes_rule() -> None:
    """Loops over p(k | x) = q_k share_k / sum_j q_j share_j of the balanced model's q. Control: q is not p."""
    values = np.repeat([0, 1, 2], [6, 3, 1])
    logits = np.random.default_rng(0).normal(size=(5, 3))
    answer = of_classes(log_odds(logits), Target("classes", values, THREE), None)
    assert answer.called is None
    assert answer.probability is not None
    for row, z in zip(answer.probability, logits, strict=True):
        q = [np.exp(z[k]) / sum(np.exp(z[j]) for j in range(3)) for k in range(3)]
        total = q[0] * 0.6 + q[1] * 0.3 + q[2] * 0.1
        np.testing.assert_allclose(row, [q[0] * 0.6 / total, q[1] * 0.3 / total, q[2] * 0.1 / total])
        assert not np.allclose(row, q)


def test_certain_scores_stay_finite() -> None:
    """Log-odds of 1000: probability 1 of it and 0 of the others, without a warning."""
    train = Target("classes", np.array([0, 1, 2]), THREE)
    answer = of_classes(np.array([[1000.0, -1000.0, -1000.0]]), train, None)
    np.testing.assert_array_equal(answer.probability, [[1.0, 0.0, 0.0]])


def test_a_class_without_rows_is_named() -> None:
    """Three names, rows of the first and the last alone."""
    with pytest.raises(ValueError, match="no training row is of class b"):
        of_classes(np.zeros((1, 3)), Target("classes", np.array([0, 2]), THREE), None)


def test_each_label_is_asked_of_its_known_rows() -> None:
    """Two labels, of which the second is unknown for rows 1 and 2; a model that gives each row's number.

    Of the third, present twice but in one patient, and of the fourth, known nowhere, nothing can be learnt: shares 2/6
    and, knowing nothing, 1/2. Control: the third with two patients is learnt.
    """
    values = np.array([[0, 1, 0, -1], [1, -1, 0, -1], [0, -1, 0, -1], [1, 0, 0, -1], [0, 0, 1, -1], [1, 1, 1, -1]])
    asked: list[tuple[list[int], list[int]]] = []

    def one(rows: Ints, sides: Target) -> tuple[Floats, Floats]:
        asked.append((rows.tolist(), sides.values.tolist()))
        return np.array([0.0, 10.0]), rows.astype(np.float64)

    train, patients = Target("labels", values, ("p", "q", "r", "s")), np.array([0, 1, 2, 3, 4, 4])
    answer = by_label(train, patients, 2, one)
    assert asked == [([0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 0, 1]), ([0, 3, 4, 5], [1, 0, 0, 1])]
    assert answer.score.tolist() == [[0, 0, 0, 0], [10, 10, 0, 0]]
    assert answer.probability is not None
    np.testing.assert_allclose(answer.probability[0], [1 / 2, 1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(answer.probability[1], [1 / (1 + np.exp(-10))] * 2 + [1 / 3, 1 / 2])
    assert answer.called is not None
    assert answer.called[:, 2:].tolist() == [[False, False]] * 2
    by_label(train, np.arange(6), 2, one)
    assert len(asked) == 5
