"""Nearest neighbours: by hand, against loops, and blind to what must not be seen."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from volssl.evaluation import knn as module
from volssl.evaluation.knn import knn
from volssl.evaluation.statistics import youden
from volssl.evaluation.target import Floats, Groups, Ints, Target

TWO, THREE = ("no", "yes"), ("a", "b", "c")


def rows(n: int, classes: int, signal: float, seed: int) -> tuple[Floats, Ints]:
    """Noise of six columns, column k shifted for class k; class 0 is twice as common as the others."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.maximum(np.arange(n) % (classes + 1) - 1, 0))
    x = rng.normal(size=(n, 6))
    x[np.arange(n), y] += signal
    return x, y


def votes(x: Floats, query: Floats, k: int, temperature: float, of: list[int]) -> dict[int, float]:
    """Row to weight of the k nearest of the rows ``of``, one after the other; the weights sum to 1."""
    near = {i: sum(x[i] * query) / (sum(x[i] ** 2) ** 0.5 * sum(query**2) ** 0.5) for i in of}
    chosen = sorted(of, key=lambda i: -near[i])[:k]
    weight = {i: float(np.exp(near[i] / temperature)) for i in chosen}
    return {i: w / sum(weight.values()) for i, w in weight.items()}


def balanced(x: Floats, y: Ints, query: Floats, k: int, temperature: float, of: list[int]) -> list[float]:
    """Each class's log-odds: votes of neighbours and of one more that is shared out, divided by its share."""
    part: dict[int, float] = defaultdict(float)
    weight = votes(x, query, k, temperature, of)
    for i, w in weight.items():
        part[int(y[i])] += w
    share = np.bincount(y) / len(y)
    one_each = [(min(k, len(y)) * part[c] + share[c]) / share[c] for c in range(len(share))]
    return [float(np.log(v / (sum(one_each) - v))) for v in one_each]


def test_three_rows_by_hand() -> None:
    """Rows at 0 (no), 60 (yes) and 90 degrees (no) of any length, asked at 0 degrees with k = 2 and T = 1/2.

    Cosines 1, 1/2, 0: weights e^2 and e^1 of the first two, shares e/(e + 1) no and 1/(e + 1) yes. With one more vote
    of 2/3 and 1/3: no 2e/(e + 1) + 2/3, yes 2/(e + 1) + 1/3, of three; their odds over 1 : 2 are the score's.
    """
    degrees = np.deg2rad([0.0, 60.0, 90.0])
    x = np.column_stack([np.cos(degrees), np.sin(degrees)]) * [[1.0], [5.0], [0.1]]
    train = Target("classes", np.array([0, 1, 0]), TWO)
    answer = knn(x, train, np.array([[3.0, 0.0]]), groups=np.arange(3), k=2, temperature=0.5)
    e = np.e
    no, yes = 2 * e / (e + 1) + 2 / 3, 2 / (e + 1) + 1 / 3
    assert answer.probability is not None
    np.testing.assert_allclose(answer.probability, [[no / 3, yes / 3]])
    np.testing.assert_allclose(answer.score, [np.log(yes / no * 2)])


@pytest.mark.parametrize("k", [1, 7, 100])
def test_three_classes_are_the_loops(k: int) -> None:
    """Row by row in float64, for one neighbour, some, and more than there are. Control: other temperatures differ."""
    (x, y), (new_x, _) = rows(40, 3, 1.0, 0), rows(9, 3, 1.0, 1)
    train = Target("classes", y, THREE)
    answer = knn(x, train, new_x, groups=np.arange(40), k=k, temperature=0.3)
    want = [balanced(x, y, query, k, 0.3, list(range(40))) for query in new_x]
    np.testing.assert_allclose(answer.score, want)
    assert answer.probability is not None
    counted = [sum(w for i, w in votes(x, query, k, 0.3, list(range(40))).items() if y[i] == 2) for query in new_x]
    n, share = min(k, 40), (y == 2).mean()
    np.testing.assert_allclose(answer.probability[:, 2], (n * np.array(counted) + share) / (n + 1))
    if k > 1:
        other = knn(x, train, new_x, groups=np.arange(40), k=k, temperature=0.07)
        assert not np.allclose(other.score, answer.score)


def test_threshold_is_from_rows_that_do_not_see_their_patient() -> None:
    """Loops: each training row is scored by the other patients' rows. Control: a threshold by row is another."""
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(20), 3)
    y, new_x = (patients % 3 == 0).astype(np.int64), rng.normal(size=(200, 6))
    x = 2 * rng.normal(size=(20, 6))[patients] + 0.1 * rng.normal(size=(60, 6))

    def cut(groups: Groups) -> float:
        left = [[j for j in range(60) if groups[j] != groups[i]] for i in range(60)]
        return youden(y, np.array([balanced(x, y, x[i], 5, 0.2, left[i])[1] for i in range(60)]))

    train, by_patient, by_row = Target("classes", y, TWO), cut(patients), cut(np.arange(60))
    answer = knn(x, train, new_x, groups=patients, k=5, temperature=0.2)
    np.testing.assert_array_equal(answer.called, answer.score >= by_patient)
    assert ((answer.score >= by_row) != answer.called).any()


def test_rows_rank_as_by_their_votes() -> None:
    """The vote shared out moves no row past another: ties stay ties, and AUC is that of the plain votes."""
    (x, y), (new_x, new_y) = rows(60, 2, 0.7, 0), rows(90, 2, 0.7, 1)
    answer = knn(x, Target("classes", y, TWO), new_x, groups=np.arange(60), k=3, temperature=0.1)
    plain = [sum(w for i, w in votes(x, q, 3, 0.1, list(range(60))).items() if y[i]) for q in new_x]
    assert np.isfinite(answer.score).all()
    assert (np.array(plain) == 0).sum() > 5
    assert roc_auc_score(new_y, answer.score) == pytest.approx(roc_auc_score(new_y, np.round(plain, 12)), abs=1e-12)


def test_shuffled_labels_are_chance() -> None:
    """AUC of labels dealt anew lies within three standard errors of 0.5. Control: that of the true ones does not."""
    (x, y), (new_x, new_y) = rows(200, 2, 1.5, 0), rows(400, 2, 1.5, 1)
    dealt = np.random.default_rng(0).permutation(y)
    true, chance = (
        roc_auc_score(
            new_y, knn(x, Target("classes", v, TWO), new_x, groups=np.arange(200), k=20, temperature=0.07).score
        )
        for v in (y, dealt)
    )
    assert abs(chance - 0.5) < 0.1
    assert true > 0.7


def test_labels_are_asked_of_rows_that_know_them() -> None:
    """Column by column as two classes of the known rows alone. Control: known rows, taken for absent, differ."""
    (x, y), (new_x, _) = rows(50, 2, 1.0, 0), rows(8, 2, 1.0, 1)
    unknown = np.arange(50) % 3 == 0
    values = np.column_stack([np.where(unknown, -1, y), 1 - y])
    given = {"k": 5, "temperature": 0.1}
    answer = knn(x, Target("labels", values, ("p", "q")), new_x, groups=np.arange(50), **given)  # type: ignore[arg-type]
    for column, known in enumerate((~unknown, np.ones(50, dtype=bool))):
        sides = Target("classes", values[known, column], TWO)
        one = knn(x[known], sides, new_x, groups=np.flatnonzero(known), **given)  # type: ignore[arg-type]
        np.testing.assert_allclose(answer.score[:, column], one.score)
        assert answer.probability is not None
        assert answer.called is not None
        assert one.probability is not None
        np.testing.assert_allclose(answer.probability[:, column], one.probability[:, 1])
        np.testing.assert_array_equal(answer.called[:, column], one.called)
    absent = Target("labels", np.maximum(values, 0), ("p", "q"))
    wrong = knn(x, absent, new_x, groups=np.arange(50), **given)  # type: ignore[arg-type]
    assert not np.allclose(wrong.score[:, 0], answer.score[:, 0])


def test_a_number_is_the_weighted_mean() -> None:
    """Loops again; of one neighbour it is that neighbour's."""
    (x, _), (new_x, _) = rows(30, 2, 0.0, 0), rows(6, 2, 0.0, 1)
    age = np.random.default_rng(0).uniform(20, 80, size=30)
    for k in (1, 6):
        answer = knn(x, Target("number", age, ("age",)), new_x, groups=np.arange(30), k=k, temperature=0.2)
        want = [sum(w * age[i] for i, w in votes(x, query, k, 0.2, list(range(30))).items()) for query in new_x]
        np.testing.assert_allclose(answer.score, want)
        assert answer.probability is None
        assert answer.called is None


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 queries of 40 rows at once, and in blocks of one or two. Control: the blocks are seen to be small."""
    (x, y), (new_x, _) = rows(40, 2, 1.0, 0), rows(13, 2, 1.0, 1)
    train, sizes = Target("classes", y, TWO), list[int]()
    whole = knn(x, train, new_x, groups=np.arange(40), k=5, temperature=0.1)
    partition = np.argpartition

    def counted(near: Floats, kth: int) -> Ints:
        sizes.append(len(near))
        return partition(near, kth)

    monkeypatch.setattr(module, "BLOCK", 80)
    monkeypatch.setattr(np, "argpartition", counted)
    parts = knn(x, train, new_x, groups=np.arange(40), k=5, temperature=0.1)
    assert max(sizes) == 2
    np.testing.assert_allclose(parts.score, whole.score)
    np.testing.assert_array_equal(parts.called, whole.called)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1e-3, 0.07, 10.0]), st.floats(1e-3, 1e3))
def test_wild_features_give_finite_answers(seed: int, k: int, temperature: float, length: float) -> None:
    """Rows of zeros, doubled rows, any length and temperature: scores are finite, and probabilities sum to 1."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-1, 2, size=(10, 2)).astype(float), rng.permutation([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    answer = knn(x, Target("classes", y, THREE), length * x, groups=np.arange(10), k=k, temperature=temperature)
    assert np.isfinite(answer.score).all()
    assert answer.probability is not None
    np.testing.assert_allclose(answer.probability.sum(axis=1), 1)


def test_what_cannot_be_asked_is_said() -> None:
    """NaN, a class without rows, and one patient alone, whose rows have nobody to be compared with."""
    x, y = rows(20, 2, 1.0, 0)
    train = Target("classes", y, TWO)
    with pytest.raises(ValueError, match="features must be finite"):
        knn(np.full_like(x, np.nan), train, x, groups=np.arange(20))
    with pytest.raises(ValueError, match="no training row is of class c"):
        knn(x, Target("classes", y, THREE), x, groups=np.arange(20))
    with pytest.raises(ValueError, match="of one patient"):
        knn(x, train, x, groups=np.zeros(20))
