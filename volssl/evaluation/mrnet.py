"""MRNet's own layout: labels from headerless CSV files, exams as slice stacks, all planes aligned by exam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volssl.data.items import Readers, Report
from volssl.errors import DataError
from volssl.evaluation.card import Card
from volssl.evaluation.splits import LEAST
from volssl.evaluation.target import Groups, Ints
from volssl.names import private, typed, withheld
from volssl.regular import LARGE, read_regular
from volssl.types import Item, Source

SPLITS = ("train", "valid")
PATIENTS = "patients.csv"


@dataclass(frozen=True, slots=True)
class Labels:
    """ids (N,) exam names as the files have them, sorted; y (N,) 0 or 1; patients (N,) whose exam it is.

    Where no ``patients.csv`` says otherwise, each exam is its own patient.
    """

    ids: tuple[str, ...]
    y: Ints
    patients: Groups

    def __str__(self) -> str:
        patients = len(np.unique(self.patients))
        of = f" of {patients} patients" if patients < len(self.ids) else ""
        return f"{len(self.ids)} exams{of}, {int(self.y.sum())} positive"


@dataclass(frozen=True, slots=True)
class Rows:
    """Some items of a source, in the order of ``index``."""

    source: Source
    index: Ints

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Item:
        return self.source[int(self.index[i])]


def is_synthetic(root: Path) -> bool:
    """Whether ``volssl phantom`` made the cohort."""
    return (root / "phantom.json").is_file()


def names_patients(root: Path) -> bool:
    """Whether a ``patients.csv`` says which exams are of one patient."""
    return (root / PATIENTS).is_file()


def read_splits(root: Path, task: str, planes: tuple[str, ...]) -> tuple[Labels, Labels]:
    """The training exams and the test exams; where patients are named, none has exams in both.

    Raises:
        DataError: as ``read_labels``, or a patient has exams in both.
    """
    train, test = (read_labels(root, split, task, planes) for split in SPLITS)
    if names_patients(root) and len(shared := np.intersect1d(train.patients, test.patients)):
        first = private(shared[0], "patient")
        what = f"{len(shared)} patients have exams in train and in valid, first {first}: keep each in one"
        raise DataError("labels", what, typed(root / PATIENTS))
    return train, test


def read_labels(root: Path, split: str, task: str, planes: tuple[str, ...]) -> Labels:
    """The exams of ``{split}-{task}.csv``, each of which must be there in each plane.

    ``patients.csv`` beside it, if there, names the patient of each exam: headerless ``exam,patient``.

    Raises:
        DataError: a missing folder or file, a line that is not ``id,0`` or ``id,1`` (or ``exam,patient``), an
            exam without a patient, fewer than two patients of a class.
    """
    for folder in (root, *(root / split / plane for plane in planes)):
        if not folder.is_dir():
            raise DataError("layout", "no such folder: give a folder in MRNet's layout", typed(folder))
    path = root / f"{split}-{task}.csv"
    found = _read_csv(path)
    for plane in planes:
        absent = [name for name in found if not (root / split / plane / f"{name}.npy").is_file()]
        if absent:
            what = (
                f"{len(absent)} of {len(found)} exams of {path.name} are not here, first {private(f'{absent[0]}.npy')}"
            )
            raise DataError("layout", f"{what}: copy them or take the lines out", typed(root / split / plane))
    ids = tuple(sorted(found))
    y = np.array([found[name] for name in ids], dtype=np.int64)
    labels = Labels(ids, y, _patients(root, ids))
    positive = np.unique(labels.patients[y == 1])  # with any exam, as ``splits.subset`` counts
    if min(len(positive), len(np.unique(labels.patients)) - len(positive)) < LEAST:
        raise DataError("labels", f"{labels}: two patients of each class are needed", typed(path))
    return labels


def open_plane(
    root: Path,
    split: str,
    plane: str,
    ids: tuple[str, ...],
    card: Card,
    *,
    cache: str,
    workers: int,
    report: Report,
) -> Source:
    """One plane's exams in the order of ``ids``, preprocessed as the card says and cached.

    Every exam must be readable: leaving one out would change the benchmark.

    Raises:
        DataError: an exam cannot be read; the message lists which.
    """
    config = card.stacks(str(root / split / plane), cache)
    source = config.build(card.region, readers=Readers(workers), report=report)
    position = {Path(name).stem: i for i, name in enumerate(source.ids)}
    return Rows(source, np.array([position[name] for name in ids], dtype=np.int64))


def _patients(root: Path, ids: tuple[str, ...]) -> Groups:
    if not names_patients(root):
        return np.array(ids)
    path = root / PATIENTS
    patients = _read_pairs(path, "exam,patient", lambda patient: patient != "")
    if absent := [name for name in ids if name not in patients]:
        raise DataError(
            "labels", f"{len(absent)} exams have no patient, first {private(absent[0])}: add them", typed(path)
        )
    return np.array([patients[name] for name in ids])


def _read_csv(path: Path) -> dict[str, int]:
    return {name: int(label) for name, label in _read_pairs(path, "id,0 or id,1", ("0", "1").__contains__).items()}


def _read_pairs(path: Path, wanted: str, good: Callable[[str], bool]) -> dict[str, str]:
    """exam -> value of a headerless table."""
    try:
        lines = read_regular(path, LARGE).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError("layout", f"no such file: MRNet has headerless lines {wanted}", typed(path)) from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, value = (part.strip() for part in line.partition(","))
        if not name.isdigit() or not good(value):
            raise DataError(
                "labels", f"line {number} is {withheld(repr(line))}: write {wanted} and no header", typed(path)
            )
        if values.setdefault(name.zfill(4), value) != value:
            raise DataError("labels", f"line {number}: exam {private(name)} stands twice, with two values", typed(path))
    return values
