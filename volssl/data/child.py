"""Native codecs at arm's length: a process that decodes one file after another, and is replaced when it dies of one."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import numpy as np

from volssl.data.decoder import LENGTH, packed, run
from volssl.data.preflight import MAX_VOXELS
from volssl.errors import DataError, RunError

SECONDS = 60.0  # for one array
SECONDS_PER_FILE = 900.0  # where a whole video is decoded for one answer
_START = 120.0  # seconds until a new process answers, on a machine that is busy
_COMMAND = "python -m volssl.data.decoder"
_KEPT = 2  # idle processes
_DRAIN = 0.5  # seconds to wait for the end of an answer of which no more is wanted


def decode(
    job: str, path: Path, *arguments: Any, seconds: float = SECONDS, largest: int = 8 * MAX_VOXELS
) -> Iterator[np.ndarray]:
    """The arrays of a job of ``decoder.JOBS``, one by one, made by another process.

    Args:
        path: the job's first argument. arguments: more of them, as JSON holds them. seconds: for one array at most.
        largest: bytes of an array that are taken.

    Raises:
        DataError: as the job; ``crashed``, ``timeout`` or ``memory``: whatever becomes of the other process.
        RunError: it does not even start.
    """
    if _here:
        yield from run(job, str(path), *arguments)
        return
    child = _taken()
    try:
        yield from child.ask(job, str(path), arguments, seconds, largest)
    finally:
        _give_back(child)


@contextmanager
def disposable() -> Iterator[None]:
    """Decode in this process, which may itself die without harm to any other."""
    global _here
    before, _here = _here, True
    try:
        yield
    finally:
        _here = before


_here = False
_idle: list[_Child] = []


def _taken() -> _Child:
    while _idle:
        if (child := _idle.pop()).alive:
            return child
        child.end()
    return _Child()


def _give_back(child: _Child) -> None:
    if (child.rests or child.drained()) and len(_idle) < _KEPT:
        _idle.append(child)
    else:
        child.end()


def _end() -> None:
    while _idle:
        _idle.pop().end()


def _forget() -> None:
    """After a fork they are the parent's."""
    while _idle:
        _idle.pop().forget()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)


class _Child:
    """A process that decodes. rests: it has said all that was asked."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = Popen(
            [sys.executable, "-P", "-m", "volssl.data.decoder"],
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self.rests = True
        try:
            self._message("", _START)
        except DataError as error:
            self.end()
            raise RunError(f"the process that decodes does not start ({error.message}): see {_COMMAND}") from None

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(
        self, job: str, where: str, arguments: tuple[Any, ...], seconds: float, largest: int
    ) -> Iterator[np.ndarray]:
        self.rests = False
        path = os.path.abspath(where)  # the other process stands in the folder where it was started
        with suppress(BrokenPipeError):  # its end is noticed next
            self._requests.write(packed({"job": job, "arguments": [path, *arguments]}))
        while "end" not in (answer := self._message(where, seconds)):
            if "error" in answer:
                self.rests = True
                code, message, told = answer["error"]
                raise DataError(code, message, where if told == path else told)
            shape, dtype = tuple(answer["shape"]), np.dtype(answer["dtype"])
            if dtype.kind not in "biuf" or dtype.itemsize * np.prod(shape, dtype=object) > largest:
                raise DataError("too_large", f"decodes to {dtype} {shape}: leave it out", where)
            array = np.empty(shape, dtype)
            self._fill(array.data.cast("B"), where, time.monotonic() + seconds)
            yield array
        self.rests = True

    def drained(self) -> bool:
        """Whether there was nothing left to say but that this is the end."""
        with suppress(DataError, ValueError):
            self.rests = "end" in self._message("", _DRAIN)
        return self.rests

    def end(self) -> None:
        self._process.kill()
        self.forget()
        self._process.wait()

    def forget(self) -> None:
        """Close the pipes, whoever's child it is."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()
        self._process.returncode = self._process.returncode or 0

    def _message(self, where: str, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        length = memoryview(bytearray(LENGTH.size))
        self._fill(length, where, until)
        text = memoryview(bytearray(*LENGTH.unpack(length)))
        self._fill(text, where, until)
        message: dict[str, Any] = json.loads(bytes(text))
        return message

    def _fill(self, buffer: memoryview, where: str, until: float) -> None:
        filled = 0
        while filled < len(buffer):
            if not self._poll.poll(max(until - time.monotonic(), 0) * 1000):
                self._process.kill()
                raise DataError("timeout", "takes too long to decode: leave it out", where)
            count = os.readv(self._answers, [buffer[filled:]])
            if not count:
                raise DataError("crashed", f"the codec {self._death()}: the file is damaged or hostile", where)
            filled += count

    def _death(self) -> str:
        code = self._process.wait()
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
