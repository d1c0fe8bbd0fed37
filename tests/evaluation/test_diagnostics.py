"""ROC, reliability and confusion, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from volssl.evaluation.diagnostics import GRID, confusion, reliability, roc
from volssl.evaluation.ranking import auc, auc_within
from volssl.evaluation.target import Ints, Predicted, Target

TWO = ("no", "yes")


def test_a_roc_curve_by_hand() -> None:
    """Scores .1 (no), .35 (yes), .4 (no), .8 (yes): the steps are (0, 1/2), (1/2, 1/2), (1/2, 1), (1, 1)."""
    target = Target("classes", np.array([0, 0, 1, 1]), TWO)
    curve = roc(target, Predicted(np.array([0.1, 0.4, 0.35, 0.8])))
    assert curve is not None
    at = {x: curve[np.searchsorted(GRID, x)] for x in (0.0, 0.25, 0.75, 1.0)}
    assert at == {0.0: 0.5, 0.25: 0.5, 0.75: 1.0, 1.0: 1.0}


def test_the_area_below_is_that_of_the_metric_with_folds_and_without() -> None:
    """The grid has 400 steps, each of which may be half off."""
    rng = np.random.default_rng(0)
    y, fold = rng.integers(0, 2, 300), rng.integers(0, 3, 300)
    score = y + rng.normal(size=300) + 5 * fold  # models with offsets of their own
    target, one = Target("classes", y, TWO), np.ones((1, 300))
    within, across = roc(target, Predicted(score, fold=fold)), roc(target, Predicted(score))
    assert within is not None
    assert across is not None
    assert np.trapezoid(within, GRID) == pytest.approx(auc_within(y, score, one, fold)[0], abs=2.5e-3)
    assert np.trapezoid(across, GRID) == pytest.approx(auc(y, score, one)[0], abs=2.5e-3)
    assert np.trapezoid(within, GRID) - np.trapezoid(across, GRID) > 0.1  # ranking models together mixes them up


def test_the_curve_of_several_labels_is_their_mean_where_they_are_known() -> None:
    """Label a is ranked perfectly, b the wrong way round, its unknown row left out; c has one side only."""
    values = np.array([[0, 1, 1], [1, 0, 1], [1, -1, 1]])
    score = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, -9.0, 2.0]])
    curve = roc(Target("labels", values, ("a", "b", "c")), Predicted(score))
    assert curve is not None
    assert curve[len(GRID) // 2] == 0.5
    assert roc(Target("labels", values[:, 2:], ("c",)), Predicted(score[:, 2:])) is None


def test_reliability_by_hand() -> None:
    """Bin 0.2 to 0.3: predicted .21 and .29, mean .25, one of two came true; bin 0.9 to 1: .95 and 1, both did."""
    p = np.array([0.21, 0.29, 0.95, 1.0])
    target = Target("classes", np.array([0, 1, 1, 1]), TWO)
    found = reliability(target, Predicted(p, np.column_stack([1 - p, p])))
    assert found is not None
    assert found.predicted.tolist() == pytest.approx([0.25, 0.975])
    assert found.observed.tolist() == [0.5, 1.0]
    assert found.count.tolist() == [2, 2]
    # Wilson: centre (s + z²/2) / (n + z²), z = 1.96: for 1 of 2 it is 1/2, half width z sqrt(1/2 + z²/4) / (2 + z²)
    z = 1.959964
    assert found.high[0] - 0.5 == pytest.approx(z * (0.5 + z**2 / 4) ** 0.5 / (2 + z**2), abs=1e-5)
    assert ((found.low <= found.observed) & (found.observed <= found.high)).all()


def test_reliability_of_many_classes_is_of_the_one_that_is_called() -> None:
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]])
    found = reliability(Target("classes", np.array([0, 1]), ("a", "b", "c")), Predicted(p, p))
    assert found is not None
    assert found.predicted.tolist() == [0.6, 0.7]
    assert found.observed.tolist() == [1.0, 0.0]
    assert reliability(Target("number", np.array([1.0]), ("age",)), Predicted(np.array([1.0]))) is None


def counted(target: Target, predicted: Predicted) -> Ints:
    found = confusion(target, predicted)
    assert found is not None
    return found


def test_confusion_by_hand() -> None:
    """Called at the threshold where there is one: the row scored .2 is called although its logit is below .5."""
    target = Target("classes", np.array([0, 0, 1]), TWO)
    predicted = Predicted(np.array([-1.0, 0.3, 0.2]), called=np.array([False, True, True]))
    assert np.array_equal(counted(target, predicted), [[1, 1], [0, 1]])
    assert np.array_equal(counted(target, Predicted(np.array([-1.0, -0.3, -0.2]))), [[2, 0], [1, 0]])
    three = Target("classes", np.array([0, 2]), ("a", "b", "c"))
    assert np.array_equal(counted(three, Predicted(np.eye(3)[[0, 1]])), [[1, 0, 0], [0, 0, 0], [0, 1, 0]])


def test_unknown_labels_are_in_no_matrix() -> None:
    target = Target("labels", np.array([[1, -1], [0, 1]]), ("a", "b"))
    found = counted(target, Predicted(np.array([[1.0, 1.0], [1.0, -1.0]])))
    assert np.array_equal(found, [[[0, 1], [0, 1]], [[0, 0], [1, 0]]])
    assert confusion(Target("number", np.array([1.0]), ("age",)), Predicted(np.array([1.0]))) is None
