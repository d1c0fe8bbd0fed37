"""How many items a source will have, told from names alone, for ``volssl check``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from volssl.errors import DataError

if TYPE_CHECKING:
    from volssl.data import PhantomConfig, StackConfig, VolumeConfig

IMAGES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


def count(config: VolumeConfig | StackConfig | PhantomConfig) -> int | None:
    """The number of items, or None where file names cannot tell (DICOM series, several sequences, 4D).

    Raises:
        DataError: ``root`` does not exist.
    """
    if config.name == "phantom":
        exams = config.train if config.split == "train" else config.valid
        return 3 * exams if config.plane == "all" else exams
    root = Path(config.root)
    if not root.exists():
        raise DataError("missing", "no such folder: data.root must name one", str(root))
    if root.is_file() and root.suffix.lower() != ".csv":
        return 1 if config.name == "stack" else None
    if root.is_file():
        with root.open(newline="", encoding="utf-8") as f:
            return sum(1 for _ in csv.DictReader(f))
    if config.name == "stack":
        files = [p for p in root.rglob("*") if p.suffix.lower() in IMAGES | {".npy"}]
        return len({p if p.suffix == ".npy" else p.parent for p in files})
    return None
