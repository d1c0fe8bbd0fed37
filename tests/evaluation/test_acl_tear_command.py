"""The command to its end: an encoder, a synthetic cohort, and Kinetics weights under their own names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from volssl.data.phantom import generate
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import build_network, save_encoder
from volssl.models import ResNetConfig


def kinetics_file(path: Path) -> Path:
    """A state dict with torchvision's names for R3D-18, of full width and random."""
    network = ResNetConfig(dims=3, depth=18, stem="r3d", norm="batch").build(3)
    state = {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)}
    for name, tensor in network.state_dict().items():
        name = re.sub(r"^layers\.(\d)", lambda m: f"layer{int(m[1]) + 1}", name)
        name = re.sub(r"\.conv(\d)\.", r".conv\1.0.", name)
        state[re.sub(r"\.bn(\d)\.", r".conv\1.1.", name)] = tensor
    torch.save(state, path)
    return path


@pytest.mark.parametrize("command", ["volssl", "volssl.evaluation.acl_tear"])
def test_the_command_ends_well(card: Card, tmp_path: Path, command: str) -> None:
    """Three encoders on one plane of a cohort of 12 and 6; the tables are shown and written, and say SYNTHETIC.

    The place of the results has the name that was typed.
    """
    save_encoder(tmp_path / "encoder", build_network(card, 0), card)
    generate(tmp_path / "doe_jane", train=12, valid=6, pixels=32)
    (tmp_path / "knees").symlink_to(tmp_path / "doe_jane")
    weights = kinetics_file(tmp_path / "r3d_18.pth")
    where = [str(tmp_path / "encoder"), str(tmp_path / "knees")]
    settings = ["planes=[sagittal]", "protocols=[frozen]", "bootstrap=100", f"cache={tmp_path / 'cache'}"]
    if command == "volssl":
        out = tmp_path / "out"
        arguments = ["acl-tear", *where, "-o", str(out), "--kinetics", str(weights), *settings]
    else:
        out = tmp_path / "acl_tear-knees"
        arguments = [*where, f"kinetics={weights}", *settings]
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    line = [sys.executable, "-m", command, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC" in done.stdout
    assert str(out) in done.stdout.replace("\n", "")
    results = json.loads((out / "results.json").read_text())
    assert {row["encoder"] for row in results["rows"]} == {"pre-trained", "kinetics", "random"}
    (note,) = results["notes"]
    assert note.startswith("kinetics: 119 keys matched; adapted: stem.0.weight; left: fc.weight, fc.bias")
    assert note in done.stdout
