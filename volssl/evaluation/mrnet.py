"""MRNet's own layout: labels from headerless CSV files, exams as slice stacks, all planes aligned by exam."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volssl.data import Report
from volssl.errors import DataError
from volssl.evaluation.card import Card
from volssl.evaluation.statistics import Ints
from volssl.types import Item, Source

SPLITS = ("train", "valid")


@dataclass(frozen=True, slots=True)
class Labels:
    """ids (N,) exam names as the files have them, sorted; y (N,) 0 or 1."""

    ids: tuple[str, ...]
    y: Ints

    def __str__(self) -> str:
        return f"{len(self.ids)} exams, {int(self.y.sum())} positive"


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


def read_labels(root: Path, split: str, task: str, planes: tuple[str, ...]) -> Labels:
    """The exams of ``{split}-{task}.csv``, each of which must be there in each plane.

    Raises:
        DataError: a missing folder or file, a line that is not ``id,0`` or ``id,1``, fewer than two of a
        class.
    """
    for folder in (root, *(root / split / plane for plane in planes)):
        if not folder.is_dir():
            raise DataError("layout", "no such folder: give a folder in MRNet's layout", str(folder))
    path = root / f"{split}-{task}.csv"
    found = _read_csv(path)
    for plane in planes:
        absent = [name for name in found if not (root / split / plane / f"{name}.npy").is_file()]
        if absent:
            what = f"{len(absent)} of {len(found)} exams of {path.name} are not here, first {absent[0]}.npy"
            raise DataError("layout", f"{what}: copy them or take the lines out", str(root / split / plane))
    ids = tuple(sorted(found))
    y = np.array([found[name] for name in ids], dtype=np.int64)
    if min(np.bincount(y, minlength=2)) < 2:
        raise DataError("labels", f"{len(y)} exams, {y.sum()} positive: two of each class are needed", str(path))
    return Labels(ids, y)


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
    source = config.build(card.region, workers=workers, report=report)
    position = {Path(name).stem: i for i, name in enumerate(source.ids)}
    return Rows(source, np.array([position[name] for name in ids], dtype=np.int64))


def _read_csv(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError("layout", "no such file: MRNet has headerless lines such as 0000,1", str(path)) from None
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = (part.strip() for part in line.partition(","))
        if not name.isdigit() or label not in ("0", "1"):
            raise DataError("labels", f"line {number} is {line!r}: write id,0 or id,1 and no header", str(path))
        if labels.setdefault(name.zfill(4), int(label)) != int(label):
            raise DataError("labels", f"line {number}: exam {name} has two labels: keep one", str(path))
    return labels
