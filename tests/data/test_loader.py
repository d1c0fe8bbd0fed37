"""The loader: one stream of samples, however it is cut among workers, ranks and resumed runs."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from volssl.data.loader import Loader
from volssl.data.quarantine import Quarantine
from volssl.data.stream import Stream, permutation
from volssl.errors import ConfigError, DataError, RunError
from volssl.types import Item, Samples


class Panic(BaseException):
    """As native codecs raise."""


class Numbers:
    """``n`` items whose voxels are their index; one may be broken, hang or kill its process, if need be only once."""

    def __init__(self, n: int, *, once: Path | None = None, **faults: int) -> None:
        self.n, self.once, self.faults = n, once, {item: fault for fault, item in faults.items()}
        self.parts, self.weights, self.label_sets = [n], [1], [n]
        self.ids = [f"item-{i}" for i in range(n)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Item:
        fault = self.faults.get(i)
        if fault == "broken":
            raise DataError("gap", "slices are missing", "scan")
        if fault == "hangs":
            time.sleep(60)
        if fault == "kills" and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            os.kill(os.getpid(), 9)
        if fault == "gorges":
            raise MemoryError
        if fault == "faulty":
            raise KeyError("a fault")
        if fault == "panics":
            raise Panic("a fault")
        return Item(torch.full((1, 2, 3, 3), float(i)), (1, 1, 1), str(i), label=i % 3)


class Deadly(Numbers):
    """Kills whoever unpickles it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.kill(os.getpid(), 9)


class Sets(Numbers):
    """Parts of 6, 3 and 11 items, each with labels of its own."""

    def __init__(self) -> None:
        super().__init__(20)
        self.parts, self.weights, self.label_sets = [6, 3, 11], [1, 1, 1], [6, 3, 11]

    def __getitem__(self, i: int) -> Item:
        return replace(super().__getitem__(i), part=int(i >= 6) + int(i >= 9))


def stream(n: int = 10, **fields: int) -> list[Samples]:
    settings: dict[str, Any] = {"batch": 4, "seed": 7, "start": 0, "stop": 6, **fields}
    return list(Loader(Numbers(n), **settings))


def told(samples: Samples) -> list[tuple[int, int]]:
    return list(zip(samples.index.tolist(), samples.seeds.tolist(), strict=True))


def test_no_item_twice_in_an_epoch_and_tails_flow_on() -> None:
    """10 items in batches of 4: the third batch ends epoch 0 with 2 items and begins epoch 1 with 2."""
    indices = [i for samples in stream(stop=5) for i in samples.index.tolist()]
    assert sorted(indices[:10]) == sorted(indices[10:20]) == list(range(10))
    assert indices[:10] == permutation(7, 0, 10).tolist()
    assert indices[10:20] == permutation(7, 1, 10).tolist()


def test_a_batch_larger_than_the_source_spans_epochs() -> None:
    (samples,) = stream(n=3, batch=7, stop=1)
    assert Counter(samples.index.tolist()).most_common()[0][1] == 3
    assert len(set(samples.seeds.tolist())) == 7


def test_what_is_in_the_samples() -> None:
    first = stream()[0]
    assert first.images.shape == (4, 1, 2, 3, 3)
    assert torch.equal(first.images[:, 0, 0, 0, 0].long(), first.index)
    assert torch.equal(first.labels, (first.index % 3)[:, None])
    expected = [Stream(7, [10])[p] for p in range(4)]
    assert told(first) == [(d.index, d.seed) for d in expected]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(workers: int) -> None:
    here, there = stream(batch=6), stream(batch=6, workers=workers)
    assert [told(s) for s in here] == [told(s) for s in there]
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_anywhere_goes_on_with_the_same_stream(workers: int) -> None:
    whole = [told(s) for s in stream()]
    for start in (1, 3) if workers else range(7):
        assert [told(s) for s in stream(start=start, workers=workers)] == whole[start:]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_the_ranks_together_are_the_batch(world: int) -> None:
    whole = [told(s) for s in stream(batch=6)]
    ranks = [stream(batch=6, rank=r, world=world) for r in range(world)]
    assert [[pair for part in step for pair in told(part)] for step in zip(*ranks, strict=True)] == whole


def test_a_stream_that_depends_on_the_ranks_would_be_noticed() -> None:
    """Negative control: giving each rank its own seed, as samplers often do, is another stream."""
    whole = [told(s) for s in stream(batch=6)]
    ranks = [stream(batch=3, seed=7 + r) for r in range(2)]
    assert [[p for part in step for p in told(part)] for step in zip(*ranks, strict=True)] != whole


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_holds_each_part_equally_often_and_its_labels_in_its_column(workers: int) -> None:
    for samples in Loader(Sets(), batch=6, seed=3, start=0, stop=4, workers=workers):
        part = (samples.index >= 6).long() + (samples.index >= 9).long()
        assert part.tolist() == [0, 1, 2, 0, 1, 2]
        expected = torch.full((6, 3), -1)
        expected[torch.arange(6), part] = samples.index % 3
        assert torch.equal(samples.labels, expected)


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_together_are_the_batch_of_all_parts(world: int) -> None:
    """Shares of 4 and 2 samples of three parts: no rank has all parts equally often, the batch still has."""
    whole = [told(s) for s in Loader(Sets(), batch=8, seed=3, start=0, stop=5)]
    ranks = [Loader(Sets(), batch=8, seed=3, start=0, stop=5, rank=r, world=world) for r in range(world)]
    assert [[pair for share in step for pair in told(share)] for step in zip(*ranks, strict=True)] == whole


def test_no_item_twice_in_an_epoch_over_two_ranks_whose_batches_do_not_divide_it() -> None:
    """10 items, batches of 4 on 2 ranks: five steps are two epochs, and the third step lies in both."""
    ranks = [stream(stop=5, rank=r, world=2) for r in range(2)]
    indices = [i for step in zip(*ranks, strict=True) for share in step for i in share.index.tolist()]
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    stream(workers=1, stop=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_cannot_be_made_is_one_line(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(Loader(Numbers(10, broken=5), batch=4, seed=7, start=0, stop=3, workers=workers))
    assert str(caught.value) == "scan: gap: slices are missing"


def lost(source: Numbers, **fields: Any) -> tuple[list[Samples], Quarantine, list[str]]:
    """Three steps of 4 of 10 items with one worker and ``source``; the list that was made, and what was said."""
    said: list[str] = []
    quarantine = Quarantine(source, max_bad=fields.pop("max_bad", 0.1))
    settings: dict[str, Any] = {"batch": 4, "seed": 7, "start": 0, "stop": 6, "workers": 1, "timeout": 1.0, **fields}
    found = list(Loader(source, quarantine=quarantine, tell=said.append, **settings))
    return found, quarantine, [line for line in said if line.startswith("item-")]  # a busy machine may start one late


@pytest.mark.parametrize(
    ("fault", "why"),
    [("kills", "was killed by SIGKILL"), ("hangs", "was silent for 1 s"), ("gorges", "ran out of memory")],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_that_ends_its_worker_twice_is_left_out(fault: str, why: str, workers: int) -> None:
    """Position 5, and again in the next epoch: another item stands there, as in a run that knows it from the start."""
    culprit = Stream(7, [10])[5].index
    found, quarantine, said = lost(Numbers(10, once=None, **{fault: culprit}), workers=workers)
    assert quarantine.since == {culprit: 5}
    assert said[0] == f"item-{culprit}: the loader process {why} while it read this item: once more"
    assert said[-1] == f"item-{culprit}: left out, as the loader process {why} while it read it, 2 times: 1 of 10 items"
    assert not any(culprit in samples.index for samples in found)
    known = Quarantine(Numbers(10))
    known.since[culprit] = 5
    again = list(Loader(Numbers(10), batch=4, seed=7, start=0, stop=6, quarantine=known))
    assert [told(s) for s in found] == [told(s) for s in again]
    assert all(torch.equal(a.images, b.images) for a, b in zip(found, again, strict=True))
    whole = [pair for samples in stream() for pair in told(samples)]
    ours = [pair for samples in found for pair in told(samples)]
    assert [i for i, pair in enumerate(whole) if pair[0] == culprit] == [
        i for i, (a, b) in enumerate(zip(whole, ours, strict=True)) if a != b
    ]


def test_a_worker_that_is_killed_by_somebody_else_changes_nothing(tmp_path: Path) -> None:
    """Once, at the fifth item that it reads."""
    found, quarantine, said = lost(Numbers(10, kills=Stream(7, [10])[5].index, once=tmp_path / "was here"))
    assert (len(said), quarantine.since) == (1, {})
    assert [told(s) for s in found] == [told(s) for s in stream()]


def test_too_many_such_items_stop_the_run() -> None:
    culprit = Stream(7, [10])[5].index
    with pytest.raises(
        RunError, match=rf"1 of 10 items kill .*max_bad is 0.05\).* item-{culprit}, or raise data.max_bad"
    ):
        lost(Numbers(10, kills=culprit), max_bad=0.05)
    with pytest.raises(RunError, match="1 of 1 items kill"):
        lost(Numbers(1, kills=0), max_bad=1.0)


def test_workers_that_never_come_to_an_item_stop_the_run() -> None:
    with pytest.raises(RunError, match=r"3 loader processes in a row ended .* killed by SIGKILL: .*loop.workers=0"):
        lost(Deadly(10))


@pytest.mark.parametrize(("fault", "says"), [("faulty", "KeyError: 'a fault'"), ("panics", "Panic: a fault")])
def test_a_fault_of_the_program_shows_where_it_is(fault: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    """In the process that asked; the loader process itself prints nothing."""
    with pytest.raises(RuntimeError, match=rf"(?s)in a loader process.*__getitem__.*{says}"):
        lost(Numbers(10, once=None, **{fault: 3}))
    assert "a fault" not in capfd.readouterr().err


def test_stopping_early_leaves_no_process_behind() -> None:
    loader = Loader(Numbers(10), batch=4, seed=7, start=0, stop=1000, workers=2)
    assert len(list(islice(loader, 2))) == 2
    assert len(loader) == 1000


def test_a_run_on_the_cpu_does_not_ask_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking starts CUDA, which takes memory on a device that the run does not use."""

    def asked() -> bool:
        raise AssertionError("asked for a GPU")

    monkeypatch.setattr(torch.cuda, "is_available", asked)
    assert len(list(Loader(Numbers(10), batch=4, seed=7, start=0, stop=2, pin=False))) == 2
    with pytest.raises(AssertionError, match="asked"):
        list(Loader(Numbers(10), batch=4, seed=7, start=0, stop=2, pin=True))


def test_ranks_must_divide_the_batch() -> None:
    with pytest.raises(ConfigError, match=r"loop.batch 4 is not a multiple of the 3 ranks"):
        stream(world=3)
