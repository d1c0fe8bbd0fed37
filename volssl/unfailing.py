"""What is said ends no command: a disk that is full or a reader that has gone swallows it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Unfailing(io.FileIO):
    """A channel that takes everything. What cannot be written is lost, and nothing is kept to fail later."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


@contextmanager
def unfailing() -> Iterator[None]:
    """Let no write to stdout or stderr fail, at the end of the interpreter neither."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_over, before)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


def _over(stream: TextIO) -> TextIO:
    """The same channel, or the stream itself where it is none of the system's."""
    try:
        raw = _Unfailing(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError, AttributeError):  # replaced by a test or a notebook, or closed from the start
        return stream
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True)
