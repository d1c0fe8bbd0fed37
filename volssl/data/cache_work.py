"""Making items for the cache, here or in processes of which one may crash without taking the others along."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from volssl.data.cache_file import store, whole
from volssl.data.fingerprint import Stamp, fingerprint, stamp
from volssl.data.recipe import Entry, Recipe
from volssl.errors import DataError

SECONDS_PER_ITEM = 900.0  # a reader that takes longer hangs
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


def _run(task: Task) -> Outcome:
    """Fingerprint the files and make the item unless it is done; beyond the ceiling only mark it readable."""
    try:
        before = stamp(task.entry.files)
        content = task.content or fingerprint(task.entry.files)
        path = task.recipe.path(task.entry, content)
        if not done(path, keep=task.keep):
            image, spacing = task.recipe.make(task.entry)
            if stamp(task.entry.files).digest != before.digest:
                raise DataError("changed", "changed while it was read: run again", task.entry.id)
            if task.keep:
                store(path, image, spacing)
            else:
                path.with_suffix(SEEN).touch()
    except DataError as error:
        return error
    return Made(before, content)


def done(path: Path, *, keep: bool) -> bool:
    """Whether the item is in the cache or, where it is not to be kept, known to be readable."""
    return whole(path) or (not keep and path.with_suffix(SEEN).exists())


def run(tasks: Mapping[int, Task], workers: int) -> Iterator[tuple[int, Outcome]]:
    """Do all of them, in any order; 0 workers do it in this process. The outcomes are the same."""
    if workers and tasks:
        yield from _in_processes(tasks, workers)
        return
    for i, task in tasks.items():
        yield i, _run(task)


def _in_processes(tasks: Mapping[int, Task], workers: int) -> Iterator[tuple[int, Outcome]]:
    """The processes come from a server that has loaded MONAI once, not from a fork of this one's threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPool(max_workers=min(workers, len(tasks)), context=context)
    try:
        futures = {pool.schedule(_run, args=[task], timeout=SECONDS_PER_ITEM): i for i, task in tasks.items()}
        for future in as_completed(futures):
            i = futures[future]
            yield i, _outcome(future.exception() or future.result(), tasks[i].entry.id)
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _outcome(result: object, where: str) -> Outcome:
    if isinstance(result, Made | DataError):
        return result
    if isinstance(result, TimeoutError):
        return DataError("timeout", f"took more than {SECONDS_PER_ITEM:g} s to read", where)
    if isinstance(result, ProcessExpired):
        return DataError("crashed", "the process that read it crashed: the file is damaged or hostile", where)
    raise result if isinstance(result, BaseException) else TypeError(type(result))
