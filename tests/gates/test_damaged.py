"""A damaged checkpoint is never loaded: flipped bits, cut ends, empty tails, files under another name."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.toy import CrashError, crash_at, identical, run
from tests.gates import test_kill, zygote
from tests.gates.record import record
from tests.gates.sizes import size
from tests.gates.test_kill import config, same_end
from volssl import config as configuration
from volssl import run as root
from volssl.engine import checkpoint
from volssl.engine.checkpoint import list_checkpoints, read
from volssl.errors import RunError

FLIPS, CUTS = 1000, 200  # a few seconds, so never trimmed
HEADERS, RESUMED = size(60, 600), size(1, 20)

whole = test_kill.folder  # a fixture: stacks, and a whole run of the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of ten steps leaves, saved every three."""
    folder = tmp_path_factory.mktemp("sound")
    run(folder)
    return folder


def flipped(whole: bytes, draw: random.Random) -> Iterator[bytes]:
    """One bit each, of every part of the file."""
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


def cut(whole: bytes, draw: random.Random) -> Iterator[bytes]:
    """Shorter by a byte, empty, and anything in between."""
    for length in (len(whole) - 1, 0, *(draw.randrange(len(whole)) for _ in range(CUTS - 2))):
        yield whole[:length]


def zeroed(whole: bytes, draw: random.Random) -> Iterator[bytes]:
    """A tail that was allocated and never written, of which the last byte was no zero."""
    for _ in range(50):
        length = draw.randrange(1, len(whole))
        damaged = whole[:-length] + bytes(length)
        if damaged != whole:
            yield damaged
    yield whole + b"x"


DAMAGE = {"bit flips": flipped, "truncations": cut, "zero tails": zeroed}


def loaded(path: Path, contents: Iterator[bytes], refusals: type[Exception] = RunError) -> tuple[int, int]:
    """How many of ``contents`` are taken for a checkpoint, of how many."""
    taken = count = 0
    for content in contents:
        path.write_bytes(content)
        count += 1
        with contextlib.suppress(refusals):
            read(path)
            taken += 1
    return taken, count


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_damage_is_loaded_silently(folder: Path, tmp_path: Path, kind: str) -> None:
    sound = list_checkpoints(folder / "checkpoints")[-1]
    whole = sound.read_bytes()
    taken, count = loaded(tmp_path / sound.name, DAMAGE[kind](whole, random.Random(0)))
    record(f"{kind} of a checkpoint", f"{taken} of {count} loaded", "none loaded silently")
    assert taken == 0
    assert loaded(tmp_path / sound.name, iter([whole])) == (1, 1)


def test_without_the_checksum_most_flips_would_be(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: safetensors alone, as the digest says what the file says."""
    sound = list_checkpoints(folder / "checkpoints")[-1]
    monkeypatch.setattr(checkpoint, "_digest", lambda _, header: header.get("sha256"))
    taken, count = loaded(tmp_path / sound.name, flipped(sound.read_bytes(), random.Random(0)), Exception)
    assert taken > count / 4


def test_files_that_were_swapped_are_no_checkpoints(folder: Path, tmp_path: Path) -> None:
    three, six = list_checkpoints(folder / "checkpoints")[:2]
    path = tmp_path / six.name
    path.write_bytes(three.read_bytes())
    with pytest.raises(RunError, match=f"{six.name} is another file: it holds step {int(three.stem[5:])}"):
        read(path)


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_one_before_is_used_and_the_end_is_the_same(folder: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(CrashError):
        run(tmp_path, evaluations=(crash_at(8),))
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    newest.write_bytes(next(DAMAGE[kind](newest.read_bytes(), random.Random(1))))
    told = run(tmp_path).told
    assert f"{newest.name} is damaged" in told
    assert "going on after step 3 of 10" in told
    assert identical(folder, tmp_path)


def headers(folder: Path, out: str) -> Iterator[Path]:
    """A copy of the command's run, in which one bit of the newest checkpoint's header is flipped; each time another."""
    if not (folder / out).exists():
        shutil.copytree(folder / "whole", folder / out)
    newest, draw = list_checkpoints(folder / "whole" / "checkpoints")[-1], random.Random(2)
    sound = newest.read_bytes()
    length = int.from_bytes(sound[:8], "little")
    for _ in range(HEADERS):
        damaged = bytearray(sound)
        damaged[8 + draw.randrange(length)] ^= 1 << draw.randrange(8)
        (folder / out / "checkpoints" / newest.name).write_bytes(damaged)
        yield folder / out


def refused(folder: Path, out: str) -> list[str]:
    """What ``claim``, the first that looks into the folder of a run, has against headers with a flipped bit."""
    run, said = configuration.load(config(folder, out)), []
    for damaged in headers(folder, out):
        try:
            root.claim(damaged, run)
        except RunError as problem:
            said.append(str(problem))
    return said


def test_a_damaged_header_is_no_other_configuration(whole: Path) -> None:
    said = refused(whole, "flipped")
    record("bit flips of a checkpoint's header", f"{len(said)} of {HEADERS} refuse the run", "none")
    assert not said


def test_a_header_that_is_believed_refuses_the_run(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: no checksum."""
    monkeypatch.setattr(checkpoint, "_digest", lambda _, header: header.get("sha256"))
    assert refused(whole, "believed")


def test_after_a_damaged_header_the_command_goes_on_from_the_one_before(whole: Path) -> None:
    same = 0
    for n, damaged in zip(range(RESUMED), headers(whole, "resumed"), strict=False):
        told = whole / f"resumed-{n}.txt"
        assert zygote.start("train", config(whole, "resumed"), told=told).wait() == 0, told.read_text()
        assert "step-00000020.safetensors is damaged" in told.read_text()
        assert "going on after step 18 of 20" in told.read_text()
        same += same_end(whole, damaged.name)
    record("command after a damaged header", f"{same}/{RESUMED} bit-identical", "all")
    assert same == RESUMED
