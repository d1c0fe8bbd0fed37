"""A loader process: it makes the items that it is asked for and says which one it is at, so that one may be blamed."""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import signal
import threading
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

import torch
from torch import Tensor

from volssl.data.processes import NO_MEMORY, Attached
from volssl.errors import UserError
from volssl.silence import quieten
from volssl.types import Item, Source

Label = tuple[int, int]  # which set of labels, which class


@dataclass(frozen=True)
class Piece:
    """Some items of a step: images (B, C, *region) and their labels."""

    images: Tensor
    labels: list[Label]


class LostError(Exception):
    """A loader process died or hung. item: the one that it was at, if it had come that far; why: in words."""

    def __init__(self, item: int | None, why: str) -> None:
        super().__init__(item, why)
        self.item, self.why = item, why


def make(source: Source, indices: Iterable[int]) -> Piece | UserError:
    """The items, or why one cannot be made."""
    try:
        items = [source[i] for i in indices]
    except UserError as error:
        return error
    return Piece(torch.stack([item.image for item in items]), _labels(items))


class Worker:
    """One process that answers requests in their order. What it makes lies in memory of its own, not in /dev/shm.

    Args:
        timeout: seconds without a sign of life, at one item, after which it counts as hung.
    """

    def __init__(self, source: Source, timeout: float) -> None:
        self._source, self._timeout = source, timeout
        self._start()

    def _start(self) -> None:
        self._process = Attached([__name__, type(self._source).__module__], _serve, self._source)
        self._pipe = self._process.pipe
        self._at: int | None = None

    def restart(self) -> None:
        """A new process; what was asked of the old one is forgotten."""
        self.close()
        self._start()

    def ask(self, indices: Sequence[int]) -> None:
        """Request a piece. A process that is dead by now is noticed when the answer is wanted."""
        with contextlib.suppress(OSError):
            self._pipe.send(list(indices))

    def answer(self) -> Piece | UserError:
        """What was asked first.

        Raises:
            LostError: the process died or hangs.
        """
        while True:
            try:
                if not self._pipe.poll(self._timeout):
                    raise LostError(self._at, f"was silent for {self._timeout:g} s")
                told = self._pipe.recv()
                if isinstance(told, int):
                    self._at = told
                    continue
                answer = _receive(self._pipe, told) if isinstance(told, _Made) else told
            except (EOFError, OSError):
                raise LostError(self._at, self._process.death()) from None
            self._at = None
            if isinstance(answer, _Fault):
                raise RuntimeError(f"in a loader process:\n{answer.trace}")
            return answer

    def close(self) -> None:
        """End the process at once."""
        self._process.end()


@dataclass(frozen=True)
class _Made:
    """What is known of a piece before its memory arrives."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    labels: list[Label]


@dataclass(frozen=True)
class _Fault:
    """An exception that is a fault of the program."""

    trace: str


def _serve(source: Source, pipe: Connection) -> None:
    """The life of the process. Signals to the whole process group are for the parent, whose end it sees."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    quieten()
    torch.set_num_threads(1)
    requests: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, requests), daemon=True).start()
    while True:
        try:
            _answer(source, requests.get(), pipe)
        except MemoryError:
            os._exit(NO_MEMORY)
        except (BrokenPipeError, ConnectionResetError):  # nobody listens any more
            os._exit(0)


def _listen(pipe: Connection, requests: queue.SimpleQueue[list[int]]) -> None:
    try:
        while True:
            requests.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def _answer(source: Source, indices: list[int], pipe: Connection) -> None:
    items: list[Item] = []
    try:
        for i in indices:
            pipe.send(i)
            items.append(source[i])
        _send(pipe, items)
    except UserError as error:
        pipe.send(error)
    except (MemoryError, BrokenPipeError, ConnectionResetError):
        raise
    except BaseException:  # native codecs raise outside Exception, whose words multiprocessing would print
        pipe.send(_Fault(traceback.format_exc()))


def _send(pipe: Connection, items: list[Item]) -> None:
    """In anonymous memory whose descriptor goes through the pipe: it needs no name, no /dev/shm and no cleaning up."""
    first = items[0].image
    shape = (len(items), *first.shape)
    descriptor = os.memfd_create("volssl")
    try:
        os.ftruncate(descriptor, len(items) * first.nbytes)
        torch.stack([item.image for item in items], out=_mapped(descriptor, shape, first.dtype))
        pipe.send(_Made(shape, first.dtype, _labels(items)))
        send_handle(pipe, descriptor, os.getppid())
    finally:
        os.close(descriptor)


def _receive(pipe: Connection, made: _Made) -> Piece:
    try:
        descriptor = recv_handle(pipe)
    except RuntimeError as problem:  # it died between the message and its memory
        raise EOFError from problem
    try:
        return Piece(_mapped(descriptor, made.shape, made.dtype), made.labels)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The memory behind a descriptor as a tensor, which keeps it alive."""
    size = os.fstat(descriptor).st_size
    return torch.frombuffer(mmap.mmap(descriptor, size), dtype=dtype).view(shape)


def _labels(items: Iterable[Item]) -> list[Label]:
    return [(item.part, item.label) for item in items]
