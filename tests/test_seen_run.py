"""A run leaves a list of what it has seen beside its encoder, and neither names nor its key leave it."""

from __future__ import annotations

import base64
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from volssl import run
from volssl.config import load
from volssl.data.identity import identify
from volssl.data.seen import read_key
from volssl.evaluation.card import read_card
from volssl.evaluation.leakage import audit, known_of

CONFIG = """\
output: out
data: {name: image, root: studies/labels.csv, region: [24, 24], cache: cache}
views: {size: [16, 16], crop: [0.5, 1.0]}
backbone: {name: resnet, dims: 2, depth: 10, stem: small, width: 4, norm: group}
method: {name: simclr, projector: [8]}
optim: {name: sgd, lr: 0.01}
loop: {steps: 1, batch: 4, chunk: 4}
"""
NAME = "ZZPHI-Smith^Jane"


def picture(path: str, seed: int) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)).save(path)


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holding(files: dict[str, bytes], secret: bytes) -> list[str]:
    forms = (secret, secret.hex().encode(), base64.b64encode(secret)[:-4])
    return [name for name, content in files.items() if any(form in content for form in forms)]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """The folder of a run on six pictures of a patient each, and all that it printed."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        picture(f"studies/{i}.png", i)
    rows = [f"{i}.png,0,{NAME}{i}" for i in range(6)]
    Path("studies/labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    Path("config.yaml").write_text(CONFIG)
    run.train(load("config.yaml"))
    return tmp_path / "out", "".join(capfd.readouterr())


def test_a_leaked_patient_is_found_with_the_run_and_without_it_only_files(trained: tuple[Path, str]) -> None:
    """Of the patient another picture, and a copy of a file; the encoder copied away knows the file alone."""
    out, _ = trained
    picture("new/other.png", 77)
    picture("new/stranger.png", 78)
    shutil.copy("studies/4.png", "new/same.png")
    rows = [f"other.png,0,{NAME.lower()}2", "stranger.png,0,nobody else", "same.png,0,"]
    Path("new/labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    card = read_card(out / "encoder")
    source = card.source("new/labels.csv", "cache").build(card.region)
    every = np.arange(3)
    shutil.copytree(out / "encoder", "elsewhere/some/encoder")
    for folder, kinds in ((out / "encoder", ["file", "patient"]), (Path("elsewhere/some/encoder"), ["file"])):
        found = audit("new", "simclr", known_of(folder), identify(source), test=every, train=every[:0])
        assert [one.kind for one in found.overlaps] == kinds
        assert {name for one in found.overlaps for name in one.test} <= {"other.png", "same.png"}


def test_neither_names_nor_the_key_leave_the_run(trained: tuple[Path, str]) -> None:
    out, printed = trained
    key = read_key(out / "ids.key")
    assert key is not None
    assert stat.S_IMODE((out / "ids.key").stat().st_mode) == 0o600
    files = written(out) | {"printed": printed.encode()}
    assert {"items.safetensors", "card.json", "model.safetensors", "metrics.jsonl"} <= files.keys()
    assert holding(files, key) == ["ids.key"]  # and the search finds what is there
    assert holding(files, NAME.encode()) == holding(files, NAME.lower().encode()) == []
    assert holding(written(out.parent / "studies"), NAME.encode()) == ["labels.csv"]
