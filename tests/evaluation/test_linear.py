"""The linear probe: what it finds, what it must not see, and what its out-of-fold scores are for."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from volssl.evaluation.knn import knn
from volssl.evaluation.linear import PENALTIES, STRENGTHS, linear, linear_probe
from volssl.evaluation.splits import folds, folds_of
from volssl.evaluation.statistics import youden
from volssl.evaluation.target import Floats, Ints, Target


def planted(n: int, width: int, strength: float, seed: int) -> tuple[Floats, Ints]:
    """Noise of ``width`` columns; the first carries the label."""
    rng = np.random.default_rng(seed)
    y = rng.permutation((np.arange(n) < n // 4).astype(np.int64))
    x = rng.normal(size=(n, width))
    x[:, 0] += strength * y
    return x, y


def three_classes(n: int, width: int, strength: float, seed: int) -> tuple[Floats, Ints]:
    """Noise of ``width`` columns; column k carries class k, of which there are n/2, n/3 and n/6."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat([0, 1, 2], [n // 2, n // 3, n // 6])).astype(np.int64)
    x = rng.normal(size=(n, width))
    x[np.arange(n), y] += strength
    return x, y


def converged(c: float, tolerance: float = 1e-10) -> LogisticRegression:
    """scikit-learn's fit, run to the end: at its default tolerance it stops a thousandth away."""
    return LogisticRegression(C=c, class_weight="balanced", tol=tolerance, max_iter=100_000)


def test_finds_a_planted_signal() -> None:
    """Separation 3 in one of 20 columns: true AUC Phi(3/sqrt 2) = .983."""
    x, y = planted(200, 20, 3.0, 0)
    test_x, test_y = planted(200, 20, 3.0, 1)
    probe = linear_probe(x, y, test_x, groups=np.arange(200), seed=0)
    assert roc_auc_score(test_y, probe.scores) > 0.95
    assert roc_auc_score(y, probe.oof_scores) > 0.95


def test_scores_are_those_of_the_plain_fit_at_the_chosen_strength() -> None:
    """The probe's test scores are a balanced, standardised logistic regression written out here."""
    x, y = planted(100, 5, 1.0, 0)
    test_x, _ = planted(30, 5, 1.0, 1)
    probe = linear_probe(x, y, test_x, groups=np.arange(100), seed=0)
    scale = StandardScaler().fit(x)
    twin = LogisticRegression(C=probe.c, class_weight="balanced", tol=1e-10, max_iter=100_000).fit(
        scale.transform(x), y
    )
    assert probe.c in STRENGTHS
    np.testing.assert_allclose(probe.scores, twin.decision_function(scale.transform(test_x)), rtol=1e-5, atol=1e-7)


def test_out_of_fold_scores_have_not_seen_their_row() -> None:
    """60 rows of 200 columns of noise: a fit parts its own rows (control, AUC 1), out of fold not.

    So planes and thresholds must be fitted on out-of-fold scores: in-fold ones call noise perfect.
    """
    x, y = planted(60, 200, 0.0, 0)
    probe = linear_probe(x, y, x, groups=np.arange(60), seed=0)
    assert roc_auc_score(y, probe.scores) > 0.95
    assert 0.25 < roc_auc_score(y, probe.oof_scores) < 0.75


def test_patients_are_never_on_both_sides_of_a_fold() -> None:
    """Each patient has two identical exams: split by exam the twin gives the label away, by patient not."""
    x, y = planted(40, 100, 0.0, 3)
    x, y, patients = np.repeat(x, 2, axis=0), np.repeat(y, 2), np.repeat(np.arange(40), 2)
    by_patient = linear_probe(x, y, x, groups=patients, seed=0)
    by_exam = linear_probe(x, y, x, groups=np.arange(80), seed=0)
    assert roc_auc_score(y, by_exam.oof_scores) > 0.9
    assert roc_auc_score(y, by_patient.oof_scores) < 0.75


def test_scale_of_a_feature_does_not_matter() -> None:
    """Features times 1000 plus 5 are the same features; a constant one is harmless."""
    x, y = planted(80, 4, 1.0, 0)
    moved = np.column_stack([1000 * x + 5, np.ones(80)])
    a, b = (linear_probe(v, y, v, groups=np.arange(80), seed=0) for v in (x, moved))
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5, atol=1e-7)


def test_four_exams_are_enough() -> None:
    """Two of each class make two folds."""
    x, y = np.array([[0.0], [0.1], [1.0], [1.1]]), np.array([0, 0, 1, 1])
    probe = linear_probe(x, y, x, groups=np.arange(4), seed=0)
    assert roc_auc_score(y, probe.oof_scores) == 1.0
    with pytest.raises(ValueError, match="two patients"):
        linear_probe(x[:3], y[:3], x, groups=np.arange(3), seed=0)


def test_three_classes_give_each_class_its_log_odds() -> None:
    """Softmax p of the plain fit written out here: the scores are log p / (1 - p), column by column."""
    x, y = three_classes(120, 6, 1.5, 0)
    test_x, test_y = three_classes(60, 6, 1.5, 1)
    probe = linear_probe(x, y, test_x, groups=np.arange(120), seed=0)
    scale = StandardScaler().fit(x)
    twin = LogisticRegression(C=probe.c, class_weight="balanced", tol=1e-10, max_iter=100_000).fit(
        scale.transform(x), y
    )
    p = twin.predict_proba(scale.transform(test_x))
    assert probe.oof_scores.shape == (120, 3)
    np.testing.assert_allclose(probe.scores, np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)
    assert (probe.scores.argmax(1) == test_y).mean() > 0.6


def test_scores_of_certain_rows_do_not_tie() -> None:
    """Classes 60 sd apart: every p rounds to 1 and would tie, the log-odds still rank the rows."""
    x, y = three_classes(60, 3, 60.0, 0)
    far = np.array([[1e8, 0, 0], [2e8, 0, 0]])
    probe = linear_probe(x, y, far, groups=np.arange(60), seed=0)
    assert np.isfinite(probe.scores).all()
    assert probe.scores[1, 0] > probe.scores[0, 0] > 36.8  # where 1 - p is below what float64 can tell from 1


def test_three_classes_of_noise_are_chance_out_of_fold_and_perfect_in_it() -> None:
    """Control as for two classes: 60 rows, 200 columns that know nothing."""
    x, y = three_classes(60, 200, 0.0, 0)
    probe = linear_probe(x, y, x, groups=np.arange(60), seed=0)
    seen, unseen = (
        np.mean([roc_auc_score(y == k, s[:, k]) for k in range(3)]) for s in (probe.scores, probe.oof_scores)
    )
    assert seen > 0.95
    assert 0.3 < unseen < 0.7


def test_regularisation_follows_the_strength_of_the_signal() -> None:
    """Of 100 columns all matter a little (strong regularisation), or one matters fully (weaker)."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1, 2], 40))
    spread = rng.normal(size=(120, 100)) + 0.3 * rng.normal(size=(3, 100))[y]
    alone, _ = three_classes(120, 100, 0.0, 1)
    alone[np.arange(120), y] += 6.0
    chosen = [linear_probe(x, y, x, groups=np.arange(120), seed=0).c for x in (spread, alone)]
    assert chosen[0] < chosen[1]


def test_a_class_without_rows_is_named() -> None:
    """Classes 0 and 2: the scores would have no column for 1."""
    x, y = planted(20, 2, 1.0, 0)
    with pytest.raises(ValueError, match=r"\[0, 2\]: number them 0 to 1"):
        linear_probe(x, 2 * y, x, groups=np.arange(20), seed=0)


def test_threads_move_no_bit() -> None:
    """Two BLAS threads outside: inside there is one, and the scores are the same to the last bit."""
    x, y = planted(600, 64, 1.0, 0)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(linear_probe(x, y, x, groups=np.arange(600), seed=0).scores)
    np.testing.assert_array_equal(found[0], found[1])


def test_the_strength_is_that_of_the_best_mean_auc() -> None:
    """scikit-learn's cross-validation over the same folds finds the same best C, for two classes and for three.

    Control: the strengths differ in AUC, so that another choice would be seen.
    """
    for x, y in (planted(60, 10, 1.5, 0), three_classes(60, 10, 1.0, 1)):
        parts = folds(y, np.arange(60), 5, 0)
        areas = []
        for c in STRENGTHS:
            model = make_pipeline(StandardScaler(), converged(c, 1e-6))
            p = cross_val_predict(model, x, y, cv=parts, method="predict_proba")
            each = [one_vs_rest(y[held], p[held]) for _, held in parts]
            areas.append(round(float(np.mean(each)), 9))
        assert len(set(areas)) > 3
        assert linear_probe(x, y, x, groups=np.arange(60), seed=0).c == STRENGTHS[int(np.argmax(areas))]


def one_vs_rest(y: Ints, p: Floats) -> float:
    """scikit-learn's mean area of each class against the rest."""
    area: float = roc_auc_score(y, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr")
    return area


def test_classes_are_the_probes_scores_at_the_prevalence() -> None:
    """A quarter is positive, and the probabilities of 4,000 new rows say so; those of the balanced scores do not."""
    x, y = planted(200, 5, 1.5, 0)
    new_x, new_y = planted(4000, 5, 1.5, 1)
    answer = linear(x, Target("classes", y, ("no", "yes")), new_x, groups=np.arange(200), seed=0)
    probe = linear_probe(x, y, new_x, groups=np.arange(200), seed=0)
    np.testing.assert_array_equal(answer.score, probe.scores)
    assert answer.probability is not None
    assert answer.probability[:, 1].mean() == pytest.approx(0.25, abs=0.04)
    assert (1 / (1 + np.exp(-answer.score))).mean() > 0.35
    assert answer.called is not None
    np.testing.assert_array_equal(answer.called, probe.scores >= youden(y, probe.oof_scores))
    assert answer.called[new_y == 1].mean() + 1 - answer.called[new_y == 0].mean() > 1.4


def test_three_classes_have_probabilities_and_no_calls() -> None:
    """Shares of 1/2, 1/3 and 1/6, as the mean probabilities of new rows are."""
    x, y = three_classes(240, 4, 1.5, 0)
    new_x, _ = three_classes(1200, 4, 1.5, 1)
    answer = linear(x, Target("classes", y, ("a", "b", "c")), new_x, groups=np.arange(240), seed=0)
    assert answer.score.shape == (1200, 3)
    assert answer.called is None
    assert answer.probability is not None
    np.testing.assert_allclose(answer.probability.mean(axis=0), [1 / 2, 1 / 3, 1 / 6], atol=0.05)
    np.testing.assert_allclose(answer.probability.sum(axis=1), 1)


def test_each_label_is_a_probe_of_its_known_rows() -> None:
    """Unknown rows are left out: NaN-free nonsense in them changes nothing. Control: in a known row it does."""
    x, y = planted(60, 4, 1.5, 0)
    _, other = planted(60, 4, 1.5, 1)
    unknown = np.arange(60) % 5 == 0
    train = Target("labels", np.column_stack([np.where(unknown, -1, y), other]), ("one", "other"))
    moved, seen = x.copy(), x.copy()
    moved[unknown], seen[~unknown & (y == 1)] = 50.0, 0.0
    want = linear_probe(x[~unknown], y[~unknown], x, groups=np.flatnonzero(~unknown), seed=0)
    plain, unseen, changed = (linear(v, train, x, groups=np.arange(60), seed=0) for v in (x, moved, seen))
    np.testing.assert_array_equal(plain.score[:, 0], want.scores)
    np.testing.assert_array_equal(unseen.score[:, 0], plain.score[:, 0])
    assert not np.allclose(changed.score[:, 0], plain.score[:, 0])
    assert not np.allclose(unseen.score[:, 1], plain.score[:, 1])
    assert plain.called is not None
    np.testing.assert_array_equal(plain.called[:, 0], want.scores >= youden(y[~unknown], want.oof_scores))


@pytest.mark.parametrize("width", [5, 90])
def test_a_number_is_scikit_learns_ridge(width: int) -> None:
    """Its own Ridge of standardised features, at the penalty of the least squared error over the same folds."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, width)) * 10 ** rng.uniform(-2, 2, size=width)
    target = Target("number", x @ rng.normal(size=width) / x.std(0).max() + rng.normal(size=80), ("age",))
    patients = np.arange(80) // 2
    train, test = np.arange(60), np.arange(60, 80)
    answer = linear(x[train], target.at(train), x[test], groups=patients[train], seed=0)
    assert answer.probability is None
    assert answer.called is None
    y, parts = target.values, folds_of(target.at(train), patients[train], 5, 0)

    def fitted(fit: Ints, new: Ints, share: float) -> Floats:
        scale = StandardScaler().fit(x[fit])
        z = scale.transform(x[fit])
        predicted: Floats = Ridge(share * (z**2).sum(), tol=1e-10).fit(z, y[fit]).predict(scale.transform(x[new]))
        return predicted

    errors = [sum(((fitted(a, b, share) - y[b]) ** 2).sum() for a, b in parts) for share in PENALTIES]
    best = int(np.argmin(errors))
    assert 0 < best < len(PENALTIES) - 1  # control: the penalty matters, both ways
    np.testing.assert_allclose(answer.score, fitted(train, test, PENALTIES[best]), rtol=1e-6)


def test_features_that_are_not_finite_are_refused() -> None:
    """One NaN among the training rows, one infinity among the test rows; of every kind of target."""
    x, y = planted(20, 3, 1.0, 0)
    broken = x.copy()
    broken[3, 1] = np.nan
    kinds = (
        Target("classes", y, ("no", "yes")),
        Target("labels", y[:, None], ("it",)),
        Target("number", x[:, 0], ("n",)),
    )
    for target in kinds:
        for train_x, test_x in ((broken, x), (x, np.where(np.isnan(broken), np.inf, broken))):
            with pytest.raises(ValueError, match="features must be finite"):
                linear(train_x, target, test_x, groups=np.arange(20), seed=0)


def test_features_of_one_value_say_nothing() -> None:
    """A collapsed encoder: every score is 0 and every number the mean, with no warning and no error."""
    x, (_, y) = np.ones((24, 7)), planted(24, 1, 0.0, 0)
    answer = linear(x, Target("classes", y, ("no", "yes")), x, groups=np.arange(24), seed=0)
    np.testing.assert_allclose(answer.score, 0, atol=1e-9)
    number = linear(x, Target("number", np.arange(24.0), ("n",)), x, groups=np.arange(24), seed=0)
    np.testing.assert_allclose(number.score, 11.5)


def test_lists_are_arrays() -> None:
    """In a notebook, patients and classes come as lists; of every kind of target, and for neighbours as well."""
    x, y = planted(24, 3, 1.0, 0)
    names = [f"p{i // 2}" for i in range(24)]
    y = np.repeat(y[::2], 2)
    kinds = (("classes", y, ("no", "yes")), ("labels", y[:, None], ("it",)), ("number", x[:, 0], ("n",)))
    for kind, values, called in kinds:
        array = Target(kind, values, called)  # type: ignore[arg-type]
        listed = Target(kind, values.tolist(), called)  # type: ignore[arg-type]
        for probe in (partial(linear, seed=0), knn):
            want = probe(x, array, x, groups=np.array(names))
            got = probe(x.tolist(), listed, x.tolist(), groups=names)  # type: ignore[arg-type]
            np.testing.assert_array_equal(got.score, want.score)
    assert len(folds(y.tolist(), names, 3, 0)) == 3  # type: ignore[arg-type]


def test_the_page_s_example_of_a_notebook_runs() -> None:
    """As it stands there; what it says of two encoders of which one knows something."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code = page.split("## In a notebook")[1].split("```python\n")[1].split("```")[0]
    told = io.StringIO()
    with redirect_stdout(told):
        exec(code, {})
    number, sentence = told.getvalue().splitlines()
    assert number.startswith("Estimate(value=0.")
    assert sentence.startswith("mine is better than other: AUROC +0.")
