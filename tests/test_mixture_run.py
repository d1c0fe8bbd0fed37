"""A run on several data sets: labels of each, a card that knows how each was prepared, wrong labels in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from volssl import run
from volssl.check import derived
from volssl.config import load
from volssl.errors import ConfigError, DataError
from volssl.evaluation.encoder import Encoder, load_encoder

CONFIG = """\
output: out
data:
  name: mixture
  root: studies
  region: [24, 24]
  cache: cache
  parts:
    - {name: image, root: chest/labels.csv}
    - {name: volume, root: ct, slices: 4, fit: resize, intensity: {name: window, centre: 0, width: 2000}}
    - {name: image, root: tiles, colour: luma}
views: {size: [16, 16], crop: [0.5, 1.0]}
backbone: {name: resnet, dims: 2, depth: 10, stem: small, width: 4, norm: group}
method: {name: hybrid, ssl: {name: simclr, projector: [8]}, classes: [3, 2, 2]}
optim: {name: sgd, lr: 0.01}
loop: {steps: 2, batch: 6, chunk: 3}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six radiographs of three classes, two CT volumes and four coloured tiles, all noise."""
    import nibabel

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("chest", "ct", "tiles"):
        Path("studies", name).mkdir(parents=True)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (30, 28), dtype=np.uint8)).save(f"studies/chest/{i}.png")
    rows = [f"{i}.png,{i % 3}" for i in range(6)]
    Path("studies/chest/labels.csv").write_text("\n".join(["path,label", *rows]))
    for i in range(2):
        volume = rng.integers(-1000, 1000, (20, 20, 6)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), f"studies/ct/{i}.nii.gz")
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(f"studies/tiles/{i}.png")
    Path("config.yaml").write_text(CONFIG)
    return Path("config.yaml")


def test_two_steps_and_an_encoder_that_prepares_a_study_as_its_part_was(config: Path) -> None:
    """Every step holds two items of each part, so a third of the items have a label."""
    run.train(load(config))
    steps = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [step["labelled"] for step in steps] == pytest.approx([1 / 3, 1 / 3])
    encoder = load_encoder("out/encoder")
    fingerprint = encoder.card.fingerprint
    assert fingerprint
    assert fingerprint.count == 6 + 2 * 4 + 4
    assert "studies" not in encoder.card.model_dump_json()
    picture = "studies/chest/0.png"
    with pytest.raises(DataError, match=r"take one.*0 \(image\), 1 \(volume\), 2 \(image\)"):
        encoder.preprocess(picture)
    radiographs = Encoder(encoder.network, encoder.card.part(0))
    image = radiographs.preprocess(picture)
    assert image.shape == (1, 16, 16)
    assert torch.equal(image, radiographs.preprocess(np.array(Image.open(picture))))
    with pytest.raises(DataError, match="has the parts 0 to 2, not 3"):
        encoder.card.part(3)


def test_check_says_how_often_each_part_is_seen(config: Path) -> None:
    """2 steps of 6 items are 12, of which each part gets 4: 4/6 of the radiographs, each of the tiles once."""
    rows = derived(load(config))
    assert [text for name, text in rows if name.startswith("part")] == [
        "image chest/labels.csv: 6 items, 1 of every 3 drawn, 0.7 epochs",
        "volume ct: items, 1 of every 3 drawn",
        "image tiles: 4 items, 1 of every 3 drawn, 1.0 epochs",
    ]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.classes=[2, 2, 2]", r"method.classes.0: 2, but an item of part 0 has class 2: give 3"),
        ("data.parts.0.root=chest", r"method: learns from labels, and no item has one"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_any_step(config: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run.train(load(config, [override]))
    assert not Path("out/metrics.jsonl").exists()
