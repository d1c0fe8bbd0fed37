"""Label subsets and folds: stratified, nested, never a patient on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from volssl.evaluation.splits import folds, subset

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
