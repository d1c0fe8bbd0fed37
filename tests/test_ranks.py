"""The real command on two ranks: what one rank makes, written once, and one line where it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

CONFIG = """\
output: {out}
data: {{name: stack, root: {root}, region: [8, 32, 32], cache: {cache}}}
views: {{size: [8, 16, 16], crop: [0.5, 1.0]}}
backbone: {{name: resnet, depth: 10, stem: small, width: 4, norm: group}}
method: {{name: byol, projector: [16, 8], predictor: [16, 8]}}
optim: {{name: sgd, lr: 0.01}}
loop: {{steps: 2, batch: 4, chunk: 2}}
"""
ALONE = (sys.executable, "-m", "volssl")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "volssl")


def train(command: tuple[str, ...], config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Train with the real command, on one rank or two."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    given = [*command, "train", str(config), *overrides]
    return subprocess.run(given, capture_output=True, text=True, timeout=120, env=env, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration over eight stacks of noise."""
    (tmp_path / "stacks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        np.save(tmp_path / "stacks" / f"{i}.npy", rng.integers(0, 255, (8, 32, 32), dtype=np.uint8))
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(out=tmp_path / "one", root=tmp_path / "stacks", cache=tmp_path / "cache"))
    return path


def test_two_ranks_make_what_one_makes_and_write_it_once(config: Path, tmp_path: Path) -> None:
    """Group norm, so that only the order of sums differs: to 1e-5 in float32 after two steps."""
    for command, name in ((TWO, "two"), (ALONE, "one")):
        done = train(command, config, f"output={tmp_path / name}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) == 2
    one, two = (load_file(tmp_path / name / "encoder" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)


def test_missing_data_is_one_line_on_each_rank(config: Path, tmp_path: Path) -> None:
    """torchrun adds a table of its own, but the command shows no traceback on either rank."""
    done = train(TWO, config, f"data.root={tmp_path / 'nowhere'}")
    assert done.returncode != 0
    assert "nowhere" in done.stderr
    assert "volssl/run.py" not in done.stderr
    assert "rank 1 ends because another rank cannot go on" in done.stderr
