"""A shape is told, not guessed: what does not fit is one line and exit code 2 before any step, by the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.architectures import ResNet, as_trained

CONFIG = """\
output: out
data: {name: image, root: radiographs, region: [40, 40]}
views: {size: [32, 32]}
backbone: {name: resnet, dims: 2, depth: 18, stem: imagenet, norm: batch, width: 8}
method: {name: simclr, projector: [16, 8]}
optim: {name: sgd, lr: 0.01}
loop: {steps: 2, batch: 4, chunk: 4}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Radiographs, volumes, and torchvision's ResNet-18 as a file of three channels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("radiographs", "scans"):
        Path(name).mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(Path("radiographs", f"{i}.png"))
        voxels = rng.integers(0, 99, (40, 40, 16)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), Path("scans", f"{i}.nii.gz"))
    torch.save(as_trained(ResNet(18, 8)).state_dict(), "resnet18.pth")
    Path("config.yaml").write_text(CONFIG)


def train(*overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "volssl", "train", "config.yaml", *overrides]
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.root=scans"], ["scans", "volume"]),
        (["backbone.dims=3"], ["backbone.dims", "3 does not fit 2D data (image): use 2"]),
        (["views.size=[16, 32, 32]"], ["views.size", "the data are 2D: give 2"]),
        (["backbone.weights={path: resnet18.pth}"], ["resnet18.pth", "channels", "sum"]),
        (["data.colour=rgb", "backbone.weights={path: resnet18.pth}", "backbone.depth=50"], ["depth: 18"]),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_step(overrides: list[str], told: list[str]) -> None:
    done = train(*overrides)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in told), done.stderr
    assert not Path("out", "metrics.jsonl").exists()


@pytest.mark.usefixtures("here")
def test_weights_come_in_once_it_is_said_how(tmp_path: Path) -> None:
    done = train("backbone.weights={path: resnet18.pth, channels: sum}")
    assert done.returncode == 0, done.stderr
    assert "backbone.weights: " in done.stdout
    assert "adapted: conv1.weight" in done.stdout
    assert str(tmp_path) not in (card := Path("out", "encoder", "card.json").read_text())
    assert "resnet18.pth" not in card
