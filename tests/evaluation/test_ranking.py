"""Areas and average precision against scikit-learn and loops over pairs, with ties, multiplicities and folds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from volssl.evaluation.ranking import BLOCK, auc, auc_within, one_vs_rest, one_vs_rest_auc, ranking, running
from volssl.evaluation.target import Floats, Ints


def drawn(n: int, seed: int, resamples: int = 8) -> tuple[Ints, Floats, Floats]:
    """Labels, scores of one decimal (so that they tie) and multiplicities 0 to 3, of which row 0 is all ones."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    weight = np.vstack([np.ones(n), rng.integers(0, 4, (resamples, n))]).astype(np.float64)
    return y, np.round(rng.normal(size=n) + y, 1), weight


def test_ranking_by_hand() -> None:
    """Scores .9+ .8- .7+ .7- .2-: of six pairs + beats - in 3 (.9), then in 1 and a tie: 4.5 / 6 = 3/4.

    Average precision: at .9 it is 1/1, at .7 (both of them called) 2/4: (1 + 1/2) / 2 = 3/4.
    The negative .8 drawn twice: pairs 8, won 4 + 1.5; precision 1 and 2/5.
    """
    y, score = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.7, 0.2])
    area, precision = ranking(y, score, np.array([[1.0, 1, 1, 1, 1], [1, 2, 1, 1, 1]]))
    np.testing.assert_allclose(area, [3 / 4, 5.5 / 8], rtol=1e-15)
    np.testing.assert_allclose(precision, [3 / 4, 7 / 10], rtol=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_ranking_equals_scikit_learn_on_rows_repeated(seed: int) -> None:
    """A weight is how often a row is there: scikit-learn is given the rows that often, without weights."""
    y, score, weight = drawn(30 + 5 * seed, seed)
    area, precision = ranking(y, score, weight)
    for r, w in enumerate(weight):
        times = np.repeat(np.arange(len(y)), w.astype(int))
        assert area[r] == pytest.approx(sk.roc_auc_score(y[times], score[times]), rel=1e-12)
        assert precision[r] == pytest.approx(sk.average_precision_score(y[times], score[times]), rel=1e-12)


def test_blocks_of_resamples_and_memory_order_change_nothing() -> None:
    """Three blocks, the last one short, in either order of memory, against one resample at a time."""
    y, score, weight = drawn(40, 0, resamples=2 * BLOCK + 5)
    one_by_one = np.concatenate([ranking(y, score, w[None]) for w in weight], axis=1)
    for laid in (np.ascontiguousarray(weight), np.asfortranarray(weight)):
        np.testing.assert_allclose(ranking(y, score, laid), one_by_one, rtol=1e-14)


def test_running_sums() -> None:
    """Rows 1 2 and 3 4: nothing, the first, both."""
    np.testing.assert_array_equal(running(np.array([[1.0, 2], [3, 4]])), [[0, 0], [1, 2], [4, 6]])


def test_a_side_without_weight_has_no_rank() -> None:
    """No negative left, or no positive: NaN (torchmetrics says 0.0); a score that is not finite is refused."""
    y, score = np.array([0, 1, 0]), np.array([0.1, 0.2, 0.3])
    assert np.isnan(ranking(y, score, np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))).all()
    with pytest.raises(ValueError, match="finite"):
        auc(y, np.array([0.1, np.nan, 0.3]), np.ones((1, 3)))


def test_auc_within_folds_counts_pairs_of_one_model() -> None:
    """Against loops over pairs, with ties and weights; a fold of one class has no pair, and offsets are nothing."""
    rng = np.random.default_rng(0)
    y, fold = rng.integers(0, 2, 30), rng.integers(0, 4, 30)
    y[fold == 3] = 1
    score, weight = np.round(rng.normal(size=30), 1), rng.integers(0, 3, (5, 30)).astype(float)
    for r, w in enumerate(weight):
        won = total = 0.0
        for i in np.flatnonzero(y == 1):
            for j in np.flatnonzero((y == 0) & (fold == fold[i])):
                won += w[i] * w[j] * ((score[i] > score[j]) + (score[i] == score[j]) / 2)
                total += w[i] * w[j]
        assert auc_within(y, score, weight, fold)[r] == pytest.approx(won / total)
    moved = score + 10.0 * fold
    np.testing.assert_array_equal(auc_within(y, moved, weight, fold), auc_within(y, score, weight, fold))
    assert auc(y, moved, weight)[0] != pytest.approx(auc(y, score, weight)[0])  # the control: ranked together
    one_model = auc_within(y, score, weight, np.zeros(30, dtype=np.int64))
    np.testing.assert_allclose(one_model, auc(y, score, weight))
    three = np.column_stack([-score, score, rng.normal(size=30)])
    np.testing.assert_array_equal(one_vs_rest_auc(y, three, weight, fold)[1], auc_within(y, score, weight, fold))


def test_average_precision_within_folds() -> None:
    """Against a loop over positives; a fold of one class ranks nothing and counts for nothing."""
    y, score, weight = drawn(40, 3)
    fold = np.random.default_rng(4).integers(0, 4, 40)
    y[fold == 3] = 1
    got = ranking(y, score, weight, fold)[1]
    for r, w in enumerate(weight):
        summed = positives = 0.0
        for i in np.flatnonzero((y == 1) & (fold != 3)):
            above = (fold == fold[i]) & (score >= score[i])
            if w[i]:
                summed += w[i] * (w[above] @ y[above]) / w[above].sum()
                positives += w[i]
        assert got[r] == pytest.approx(summed / positives)
    moved = score + 10.0 * fold
    np.testing.assert_array_equal(ranking(y, moved, weight, fold)[1], got)
    assert ranking(y, moved, weight)[1][0] != pytest.approx(ranking(y, score, weight)[1][0])  # the control


def test_one_against_the_rest_equals_scikit_learn() -> None:
    """Three classes, probabilities rounded so that they tie, on each of ten resamples."""
    rng = np.random.default_rng(0)
    y, p = rng.permutation(np.repeat([0, 1, 2], [30, 20, 10])), np.round(rng.dirichlet(np.ones(3), 60), 1)
    weight = rng.integers(0, 3, (10, 60)).astype(np.float64)
    areas, precisions = one_vs_rest(y, p, weight)
    for r, w in enumerate(weight):
        for k in range(3):
            given = {"sample_weight": w}
            assert areas[k, r] == pytest.approx(sk.roc_auc_score(y == k, p[:, k], **given))
            assert precisions[k, r] == pytest.approx(sk.average_precision_score(y == k, p[:, k], **given))
