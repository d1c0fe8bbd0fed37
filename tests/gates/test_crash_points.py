"""Killed, or without power, before and after each call of saving and pruning: every point resumes to the same end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.engine.toy import exit_code, identical, in_child, run
from tests.gates.dying import Death
from tests.gates.record import record
from tests.gates.sizes import size
from volssl.engine import checkpoint
from volssl.engine import saver as saver_module
from volssl.engine.checkpoint import load_latest
from volssl.errors import RunError
from volssl.whole import flush

KEEP, SAVES = 1, 4  # the least that may be kept; after steps 3, 6, 9 and 10


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A forked process has no thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, keep=KEEP)
    return folder


def die(folder: Path, n: int, *, after: bool, power: bool, sabotage: Callable[[], None] | None) -> tuple[bool, int]:
    """A toy run that dies at its n-th call; whether it did, and the step of the last save that had returned."""
    done = folder.with_suffix(".saved")

    def work() -> None:
        if sabotage:
            sabotage()

        def saving(place: Path, *, step: int, **rest: Any) -> Path:
            path = checkpoint.save(place, step=step, **rest)
            with done.open("w") as file:
                file.write(str(step))
            return path

        setattr(saver_module, "save", saving)  # noqa: B010 (mypy would have it that no module may be changed)
        Death(folder, n, after=after, power=power)
        run(folder, keep=KEEP)

    code = exit_code(in_child(work))
    assert code in (0, 9), code
    return code == 9, int(done.read_text()) if done.exists() else 0


def fault(whole: Path, folder: Path, saved: int) -> str:
    """What is wrong with what a dead run left; empty where nothing is."""
    try:
        found = load_latest(folder / "checkpoints")
    except RunError as problem:
        return str(problem)
    if (found.step if found else 0) < saved:
        return f"step {saved} was saved and is gone"

    def again() -> None:
        run(folder, keep=KEEP)

    if exit_code(in_child(again)):
        return "does not run again"
    if left := [p.name for p in (*folder.glob(".*"), *(folder / "checkpoints").glob(".*"))]:
        return f"{left[0]} is left behind"
    return "" if identical(whole, folder) else "ends otherwise"


def faults(
    whole: Path, tmp_path: Path, *, after: bool, power: bool, sabotage: Callable[[], None] | None = None
) -> tuple[int, list[str]]:
    """How many points there are, and what is wrong at which; ends at the first fault where ``sabotage`` is tried."""
    found: list[str] = []
    for n in range(1, 999):
        folder = tmp_path / f"{n}"
        died, saved = die(folder, n, after=after, power=power, sabotage=sabotage)
        if not died:
            return n - 1, found
        if problem := fault(whole, folder, saved):
            found.append(f"call {n}: {problem}")
            if sabotage:
                return n, found
    raise AssertionError("never comes to its end")


@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
@pytest.mark.parametrize("after", [True, False][: size(1, 2)], ids=["after", "before"][: size(1, 2)])
def test_every_point_resumes_to_the_same_end(whole: Path, tmp_path: Path, power: bool, after: bool) -> None:
    """Before a call the disk is as it was after the one before, so the trimmed form leaves that out."""
    points, found = faults(whole, tmp_path, after=after, power=power)
    what = f"{'power lost' if power else 'killed'} {'after' if after else 'before'} each I/O call of save and prune"
    record(what, f"{points - len(found)}/{points} points resume to the same end", "all")
    assert not found
    assert points > 40


def in_place() -> None:
    """The old ones go first, and the new one is written under its own name, in two halves."""

    def halves(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
        final = path.with_name(path.name.removeprefix(".").removesuffix(".tmp"))
        for old in checkpoint.list_checkpoints(path.parent):
            old.unlink()
        save_file(tensors, path, header)
        content = path.read_bytes()
        descriptor = os.open(final, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, content[: len(content) // 2])
        os.write(descriptor, content[len(content) // 2 :])
        os.close(descriptor)

    setattr(checkpoint, "save_file", halves)  # noqa: B010


def unflushed() -> None:
    """The file's name is brought to the disk, what is in it is not."""
    setattr(checkpoint, "flush", lambda path: flush(path) if path.is_dir() else None)  # noqa: B010


def nameless() -> None:
    """The file is brought to the disk, its name is not."""
    setattr(checkpoint, "flush", lambda path: None if path.is_dir() else flush(path))  # noqa: B010


@pytest.mark.parametrize(
    ("sabotage", "power", "says"),
    [(in_place, False, "no checkpoint can be used"), (unflushed, True, ""), (nameless, True, "")],
)
def test_a_save_that_cuts_a_corner_does_not_pass(
    whole: Path, tmp_path: Path, sabotage: Callable[[], None], power: bool, says: str
) -> None:
    """Negative controls, each at its first point that fails."""
    _, found = faults(whole, tmp_path, after=True, power=power, sabotage=sabotage)
    assert found
    assert says in found[0]


def test_a_temporary_file_that_is_not_swept_does_not_pass(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control, with the next start sabotaged."""
    monkeypatch.setattr(saver_module, "sweep", lambda _: None)
    _, found = faults(whole, tmp_path, after=True, power=False, sabotage=lambda: None)
    assert found
    assert "is left behind" in found[0]
