"""Every metric by hand, and against scikit-learn and SciPy on rows repeated as often as a resample draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from volssl.evaluation.metrics import BINS, METRICS, metrics_of
from volssl.evaluation.statistics import bootstrap_of, estimate
from volssl.evaluation.target import Floats, Ints, Predicted, Target


def plain(target: Target, predicted: Predicted) -> dict[str, float]:
    """The numbers of the rows themselves."""
    return {name: float(v[0]) for name, v in metrics_of(target, predicted, np.ones((1, len(target)))).items()}


def multiplicities(n: int, seed: int, resamples: int = 4) -> Floats:
    """Row 0 of ones, then how often each of n rows is drawn, 0 to 3 times."""
    drawn = np.random.default_rng(seed).integers(0, 4, (resamples, n))
    return np.vstack([np.ones(n), drawn]).astype(np.float64)


def binary(n: int, seed: int) -> tuple[Target, Predicted]:
    """Two classes, scores and probabilities of one decimal, so that they tie, and a threshold that is not zero."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3 == 0).astype(np.int64)
    score = np.round(rng.normal(size=n) + 1.5 * y - 0.5, 1)
    p = np.round(1 / (1 + np.exp(-score)), 1)
    return Target("classes", y, ("none", "torn")), Predicted(score, np.column_stack([1 - p, p]), score >= 0.3)


def several(n: int, k: int, seed: int) -> tuple[Target, Predicted]:
    """k classes; log-odds of one decimal, which tie within a class (but hardly within a row)."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    p = rng.dirichlet(np.ones(k), n) + 0.5 * np.eye(k)[y]
    p /= p.sum(axis=1, keepdims=True)
    score = np.round(np.log(p / (1 - p)), 1) + 1e-3 * np.arange(k)
    return Target("classes", y, tuple("abcdef"[:k]), ordered=True), Predicted(score, p)


def calibration_error(y: Ints, p: Floats) -> float:
    """Guo et al. 2017, equation 3, row by row and bin by bin: bin m holds (m / 15, (m + 1) / 15]."""
    edges, error = np.linspace(0, 1, BINS + 1), 0.0
    for low, high in pairwise(edges):
        here = [i for i in range(len(y)) if low < p[i].max() <= high]
        if here:
            right = np.mean([float(p[i].argmax() == y[i]) for i in here])
            error += len(here) / len(y) * abs(right - np.mean([p[i].max() for i in here]))
    return error


def of_classes(y: Ints, answer: Predicted) -> dict[str, float]:
    """The metrics of classes by scikit-learn."""
    score, p = answer.score, answer.probability
    assert p is not None
    two = score.ndim == 1
    called = (score >= 0).astype(int) if two else score.argmax(axis=1)
    hot = y if two else np.eye(score.shape[1])[y]
    found = {
        "auroc": sk.roc_auc_score(hot, score),
        "average_precision": sk.average_precision_score(hot, score),
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "f1": sk.f1_score(y, called, average="macro"),
        "kappa": sk.cohen_kappa_score(y, called, weights="quadratic"),
        "brier": sk.brier_score_loss(y, p[:, 1]) if two else np.mean(((p - hot) ** 2).sum(axis=1)),
        "calibration_error": calibration_error(y, p),
    }
    if answer.called is not None:
        found["sensitivity"] = sk.recall_score(y, answer.called)
        found["specificity"] = sk.recall_score(y, answer.called, pos_label=0)
    return found


def at(answer: Predicted, rows: Ints) -> Predicted:
    """These rows of an answer."""
    names = ("score", "probability", "called", "fold")
    return Predicted(*(None if (a := getattr(answer, name)) is None else a[rows] for name in names))  # type: ignore[arg-type]


def test_two_classes_by_hand() -> None:
    """Logits 2 1 -1 -2 of classes 1 0 1 0; probabilities of class 1 .9 .6 .4 .1; the threshold is 1.5.

    AUROC: 2 beats both, -1 beats one of two: 3/4. AP: precision 1 at 2, 2/3 at -1: 5/6. Called from 0 on: 1 1 0 0:
    accuracy 2/4, recalls 1/2 and 1/2, F1 of each 2/4; kappa 0. From 1.5 on: 1 0 0 0: sensitivity 1/2, specificity 1.
    Brier (.01 + .36 + .36 + .01) / 4 = .185. Calibration: .9 twice, right both: gap .1; .6 twice, wrong both: gap .6:
    (.1 + .6) / 2 = .35.
    """
    p = np.array([0.9, 0.6, 0.4, 0.1])
    score = np.array([2.0, 1, -1, -2])
    answer = Predicted(score, np.column_stack([1 - p, p]), score >= 1.5)
    got = plain(Target("classes", np.array([1, 0, 1, 0]), ("a", "b")), answer)
    assert tuple(got) == METRICS["classes"]
    assert list(got.values()) == pytest.approx([3 / 4, 5 / 6, 1 / 2, 1 / 2, 1 / 2, 0, 1 / 2, 1, 0.185, 0.35])


def test_kappa_counts_how_far_apart_classes_are() -> None:
    """Of 0 1 2, called 0 1 0: distance 4 of one row. By chance E y^2 + E c^2 - 2 E y E c = 5/3 + 1/3 - 2/3 = 4/3.

    kappa = 1 - (4/3) / (4/3) = 0; called 0 1 1 instead: 1 - (1/3) / (5/3 + 2/3 - 4/3) = 2/3.
    """
    target = Target("classes", np.arange(3), ("a", "b", "c"), ordered=True)
    for called, kappa in (([0, 1, 0], 0.0), ([0, 1, 1], 2 / 3)):
        assert plain(target, Predicted(np.eye(3)[called]))["kappa"] == pytest.approx(kappa, abs=1e-15)


def test_kappa_is_of_classes_that_have_an_order() -> None:
    """Of tissues, or of grades by the alphabet, distances mean nothing; of two classes there is one distance."""
    target, answer = several(30, 3, 0)
    assert "kappa" in plain(target, answer)
    assert set(plain(target, answer)) - set(plain(replace(target, ordered=False), answer)) == {"kappa"}
    two, called = binary(30, 0)
    assert not two.ordered
    assert "kappa" in plain(two, called)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_classes_equal_scikit_learn(k: int, seed: int) -> None:
    """All metrics, four resamples and the rows themselves: a weight is a repetition."""
    n = 40 + seed
    target, answer = binary(n, seed) if k == 2 else several(n, k, seed)
    weight = multiplicities(n, seed)
    got = metrics_of(target, answer, weight)
    for r, w in enumerate(weight):
        times = np.repeat(np.arange(n), w.astype(int))
        want = of_classes(target.values[times], at(answer, times))
        assert {name: v[r] for name, v in got.items()} == pytest.approx(want, rel=1e-10, abs=1e-12)
    assert set(METRICS["classes"]) - set(got) == (set() if k == 2 else {"sensitivity", "specificity"})


@pytest.mark.parametrize("seed", range(2))
def test_labels_are_means_over_labels_of_what_is_known(seed: int) -> None:
    """Three labels, a third unknown, against scikit-learn label by label; one label is so rare that resamples lack it.

    F1 is that of the label's presence, and a label known from one side alone is left out of the resample's means.
    """
    rng, n = np.random.default_rng(seed), 30
    y = rng.integers(-1, 2, (n, 3))
    y[:, 2] = -1
    y[:8, 2] = [1, 0, 0, 0, 0, 0, 0, 0]
    score = np.round(rng.normal(size=(n, 3)) + y, 1)
    answer = Predicted(score, np.round(1 / (1 + np.exp(-score)), 2), score >= 0.4)
    weight = multiplicities(n, seed, resamples=6)
    got = metrics_of(Target("labels", y, ("x", "y", "z")), answer, weight)
    assert tuple(got) == METRICS["labels"]
    left_out = 0
    for r, w in enumerate(weight):
        each = []
        for label in range(3):
            times = np.repeat(np.arange(n), np.where(y[:, label] >= 0, w, 0).astype(int))
            one, s, p = y[times, label], score[times, label], answer.probability[times, label]  # type: ignore[index]
            if len(set(one)) == 2:
                both = Predicted(s, np.column_stack([1 - p, p]), s >= 0.4)
                each.append(of_classes(one, both) | {"f1": sk.f1_score(one, s >= 0)})
        left_out += 3 - len(each)
        for name, values in got.items():
            assert values[r] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-10, abs=1e-12), name
    assert left_out


def test_a_label_that_is_always_there_says_nothing() -> None:
    """It changes no mean; where it is the only one, that is an error and not a number."""
    y, score = np.array([[1, 1], [0, 1], [1, 1]]), np.array([[2.0, 1], [-1, 3], [0.5, 2]])
    alone = plain(Target("labels", y[:, :1], ("x",)), Predicted(score[:, :1]))
    assert plain(Target("labels", y, ("x", "y")), Predicted(score)) == alone
    with pytest.raises(ValueError, match="y: no label is both present and absent"):
        plain(Target("labels", y[:, 1:], ("y",)), Predicted(score[:, 1:]))


def test_a_number_by_hand() -> None:
    """1 2 3 predicted as 1 3 2: errors 0 1 -1, squares 2 of 2 about the mean: r2 = 0; mae 2/3; rmse sqrt(2/3).

    Both correlations 1/2 (covariance 1 of 2). The first row drawn twice: mean 7/4, squares 11/4: r2 = 1 - 8/11.
    """
    target, answer = Target("number", np.array([1.0, 2, 3]), ("age",)), Predicted(np.array([1.0, 3, 2]))
    got = metrics_of(target, answer, np.array([[1.0, 1, 1], [2, 1, 1]]))
    assert tuple(got) == METRICS["number"]
    assert [v[0] for v in got.values()] == pytest.approx([0, 2 / 3, np.sqrt(2 / 3), 1 / 2, 1 / 2])
    assert got["r2"][1] == pytest.approx(3 / 11)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_equal_scikit_learn_and_scipy(seed: int) -> None:
    """Ties in truth and answer, far from zero, on rows repeated."""
    rng, n = np.random.default_rng(seed), 25 + seed
    y = 1000 + np.round(rng.normal(size=n), 1)
    answer = Predicted(y + np.round(rng.normal(size=n), 1))
    weight = multiplicities(n, seed)
    got = metrics_of(Target("number", y, ("age",)), answer, weight)
    for r, w in enumerate(weight):
        times = np.repeat(np.arange(n), w.astype(int))
        a, b = y[times], answer.score[times]
        want = {
            "r2": sk.r2_score(a, b),
            "mae": sk.mean_absolute_error(a, b),
            "rmse": sk.root_mean_squared_error(a, b),
            "pearson": stats.pearsonr(a, b).statistic,
            "spearman": stats.spearmanr(a, b).statistic,
        }
        assert {name: v[r] for name, v in got.items()} == pytest.approx(want, rel=1e-9, abs=1e-11)


def test_a_constant_answer_correlates_with_nothing() -> None:
    """0.1 thrice, whose sum over 3 is not 0.1 to the last bit: NaN, not the correlation of rounding errors."""
    y, constant = np.arange(3.0), np.full(3, 0.1)
    assert constant.sum() / 3 != 0.1
    got = plain(Target("number", y, ("age",)), Predicted(constant))
    assert np.isnan([got["pearson"], got["spearman"]]).all()
    assert got["r2"] < 0
    turned = plain(Target("number", constant, ("age",)), Predicted(y))
    assert np.isnan([turned["r2"], turned["pearson"], turned["spearman"]]).all()


def test_what_was_not_answered_is_not_reported() -> None:
    """Scores alone: no probability, no threshold, and no metric of them."""
    target, answer = binary(20, 0)
    whole, bare = plain(target, answer), plain(target, Predicted(answer.score))
    assert set(whole) - set(bare) == {"sensitivity", "specificity", "brier", "calibration_error"}
    assert bare == {name: whole[name] for name in bare}


def test_a_class_that_is_never_tested_is_not_averaged() -> None:
    """Of three classes the test rows hold a and c: the means are over these two, by scikit-learn class by class."""
    target, answer = several(40, 3, 0)
    rows = np.flatnonzero(target.values != 1)
    target, answer = target.at(rows), at(answer, rows)
    got, called = plain(target, answer), answer.score.argmax(axis=1)
    areas = [sk.roc_auc_score(target.values == k, answer.score[:, k]) for k in (0, 2)]
    scores = sk.f1_score(target.values, called, labels=[0, 2], average="macro")
    assert (got["auroc"], got["f1"]) == pytest.approx((np.mean(areas), scores))
    assert got["balanced_accuracy"] == pytest.approx(
        np.mean([(called[target.values == k] == k).mean() for k in (0, 2)])
    )


@pytest.mark.parametrize("make", [lambda: binary(60, 1), lambda: several(60, 3, 1)])
def test_models_of_folds_are_not_ranked_together(make: Callable[[], tuple[Target, Predicted]]) -> None:
    """An offset to one fold's scores changes neither AUROC nor AP; without folds (control) it does."""
    target, answer = make()
    fold = np.arange(60) % 4
    offset = 5.0 * (fold == 1)
    moved = replace(answer, score=answer.score + (offset if target.binary else offset[:, None]))
    for name in ("auroc", "average_precision"):
        assert plain(target, replace(moved, fold=fold))[name] == pytest.approx(
            plain(target, replace(answer, fold=fold))[name]
        )
        assert plain(target, moved)[name] != pytest.approx(plain(target, answer)[name])


def test_labels_respect_folds() -> None:
    """One label is two classes: the same AUROC and AP, each within folds."""
    target, answer = binary(60, 2)
    fold = np.arange(60) % 4
    label = Target("labels", target.values[:, None], ("torn",))
    got = plain(label, Predicted(answer.score[:, None], fold=fold))
    want = plain(target, Predicted(answer.score, fold=fold))
    assert {k: got[k] for k in got if k != "f1"} == {k: want[k] for k in want if k != "f1"}


def test_order_of_rows_means_nothing_and_order_of_scores_is_all_that_auroc_sees() -> None:
    """Laws: a permutation of rows changes no metric; exp of the scores changes no area."""
    target, answer = binary(50, 4)
    order = np.random.default_rng(0).permutation(50)
    assert plain(target.at(order), at(answer, order)) == pytest.approx(plain(target, answer))
    monotone = plain(target, replace(answer, score=np.exp(answer.score)))
    for name in ("auroc", "average_precision"):
        assert monotone[name] == plain(target, answer)[name]


def cohort(kind: str, know: bool, seed: int) -> tuple[Target, Predicted]:
    """80 rows of three classes, two labels or a number, and answers that know them or were drawn without."""
    rng, n = np.random.default_rng(seed), 80
    signal = 1.5 * know
    if kind == "classes":
        y = rng.integers(0, 3, n)
        return Target("classes", y, ("a", "b", "c"), True), Predicted(rng.normal(size=(n, 3)) + signal * np.eye(3)[y])
    if kind == "labels":
        y = rng.integers(0, 2, (n, 2))
        return Target("labels", y, ("x", "y")), Predicted(rng.normal(size=(n, 2)) + signal * y)
    number = rng.normal(size=n)
    return Target("number", number, ("age",)), Predicted(rng.normal(size=n) + signal * number)


@pytest.mark.parametrize(
    ("kind", "metric", "chance"),
    [("classes", "auroc", 0.5), ("classes", "kappa", 0.0), ("labels", "auroc", 0.5), ("number", "spearman", 0.0)],
)
def test_what_knows_nothing_scores_chance_within_the_interval(kind: str, metric: str, chance: float) -> None:
    """As after shuffling the labels: of 40 cohorts, 38 are expected to hold it, and 33 are asked for (fewer: p < .001).

    Control: of answers that know something, hardly any does.
    """
    held = {False: 0, True: 0}
    for know, seed in product(held, range(40)):
        target, answer = cohort(kind, know, seed)
        weight = bootstrap_of(target, np.arange(80), 150, seed).weight
        e = estimate(metrics_of(target, answer, weight)[metric][None])
        held[know] += e.low <= chance <= e.high
    assert held[False] >= 33
    assert held[True] <= 4


@pytest.mark.parametrize("kind", ["classes", "labels", "number"])
def test_the_difference_of_one_answer_to_itself_is_nothing(kind: str) -> None:
    """Paired resamples: exactly 0, with an interval of exactly [0, 0], in every metric."""
    target, answer = cohort(kind, True, 0)
    weight = bootstrap_of(target, np.arange(80) // 2, 100, 0).weight
    one, other = (metrics_of(target, at(answer, np.arange(80)), weight) for _ in range(2))
    for name in one:
        e = estimate((one[name] - other[name])[None])
        assert (e.value, e.low, e.high) == (0.0, 0.0, 0.0)
