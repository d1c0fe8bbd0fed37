"""The solver against scikit-learn's, run to the end: at every strength, for few and for many columns."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from volssl.evaluation.logistic import fit_path, log_odds, principal_axes
from volssl.evaluation.target import Floats, Ints

STRENGTHS = (1e-5, 1e-3, 0.1, 10.0)


def rows(n: int, width: int, classes: int) -> tuple[Floats, Ints, Floats]:
    """Correlated columns of many scales, of which each class moves some, and 20 more; the last is the most common."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.minimum(np.arange(n + 20) % (classes + 1), classes - 1))
    x = rng.normal(size=(n + 20, 5)) @ rng.normal(size=(5, width)) + rng.normal(size=(n + 20, width))
    x += 0.5 * rng.normal(size=(classes, width))[y]
    x *= 10 ** rng.uniform(-2, 2, size=width)
    return x[:n], y[:n], x[n:]


def twin(x: Floats, y: Ints, new_x: Floats, c: float) -> Floats:
    """scikit-learn's fit of standardised features, as log p / (1 - p) of each class (of class 1 of two)."""
    scale = StandardScaler().fit(x)
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-10, max_iter=100_000).fit(scale.transform(x), y)
    p = model.predict_log_proba(scale.transform(new_x))
    odds: Floats = p - np.log1p(-np.exp(p))
    return odds[:, 1] if p.shape[1] == 2 else odds


@pytest.mark.parametrize("width", [6, 150])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_a_path_is_scikit_learns_fits(classes: int, width: int) -> None:
    """60 rows, which are more and fewer than the columns: the rotation onto at most 59 axes changes no model."""
    x, y, new_x = rows(60, width, classes)
    turned, new_turned = principal_axes(x, new_x)
    theta = fit_path(turned, y, STRENGTHS, 1e-8)
    assert turned.shape == (60, min(width, 59))
    assert theta.shape == (4, classes, min(width, 59) + 1)
    for weights, c in zip(theta, STRENGTHS, strict=True):
        got = log_odds(new_turned @ weights[:, :-1].T + weights[:, -1])
        np.testing.assert_allclose(got, twin(x, y, new_x, c), rtol=1e-4, atol=1e-5)


def test_each_strength_is_another_model() -> None:
    """Control of the comparison above: the twin at ten times the strength is far outside its tolerance."""
    x, y, _ = rows(60, 6, 3)
    odds = [twin(x, y, x, c) for c in (1e-3, 1e-2)]
    assert np.abs(odds[0] - odds[1]).max() > 0.1


def test_where_a_path_starts_does_not_matter() -> None:
    """The last of a path is the fit from nothing: starting from a neighbour is quicker and no more."""
    x, y, _ = rows(80, 8, 3)
    (turned,) = principal_axes(x)
    (*_, last), (alone,) = (fit_path(turned, y, strengths, 1e-8) for strengths in (STRENGTHS, STRENGTHS[-1:]))
    np.testing.assert_allclose(last[:, :-1], alone[:, :-1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("width", [6, 150])
def test_axes_keep_every_product_of_standardised_rows(width: int) -> None:
    """What is on the axes has the Gram matrix of what was given, and orthogonal columns; so have new rows with these.

    Control: without standardisation the Gram matrix is another.
    """
    x, _, new_x = rows(40, width, 2)
    turned, new_turned = principal_axes(x, new_x)
    z, new_z = ((v - x.mean(axis=0)) / x.std(axis=0) for v in (x, new_x))
    np.testing.assert_allclose(turned @ turned.T, z @ z.T, atol=1e-9)
    np.testing.assert_allclose(new_turned @ turned.T, new_z @ z.T, atol=1e-7)
    squares = turned.T @ turned
    np.testing.assert_allclose(squares, np.diag(np.diag(squares)), atol=1e-7)
    assert not np.allclose(turned @ turned.T, x @ x.T)


def test_columns_that_say_nothing_are_no_axes() -> None:
    """Constant columns, and copies: two columns and one copy of each make two axes; constants alone make none."""
    x = np.random.default_rng(0).normal(size=(20, 2))
    same = np.ones((20, 3))
    (turned,) = principal_axes(np.hstack([x, x, same]))
    assert turned.shape == (20, 2)
    (empty,) = principal_axes(same)
    assert empty.shape == (20, 0)
    y = np.arange(20) % 2
    np.testing.assert_allclose(fit_path(empty, y, [1.0], 1e-8)[0, 1] - fit_path(empty, y, [1.0], 1e-8)[0, 0], 0)


def test_log_odds_by_hand() -> None:
    """Logits log 1, log 2, log 5 are p = 1/8, 2/8, 5/8: odds 1/7, 2/6, 5/3. Of two, log 2 - log 1."""
    np.testing.assert_allclose(np.exp(log_odds(np.log([[1.0, 2.0, 5.0]]))), [[1 / 7, 1 / 3, 5 / 3]])
    np.testing.assert_allclose(log_odds(np.log([[1.0, 2.0]])), np.log([2.0]))
