"""The real command on several ranks, however they are started: what one rank makes, written once."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from volssl import run
from volssl.config import load

# Seven stacks in batches of four: no epoch ends with a step. Chunks of one, as four ranks need them. Group norm, and
# short steps: so small a network is so steep that rounding would otherwise grow a thousandfold in a step.
CONFIG = """\
output: {folder}/one
data: {{name: stack, root: {folder}/stacks, region: [8, 32, 32], cache: {folder}/cache}}
views: {{size: [8, 32, 32], crop: [0.5, 1.0]}}
backbone: {{name: resnet, depth: 10, stem: small, width: 8, norm: group}}
method: {{name: byol, projector: [16, 8], predictor: [16, 8]}}
optim: {{name: sgd, lr: 0.01, clip: 1.0}}
loop: {{steps: 4, batch: 4, chunk: 1, save_every: 2}}
"""
HALF, LAST = "step-00000002.safetensors", "step-00000004.safetensors"
VOLSSL = ("-m", "volssl", "train")
TORCHRUN = ("-m", "torch.distributed.run")


def start(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A process of this Python, with what it says in its pipes."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"} | dict(environ or {})
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What each says, once all have ended well."""
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), told
    return [out for out, _ in told]


def free_port(least: int = 1024) -> int:
    """A port that nobody listens on."""
    for port in range(max(least, 20000 + os.getpid() % 10000), 40000):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven stacks of blocks, ``config.yaml``, and ``one``: what one rank makes of them."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "stacks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        blocks = rng.integers(0, 255, (2, 4, 4), dtype=np.uint8)
        np.save(folder / "stacks" / f"{i}.npy", np.kron(blocks, np.ones((4, 8, 8), np.uint8)))
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    run.train(load(folder / "config.yaml"))
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """What two ranks of torchrun make."""
    out = folder / "two"
    finish(
        [
            start(
                [
                    *TORCHRUN,
                    "--standalone",
                    "--nproc-per-node",
                    "2",
                    *VOLSSL,
                    str(folder / "config.yaml"),
                    f"output={out}",
                ]
            )
        ]
    )
    return out


def halfway(two: Path, out: Path) -> Path:
    """The folder as two ranks had it after two of four steps."""
    shutil.copytree(two, out)
    (out / "checkpoints" / LAST).unlink()
    shutil.rmtree(out / "encoder")
    return out


def difference(one: Path, other: Path) -> float:
    """The largest of any number of two checkpoints: weights, teacher, statistics, optimiser."""
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


def same_as_one(folder: Path, out: Path) -> None:
    """Only the order of sums differs: every number of the last checkpoint to 1e-5 in float32. Written once."""
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [HALF, LAST]
    held = ["card.json", "items.safetensors", "model.safetensors"]
    assert sorted(path.name for path in (out / "encoder").iterdir()) == held
    assert difference(folder / "one" / "checkpoints" / LAST, out / "checkpoints" / LAST) < 1e-5


def test_two_ranks_make_what_one_makes_and_write_it_once(folder: Path, two: Path) -> None:
    same_as_one(folder, two)


def test_steps_move_far_more_than_the_bound(folder: Path) -> None:
    """Negative control: two steps that were left out or made of other samples would be noticed."""
    assert difference(folder / "one" / "checkpoints" / HALF, folder / "one" / "checkpoints" / LAST) > 1e-3


def test_one_rank_goes_on_where_two_stopped(folder: Path, two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = halfway(two, folder / "then-one")
    run.train(load(folder / "config.yaml", [f"output={out}"]))
    assert "going on after step 2 of 4" in capsys.readouterr().out
    same_as_one(folder, out)


def test_four_ranks_of_slurm_go_on_where_two_of_torchrun_stopped(folder: Path, two: Path) -> None:
    """srun starts the ranks itself; the first host of the step and the number of the job say where they meet."""
    out = halfway(two, folder / "then-four")
    job = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "4"}
    ranks = [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(4)]
    told = finish([start([*VOLSSL, str(folder / "config.yaml"), f"output={out}"], rank) for rank in ranks])
    assert ["going on after step 2 of 4" in text for text in told] == [True, False, False, False]
    same_as_one(folder, out)


def test_two_nodes_make_what_one_makes(folder: Path) -> None:
    """One torchrun on each of two nodes, which here are this one."""
    out = folder / "nodes"
    place = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    finish(
        [
            start([*TORCHRUN, *place, "--node-rank", str(n), *VOLSSL, str(folder / "config.yaml"), f"output={out}"])
            for n in range(2)
        ]
    )
    same_as_one(folder, out)


def test_missing_data_is_one_line_on_each_rank(folder: Path) -> None:
    """torchrun adds a table of its own, but the command shows no traceback on either rank."""
    place = ("--standalone", "--nproc-per-node", "2")
    command = start(
        [
            *TORCHRUN,
            *place,
            *VOLSSL,
            str(folder / "config.yaml"),
            f"output={folder / 'none'}",
            f"data.root={folder / 'nowhere'}",
        ]
    )
    _, told = command.communicate(timeout=300)
    assert command.returncode != 0
    assert "nowhere" in told
    assert "volssl/run.py" not in told
    assert "rank 1 ends because another rank cannot go on" in told
