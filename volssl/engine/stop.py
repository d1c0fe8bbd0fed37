"""Signals that ask a run to stop: they set a flag, and the loop ends between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

from volssl.engine.distributed import Group

T = TypeVar("T")
SHOW_CURSOR = b"\x1b[?25h\n"  # a bar hides it
CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}


class Stop:
    """While the context is open, SIGTERM, SIGUSR1 and Ctrl-C only set ``code``, the exit code to end with.

    A second Ctrl-C ends the process at once, which costs the steps since the last checkpoint.
    Outside the main thread, where Python allows no handlers, signals keep their meaning.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._extra = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, group: Group) -> bool:
        """Whether any rank is asked to stop; if so, every rank has a ``code``."""
        if group.any(self.code is not None):
            self.code = self.code or CODES[signal.SIGTERM]
            return True
        return False

    def _request(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the signature of a handler)
        if self.code is not None and number == signal.SIGINT:
            _end(CODES[signal.SIGINT])
        self.code = self.code or CODES[signal.Signals(number)]
        if self._extra:
            self._extra = False
            raise SystemExit(self.code)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """What stands inside, which the run can do without, is left at once when a signal comes."""
        try:
            self._extra = True
            try:
                yield
            finally:
                self._extra = False
        except SystemExit:
            if self.code is None:
                raise


def _end(code: int) -> None:
    """At once: an exception would have to come through whatever is being done, and some of that cannot be left so."""
    if os.isatty(1):
        with contextlib.suppress(OSError):
            os.write(1, SHOW_CURSOR)
    os._exit(code)


def until_stopped(items: Iterable[T], stop: Stop, group: Group) -> Iterator[T]:
    """The items, until any rank is asked to stop.

    A signal that goes to the whole process group ends loader workers too; what they then raise is no error.
    """
    source = iter(items)
    while True:
        try:
            item = next(source)
        except StopIteration:
            return
        except Exception:
            if stop.code is None:
                raise
            stop.agreed(group)
            return
        if stop.agreed(group):
            return
        yield item
