"""Losses by hand for every kind of target, and what outputs become: scores, probabilities and calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from volssl.evaluation.objective import deciding, objective
from volssl.evaluation.target import Floats, Target

TWO = Target("classes", np.array([0, 0, 0, 1]), ("no", "yes"))
THREE = Target("classes", np.array([0, 0, 1, 2]), ("a", "b", "c"))
LABELS = Target("labels", np.array([[0, 1], [0, -1], [0, 0], [1, 0]]), ("p", "q"))
NUMBER = Target("number", np.array([1.0, 3.0, 3.0, 5.0]), ("age",))


def loss(target: Target, outputs: Floats) -> float:
    return float(objective(target).loss(torch.tensor(outputs, dtype=torch.float64), target))


def test_two_classes_weigh_alike() -> None:
    """3 of one, 1 of the other: weights 4 / (2 * 3) = 2/3 and 4 / (2 * 1) = 2, a ratio of 3 and not of 1/3 (a defect of
    BYOLMed3D). At logit 1: (3 * 2/3 * log(1 + e) + 2 * log(1 + 1/e)) / 4."""
    assert np.allclose(objective(TWO).weight, [[2 / 3], [2.0]])
    by_hand = (2 * math.log(1 + math.e) + 2 * math.log(1 + 1 / math.e)) / 4
    assert loss(TWO, np.ones((4, 1))) == pytest.approx(by_hand, rel=1e-12)


def test_three_classes_weigh_alike() -> None:
    """2, 1 and 1: weights 4 / (3 * 2) = 2/3, 4/3, 4/3. At logits (log 2, 0, 0) p is 1/2, 1/4, 1/4:
    (2 * 2/3 * log 2 + 2 * 4/3 * log 4) / 4 = (4/3 + 16/3) / 4 * log 2 = 5/3 log 2."""
    outputs = np.tile([math.log(2), 0, 0], (4, 1))
    assert loss(THREE, outputs) == pytest.approx(5 / 3 * math.log(2), rel=1e-12)


def test_an_unknown_label_is_not_there() -> None:
    """p: 3 absent, 1 present, weights 4/6 and 4/2. q: 2 absent, 1 present, weights 3/4 and 3/2, one row unknown.
    At logit 0 each term is log 2: (3 * 2/3 + 2 + 2 * 3/4 + 3/2) / 8 = 7/8. The unknown one's logit changes nothing."""
    outputs = np.zeros((4, 2))
    assert loss(LABELS, outputs) == pytest.approx(7 / 8 * math.log(2), rel=1e-12)
    outputs[1, 1] = 50.0
    assert loss(LABELS, outputs) == pytest.approx(7 / 8 * math.log(2), rel=1e-12)


def test_a_number_is_standardised() -> None:
    """Mean 3, sd sqrt(2): standardised -sqrt 2, 0, 0, sqrt 2; of outputs 0 the mean square is 1, and 0 is called 3."""
    aim = objective(NUMBER)
    assert loss(NUMBER, np.zeros((4, 1))) == pytest.approx(1, rel=1e-12)
    said = aim.predicted(np.array([[0.0], [1.0]]), NUMBER, np.zeros(1))
    assert np.allclose(said.score, [3, 3 + math.sqrt(2)])
    assert said.probability is None
    assert said.called is None


def test_a_constant_number_is_no_division_by_zero() -> None:
    same = Target("number", np.full(3, 7.0), ("age",))
    assert objective(same).scale == 1
    assert loss(same, np.zeros((3, 1))) == 0


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="one class"):
        objective(Target("classes", np.zeros(3, dtype=np.int64), ("no", "yes")))


def test_a_label_known_from_one_side_is_not_learnt() -> None:
    """Its weight is 0, so a head that starts at 0 stays there; its probability is its share."""
    target = Target("labels", np.array([[0, 1], [1, 1], [0, -1]]), ("p", "always"))
    aim = objective(target)
    assert (aim.weight[:, 1] == 0).all()
    assert (aim.weight[:, 0] > 0).all()
    said = aim.predicted(np.zeros((1, 2)), target, np.zeros(2))
    assert said.probability is not None
    assert np.allclose(said.probability, [[1 / 3, 1]])


def test_probabilities_are_those_of_an_unbalanced_model() -> None:
    """A balanced logistic model of three classes, shifted to the prevalence, agrees with an unbalanced one.

    1,800 rows, of classes 1 : 2 : 6, Gaussians a unit apart, so that the linear model is right; an interval-free bound
    of 0.03 on the mean distance of the probabilities. Unshifted ones are further away than that (negative control).
    """
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 400, 1200])
    x = rng.normal(size=(len(y), 2)) + np.array([[0, 0], [1, 0], [0, 1]])[y]
    plain = LogisticRegression(C=1e3).fit(x, y).predict_proba(x)
    logits = LogisticRegression(C=1e3, class_weight="balanced").fit(x, y).decision_function(x)
    target = Target("classes", y, ("a", "b", "c"))
    said = objective(target).predicted(logits, target, np.zeros(3))
    assert said.probability is not None
    assert np.abs(said.probability - plain).mean() < 0.03
    assert np.abs(softmax(logits, axis=1) - plain).mean() > 0.1
    assert np.array_equal(said.score.argmax(1), logits.argmax(1))
    assert said.called is None


def test_two_classes_at_their_prevalence() -> None:
    """Logit 0 of a balanced model at a share of 1/4: probability 1/4."""
    said = objective(TWO).predicted(np.array([[0.0], [1.0]]), TWO, np.array([0.5]))
    assert said.probability is not None
    assert said.called is not None
    assert np.allclose(said.probability[0], [3 / 4, 1 / 4])
    assert said.called.tolist() == [False, True]
    assert said.score.tolist() == [0, 1]


def test_cuts_lie_between_what_was_held_out() -> None:
    """Absent at 0 and 1, present at 3: the cut is 2. A label without one of its sides keeps the balanced point, 0."""
    held = Target("labels", np.array([[0, 1], [0, 1], [1, -1]]), ("p", "q"))
    assert objective(LABELS).cuts(np.array([[0.0, 5], [1, 6], [3, 7]]), held).tolist() == [2, 0]
    assert objective(TWO).cuts(np.zeros((0, 1)), TWO.at(np.arange(0))).tolist() == [0]
    assert objective(THREE).cuts(np.zeros((4, 3)), THREE).tolist() == [0, 0, 0]


def test_the_deciding_metric() -> None:
    """Two classes: 2 of 3 pairs are ranked right. A number: 1 - (1 + 1) / 8. No label with both sides: NaN."""
    assert deciding(TWO, np.array([0.0, 1, 3, 2])) == pytest.approx(2 / 3)
    assert deciding(NUMBER, np.array([2.0, 3, 3, 4])) == pytest.approx(0.75)
    assert math.isnan(deciding(LABELS.at(np.array([1])), np.zeros((1, 2))))
    assert deciding(LABELS, np.array([[0.0, 1], [0, 0], [0, 0], [1, 0]])) == 1
