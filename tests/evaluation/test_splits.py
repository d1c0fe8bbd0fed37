"""Label subsets, folds and sides: stratified, nested, never a patient on both; wild cohorts included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from volssl.errors import ConfigError, DataError
from volssl.evaluation.splits import (
    budget_note,
    check_sides,
    choose,
    folds,
    folds_of,
    held_out,
    require_disjoint,
    subset,
)
from volssl.evaluation.target import Groups, Ints, Kind, Target

Y = (np.arange(200) % 5 == 0).astype(np.int64)  # 40 of 200
EXAMS = np.arange(200)


def test_subsets_are_stratified_and_nested() -> None:
    """10 % of 40 and 160 is 4 and 16; it lies within 25 % (10 and 40), which lies within everything."""
    tenth, quarter, everything = (set(subset(Y, EXAMS, f, seed=1)) for f in (0.1, 0.25, 1.0))
    assert sorted(Y[list(tenth)]).count(1) == 4
    assert len(tenth) == 20
    assert tenth < quarter < everything == set(range(200))
    assert tenth != set(subset(Y, EXAMS, 0.1, seed=2))


def test_subsets_keep_two_of_each_class() -> None:
    """1 % of 40 rounds to 0: two tears are kept all the same, so that a fold can hold one out."""
    rows = subset(Y, EXAMS, 0.01, seed=0)
    assert np.bincount(Y[rows]).tolist() == [2, 2]


def test_subsets_take_whole_patients() -> None:
    """Patients of four exams each: every patient is in or out with all four."""
    patients = EXAMS // 4
    rows = subset(Y, patients, 0.2, seed=0)
    assert set(np.unique(patients[rows], return_counts=True)[1]) == {4}


@pytest.mark.parametrize("groups", [EXAMS, EXAMS // 2])
def test_folds_hold_each_row_out_once_and_part_patients(groups: np.ndarray) -> None:
    """The held-out rows partition the rows; no patient is on both sides; both classes are trained on."""
    parts = folds(Y, groups, 5, seed=0)
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(200))
    for train, held in parts:
        assert not set(groups[train]) & set(groups[held])
        assert set(Y[train]) == {0, 1}


def test_few_patients_make_few_folds() -> None:
    """Two tears: two folds. One tear: no fold can hold it out and train on it."""
    y = np.array([1, 1, 0, 0, 0, 0])
    assert len(folds(y, np.arange(6), 5, seed=0)) == 2
    with pytest.raises(ValueError, match="two patients"):
        folds(np.array([1, 0, 0, 0]), np.arange(4), 5, seed=0)


def test_subsets_and_folds_of_three_classes() -> None:
    """100, 60 and 40 patients of two rows: 10 % is 10, 6 and 4; every class is trained on in every fold."""
    y = np.repeat([0, 1, 2], [200, 120, 80])
    patients = np.arange(400) // 2
    rows = subset(y, patients, 0.1, seed=0)
    assert np.bincount(y[rows]).tolist() == [20, 12, 8]
    parts = folds(y, patients, 5, seed=0)
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(400))
    for train, held in parts:
        assert not set(patients[train]) & set(patients[held])
        assert set(y[train]) == {0, 1, 2}


def test_one_class_has_no_folds() -> None:
    """Nothing to tell apart, whatever the number of patients; nor with a third class of one patient."""
    for y in (np.zeros(20, dtype=np.int64), np.repeat([0, 1, 2], [10, 9, 1])):
        with pytest.raises(ValueError, match="two patients of each class"):
            folds(y, np.arange(20), 5, seed=0)


def classes(y: list[int] | Ints, *names: str) -> Target:
    """Classes called by their first letters, or ``names``."""
    return Target("classes", np.asarray(y, dtype=np.int64), names or tuple("abcdefgh"[: max(y) + 1]))


def labels(*columns: list[int]) -> Target:
    """Labels x, y, ... of these columns."""
    return Target("labels", np.array(columns, dtype=np.int64).T, tuple("xyz"[: len(columns)]))


def things(target: Target, rows: Ints) -> list[Ints]:
    """The rows of each class, label, and label's absence that ``rows`` hold; of a number, all of them."""
    y = target.values[rows]
    if target.kind == "number":
        return [rows]
    if target.kind == "labels":
        return [rows[column == side] for column in y.T for side in (0, 1)]
    return [rows[y == k] for k in np.unique(target.values)]


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Target, Groups]:
    """4 to 20 patients of up to four rows: up to four classes or three labels, some unknown, or a number that ties."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=4, max_size=20))
    groups = np.array(draw(st.permutations(np.repeat([f"p{i}" for i in range(len(sizes))], sizes).tolist())))
    kind: Kind = draw(st.sampled_from(["classes", "labels", "number"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    width = draw(st.integers(1, 3))
    if kind == "classes":
        return Target(kind, rng.integers(0, width + 1, len(groups)), tuple("abcd"[: width + 1])), groups
    if kind == "labels":
        return Target(kind, rng.integers(-1, 2, (len(groups), width)), tuple("xyz"[:width])), groups
    return Target(kind, rng.integers(0, 9, len(groups)).astype(np.float64), ("age",)), groups


def usable(target: Target, groups: Groups) -> bool:
    """Two patients have each class, or label and its absence; a number varies."""
    every = things(target, np.arange(len(target)))
    enough = all(len(np.unique(groups[rows])) >= 2 for rows in every)
    return enough and len(np.unique(target.values[target.values >= 0])) > 1


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(0, 99))
def test_every_budget_is_nested_takes_whole_patients_and_holds_two_of_everything(
    cohort: tuple[Target, Groups], seed: int
) -> None:
    """Shares 1, 10, 50 and 100 %, and 2, 3 and 9 of each; the same call gives the same rows."""
    target, groups = cohort
    assume(usable(target, groups))
    for budgets in ([0.01, 0.1, 0.5, 1.0], [2, 3, 9]):
        chosen = [choose(target, groups, budget, seed) for budget in budgets]
        for smaller, larger in zip(chosen, [*chosen[1:], np.arange(len(target))], strict=True):
            assert set(smaller) <= set(larger)
        for rows in chosen:
            assert not set(groups[rows]) & set(np.delete(groups, rows))
            assert all(len(np.unique(groups[of])) >= 2 for of in things(target, rows))
        np.testing.assert_array_equal(chosen[1], choose(target, groups, budgets[1], seed))
    assert len(choose(target, groups, 1.0, seed)) == len(target)


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(2, 5), st.integers(0, 99))
def test_folds_of_anything_part_patients_and_train_on_everything(
    cohort: tuple[Target, Groups], most: int, seed: int
) -> None:
    """Held-out rows partition the rows; no patient is on both sides; every class and side of a label is trained on."""
    target, groups = cohort
    assume(usable(target, groups))
    try:
        parts = folds_of(target, groups, most, seed)
    except DataError as error:
        assume("no split by patient" not in str(error))  # three patients may hold what two folds cannot part
        raise
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(len(target)))
    for train, held in parts:
        assert len(held)
        assert not set(groups[train]) & set(groups[held])
        assert len(train) + len(held) == len(target)
        assert all(len(of) for of in things(target, train))


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from([0.2, 0.3, 0.5]), st.integers(0, 99))
def test_a_held_out_part_shares_no_patient_and_leaves_everything_to_fit(
    cohort: tuple[Target, Groups], share: float, seed: int
) -> None:
    """Both sides hold rows, whole patients; all classes and both sides of all labels are left to fit."""
    target, groups = cohort
    assume(usable(target, groups))
    try:
        fit, held = held_out(target, groups, share, seed)
    except DataError as error:
        assume("no split by patient" not in str(error))
        raise
    assert sorted([*fit, *held]) == list(range(len(target)))
    assert len(held)
    assert not set(groups[fit]) & set(groups[held])
    assert all(len(of) for of in things(target, fit))


def test_the_easy_cohorts_always_have_folds_and_held_out_parts() -> None:
    """Three labels at random over 60 patients, and classes one a patient: no seed of ten is refused.

    The two tests above pass over cohorts that are refused: this is their control.
    """
    rng, groups = np.random.default_rng(0), np.arange(120) // 2
    for target in (Target("labels", rng.integers(-1, 2, (120, 3)), tuple("xyz")), classes(groups % 3)):
        for seed in range(10):
            assert len(folds_of(target, groups, 5, seed)) == 5
            assert len(held_out(target, groups, 0.2, seed)[1])


def test_counts_per_class() -> None:
    """5 of 40 and of 160, in each share that comes to 5 and more (25 %: 10 and 40); of 3 patients, 9 are but 3."""
    five = choose(classes(Y), EXAMS, 5, seed=1)
    assert np.bincount(Y[five]).tolist() == [5, 5]
    assert set(five) < set(choose(classes(Y), EXAMS, 0.25, seed=1))
    few = classes([0] * 20 + [1] * 3)
    assert np.bincount(few.values[choose(few, np.arange(23), 9, 0)]).tolist() == [9, 3]
    with pytest.raises(ConfigError, match="per_class: 1 is too few"):
        choose(classes(Y), EXAMS, 1, seed=0)


def test_a_patient_of_several_classes_counts_for_each() -> None:
    """Class c is had by two patients who have a, too, and b by two of their own: two of each are two and two, no more.

    By highest class alone (a: 0 patients) nobody would have been asked for a.
    """
    y, groups = classes([0, 2, 0, 2, 1, 1]), np.array([0, 0, 1, 1, 2, 3])
    assert choose(y, groups, 2, seed=0).tolist() == [0, 1, 2, 3, 4, 5]
    y, groups = classes([0, 2, 0, 2, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 3, 4, 5, 6])
    assert np.unique(groups[choose(y, groups, 0.01, seed=0)]).tolist() == [0, 1, 5, 6]


def test_labels_are_chosen_rarest_first_and_then_at_random() -> None:
    """100 patients; x in 2, y in 50. 1 % would be 1: both of x are there, and two of each other side; 20 % is 20."""
    target = labels([1, 1] + [0] * 98, [0, 1] * 50)
    few = choose(target, EXAMS[:100], 0.01, seed=0)
    assert {0, 1} <= set(few)
    assert len(few) <= 5
    assert len(choose(target, EXAMS[:100], 0.2, seed=0)) == 20


def test_an_unknown_label_is_neither_side() -> None:
    """x is known of four patients of 30: they are chosen. Two of them alone know it absent, so it has two folds."""
    target = labels([1, 1, 0, 0] + [-1] * 26, [0, 1] * 15)
    assert {0, 1, 2, 3} <= set(choose(target, EXAMS[:30], 0.01, seed=0))
    assert len(folds_of(target, EXAMS[:30], 5, seed=0)) == 2


def test_a_number_is_chosen_from_all_its_range() -> None:
    """Of 0..29, 20 % are two of each third; every fold of five has one of 0..4, one of 5..9, and so on."""
    target = Target("number", np.random.default_rng(0).permutation(30).astype(np.float64), ("age",))
    assert np.bincount(target.values[choose(target, EXAMS[:30], 0.2, 0)].astype(int) // 10).tolist() == [2, 2, 2]
    for _, held in folds_of(target, EXAMS[:30], 5, seed=0):
        assert sorted(target.values[held] // 5) == [0, 1, 2, 3, 4, 5]


def test_a_held_out_part_is_a_share_of_each_class() -> None:
    """20 % of 160 and 40 is 32 and 8; of two of a class it is one, of one none: that one is needed to fit."""
    assert np.bincount(Y[held_out(classes(Y), EXAMS, 0.2, 0)[1]]).tolist() == [32, 8]
    for rare, held in ((2, 1), (1, 0)):
        y = np.array([0] * 10 + [1] * rare)
        assert (y[held_out(classes(y), EXAMS[: len(y)], 0.2, 0)[1]] == 1).sum() == held


def test_folds_where_scikit_learns_would_train_without_a_class() -> None:
    """Four patients who have c b c a | a | b c | a b and so on: parted by number of rows, a side lacks a class."""
    y, groups = np.array([2, 1, 2, 0, 0, 0, 1, 2]), np.array([0, 1, 2, 3, 0, 3, 3, 1])
    for train, held in (parts := folds(y, groups, 5, seed=0)):
        assert set(y[train]) == {0, 1, 2}
        assert not set(groups[train]) & set(groups[held])
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(8))


def test_folds_that_cannot_be_are_refused() -> None:
    """Patients who have a b, b c and a c, in two folds: one trains on one patient, who lacks a class. So for labels."""
    y, groups = np.array([0, 1, 1, 2, 0, 2]), np.array([0, 0, 1, 1, 2, 2])
    with pytest.raises(DataError, match="no split by patient was found"):
        folds(y, groups, 5, seed=0)
    target = labels([1, 0, 0, -1, 1], [0, -1, 1, 0, 1])  # of p0 x and no x, of p1 no x and y, of p2 x and y
    with pytest.raises(DataError, match=r"^sets.knee: labels: no split by patient was found"):
        folds_of(target, np.array([0, 0, 1, 1, 2]), 5, 0, "sets.knee")


def test_a_leaked_patient_is_found() -> None:
    """Planted: patients p3 and p7 of ten are in the test rows, too. Control: without them nothing is said."""
    train, test = np.array([f"p{i}" for i in range(10)]), np.array(["q1", "p7", "q2", "p3", "p7"])
    with pytest.raises(DataError, match=r"^sets.knee: leak: 2 patients are in .* such as p3: keep"):
        require_disjoint(train, test, "sets.knee")
    require_disjoint(train, test[[0, 2]])


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (classes([0, 1, 0], "a", "b", "c"), classes([0, 1, 2, 2], "a", "b", "c"), "2 test rows are c, and no training"),
        (classes([0, 0, 0], "a", "b"), classes([0, 1], "a", "b"), "all 3 training rows are a"),
        (classes([0, 1], "a", "b"), classes([1, 1], "a", "b"), "all 2 test rows are b"),
        (
            classes([0, 1], "a", "b"),
            classes([0, 1], "a", "b").at(np.arange(0)),
            "no test rows: look at the column split",
        ),
        (labels([0, 1, 0], [1, 1, -1]), labels([0, 1], [0, 1]), "training rows do not hold y and its absence both"),
        (labels([0, 1], [0, 1]), labels([0, -1], [1, 1]), "test rows do not hold x and its absence both"),
        (Target("number", np.ones(4), ("age",)), Target("number", np.arange(4.0), ("age",)), "training rows are age 1"),
    ],
)
def test_sides_that_cannot_be_used_are_one_line(train: Target, test: Target, says: str) -> None:
    """Which side, what is wrong with it, what to do."""
    with pytest.raises(DataError, match=says) as caught:
        check_sides(train, test, "sets.knee")
    assert str(caught.value).startswith("sets.knee: labels: ")
    assert "\n" not in str(caught.value)


def test_sides_that_can_be_used_pass() -> None:
    """A class that is never tested, and a label that the test rows know from one side only, are no faults."""
    check_sides(classes([0, 1, 2]), classes([0, 1], "a", "b", "c"))
    check_sides(labels([0, 1], [0, 1]), labels([0, 1], [1, 1]))
    check_sides(Target("number", np.arange(3.0), ("age",)), Target("number", np.arange(2.0), ("age",)))


def test_ten_items_at_one_percent() -> None:
    """5 and 5: a note says that 0 of 10 would be taken, and that it is four. 9 and 1: refused. 100 %: no note."""
    even, one = classes([0, 1] * 5), classes([0] * 9 + [1], "none", "torn")
    ten = np.arange(10)
    assert len(choose(even, ten, 0.01, 0)) == 4
    assert budget_note(even, ten, 0.01) == "1 % of 10 patients are 0, and two of each class are needed: 4 are taken"
    assert budget_note(even, ten, 1.0) is None
    assert budget_note(even, ten, 8) == "8 patients per class: a has 5, b has 5: all of them are taken"
    assert budget_note(even, ten, 5) is None
    for refuse in (choose, folds_of):
        with pytest.raises(DataError, match="torn has 1 of 10 patients, and two are needed: add"):
            refuse(one, ten, 2, 0, "")
        with pytest.raises(DataError, match="all 4 labelled rows are a"):
            refuse(classes([0] * 4), ten[:4], 2, 0, "")
