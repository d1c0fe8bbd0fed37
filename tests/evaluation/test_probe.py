"""Probes on arrays: against scikit-learn, blind to shuffled labels, and paired between encoders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from volssl.evaluation.linear import linear_probe
from volssl.evaluation.probe import Scores, cross_fit, measure, probe
from volssl.evaluation.statistics import CLASS_METRICS
from volssl.evaluation.target import Floats, Ints

TWO, THREE = (0, 1), (0, 1, 2)


def rows(classes: tuple[int, ...], patients: int, each: int, signal: float, seed: int) -> tuple[Floats, Ints, Ints]:
    """x, y and patients: ``each`` rows of one class per patient, 8 columns, column k shifted for class k."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), each)
    y = groups % len(classes)
    x = rng.normal(size=(len(y), 8)) + 0.7 * rng.normal(size=(patients, 8))[groups]
    x[np.arange(len(y)), y] += signal
    return x, y, groups


@pytest.mark.parametrize("classes", [TWO, THREE])
def test_numbers_are_scikit_learns(classes: tuple[int, ...]) -> None:
    """Its own fit at the strength chosen, its own metrics of its own probabilities."""
    (x, y, g), (tx, ty, tg) = rows(classes, 30, 3, 1.0, 0), rows(classes, 24, 2, 1.0, 1)
    worth = probe({"a": (x, tx)}, y, ty, train_groups=g, test_groups=100 + tg, resamples=100)
    scale, c = StandardScaler().fit(x), linear_probe(x, y, tx, groups=g, seed=0).c
    twin = LogisticRegression(C=c, class_weight="balanced", max_iter=5000).fit(scale.transform(x), y)
    p = twin.predict_proba(scale.transform(tx))
    area = sk.roc_auc_score(ty, p if len(classes) > 2 else p[:, 1], multi_class="ovr")
    want = (area, sk.accuracy_score(ty, p.argmax(1)), sk.balanced_accuracy_score(ty, p.argmax(1)))
    got = [worth.estimate("a", metric) for metric in CLASS_METRICS]
    assert [e.value for e in got] == pytest.approx(want)
    assert all(e.low <= e.value <= e.high for e in got)


@pytest.mark.parametrize("classes", [TWO, THREE])
@pytest.mark.parametrize("shuffled", [True, False])
def test_shuffled_labels_are_chance(classes: tuple[int, ...], shuffled: bool) -> None:
    """Labels dealt anew to the patients: 0.5 lies in the interval. Control: the true ones are above it.

    Those of the test patients too: the interval is that of one trained probe, and one trained on noise may by
    chance lie along a signal that the test labels still have.
    """
    (x, y, g), (tx, ty, tg) = rows(classes, 36, 3, 1.5, 0), rows(classes, 60, 2, 1.5, 1)
    if shuffled:
        rng = np.random.default_rng(1)
        y, ty = (rng.permutation(np.arange(n) % len(classes))[groups] for n, groups in ((36, g), (60, tg)))
    held_out = probe({"a": (x, tx)}, y, ty, train_groups=g, test_groups=100 + tg).estimate("a")
    crossed = measure({"a": [cross_fit(x, y, groups=g)]}, y, groups=g).estimate("a")
    for area in (held_out, crossed):
        assert (area.low <= 0.5 <= area.high) is shuffled


def test_intervals_are_over_patients() -> None:
    """Twenty rows of a patient are one patient: the interval must be far wider than over rows."""
    x, y, g = rows(THREE, 24, 20, 0.7, 0)
    tested = {"a": [cross_fit(x, y, groups=g)]}
    by_patient, by_row = (measure(tested, y, groups=groups).estimate("a") for groups in (g, np.arange(len(y))))
    assert by_patient.value == by_row.value
    assert (by_patient.high - by_patient.low) > 2 * (by_row.high - by_row.low)


def test_differences_are_paired_and_signed() -> None:
    """An encoder, itself with noise added, and noise: the first difference is small and sure, the second large."""
    (x, y, g), (tx, ty, tg) = rows(THREE, 60, 3, 1.0, 0), rows(THREE, 60, 3, 1.0, 1)
    rng = np.random.default_rng(0)
    blurred, noise = 0.8 * rng.normal(size=(2, 180, 8)), rng.normal(size=(2, 180, 3))
    encoders = {"sharp": (x, tx), "blurred": (x + blurred[0], tx + blurred[1]), "noise": (noise[0], noise[1])}
    worth = probe(encoders, y, ty, train_groups=g, test_groups=100 + tg)
    paired, alone = worth.difference("sharp", "blurred"), worth.estimate("sharp")
    assert paired.value == pytest.approx(alone.value - worth.estimate("blurred").value)
    assert paired.high - paired.low < alone.high - alone.low
    assert worth.difference("sharp", "noise").low > 0.1
    same = worth.difference("sharp", "sharp")
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_cross_fit_has_not_seen_the_patient() -> None:
    """Identical rows within patients and labels of noise: seen, the label is known; by patient it is not."""
    rng = np.random.default_rng(0)
    x, y, g = np.repeat(rng.normal(size=(36, 60)), 3, axis=0), np.repeat(np.arange(36) % 3, 3), np.repeat(range(36), 3)
    by_patient, by_row = (cross_fit(x, y, groups=groups) for groups in (g, np.arange(108)))
    honest, leaking = (measure({"a": [t]}, y, groups=g).estimate("a").value for t in (by_patient, by_row))
    assert honest < 0.65
    assert leaking > 0.9
    assert by_patient.fold is not None
    assert all(len(set(by_patient.fold[g == patient])) == 1 for patient in range(36))


def test_seeds_are_averaged() -> None:
    """Two seeds of planted scores, one right throughout, one wrong throughout: AUC (1 + 0) / 2, sd sqrt(1/2)."""
    y = np.array([0, 0, 1, 1, 2, 2] * 5)
    right = np.eye(3)[y] * 2 - 1
    e = measure({"a": [Scores(right), Scores(-right)]}, y, groups=np.arange(30)).estimate("a")
    assert (e.value, e.sd) == pytest.approx((0.5, np.sqrt(0.5)))


def test_softmax_and_its_log_odds_rank_alike() -> None:
    """AUC of the stored log-odds is that of the probabilities: the one follows the other."""
    z = np.random.default_rng(0).normal(size=(50, 3))
    y, p = np.arange(50) % 3, softmax(z, axis=1)
    e = measure({"p": [Scores(p)], "odds": [Scores(np.log(p / (1 - p)))]}, y, groups=np.arange(50), resamples=100)
    np.testing.assert_array_equal(e.values["p"]["auc"], e.values["odds"]["auc"])


def test_leaks_and_classes_that_differ_are_refused() -> None:
    """A planted leak: patient 3 on both sides. A class in test that nobody was trained for."""
    (x, y, g), (tx, ty, tg) = rows(THREE, 12, 2, 1.0, 0), rows(THREE, 12, 2, 1.0, 1)
    tg = 100 + tg
    with pytest.raises(ValueError, match="1 patients are in training and test rows, such as 3"):
        probe({"a": (x, tx)}, y, ty, train_groups=g, test_groups=np.where(tg == 100, 3, tg))
    with pytest.raises(ValueError, match=r"training rows hold the classes \[0, 1\], the test rows \[0, 1, 2\]"):
        probe({"a": (x, tx)}, y % 2, ty, train_groups=g, test_groups=tg)
