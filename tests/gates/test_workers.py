"""Loader workers, however many, killed, hung or short of memory: the same items, the same views, the same end."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.engine.toy import STEPS, Toys, identical, run
from tests.gates.record import record
from tests.gates.sizes import size
from volssl.data.loader import Loader, _Job
from volssl.data.quarantine import Quarantine
from volssl.data.workers import LostError
from volssl.errors import RunError
from volssl.types import Item, Samples
from volssl.views import ViewsConfig

WORKERS = (0, 1, 2, 4)
LAST, AT = 6, 3  # steps, and where a run is resumed


class Pictures:
    """Twenty pictures of noise, each the same whenever it is read."""

    ids = [f"picture-{i}" for i in range(20)]  # noqa: RUF012
    parts = weights = label_sets = (20,)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        image = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(i))
        return Item(image, (1.0, 1.0), self.ids[i])


class Careless(Pictures):
    """Their noise comes from the global generator, as that of many data sets does."""

    def __getitem__(self, i: int) -> Item:
        return Item(torch.rand(1, 24, 24), (1.0, 1.0), self.ids[i])


VIEWS = ViewsConfig(size=(16, 16), crop=(0.5, 1.0), noise=(0.0, 0.1), blur=(0.0, 1.0))


def told(source: Pictures, start: int, workers: int, stop: int = LAST) -> list[tuple[str, str]]:
    """The id of every item from a step on, and a hash of its views."""
    views, found = VIEWS.build(), list[tuple[str, str]]()

    def hashed(samples: Samples) -> list[str]:
        made = views(samples.images, samples.seeds)
        rows = zip(*(made[name] for name in sorted(made)), strict=True)
        return [hashlib.sha256(b"".join(x.numpy().tobytes() for x in row)).hexdigest() for row in rows]

    for samples in Loader(source, batch=6, seed=5, start=start, stop=stop, workers=workers):
        found += zip((source.ids[i] for i in samples.index), hashed(samples), strict=True)
    return found


def same(source: Pictures) -> tuple[int, int]:
    """Of all pairs of numbers of workers before and after a resume, how many tell what a run without workers tells."""
    whole = told(source, 0, 0)
    before = {workers: told(source, 0, workers) for workers in WORKERS}
    after = {workers: told(source, AT, workers) for workers in WORKERS}
    alike = [before[a][: AT * 6] + after[b] == whole for a in WORKERS for b in WORKERS]
    return sum(alike) + sum(one == whole for one in before.values()), len(alike) + len(before)


def test_any_number_of_workers_and_any_change_of_it_tells_the_same() -> None:
    good, of = same(Pictures())
    record("workers {0, 1, 2, 4} and any change at a resume", f"{good}/{of} identical ids and view hashes", "all")
    assert good == of == 20


def test_a_source_that_draws_from_the_global_generator_does_not_pass() -> None:
    """Negative control."""
    good, of = same(Careless())
    assert good < of


class Faulty(Toys):
    """Items of the toy run, of which some kill the process that reads them, or keep it for ever."""

    def __init__(self, kill: tuple[int, ...] = (), hang: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.kill, self.hang = kill, hang

    def __getitem__(self, i: int) -> Item:
        if i in self.kill:
            os.kill(os.getpid(), signal.SIGSEGV)
        if i in self.hang:
            signal.pause()
        return super().__getitem__(i)


def known(folder: Path) -> Path:
    """The list that a run made, in the folder of one that has yet to begin."""
    (folder / "known").mkdir()
    (folder / "known" / "quarantine.jsonl").write_bytes((folder / "found" / "quarantine.jsonl").read_bytes())
    return folder / "known"


@pytest.mark.parametrize(("kill", "hang"), [((3,), ()), ((), (11,)), ((3,), (11,))], ids=["kills", "hangs", "both"])
def test_a_run_goes_on_as_one_that_knew_its_bad_items_from_the_start(
    tmp_path: Path, kill: tuple[int, ...], hang: tuple[int, ...]
) -> None:
    """Of 20 items; the items are named, the list is written, and a resume has it: nothing dies any more."""
    outcome = run(tmp_path / "found", source=Faulty(kill, hang), workers=2, timeout=0.5)
    for item, why in (*((i, "SIGSEGV") for i in kill), *((i, "silent for 0.5 s") for i in hang)):
        assert f"toy-{item}: the loader process was" in outcome.told
        assert f"toy-{item}: left out" in outcome.told
        assert why in outcome.told
    again = run(known(tmp_path), source=Faulty(kill, hang))  # without workers, where it would die or hang itself
    assert f"{len(kill) + len(hang)} items are left out" in again.told
    assert identical(tmp_path / "found", tmp_path / "known")
    run(tmp_path / "plain")
    assert not identical(tmp_path / "found", tmp_path / "plain")


def test_what_stands_in_depends_on_the_position_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a replacement that is drawn as it comes is not the one of the next run."""
    draw = random.Random(0)

    def instead(self: object, part: int, position: int, epoch: int) -> object:  # noqa: ARG001
        return Draw(draw.choice([i for i in range(20) if i != 3]), position)

    from volssl.data.stream import Draw, Stream

    monkeypatch.setattr(Stream, "_instead", instead)
    run(tmp_path / "found", source=Faulty((3,)), workers=1)
    run(known(tmp_path), source=Faulty((3,)))
    assert not identical(tmp_path / "found", tmp_path / "known")


def killed_at_random(folder: Path, seed: int) -> int:
    """A run of which three times a worker is killed, as the kernel does where memory is short; how many were."""
    draw, killed = random.Random(seed), list[int]()
    steps = draw.sample(range(1, STEPS), 3)

    def kill(method: object, done: int) -> dict[str, float]:  # noqa: ARG001
        if done in steps:
            killed.append(draw.choice([int(process) for process in loader_processes()]))
            os.kill(killed[-1], signal.SIGKILL)
        return {}

    run(folder, workers=2, evaluations=((1, kill),))
    return len(killed)


def test_workers_that_are_killed_at_random_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    runs = size(3, 20)
    killed = [killed_at_random(tmp_path / f"{n}", n) for n in range(runs)]
    good = sum(identical(tmp_path / "whole", tmp_path / f"{n}") for n in range(runs))
    record("loader workers SIGKILLed at random steps", f"{sum(killed)} killed, {good}/{runs} bit-identical", "all")
    assert killed == [3] * runs
    assert good == runs


def test_a_loader_that_passes_over_what_a_dead_worker_had_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control, in the same harness: the position where it died is left out."""

    def pass_over(self: Loader, lost: LostError, job: _Job) -> None:  # noqa: ARG001
        job.positions = range(job.positions.start + 1, job.positions.stop + 1)

    monkeypatch.setattr(Loader, "_blame", pass_over)
    run(tmp_path / "whole")
    assert killed_at_random(tmp_path / "killed", 0) == 3
    assert not identical(tmp_path / "whole", tmp_path / "killed")


def test_workers_that_hang_with_nothing_to_do_are_replaced_and_that_is_said(tmp_path: Path) -> None:
    run(tmp_path / "whole")

    def stop(method: object, done: int) -> dict[str, float]:  # noqa: ARG001
        if done == STEPS // 2:
            time.sleep(0.5)  # until they have made what they were asked for
            for process in loader_processes():
                os.kill(int(process), signal.SIGSTOP)
        return {}

    told = run(tmp_path / "stopped", workers=2, timeout=1.0, evaluations=((1, stop),)).told
    said = "a loader process was silent for 1 s before it came to an item: another takes its place"
    assert " ".join(told.split()).count(said) == 2
    assert identical(tmp_path / "whole", tmp_path / "stopped")


def loader_processes() -> list[str]:
    """Children of the fork server that this process has."""
    from multiprocessing import forkserver

    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return Path(f"/proc/{server}/task/{server}/children").read_text().split()


def test_more_than_max_bad_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"5 of 20 items kill or hang .*max_bad is 0.2.*toy-\d.* raise data.max_bad"):
        run(tmp_path, source=Faulty(kill=(1, 4, 7, 9, 15)), workers=1)


SMALL = """
import sys
import torch
from tests.gates.test_workers import Large
from volssl.data.loader import Loader
if sys.argv[1] == "ours":
    count = len(list(Loader(Large(), batch=8, seed=0, start=0, stop=4, workers=2)))
else:
    images = lambda items: torch.stack([item.image for item in items])
    count = len(list(torch.utils.data.DataLoader(Large(), batch_size=8, num_workers=2, collate_fn=images, timeout=5)))
print("steps", count)
"""


class Large(Pictures):
    """A megabyte each."""

    ids = [f"large-{i}" for i in range(32)]  # noqa: RUF012
    parts = weights = label_sets = (32,)

    def __getitem__(self, i: int) -> Item:
        return Item(torch.full((1, 512, 512), float(i)), (1.0, 1.0), self.ids[i])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small /dev/shm needs root")
@pytest.mark.parametrize("whose", ["ours", "torch's"])
def test_a_small_dev_shm_does_not_matter(whose: str) -> None:
    """One megabyte of it, where a step takes eight. Negative control: torch's own loader does not come through."""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "
    command = ["unshare", "-m", "sh", "-c", mount + '"$@"', "sh", sys.executable, "-c", SMALL, whose]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no mount namespace here")
    assert ("steps 4" in done.stdout) is (whose == "ours"), done.stderr
    if whose == "ours":
        record("a step of 8 MB through a /dev/shm of 1 MB", "goes through", "found and said, or no matter")


def test_items_in_flight_are_named_before_anything_else_is_lost() -> None:
    """A list from elsewhere: the item that a worker was at, and no other, is blamed."""
    source, said = Faulty(kill=(3,)), list[str]()
    loader = Loader(
        source, batch=10, seed=7, start=0, stop=2, workers=2, quarantine=Quarantine(source), tell=said.append
    )
    assert len(list(islice(loader, 2))) == 2
    assert said
    assert all(line.startswith("toy-3: ") for line in said)
