"""A damaged checkpoint is never loaded: flipped bits, cut ends, empty tails, files under another name."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.toy import CrashError, crash_at, identical, run
from tests.gates.record import record
from volssl.engine import checkpoint
from volssl.engine.checkpoint import list_checkpoints, read
from volssl.errors import RunError

FLIPS, CUTS = 1000, 200  # a few seconds, so never trimmed


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
