"""SIGKILL, SIGTERM and SIGUSR1 at random moments, the same command again: the end is bit-identical."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import test_appraisal
from tests.gates import zygote
from tests.gates.record import record
from tests.gates.sizes import size
from tests.gates.zygote import Started
from volssl.data.loader import Loader
from volssl.data.quarantine import Quarantine
from volssl.engine import loop, metrics
from volssl.engine import trainer as trainer_module
from volssl.engine.checkpoint import list_checkpoints, load_latest
from volssl.engine.log import Log
from volssl.engine.saver import Saver
from volssl.engine.trainer import Trainer
from volssl.errors import RunError

STEPS = 20
WORKERS = (0, 1, 2, 4)
RUNS, REAL, STOPPED = size(4, 50), size(0, 5), size(1, 16)
CONFIG = """\
output: {out}
data: {{name: stack, root: {root}, region: [6, 20, 20], cache: {cache}}}
views: {{size: [6, 16, 16], crop: [0.5, 1.0], rotate: [-10, 10], noise: [0.0, 0.1]}}
backbone: {{name: resnet, depth: 10, stem: small, width: 4, norm: batch}}
method: {{name: byol, projector: [16, 8], predictor: [16, 8], momentum: [0.9, 1.0]}}
optim: {{name: lars, lr: 0.2, warmup: 5}}
loop: {{steps: 20, batch: 4, chunk: 2, workers: 2, save_every: 3, keep: 2}}
"""


def config(folder: Path, out: str) -> Path:
    path = folder / f"{out}.yaml"
    path.write_text(CONFIG.format(out=folder / out, root=folder / "stacks", cache=folder / "cache"))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven stacks, and ``whole``: a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "stacks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(11):
        np.save(folder / "stacks" / f"{i}.npy", rng.integers(0, 255, (6, 20, 20), dtype=np.uint8))
    assert go(folder, "whole").wait() == 0, (folder / "whole.txt").read_text()
    return folder


def go(folder: Path, out: str, *changes: str, sabotage: str = "") -> Started:
    return zygote.start("train", config(folder, out), *changes, told=folder / f"{out}.txt", sabotage=sabotage)


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
    timeless = [{k: v for k, v in row.items() if "second" not in k} for row in logged]
    return (out / "encoder" / "model.safetensors").read_bytes(), tensors, timeless


def same_end(folder: Path, out: str) -> bool:
    """As the whole run, and nothing left behind."""
    assert not list((folder / out / "checkpoints").glob(".*")), "a temporary file was left behind"
    return result(folder / out) == result(folder / "whole")


def test_killed_at_random_moments_and_run_again(folder: Path) -> None:
    """One to three times each: a quarter of them while it starts, the others soon after a step that was drawn."""
    draw, same, amid = random.Random(7), 0, 0
    for n in range(RUNS):
        out = folder / f"killed-{n}"
        for _ in range(draw.randint(1, 3)):
            process = go(folder, out.name)
            least = draw.choice((0, draw.randint(1, STEPS), draw.randint(1, STEPS), draw.randint(1, STEPS)))
            while lines(out) < least and process.running():
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.1 if least else 1.0))
            amid += process.running() and 0 < lines(out) < STEPS
            process.send(signal.SIGKILL)
            process.wait()
        assert go(folder, out.name).wait() == 0, (folder / f"{out.name}.txt").read_text()
        same += same_end(folder, out.name)
    record("SIGKILL at random moments, real CLI, 2 loader workers", f"{same}/{RUNS} bit-identical", f"{RUNS}/{RUNS}")
    assert same == RUNS
    assert amid >= RUNS // 3, "hardly any run was killed amid its steps"


@pytest.mark.skipif(REAL == 0, reason="each start takes ten seconds: in the full form only")
def test_killed_as_a_process_of_its_own(folder: Path) -> None:
    """As ``python -m volssl``, with its loader processes in the same group."""
    same = 0
    for n in range(REAL):
        out, draw = folder / f"real-{n}", random.Random(n)
        command = [sys.executable, "-m", "volssl", "train", str(config(folder, out.name))]
        for last in (False, True):
            process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
            if last:
                assert process.wait(600) == 0
                break
            while lines(out) < draw.randint(1, 18) and process.poll() is None:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        same += same_end(folder, out.name)
    record("SIGKILL of python -m volssl, amid its steps", f"{same}/{REAL} bit-identical", f"{REAL}/{REAL}")
    assert same == REAL


def children_of(folder: Path) -> list[str]:
    """Processes that hold something below the folder open."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith(str(folder)) and descriptor.parts[2] != str(os.getpid()):
            found.append(descriptor.parts[2])
    return found


def asked_to_stop(folder: Path, out: str, number: signal.Signals, draw: random.Random, sabotage: str = "") -> bool:
    """Whether a run that is asked, once or twice, exits with 143 and has saved all steps that it has written down."""
    process, least = go(folder, out, sabotage=sabotage), draw.randint(1, 10)
    while lines(folder / out) < least:
        assert process.running(), process.told.read_text()
        time.sleep(0.002)
    process.send(number)
    time.sleep(draw.uniform(0, 0.05))
    if process.running():
        process.send(number)
    began = time.monotonic()
    code, seconds = process.wait(), time.monotonic() - began
    assert seconds < 30  # as far as a machine that does other things, too, can tell
    assert "Traceback" not in process.told.read_text()
    saved = [path.name for path in list_checkpoints(folder / out / "checkpoints")]
    return code == 143 and saved[-1:] == [f"step-{lines(folder / out):08d}.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_finishes_the_step_saves_and_exits_143(folder: Path, number: signal.Signals) -> None:
    """To the whole group, and again while it saves: no step that was written down is lost."""
    good, draw = 0, random.Random(int(number))
    for n in range(STOPPED):
        out = f"{number.name}-{n}"
        well = asked_to_stop(folder, out, number, draw)
        deadline = time.monotonic() + 5
        while (left := children_of(folder / out)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
        assert go(folder, out).wait() == 0
        good += well and same_end(folder, out)
    record(f"{number.name} twice, then again", f"{good}/{STOPPED} exit 143, no step lost, bit-identical", "all")
    assert good == STOPPED


def forget_to_save() -> None:
    """A run that is asked to stop stops, and that is all."""
    real = Saver._save

    def save(self: Saver, step: int, log: Log) -> RunError | None:
        return real(self, step, log) if step == STEPS else None

    setattr(Saver, "_save", save)  # noqa: B010


def test_a_run_that_stops_without_saving_does_not_pass(folder: Path) -> None:
    """Negative control."""
    how = f"{__name__}:{forget_to_save.__name__}"
    assert not asked_to_stop(folder, "unsaved", signal.SIGTERM, random.Random(1), how)


def test_stopped_and_run_again_with_another_number_of_workers(folder: Path) -> None:
    """At any step, and from any number to any other."""
    draw = random.Random(11)
    changes = [(a, b) for a in WORKERS for b in WORKERS if a != b]
    changes, same = draw.sample(changes, size(2, len(changes))), 0
    for before, after in changes:
        out, least = folder / f"workers-{before}-{after}", draw.randint(1, 15)
        process = go(folder, out.name, f"loop.workers={before}")
        while lines(out) < least:
            assert process.running(), process.told.read_text()
            time.sleep(0.002)
        process.send(signal.SIGTERM)
        assert process.wait() == 143
        assert go(folder, out.name, f"loop.workers={after}").wait() == 0, process.told.read_text()
        assert "going on after step" in process.told.read_text()
        same += same_end(folder, out.name)
    record("real CLI stopped, run again with other loop.workers", f"{same}/{len(changes)} bit-identical", "all")
    assert same == len(changes)


EVALUATED = size(1, 10)
study = test_appraisal.folder  # a fixture: pictures with labels


def results(out: Path) -> tuple[object, ...]:
    """What a run that evaluates leaves: as ``result``, and the best encoder with its score."""
    best = (out / "best" / "model.safetensors").read_bytes(), (out / "best.json").read_text()
    return (*result(out), *best)


def test_asked_to_stop_amid_an_evaluation_it_stops_at_once_and_makes_it_when_it_goes_on(study: Path) -> None:
    path = test_appraisal.written(study, every=1, best=True, bootstrap=2000)
    told, longest, amid = study / "told.txt", 0.0, 0
    assert zygote.start("train", path, told=told).wait() == 0, told.read_text()
    whole, draw, same = results(study / "out"), random.Random(3), 0
    for n in range(EVALUATED):
        out = study / f"asked-{n}"
        for _ in range(2):
            process, before = zygote.start("train", path, f"output={out}", told=told), lines(out)
            while lines(out) <= before:
                assert process.running(), told.read_text()
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.5))
            process.send(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait() == 143, told.read_text()
            longest = max(longest, time.monotonic() - began)
            saved = load_latest(out / "checkpoints")
            amid += bool(saved and saved.meta["pending"])
        assert zygote.start("train", path, f"output={out}", told=told).wait() == 0, told.read_text()
        same += results(out) == whole
    what = f"{same}/{EVALUATED} bit-identical, {amid} amid one, within {longest:.1f} s"
    record("SIGTERM amid evaluations, then again", what, "all, within 15 s")
    assert same == EVALUATED
    assert amid
    assert longest < 15  # nearly all of it is the end of an interpreter that has loaded torch


def forget_the_position() -> None:
    """The stream of samples starts anew at a resume."""

    def feed(trainer: Trainer, quarantine: Quarantine, done: int, seed: int, log: Log) -> Loader:
        return real(trainer, quarantine, 0, seed, log) if done else real(trainer, quarantine, done, seed, log)

    real, loop._feed = loop._feed, feed


def forget_the_optimiser() -> None:
    """Its state is not put back."""
    setattr(trainer_module, "load_optimizer_tensors", lambda *_: None)  # noqa: B010


def overwrite_the_metrics() -> None:
    """What an earlier start wrote down after the last checkpoint stays."""
    metrics.truncate = lambda *_: None


@pytest.mark.parametrize("sabotage", [forget_the_position, forget_the_optimiser, overwrite_the_metrics])
def test_a_run_that_forgets_something_does_not_pass(folder: Path, sabotage: Callable[[], None]) -> None:
    """Negative controls: the same harness, and a part of the state is left out."""
    out, how = folder / sabotage.__name__, f"{__name__}:{sabotage.__name__}"
    process = go(folder, out.name)
    while lines(out) < 14:
        assert process.running(), process.told.read_text()
        time.sleep(0.002)
    process.send(signal.SIGKILL)
    process.wait()
    again = go(folder, out.name, sabotage=how)
    assert again.wait() == 0, again.told.read_text()
    assert not same_end(folder, out.name)
