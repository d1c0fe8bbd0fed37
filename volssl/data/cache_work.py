"""Work on files, such as making items for the cache, here or in processes of which one may crash alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from volssl.data.cache_file import store, whole
from volssl.data.crew import TRIES, Next, R, Work, shared
from volssl.data.fingerprint import Stamp, fingerprint
from volssl.data.items import PASSING, SECONDS_PER_ITEM
from volssl.data.recipe import Entry, Recipe
from volssl.errors import DataError

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


def run(
    tasks: Mapping[int, Work[R]], workers: int, timeout: float = SECONDS_PER_ITEM
) -> Iterator[tuple[int, R | DataError]]:
    """Do all of them, in any order; 0 workers do it in this process. The outcomes are the same."""
    left = iter(tasks.items())
    yield from run_as_they_come(lambda: next(left, None), min(workers, len(tasks)), timeout)


def run_as_they_come(
    following: Next[R], workers: int, timeout: float = SECONDS_PER_ITEM
) -> Iterator[tuple[int, R | DataError]]:
    """As ``run``, of tasks of which only a few wait at a time, and to which an outcome may add others.

    What crashes or hangs a process is tried again in another before it is left out.

    Args:
        following: the next number and task; None where there is none now, until an outcome has been dealt with.
        timeout: seconds that a process may take for a task.
    """
    if workers:
        yield from shared(following, workers, timeout, __name__)
        return
    while (task := following()) is not None:
        yield task[0], _here(task[1])


def _here(task: Work[R]) -> R | DataError:
    """Codecs have processes of their own, which may be lost through no fault of the file, too."""
    for _ in range(TRIES):
        outcome = task()
        if not isinstance(outcome, DataError) or outcome.code not in PASSING:
            return outcome
        lost = DataError(outcome.code, outcome.message, task.id)
    return lost
