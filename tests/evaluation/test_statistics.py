"""Metrics by hand and against scikit-learn, the bootstrap's coverage, and what a difference may be called."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as sk

from volssl.errors import DataError
from volssl.evaluation.ranking import auc
from volssl.evaluation.statistics import (
    CLASS_METRICS,
    LEAST,
    METRICS,
    Estimate,
    agreement,
    binary_metrics,
    bootstrap,
    bootstrap_of,
    class_metrics,
    estimate,
    in_words,
    patients_tested,
    youden,
)
from volssl.evaluation.target import Floats, Ints, Target


def delong(y: Ints, score: Floats) -> tuple[float, tuple[float, float]]:
    """AUC and its normal 95 % interval, from each item's share of won comparisons with the other class."""
    won = (score[y == 1][:, None] > score[y == 0]) + 0.5 * (score[y == 1][:, None] == score[y == 0])
    variance = sum(np.var(won.mean(axis), ddof=1) / won.shape[1 - axis] for axis in (0, 1))
    half = 1.959964 * float(np.sqrt(variance))
    return float(won.mean()), (float(won.mean()) - half, float(won.mean()) + half)


def cohort(n: int, separation: float, seed: int, share: float = 0.4) -> tuple[Ints, Floats]:
    """Binormal scores: negatives N(0, 1), positives N(separation, 1); true AUC = Phi(separation / sqrt 2)."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < round(share * n)).astype(np.int64)
    return y, rng.normal(size=n) + separation * y


def test_metrics_by_hand() -> None:
    """Scores .9 .8 .7 .6 | .8 .5 .4 .3 .2 .1 (4 tears, 6 without), threshold .65.

    TP 3 (.9 .8 .7), FN 1, FP 1 (.8), TN 5. Accuracy 8/10. Sensitivity 3/4. Specificity 5/6. PPV 3/4. NPV 5/6.
    F1 = 6/8. Chance agreement = (4*4 + 6*6)/100 = .52; kappa = (.8 - .52)/.48 = 7/12.
    AUC: .9 beats 6; .8 beats 5 and ties 1; .7 and .6 beat 5 each: (6 + 5.5 + 5 + 5)/24 = 21.5/24.
    """
    y = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1])
    got = binary_metrics(y, score, 0.65, np.ones((1, 10)))
    hand = (21.5 / 24, 0.8, 3 / 4, 5 / 6, 3 / 4, 5 / 6, 6 / 8, 7 / 12)
    assert tuple(got) == METRICS
    np.testing.assert_allclose([got[m][0] for m in METRICS], hand, rtol=1e-14)


def test_metrics_equal_scikit_learn_on_every_resample() -> None:
    """The weighted formulas against scikit-learn with sample_weight, with ties among the scores."""
    y, score = cohort(40, 1.0, seed=1)
    score = np.round(score, 1)
    draws = bootstrap(y, np.arange(40), 20, seed=2)
    got = binary_metrics(y, score, 0.5, draws.weight)
    called = (score >= 0.5).astype(int)
    for r, w in enumerate(draws.weight):
        given = {"sample_weight": w}
        want = {
            "auc": sk.roc_auc_score(y, score, **given),
            "accuracy": sk.accuracy_score(y, called, **given),
            "sensitivity": sk.recall_score(y, called, **given),
            "specificity": sk.recall_score(y, called, pos_label=0, **given),
            "ppv": sk.precision_score(y, called, **given),
            "npv": sk.precision_score(y, called, pos_label=0, **given),
            "f1": sk.f1_score(y, called, **given),
            "kappa": sk.cohen_kappa_score(y, called, **given),
        }
        np.testing.assert_allclose([got[m][r] for m in METRICS], [want[m] for m in METRICS], rtol=1e-12)


def test_class_metrics_by_hand() -> None:
    """Classes 0 0 1 2, one row each of scores (log-odds):

    2 1 0 is called 0, which it is; 0 3 1 (of class 0) is called 1; 1 2 0 is called 1, which it is; 3 0 2 (of 2) is 0.
    Accuracy 2/4. Recalls 1/2, 1, 0: balanced 1/2. AUC of 0: 2 0 against 1 3: 2 beats 1, so 1/4.
    Of 1: 2 against 1 3 0: 2/3. Of 2: 2 against 0 1 0: 1. Mean (1/4 + 2/3 + 1)/3 = 23/36.
    Weight 3 on row 0: accuracy 4/6; recalls 3/4, 1, 0; AUC of 0: (3*1)/(4*2) = 3/8; of 1: 2 against 1 1 1 3 0: 4/5.
    """
    y = np.array([0, 0, 1, 2])
    score = np.array([[2.0, 1, 0], [0, 3, 1], [1, 2, 0], [3, 0, 2]])
    got = class_metrics(y, score, np.array([[1.0, 1, 1, 1], [3, 1, 1, 1]]))
    assert tuple(got) == CLASS_METRICS
    np.testing.assert_allclose(got["accuracy"], [1 / 2, 4 / 6])
    np.testing.assert_allclose(got["balanced_accuracy"], [1 / 2, 7 / 12])
    np.testing.assert_allclose(got["auc"], [23 / 36, (3 / 8 + 4 / 5 + 1) / 3])


def test_class_metrics_equal_scikit_learn_on_every_resample() -> None:
    """Softmax probabilities of three classes, rounded so that they tie, and logits of two."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1, 2], [30, 20, 10]))
    p = np.round(rng.dirichlet(1 + 2 * np.eye(3)[0], 60), 1)
    p = np.clip(p, 0.05, 1)
    p /= p.sum(1, keepdims=True)
    weight = bootstrap(y, np.arange(60) // 2, 20, seed=0).weight
    got = class_metrics(y, p, weight)
    two, logit = cohort(60, 1.0, 0)
    got_two = class_metrics(two, logit, weight)
    for r, w in enumerate(weight):
        given = {"sample_weight": w}
        assert got["auc"][r] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", **given))
        assert got["accuracy"][r] == pytest.approx(sk.accuracy_score(y, p.argmax(1), **given))
        assert got["balanced_accuracy"][r] == pytest.approx(sk.balanced_accuracy_score(y, p.argmax(1), **given))
        assert got_two["auc"][r] == pytest.approx(sk.roc_auc_score(two, logit, **given))
        assert got_two["balanced_accuracy"][r] == pytest.approx(
            sk.balanced_accuracy_score(two, (logit >= 0).astype(int), **given)
        )


def test_a_class_of_no_weight_makes_the_mean_undefined() -> None:
    """Not the mean over the classes that are left, which is another question."""
    y, score = np.array([0, 1, 2, 0]), np.eye(3)[[0, 1, 2, 1]]
    got = class_metrics(y, score, np.array([[1.0, 1, 0, 1]]))
    assert np.isnan(got["auc"][0])
    assert np.isnan(got["balanced_accuracy"][0])
    assert got["accuracy"][0] == pytest.approx(2 / 3)
    agreed = agreement(y, np.array([0, 1, 2, 2]), np.array([[1.0, 1, 0, 1]]))  # called, where it is not: no F1 of 0
    assert np.isnan(agreed["f1"][0])
    assert agreed["accuracy"][0] == pytest.approx(2 / 3)


def test_resamples_hold_every_class() -> None:
    """One row of class 2 among 10: it is in all 300 resamples, and without redrawing it would not be."""
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    draws = bootstrap(y, np.arange(10), 300, seed=0)
    assert (draws.weight[:, 9] > 0).all()
    assert draws.redrawn > 50


def test_undefined_is_nan_and_not_zero() -> None:
    """Nothing called positive: PPV is 0/0. One class in a resample: no AUC (torchmetrics says 0.0)."""
    y, score = np.array([0, 1, 0]), np.array([0.1, 0.2, 0.3])
    assert np.isnan(binary_metrics(y, score, 9.0, np.ones((1, 3)))["ppv"][0])
    assert np.isnan(auc(y, score, np.array([[1.0, 0.0, 2.0]]))[0])
    with pytest.raises(ValueError, match="finite"):
        auc(y, np.array([0.1, np.nan, 0.3]), np.ones((1, 3)))


def test_bootstrap_draws_whole_patients() -> None:
    """Exams of one patient come and go together, and each resample holds as many patients as the sample."""
    y = np.array([1, 0, 1, 0, 0, 1])
    groups = np.array(["a", "a", "b", "b", "c", "d"])
    draws = bootstrap(y, groups, 200, seed=0)
    assert (draws.weight[0] == 1).all()
    assert (draws.weight[:, 0] == draws.weight[:, 1]).all()
    assert (draws.weight[:, [0, 2, 4, 5]].sum(1) == 4).all()


def test_single_class_resamples_are_redrawn_and_counted() -> None:
    """One tear among 10: a resample lacks it with probability .9^10 = .349, so about 536 redraws for 1000."""
    y = np.eye(10, dtype=np.int64)[0]
    draws = bootstrap(y, np.arange(10), 1000, seed=0)
    assert ((draws.weight @ y) > 0).all()
    assert draws.redrawn == pytest.approx(1000 * 0.349 / 0.651, rel=0.15)
    with pytest.raises(ValueError, match="both classes"):
        bootstrap(np.zeros(5, dtype=np.int64), np.arange(5), 10, seed=0)


def test_the_bootstrap_of_a_target_is_that_of_its_classes() -> None:
    """The same draws: results do not depend on which of the two is asked."""
    y, groups = np.arange(30) % 3, np.arange(30) // 2
    target = Target("classes", y, ("a", "b", "c"))
    np.testing.assert_array_equal(bootstrap_of(target, groups, 50, 1).weight, bootstrap(y, groups, 50, 1).weight)


def test_resamples_in_which_nothing_varies_are_redrawn() -> None:
    """Label x is there once of 10, y never: a resample without x's row, or with it alone, has no AUC at all.

    A number that is 0 nine times and 1 once likewise. Each lacks it with probability .9^10 = .349.
    """
    x = np.eye(10, dtype=np.int64)[0]
    labels = Target("labels", np.column_stack([x, np.zeros_like(x)]), ("x", "y"))
    for target in (labels, Target("number", x.astype(np.float64), ("age",))):
        draws = bootstrap_of(target, np.arange(10), 1000, seed=0)
        assert (draws.weight[:, 0] > 0).all()
        assert (draws.weight[:, 1:].sum(axis=1) > 0).all()
        assert draws.redrawn == pytest.approx(1000 * 0.349 / 0.651, rel=0.15)
        with pytest.raises(ValueError, match="nothing varies"):
            bootstrap_of(target.at(np.arange(1, 10)), np.arange(9), 10, seed=0)


def test_a_label_that_is_unknown_does_not_vary() -> None:
    """Rows 0 and 1 alone know x, and from both sides: they are in every resample; the eight others are 0 to 8 times."""
    target = Target("labels", np.array([[1], [0], *[[-1]] * 8]), ("x",))
    weight = bootstrap_of(target, np.arange(10), 200, seed=0).weight
    assert (weight[:, :2] > 0).all()
    assert (weight[:, 2:] == 0).any(axis=0).all()


def test_too_rare_to_resample_is_an_error_and_not_for_ever() -> None:
    """Twenty classes of a patient each: all are in one of 20^20 / 20! = 43 million resamples."""
    with pytest.raises(DataError, match="20 patients are too few to resample"):
        bootstrap(np.arange(20), np.arange(20), 10, seed=0)


def coverage() -> dict[str, float]:
    """Share of 200 simulated cohorts whose interval holds the true AUC, Phi(1.5 / sqrt 2).

    60 patients of four exams each, whose scores correlate by .8; two in five have a tear, in every exam. Of resampled
    patients: the interval, and one of half its width; of resampled exams: the interval.
    """
    truth, patients = norm.cdf(1.5 / np.sqrt(2)), np.arange(240) // 4
    y = (patients % 5 < 2).astype(np.int64)
    held = {"patients": 0, "half": 0, "exams": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        score = 1.5 * y + np.sqrt(0.8) * rng.normal(size=60)[patients] + np.sqrt(0.2) * rng.normal(size=240)
        for by, groups in (("patients", patients), ("exams", np.arange(240))):
            e = estimate(auc(y, score, bootstrap(y, groups, 250, seed).weight)[None])
            held[by] += e.low <= truth <= e.high
            if by == "patients":
                held["half"] += abs(truth - (e.high + e.low) / 2) <= (e.high - e.low) / 4
    return {name: n / 200 for name, n in held.items()}


def test_the_interval_covers_as_it_says() -> None:
    """Nominal 95 %; at 200 cohorts its standard error is 1.5 %, and .90 and .99 are three of them away.

    Controls: half the width covers far less; so do exams resampled as if each were a patient of its own.
    """
    found = coverage()
    assert 0.90 <= found["patients"] <= 0.99
    assert found["half"] < 0.80
    assert found["exams"] < 0.80


def test_interval_agrees_with_delong() -> None:
    """The percentile interval of AUC against DeLong's (Biometrics 44, 1988): ends within .02 at N = 300."""
    y, score = cohort(300, 1.2, seed=3)
    value, (low, high) = delong(y, score)
    e = estimate(auc(y, score, bootstrap(y, np.arange(300), 2000, 0).weight)[None])
    assert e.value == pytest.approx(value)
    assert (e.low, e.high) == pytest.approx((low, high), abs=0.02)


def test_shuffled_labels_contain_one_half() -> None:
    """A score that knows nothing: 0.5 lies within the interval; one that knows (control): it does not."""
    y, score = cohort(120, 1.5, seed=5)
    shuffled = np.random.default_rng(0).permutation(y)
    for labels, holds in ((shuffled, True), (y, False)):
        e = estimate(auc(labels, score, bootstrap(labels, np.arange(120), 1000, 0).weight)[None])
        assert (e.low <= 0.5 <= e.high) is holds


def test_estimate_averages_seeds_before_it_takes_quantiles() -> None:
    """Two seeds .6 and .8: mean .7, sd sqrt(.02) = .1414; the resamples' means are .5 .6 .7 .8 .9."""
    values = np.array([[0.6, 0.4, 0.5, 0.6, 0.7, 0.8], [0.8, 0.6, 0.7, 0.8, 0.9, 1.0]])
    e = estimate(values)
    assert (e.value, e.sd) == pytest.approx((0.7, np.sqrt(0.02)))
    assert (e.low, e.high) == pytest.approx((0.51, 0.89))  # 2.5 % of the way from .5 to .9 is .51


def test_differences_are_paired() -> None:
    """b = a + a little noise: paired, the difference is far narrower than either interval."""
    y, a = cohort(120, 1.0, seed=7)
    b = a + 0.05 * np.random.default_rng(0).normal(size=120)
    weight = bootstrap(y, np.arange(120), 1000, 0).weight
    alone, paired = estimate(auc(y, a, weight)[None]), estimate((auc(y, a, weight) - auc(y, b, weight))[None])
    assert (paired.high - paired.low) < 0.2 * (alone.high - alone.low)


def test_youden_by_hand() -> None:
    """Scores .9+ .7+ .6- .5+ .2- .1-. J at .9: 1/3; .7: 2/3; .6: 1/3; .5: 2/3. The first: (.7 + .6) / 2."""
    y, score = np.array([1, 1, 0, 1, 0, 0]), np.array([0.9, 0.7, 0.6, 0.5, 0.2, 0.1])
    assert youden(y, score) == pytest.approx(0.65)


def test_threshold_is_not_one_half_of_a_logit() -> None:
    """BYOLMed3D defect: threshold .5 on the logit. Logits -3 (none) and -1 (tear) part at -2, not at .5."""
    y, logit = np.array([0, 0, 1, 1]), np.array([-3.0, -3.1, -1.0, -0.9])
    right = binary_metrics(y, logit, youden(y, logit), np.ones((1, 4)))
    defect = binary_metrics(y, logit, 0.5, np.ones((1, 4)))
    assert youden(y, logit) == pytest.approx(-2.0)
    assert right["sensitivity"][0] == 1.0
    assert defect["sensitivity"][0] == 0.0


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.01, 0.2, "better than"), (-0.2, -0.01, "worse than"), (-0.1, 0.1, "within noise")],
)
def test_differences_in_words(low: float, high: float, says: str) -> None:
    """The sentence follows the interval, not the number."""
    assert says in in_words(Estimate(0.05, low, high), "pre-trained", "random", "AUC")


def test_a_difference_of_a_handful_of_patients_is_not_called_one() -> None:
    e = Estimate(0.3, 0.1, 0.5)
    said = in_words(e, "pre-trained", "random", "AUC", 7.5)
    assert said.startswith("pre-trained and random have too few test patients to be told apart: AUC +0.300")
    assert in_words(e, "pre-trained", "random", "AUC", 8).startswith("pre-trained is better than random")


def test_how_many_patients_an_interval_rests_on() -> None:
    """Rows of one patient count once; of three labels the middle one counts, of a number half."""
    groups = np.array([0, 0, 1, 2, 3, 4])
    classes = Target("classes", np.array([1, 1, 1, 0, 0, 0]), ("a", "b"))
    assert patients_tested(classes, groups) == 2
    values = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [-1, 0, 0]])
    assert patients_tested(Target("labels", values, ("x", "y", "z")), np.arange(6)) == 2
    assert patients_tested(Target("number", np.arange(6.0), ("age",)), groups) == 2.5


def test_from_eight_patients_on_the_interval_is_worth_something() -> None:
    """AUROC 0.8 of as many of each class, 100 times: of 8 the interval holds it in nine of ten, of 4 in eight of ten.

    With 90 and 78 of 100 expected, fewer than 83 or more than 88 come by chance once in 50 times.
    """
    held = {}
    for n in (LEAST // 2, LEAST):
        y, inside = np.repeat([0, 1], n), 0
        for seed in range(100):
            score = np.random.default_rng(seed).normal(size=2 * n) + np.sqrt(2) * norm.ppf(0.8) * y
            found = estimate(auc(y, score, bootstrap(y, np.arange(2 * n), 200, seed).weight))
            inside += found.low <= 0.8 <= found.high
        held[n] = inside
    assert held[LEAST // 2] <= 88
    assert held[LEAST] >= 83
