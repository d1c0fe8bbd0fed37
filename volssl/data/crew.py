"""Work shared among processes, each at one task at a time: so it is known which one killed or hung its process."""

from __future__ import annotations

import os
import signal
import socket
import struct
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, Protocol, TypeVar

from volssl.data.child import disposable
from volssl.data.processes import NO_MEMORY, PATIENCE, Attached
from volssl.errors import DataError, RunError, UserError
from volssl.silence import quieten_codecs

TRIES = 2  # the first time may be anybody's fault, as where the kernel is short of memory
WAITING = 8  # tasks of a process that are made ready before it asks for them

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Work(Protocol[R_co]):
    """Something to do on one item, which pickles."""

    @property
    def id(self) -> str: ...

    def __call__(self) -> R_co | DataError: ...


Next = Callable[[], "tuple[int, Work[R]] | None"]


def shared(following: Next[R], workers: int, timeout: float, preload: str) -> Iterator[tuple[int, R | DataError]]:
    """The outcomes of tasks, as they come; that of one at which processes were lost ``TRIES`` times is a DataError.

    Args:
        following: as in ``cache_work.run_as_they_come``. timeout: seconds for one task. preload: a module that the
            processes have loaded.

    Raises:
        RunError: no process lives long enough to begin.
    """
    tasks: SimpleQueue[tuple[int, Work[R]] | None] = SimpleQueue()
    done: SimpleQueue[tuple[int, R | Exception]] = SimpleQueue()
    hands: list[_Hand[R]] = []
    out = 0
    try:
        for _ in range(workers):
            hands.append(_Hand(tasks, done, timeout, preload))
        while True:
            while out < WAITING * workers and (task := following()) is not None:
                tasks.put(task)
                out += 1
            if not out:
                return
            number, outcome = done.get()
            out -= 1
            if isinstance(outcome, Exception) and not isinstance(outcome, DataError):
                raise outcome
            yield number, outcome
    finally:
        for hand in hands:
            hand.end()
        for hand in hands:
            hand.join(5)


class _Hand(Thread, Generic[R]):
    """Hands tasks to a process of its own, and to a new one when that is lost."""

    def __init__(
        self,
        tasks: SimpleQueue[tuple[int, Work[R]] | None],
        done: SimpleQueue[tuple[int, R | Exception]],
        timeout: float,
        preload: str,
    ) -> None:
        super().__init__(daemon=True)
        self._tasks, self._done, self._timeout, self._preload = tasks, done, timeout, preload
        self._lock, self._over = Lock(), False
        self._process = self._new()
        self.start()

    def run(self) -> None:
        """Until there is no more, or ``end`` is called."""
        while (task := self._tasks.get()) is not None and not self._over:
            number, work = task
            try:
                outcome: R | Exception = self._outcome(work)
            except Exception as fault:  # which the caller's thread is to raise
                outcome = fault
            self._done.put((number, outcome))

    def end(self) -> None:
        """Whatever it is at."""
        with self._lock:
            self._over = True
            self._process.end()
        self._tasks.put(None)

    def _outcome(self, work: Work[R]) -> R | DataError:
        lost = Counter[bool]()  # by whether it had begun
        while True:
            begun = False
            try:
                self._process.pipe.send(work)
                begun = self._process.pipe.recv()
                outcome: R | DataError = self._process.pipe.recv()
                return outcome
            except BlockingIOError:
                code, why = "timeout", f"was silent for {self._timeout:g} s (loop.timeout in a run)"
            except (EOFError, OSError):
                code, why = "crashed", self._process.death()
            self._replace()
            lost[begun] += 1
            if lost[True] == TRIES:
                return DataError(code, f"the process that read it {why}, {TRIES} times: leave it out", work.id)
            if lost[False] == PATIENCE:
                what = f"{PATIENCE} processes in a row ended before they read an item; the last {why}"
                raise RunError(f"{what}: if memory is short, use fewer workers")

    def _replace(self) -> None:
        with self._lock:
            self._process.end()
            if not self._over:
                self._process = self._new()

    def _new(self) -> Attached:
        process = Attached([self._preload], _serve)
        _limit(process.pipe, self._timeout)
        return process


def _limit(pipe: Connection, seconds: float) -> None:
    """From now on waiting for the other end, at any place in a message, ends in a BlockingIOError."""
    limit = struct.pack("ll", min(int(seconds), 2**31), max(int(seconds % 1 * 1e6), 1))
    with socket.socket(fileno=os.dup(pipe.fileno())) as end:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, limit)


def _serve(pipe: Connection) -> None:
    """The life of a process. Signals to the whole process group are for the parent, whose end it sees."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    quieten_codecs()
    with suppress(EOFError, OSError):  # nobody listens any more
        while True:
            work = pipe.recv()
            pipe.send(True)  # from here on, what happens may be the item's fault
            pipe.send(_do(work))


def _do(work: Work[R]) -> R | Exception:
    with disposable():  # this process may die itself
        try:
            return work()
        except UserError as error:  # a full disk is nobody's item
            return error
        except MemoryError:
            os._exit(NO_MEMORY)
        except BaseException:
            return RuntimeError(f"in a process that reads:\n{traceback.format_exc()}")
