"""A shape is told, not guessed: ``volssl train`` on data of another shape is one line that names the remedy."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import MakeSlice, SaveAll
from volssl.cli import main

BASE = """\
output: out
data: {{name: {name}, root: {root}}}
views: {{size: {size}}}
backbone: {{name: resnet, dims: {dims}, depth: 10, stem: small, width: 4, norm: group}}
method: {{name: byol, projector: [16, 8], predictor: [16, 8]}}
optim: {{name: sgd, lr: 0.01}}
loop: {{steps: 2, batch: 2, chunk: 2}}
"""
CASES = {
    ("image", "nifti"): "holds volumes, such as a.nii: use data.name: volume (slices: N makes 2D items)",
    ("image", "stacks"): "holds arrays, such as a.npy: use data.name: stack",
    ("image", "series"): "3 slices of one series are a volume: use data.name: volume (slices: N makes 2D items)",
    ("image", "nifti.csv"): "holds volumes, such as a.nii: use data.name: volume",
    ("image", "archives"): "holds an archive, such as a.npz: use data.name: image, and the file itself as data.root",
    ("volume", "pictures"): "holds pictures, such as 0.png: use data.name: image, or stack for folders of slices",
    ("volume", "pictures.csv"): "holds pictures, such as 0.png: use data.name: image",
    ("volume", "stacks"): "holds arrays, such as a.npy: use data.name: stack",
    ("stack", "pictures.csv"): "one picture is no stack of slices: use data.name: image",
    ("stack", "sizes"): "if each picture is an item, use data.name: image",
    ("stack", "nifti"): "holds volumes, such as a.nii: use data.name: volume",
}


@pytest.fixture
def data(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> Path:
    """A folder, or a table, of every kind."""
    rng = np.random.default_rng(0)
    for folder in ("nifti", "stacks", "pictures", "sizes", "archives"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(rng.random((8, 8, 8)), np.eye(4)), tmp_path / "nifti" / f"{name}.nii")
        np.save(tmp_path / "stacks" / f"{name}.npy", rng.random((8, 8, 8)))
        np.savez(tmp_path / "archives" / f"{name}.npz", rng.random((8, 8)))
    for i in range(3):
        for folder, side in (("pictures", 8), ("sizes", 8 + i)):
            Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(tmp_path / folder / f"{i}.png")
    save_all(tmp_path / "series", [make_slice(distance) for distance in (0.0, 3.0, 6.0)])
    for folder in ("nifti", "pictures"):
        rows = "".join(f"{folder}/{file.name},1\n" for file in sorted((tmp_path / folder).iterdir()))
        (tmp_path / f"{folder}.csv").write_text("path,label\n" + rows)
    return tmp_path


def train(name: str, root: Path, dims: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of the command."""
    monkeypatch.chdir(root.parent)
    size = "[8, 8]" if dims == 2 else "[4, 8, 8]"
    Path("run.yaml").write_text(BASE.format(name=name, root=root.name, dims=dims, size=size))
    monkeypatch.setattr(sys, "argv", ["volssl", "train", "run.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("name", "holds"), CASES, ids=["-".join(case) for case in CASES])
def test_another_kind_is_one_line_with_the_remedy(
    name: str, holds: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and nothing trained."""
    assert train(name, data / holds, 2 if name == "image" else 3, monkeypatch) == 2
    assert not Path("out/metrics.jsonl").exists()
    message = capsys.readouterr().err.strip()
    assert CASES[name, holds] in re.sub(r"such as \S*/", "such as ", message)
    assert len(message.splitlines()) == 1 or holds == "sizes"


@pytest.mark.parametrize(
    ("name", "holds"), [("image", "pictures.csv"), ("volume, slices: 4", "nifti"), ("volume, slices: 3", "series")]
)
def test_the_remedies_train(name: str, holds: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(name, data / holds, 2, monkeypatch) == 0
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 2
