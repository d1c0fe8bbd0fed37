"""Work on files, such as making items for the cache, here or in processes of which one may crash alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool

from volssl.data.cache_file import store, whole
from volssl.data.child import disposable
from volssl.data.fingerprint import Stamp, fingerprint
from volssl.data.processes import server
from volssl.data.recipe import Entry, Recipe
from volssl.errors import DataError
from volssl.silence import quieten_codecs

SECONDS_PER_ITEM = 900.0  # a reader that takes longer hangs
WAITING = 8  # tasks of a process that are handed over before it asks for them
SEEN = ".seen"


@dataclass(frozen=True)
class Made:
    """An item that can be read. content: the SHA-256 of its files, which were in the state ``stamp``."""

    stamp: Stamp
    content: str


Outcome = Made | DataError


@dataclass(frozen=True)
class Task:
    """An item to make. content: its files' fingerprint where known; keep: cache it, or only try to make it."""

    entry: Entry
    recipe: Recipe
    content: str | None
    keep: bool

    @property
    def id(self) -> str:
        """What messages call it."""
        return self.entry.id

    def __call__(self) -> Outcome:
        """Fingerprint the files and make the item unless it is done; beyond the ceiling only mark it readable."""
        try:
            before, content = self.entry.state(), self.content
            if not content:
                content = fingerprint(self.entry.files)
                self.entry.check(content)
            path = self.recipe.path(self.entry, content)
            if not done(path, keep=self.keep):
                image, spacing = self.recipe.make(self.entry)
                if self.entry.state().digest != before.digest:
                    raise DataError("changed", "changed while it was read: run again", self.id)
                if self.keep:
                    store(path, image, spacing)
                else:
                    path.with_suffix(SEEN).touch()
        except DataError as error:
            return error
        return Made(before, content)


def done(path: Path, *, keep: bool) -> bool:
    """Whether the item is in the cache or, where it is not to be kept, known to be readable."""
    return whole(path) or (not keep and path.with_suffix(SEEN).exists())


R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Work(Protocol[R_co]):
    """Something to do on one item, which pickles."""

    @property
    def id(self) -> str: ...

    def __call__(self) -> R_co | DataError: ...


Next = Callable[[], "tuple[int, Work[R]] | None"]


def run(tasks: Mapping[int, Work[R]], workers: int) -> Iterator[tuple[int, R | DataError]]:
    """Do all of them, in any order; 0 workers do it in this process. The outcomes are the same."""
    left = iter(tasks.items())
    yield from run_as_they_come(lambda: next(left, None), min(workers, len(tasks)))


def run_as_they_come(following: Next[R], workers: int) -> Iterator[tuple[int, R | DataError]]:
    """As ``run``, of tasks of which only a few wait at a time, and to which an outcome may add others.

    Args:
        following: the next number and task; None where there is none now, until an outcome has been dealt with.
    """
    if workers:
        yield from _in_processes(following, workers)
        return
    while (task := following()) is not None:
        yield task[0], task[1]()


def _do(task: Work[R]) -> R | DataError:
    with disposable():
        return task()


def _in_processes(following: Next[R], workers: int) -> Iterator[tuple[int, R | DataError]]:
    """The processes come from a server that has loaded MONAI once."""
    pool = ProcessPool(max_workers=workers, context=server([__name__]), initializer=quieten_codecs)
    futures: dict[Future[R | DataError], tuple[int, str]] = {}
    try:
        while True:
            while len(futures) < WAITING * workers and (task := following()) is not None:
                futures[pool.schedule(_do, args=[task[1]], timeout=SECONDS_PER_ITEM)] = (task[0], task[1].id)
            if not futures:
                break
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                i, name = futures.pop(future)
                failure = future.exception()
                yield i, future.result() if failure is None else _told(failure, name)
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _told(failure: BaseException, where: str) -> DataError:
    if isinstance(failure, TimeoutError):
        return DataError("timeout", f"took more than {SECONDS_PER_ITEM:g} s to read", where)
    if isinstance(failure, ProcessExpired):
        return DataError("crashed", "the process that read it crashed: the file is damaged or hostile", where)
    raise failure
