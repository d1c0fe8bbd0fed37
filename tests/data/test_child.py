"""The process that decodes: the same numbers as here, and whatever becomes of it is one file's reason."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from volssl.data import child, decoder
from volssl.data.child import decode, disposable
from volssl.data.codestream import size
from volssl.data.picture import read_picture
from volssl.errors import DataError, RunError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)
    return path


@pytest.fixture
def one(picture: Path) -> Iterator[child._Child]:
    """The only process there is, idle."""
    child._end()
    read_picture(picture)
    (idle,) = child._idle
    yield idle
    child._end()


def test_one_process_reads_one_file_after_another(one: child._Child, picture: Path, tmp_path: Path) -> None:
    """A refused file costs no process; a file is called as it was named."""
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b.png: image: UnidentifiedImageError"):
        read_picture(tmp_path / "b.png")
    name = Path(os.path.relpath(tmp_path / "b.png"))
    with pytest.raises(DataError) as caught:
        read_picture(name)
    assert caught.value.where == str(name)
    assert read_picture(picture).tolist() == np.arange(12).reshape(3, 4).tolist()
    assert child._idle == [one]


def test_a_codec_that_crashes_costs_its_file_alone(one: child._Child, picture: Path) -> None:
    os.kill(one._process.pid, signal.SIGSTOP)  # so that it dies of the request
    reading = decode("picture", picture)
    waiting = one._message

    def killed(where: str, seconds: float) -> dict[str, object]:
        if one.alive:
            os.kill(one._process.pid, signal.SIGSEGV)
            os.kill(one._process.pid, signal.SIGCONT)
        return waiting(where, seconds)

    one._message = killed  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"a.png: crashed: the codec died of SIGSEGV"):
        next(reading)
    assert len(read_picture(picture)) == 3


def test_a_codec_that_hangs_is_ended(one: child._Child, picture: Path) -> None:
    os.kill(one._process.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"a.png: timeout"):
        next(decode("picture", picture, seconds=0.5))
    assert time.monotonic() - start < 5
    assert not one.alive
    assert len(read_picture(picture)) == 3


def test_a_process_that_died_while_idle_is_replaced(one: child._Child, picture: Path) -> None:
    one._process.kill()
    one._process.wait()
    assert len(read_picture(picture)) == 3
    assert one not in child._idle


def test_it_ignores_what_is_meant_for_the_run(one: child._Child, picture: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(one._process.pid, number)
    assert len(read_picture(picture)) == 3
    assert child._idle == [one]


def test_an_array_larger_than_it_may_be_is_not_taken(one: child._Child, picture: Path) -> None:
    with pytest.raises(DataError, match="too_large: decodes to float32"):
        next(decode("picture", picture, largest=11))
    assert one not in child._idle


def test_it_ends_with_the_process_that_asks(picture: Path) -> None:
    """Killed as hard as can be, a parent leaves nobody behind."""
    ends, said = os.pipe()
    parent = os.fork()
    if not parent:
        child._forget()
        read_picture(picture)
        os.write(said, f"{child._idle[0]._process.pid}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    pid = int(os.read(ends, 20))
    os.close(ends)
    os.close(said)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    raise AssertionError("it lives on")


def test_where_a_process_may_die_anyway_it_decodes_itself(picture: Path) -> None:
    child._end()
    with disposable():
        assert read_picture(picture).shape == (3, 4)
    assert not child._idle


def test_decoding_has_a_limit_of_memory() -> None:
    with pytest.raises(MemoryError), decoder.limited(2**26):
        np.ones(2**28, np.uint8)
    assert np.ones(2**28, np.uint8)[-1] == 1


@pytest.mark.parametrize("format", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_size_in_a_stream_is_found(format: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    Image.new(mode, (37, 21)).save(path, format=format)
    assert size(path.read_bytes()) == (21, 37, len(mode))


@pytest.mark.parametrize("stream", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda" + bytes(20), b"\xff\xd8" + bytes(30)])
def test_a_stream_without_a_size_says_nothing(stream: bytes) -> None:
    assert size(stream) is None
    assert size(b"\xff\x4f\xff\x51" + bytes(5)) is None


def test_a_process_that_does_not_start_is_no_fault_of_the_file(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child._end()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunError, match="does not start"):
        next(decode("picture", picture))
