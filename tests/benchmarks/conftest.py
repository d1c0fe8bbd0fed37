"""Small images laid out as the real sets are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Tiles of 3 classes, 3 patients each, and an archive of two splits, laid out as the real ones."""
    rng = np.random.default_rng(0)
    lung, lines = tmp_path / "images" / "lc25000_lung", ["path,label,patient"]
    for patient in range(9):
        for tile in range(2):
            name, label = f"{patient}-{tile}.png", f"class{patient % 3}"
            pixels = rng.integers(0, 128, (24, 24, 3)) + 40 * np.eye(3, dtype=int)[patient % 3]
            lung.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(lung / name)
            lines.append(f"{name},{label},p{patient}")
    (lung / "labels.csv").write_text("\n".join(lines) + "\n")
    y = np.arange(60, dtype=np.uint8)[:, None] % 2
    x = (rng.integers(0, 200, (60, 28, 28)) + 50 * y[:, None]).astype(np.uint8)
    folder = tmp_path / "images" / "pneumoniamnist"
    folder.mkdir()
    archive = folder / "pneumoniamnist.npz"
    np.savez(archive, train_images=x[:40], train_labels=y[:40], test_images=x[40:], test_labels=y[40:])
    return tmp_path / "images"
