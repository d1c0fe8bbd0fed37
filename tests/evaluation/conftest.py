"""A tiny encoder and a tiny cohort in MRNet's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from volssl.data import StackConfig
from volssl.evaluation.card import Card, Fingerprint
from volssl.models import ResNetConfig

PLANES = ("axial", "coronal", "sagittal")


@pytest.fixture(scope="session")
def card() -> Card:
    """A ResNet-10 of 4 channels on 8 x 24 x 24, seen as 6 x 16 x 16."""
    return Card(
        backbone=ResNetConfig(depth=10, stem="small", norm="batch", width=4),
        channels=1,
        region=(8, 24, 24),
        size=(6, 16, 16),
        data=StackConfig(root="/secret/patients", cache="/secret/cache"),
        method="byol",
        step=7,
        seed=3,
        fingerprint=Fingerprint(digest="ab", count=2),
    )


@pytest.fixture(scope="session")
def mrnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training and 24 test exams, a third positive: a bright box in the middle. Exam 0 has 5 slices."""
    root, rng = tmp_path_factory.mktemp("mrnet"), np.random.default_rng(0)
    for split, count in (("train", 36), ("valid", 24)):
        lines = []
        for exam in range(count):
            positive = exam % 3 == 0
            lines.append(f"{exam:04d},{int(positive)}")
            for plane in PLANES:
                slices = 5 if exam == 0 else int(rng.integers(8, 12))
                stack = rng.integers(0, 100, size=(slices, 28, 28), dtype=np.uint8)
                stack[2:-2, 8:20, 8:20] += np.uint8(60 * positive)
                folder = root / split / plane
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{exam:04d}.npy", stack)
        (root / f"{split}-acl.csv").write_text("\n".join(lines) + "\n")
    return root
