"""Filling the cache: what is there is left, what changed is made anew, what cannot be read is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from volssl.data.cache import Cached, CachedSource
from volssl.data.cache_file import Spacing, make_folder, make_room, touch
from volssl.data.cache_work import Made, Outcome, Task, done, run
from volssl.data.fingerprint import Memory
from volssl.data.items import HERE, Items, Readers, Report, Size
from volssl.data.recipe import Entry, Read, Recipe
from volssl.errors import DataError

LISTED = 10  # unreadable items that the error names
ROOM_EVERY = 100  # items made between two looks at the ceiling


def build_cache(
    entries: Sequence[Entry],
    read: Read,
    config: Items,
    region: Size,
    *,
    readers: Readers = HERE,
    report: Report | None = None,
    bad: Sequence[DataError] = (),
) -> CachedSource:
    """Make what is not cached yet, and leave out what cannot be read. Interrupted, it keeps what is done.

    Args:
        readers: who shares the work, and what they are not to try.
        report: told how far it is, and of every item that cannot be read.
        bad: what could not even be found; counts against ``max_bad``.

    Raises:
        DataError: nothing to read, or more than ``max_bad`` of the items are unreadable.
        RunError: the cache folder cannot be written.
    """
    recipe = Recipe(read, config, region)
    entries = sorted(entries, key=lambda entry: entry.id)
    folder = make_folder(config.cache)
    outcomes = _make_all(entries, recipe, folder, readers, report or _silent)
    good = [(e, made) for e, made in zip(entries, outcomes, strict=True) if isinstance(made, Made)]
    left_out = [*bad, *(outcome for outcome in outcomes if isinstance(outcome, DataError))]
    check_share(left_out, len(good), config.max_bad, config.root)
    items = [_cached(entry, made, recipe) for entry, made in good]
    remake = Remake(tuple(good), recipe)
    return CachedSource(items, remake, channels=config.channels, region=region, bad=left_out)


def _cached(entry: Entry, made: Made, recipe: Recipe) -> Cached:
    dicom = tuple(part.files[0] for part in entry.parts if part.kind in ("dicom", "video"))
    return Cached(entry.id, entry.label, made.content, recipe.path(entry, made.content), entry.patient, dicom)


def _silent(done: int, total: int, line: str) -> None:
    del done, total, line


def _make_all(
    entries: Sequence[Entry], recipe: Recipe, folder: Path, readers: Readers, report: Report
) -> list[Outcome]:
    memory = Memory(folder / "fingerprints.txt")
    ceiling = int(recipe.config.cache_gb * 1e9)
    outcomes: dict[int, Outcome] = {}
    tasks: dict[int, Task] = {}
    for i, entry in enumerate(entries):
        known = readers.refused(entry.id) or _look(
            entry, recipe, memory, keep=(i + 1) * recipe.bytes_per_item <= ceiling
        )
        if isinstance(known, Task):
            tasks[i] = known
        else:
            outcomes[i] = known
    used = {recipe.path(entries[i], o.content) for i, o in outcomes.items() if isinstance(o, Made)}
    touch(used)
    report(len(outcomes), len(entries), "")
    for i, outcome in run(tasks, readers.workers, readers.timeout):
        outcomes[i] = outcome
        if isinstance(outcome, Made):
            if not entries[i].content:
                memory.remember(outcome.stamp, outcome.content)
            used.add(recipe.path(entries[i], outcome.content))
        if len(outcomes) % ROOM_EVERY == 0:
            make_room(folder, used, ceiling)
        report(len(outcomes), len(entries), str(outcome) if isinstance(outcome, DataError) else "")
    make_room(folder, used, ceiling)
    return [outcomes[i] for i in range(len(entries))]


def _look(entry: Entry, recipe: Recipe, memory: Memory, *, keep: bool) -> Outcome | Task:
    """Without reading the entry's files: is it done, not there, or yet to do?"""
    try:
        state = entry.state()
    except DataError as error:
        return error
    content = entry.content or memory.recall(state)
    if content and done(recipe.path(entry, content), keep=keep):
        return Made(state, content)
    return Task(entry, recipe, content, keep)


def check_share(bad: Sequence[DataError], good: int, max_bad: float, root: str) -> None:
    """Nothing where few enough items are left out.

    Raises:
        DataError: ``empty`` where there are none, ``max_bad`` where too many are left out; it lists them.
    """
    total = len(bad) + good
    if total == 0:
        raise DataError("empty", "nothing here that data can read: look at data.root and data.name", root)
    if good and len(bad) <= max_bad * total:
        return
    lines = [f"  {error.told}" for error in bad[:LISTED]]
    lines += [f"  and {len(bad) - LISTED} more"] * (len(bad) > LISTED)
    remedy = "mend or remove them" + (", or raise data.max_bad to leave them out" if good else "")
    head = f"{len(bad)} of {total} items cannot be read (data.max_bad is {max_bad:g}): {remedy}"
    raise DataError("max_bad", "\n".join([head, *lines]), root)


@dataclass(frozen=True)
class Remake:
    """Makes the i-th item of a source again, from files that must be what they were."""

    made: tuple[tuple[Entry, Made], ...]
    recipe: Recipe

    def __call__(self, i: int) -> tuple[Tensor, Spacing]:
        """As ``Recipe.make``.

        Raises:
            DataError: the files are other ones, or cannot be read any more.
        """
        entry, made = self.made[i]
        if entry.state().digest != made.stamp.digest:
            raise DataError("changed", "its files changed while the run used them: start it again", entry.id)
        return self.recipe.make(entry)
