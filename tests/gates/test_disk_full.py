"""A full disk: the checkpoint before is whole, the run goes on, and says how much room there is."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.toy import Toy, exit_code, identical, in_child, run
from tests.gates import zygote
from tests.gates.record import record
from tests.gates.test_kill import config
from volssl.engine import saver as saver_module
from volssl.engine.checkpoint import list_checkpoints, load_latest, save
from volssl.errors import RunError
from volssl.methods.base import Method

OFFSETS = 20  # a second or two, so never trimmed
Room = Callable[[int | None], None]  # how many bytes may be written from now on; None: any


@pytest.fixture(scope="module", autouse=True)
def _large_and_one_thread() -> Iterator[None]:
    """A forked process has no thread pool. A checkpoint has twenty pages, of which a disk may have some left."""
    before, Toy.ballast = torch.get_num_threads(), 20_000
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    Toy.ballast = 0


@pytest.fixture(scope="module")
def whole(_large_and_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, log_every=10)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk: mounting one needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def limit(size: int | None) -> None:
    """No file may become larger, as RLIMIT_FSIZE has it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    most = resource.RLIM_INFINITY if size is None else size
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def fill(disk: Path) -> Room:
    """A file that takes all but so many bytes of the disk, up to a page."""

    def room(size: int | None) -> None:
        ballast = disk / "ballast"
        ballast.unlink(missing_ok=True)
        if size is not None:
            descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
            os.posix_fallocate(descriptor, 0, os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - size)
            os.close(descriptor)

    return room


def tell(problems: Path, room: Room, size: int, until: int) -> tuple[int, Callable[[Method, int], dict[str, float]]]:
    """From step 5 on there is room for ``size`` bytes, and after step ``until`` for all again."""

    def act(method: Method, done: int) -> dict[str, float]:  # noqa: ARG001
        if done == 5:
            room(size)
        if done == until:
            three = load_latest(problems.parent / "run" / "checkpoints")
            room(None)
            problems.write_text(f"{three.step if three else None}")
        return {}

    return 1, act


def outcome(folder: Path, room: Room, size: int, until: int) -> tuple[int, str, str]:
    """The exit code of a toy run, what it said, and which checkpoint there was while the disk was full."""
    problems = folder.parent / "problems"

    def work() -> None:
        try:
            said = run(folder, log_every=10, evaluations=(tell(problems, room, size, until),)).told
        except RunError as problem:
            room(None)
            problems.with_name("said").write_text(str(problem))
            os._exit(problem.exit_code)
        problems.with_name("said").write_text(said)

    code = exit_code(in_child(work))
    said = problems.with_name("said").read_text()
    return code, said, problems.read_text() if problems.exists() else ""


def good(whole: Path, folder: Path, room: Room, size: int) -> bool:
    """The save of step 6 fails, that of step 9 does not, and nobody could tell from the end."""
    code, said, three = outcome(folder, room, size, 8)
    whole_end = code == 0 and identical(whole, folder)
    told = "not saved" in said and "MB free" in said and "step-00000006" in said
    kept = [int(p.stem[5:]) for p in list_checkpoints(folder / "checkpoints")] == [3, 9, 10]
    return whole_end and told and kept and three == "3" and not list((folder / "checkpoints").glob(".*"))


@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_the_checkpoint_before_loads_and_the_run_goes_on(
    whole: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    bytes_of_one = list_checkpoints(whole / "checkpoints")[-1].stat().st_size
    place = tmp_path if kind == "limit" else request.getfixturevalue("disk")
    room, passed = limit if kind == "limit" else fill(place), 0
    for n in range(OFFSETS):
        (place / f"{n}").mkdir()
        passed += good(whole, place / f"{n}" / "run", room, n * bytes_of_one // OFFSETS)
        if kind == "disk":
            subprocess.run(["rm", "-r", place / f"{n}"], check=True)
    what = "RLIMIT_FSIZE" if kind == "limit" else "a full tmpfs"
    record(f"disk full on a save at {OFFSETS} offsets ({what})", f"{passed}/{OFFSETS} previous loads", "20/20")
    assert passed == OFFSETS


def test_saving_in_place_does_not_pass(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: one file, opened and written over."""

    def in_place(folder: Path, *, step: int, **rest: Any) -> Path:
        spare = folder.parent.parent / "spare"
        path = save(spare, step=step, **rest)
        folder.mkdir(exist_ok=True)
        for old in list_checkpoints(folder):
            old.rename(folder / path.name)
        try:
            (folder / path.name).write_bytes(path.read_bytes()[: 10**9])
        except OSError as problem:
            raise RunError(f"{path}: not saved: {problem} (0 MB free)") from None
        return path

    monkeypatch.setattr(saver_module, "save", in_place)
    assert not good(whole, tmp_path / "run", limit, 1000)


def test_a_last_save_that_fails_is_one_line_and_the_run_can_go_on(whole: Path, tmp_path: Path) -> None:
    code, said, _ = outcome(tmp_path / "run", limit, 100, 99)
    assert code == 2
    assert "step-00000010.safetensors: not saved" in said
    assert "MB free" in said
    assert "\n" not in said
    assert [p.name for p in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000003.safetensors"]
    run(tmp_path / "run", log_every=10)
    assert identical(whole, tmp_path / "run")


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Seven, for the command."""
    import numpy as np

    folder = tmp_path / "stacks"
    folder.mkdir()
    for i in range(7):
        np.save(folder / f"{i}.npy", np.random.default_rng(i).integers(0, 255, (6, 20, 20), dtype=np.uint8))
    return folder


@pytest.mark.usefixtures("stacks")
def test_the_command_on_a_full_disk_says_so_in_one_line_and_goes_on_when_there_is_room(
    tmp_path: Path, disk: Path
) -> None:
    """No room from the start on, then for a part of a run, with TensorBoard's files, then enough."""
    out, told, room = disk / "out", tmp_path / "told.txt", fill(disk)
    command = ("train", config(tmp_path, "run"), f"output={out}", "loop.tensorboard=true", "loop.workers=0")
    for size in (0, 60_000, 400_000, 1_500_000):
        room(size)
        assert zygote.start(*command, told=told).wait() == 2, told.read_text()
        said = told.read_text()
        assert "Traceback" not in said
        assert "MB free" in said.splitlines()[-1] or "No space left" in said.splitlines()[-1], said
    room(None)
    assert zygote.start(*command, told=told).wait() == 0, told.read_text()
    assert not list(out.rglob(".*"))


@pytest.mark.usefixtures("stacks")
def test_a_full_disk_under_what_the_command_says_ends_nothing(tmp_path: Path, disk: Path) -> None:
    """As SLURM's file of a job's output may lie on another disk than the run."""
    told = disk / "told.txt"
    told.touch()
    fill(disk)(0)
    codes = [
        zygote.start("train", config(tmp_path, "run"), "loop.workers=0", extra, told=told).wait()
        for extra in ("loop.keep=2", "loop.keep=3", "loop.keep=none")
    ]
    record("disk full under stdout and stderr", f"exit {codes[0]}, resumed {codes[1]}, refused {codes[2]}", "0, 0, 2")
    assert codes == [0, 0, 2]
    assert not told.read_text()
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000020.safetensors"
