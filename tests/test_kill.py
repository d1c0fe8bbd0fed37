"""SIGKILL at ten random moments, the same command again each time: the end is bit-identical."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from volssl.engine.checkpoint import load_latest

KILLS = 10
CONFIG = """\
output: {out}
data: {{name: stack, root: {root}, region: [6, 20, 20], cache: {cache}}}
views: {{size: [6, 16, 16], crop: [0.5, 1.0], rotate: [-10, 10], noise: [0.0, 0.1]}}
backbone: {{name: resnet, depth: 10, stem: small, width: 4, norm: batch}}
method: {{name: byol, projector: [16, 8], predictor: [16, 8], momentum: [0.9, 1.0]}}
optim: {{name: lars, lr: 0.2, warmup: 5}}
loop: {{steps: 240, batch: 6, chunk: 3, workers: 2, save_every: 3, keep: 2}}
"""


def start(config: Path) -> subprocess.Popen[bytes]:
    """The real command in a process group of its own, so that its loader workers die with it."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "volssl", "train", str(config)]
    return subprocess.Popen(command, env=env, start_new_session=True, stdout=subprocess.DEVNULL)


def lines(out: Path) -> int:
    """Steps that the run has written down so far."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def result(out: Path) -> tuple[bytes, dict[str, bytes], list[dict[str, Any]]]:
    """The encoder, every tensor of the last checkpoint, and what was logged but for the clock."""
    checkpoint = load_latest(out / "checkpoints")
    assert checkpoint is not None
    tensors = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors.items()}
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in row.items() if "second" not in k and "time" not in k} for row in logged]
    return (out / "encoder" / "model.safetensors").read_bytes(), tensors, timeless


def test_killed_ten_times_and_run_again_ends_bit_identical(tmp_path: Path) -> None:
    """One kill falls anywhere in the start-up, the others anywhere after a new step has been logged."""
    (tmp_path / "stacks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(11):
        np.save(tmp_path / "stacks" / f"{i}.npy", rng.integers(0, 255, (6, 20, 20), dtype=np.uint8))
    configs = {}
    for name in ("whole", "killed"):
        configs[name] = tmp_path / f"{name}.yaml"
        text = CONFIG.format(out=tmp_path / name, root=tmp_path / "stacks", cache=tmp_path / "cache")
        configs[name].write_text(text)
    assert start(configs["whole"]).wait(300) == 0

    moments, out, amid = random.Random(7), tmp_path / "killed", 0
    for kill in range(KILLS):
        done, process = lines(out), start(configs["killed"])
        while kill and lines(out) <= done and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4 if kill else 6))
        amid += process.poll() is None and lines(out) > 0
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert amid >= KILLS // 2, "the run was over before the kills: make it longer"
    assert start(configs["killed"]).wait(300) == 0

    assert result(out) == result(tmp_path / "whole")
    assert not list((out / "checkpoints").glob(".*")), "a temporary file was left behind"
