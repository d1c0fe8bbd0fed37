"""Readers killed and stopped while the cache is filled: the same items, the same bits, and a run that can go on."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.gates.record import record
from tests.gates.sizes import size
from tests.gates.test_kill import go, lines, result
from tests.gates.test_workers import loader_processes
from volssl.data import StackConfig, cache_work, crew, left_out
from volssl.data.cache_work import Outcome, Task
from volssl.data.items import Readers
from volssl.errors import DataError

ITEMS, REGION = 48, (6, 20, 20)
STRIKES = {signal.SIGKILL: 60.0, signal.SIGSTOP: 2.0}  # and the seconds after which a reader hangs
LOST = "3.npy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stacks of noise."""
    folder = tmp_path_factory.mktemp("caching")
    (folder / "stacks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(ITEMS):
        np.save(folder / "stacks" / f"{i}.npy", rng.integers(0, 255, REGION, dtype=np.uint8))
    return folder


class Killer:
    """Strikes at one of the readers, thrice, when so many items are done; a ``report`` of progress."""

    def __init__(self, number: signal.Signals, seed: int) -> None:
        self.number, self.draw, self.struck = number, random.Random(seed), 0
        self.at = {self.draw.randint(first, first + 7) for first in (1, 17, 33)}

    def __call__(self, done: int, total: int, line: str) -> None:
        del total, line
        if done in self.at:
            self.at.remove(done)
            os.kill(self.draw.choice([int(process) for process in loader_processes()]), self.number)
            self.struck += 1
            time.sleep(4 if self.number == signal.SIGSTOP else 1)  # no item is struck twice: that would be its fault


def filled(folder: Path, cache: str, killer: Killer | None = None) -> tuple[tuple[str, ...], tuple[str, ...], Tensor]:
    """Ids, fingerprints and images of a source whose cache was filled."""
    config = StackConfig(root=str(folder / "stacks"), cache=str(folder / cache), max_bad=0.5)
    source = config.build(REGION, readers=Readers(2, STRIKES[killer.number] if killer else 60.0), report=killer)
    return source.ids, source.fingerprints, torch.stack([source[i].image for i in range(len(source))])


def same(folder: Path, number: signal.Signals, seed: int) -> bool:
    """Whether a cache becomes what an undisturbed one is, though three readers are struck."""
    ids, contents, images = filled(folder, "whole")
    killer = Killer(number, seed)
    found = filled(folder, f"{number.name}-{crew.TRIES}-{seed}", killer)
    assert killer.struck == 3
    return found[:2] == (ids, contents) and torch.equal(found[2], images)


@pytest.mark.parametrize("number", STRIKES)
def test_readers_that_are_struck_at_random_change_nothing(folder: Path, number: signal.Signals) -> None:
    runs = size(1, 10)
    good = sum(same(folder, number, seed) for seed in range(runs))
    record(f"readers {number.name} while the cache is filled", f"{good}/{runs} the same items and bits", "all")
    assert good == runs


@pytest.mark.parametrize("number", STRIKES)
def test_readers_that_give_up_at_the_first_strike_do_not_pass(
    folder: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the same harness. Readers that have nothing to do when they are struck lose nothing."""
    monkeypatch.setattr(crew, "TRIES", 1)
    assert not all(same(folder, number, seed) for seed in range(8))


def lose_one() -> None:
    """Whatever reads one of the items is lost."""

    def task(self: Task) -> Outcome:
        return DataError("crashed", "the codec died", self.id) if self.id == LOST else real(self)

    real = Task.__call__
    setattr(cache_work.Task, "__call__", task)  # noqa: B010


def forget_the_list() -> None:
    """As if what was left out were not kept."""
    setattr(left_out, "recall", lambda _: frozenset())  # noqa: B010


HERE = ("loop.workers=0", "data.max_bad=0.5")


def stopped(folder: Path, out: str) -> None:
    """A run that began without one of the items, until it was asked to stop."""
    process = go(folder, out, *HERE, f"data.cache={folder / out}.cache", sabotage=f"{__name__}:lose_one")
    while lines(folder / out) < 4:
        assert process.running(), process.told.read_text()
        time.sleep(0.002)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert f"{ITEMS - 1} items of stack" in process.told.read_text()


def test_a_run_that_began_without_an_item_goes_on_without_it(folder: Path) -> None:
    """Real CLI. The second start could read it, and ends as a run that never could."""
    cache = f"data.cache={folder / 'never'}.cache"
    assert go(folder, "never", *HERE, cache, sabotage=f"{__name__}:lose_one").wait() == 0
    stopped(folder, "resumed")
    again = go(folder, "resumed", *HERE)
    assert again.wait() == 0, again.told.read_text()
    assert "crashed: left out as it was when the run began" in again.told.read_text()
    assert result(folder / "resumed") == result(folder / "never")


def test_a_run_that_forgets_what_it_left_out_does_not_pass(folder: Path) -> None:
    """Negative control; what is new is named."""
    stopped(folder, "forgets")
    again = go(folder, "forgets", *HERE, sabotage=f"{__name__}:forget_the_list")
    assert again.wait() == 2
    assert "48 items now, 47 when" in again.told.read_text()
    assert "and not the same (new: " in again.told.read_text()
