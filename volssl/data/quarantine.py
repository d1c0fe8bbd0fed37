"""Items that kill or hang the process that reads them, left out of a run so that it may go on and go on exactly."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from volssl.errors import RunError
from volssl.names import keyed, shown_id
from volssl.regular import LARGE, open_own, read_regular

if TYPE_CHECKING:
    from volssl.data.items import NamedSource

STRIKES = 2  # in a row: the first may be anybody's fault
NAMED = 8  # items that a message names
NAME = "quarantine"


class Quarantine:
    """Which items are left out, from which position of the stream of samples on.

    What stands at a position is a function of the seed and of this list (``Stream``), so a run that is given the list
    draws what the run drew that made it. Every rank writes a file of its own and reads those of all at its start.

    Args:
        folder: where the list is kept; None keeps none. max_bad: the share of the items over which the run stops.

    Raises:
        RunError: as ``strike``, of a list that is there already.
    """

    def __init__(self, source: NamedSource, *, max_bad: float = 1.0, folder: Path | None = None, rank: int = 0) -> None:
        self._source, self._max_bad = source, max_bad
        self._file = folder / (f"{NAME}-{rank}.jsonl" if rank else f"{NAME}.jsonl") if folder else None
        self._strikes: Counter[int] = Counter()
        self.since: dict[int, int] = {}
        for path in sorted(folder.glob(f"{NAME}*.jsonl")) if folder else ():
            for item, position in _read(path, source.ids):
                self._leave_out(item, position)
        if self.since:
            self._require_enough()

    def __len__(self) -> int:
        return len(self.since)

    def told(self) -> list[str]:
        """A line for a person where there is a list."""
        return [f"{len(self)} items are left out, as they killed or hung loader processes"] if self.since else []

    def clear(self, items: Iterable[int]) -> None:
        """These could be read: what went before was not their fault."""
        for item in items if self._strikes else ():
            self._strikes.pop(item, None)

    def strike(self, item: int, position: int, why: str) -> str:
        """A process was lost at an item that stands at ``position``; returns what a person should know.

        Raises:
            RunError: more than ``max_bad`` of the items are left out now, or all that are drawn in one place.
        """
        self._strikes[item] += 1
        name = shown_id(self._source.ids[item])
        if self._strikes[item] < STRIKES:
            return f"{name}: the loader process {why} while it read this item: once more"
        self._strikes.pop(item)
        self._leave_out(item, position)
        written = self._write({"id": keyed(self._source.ids[item]), "item": item, "from": position, "why": why})
        self._require_enough()
        count = f"{len(self)} of {len(self._source)} items"
        return f"{name}: left out, as the loader process {why} while it read it, {STRIKES} times: {count}{written}"

    def _leave_out(self, item: int, position: int) -> None:
        self.since[item] = min(position, self.since.get(item, position))

    def _require_enough(self) -> None:
        ends = list(accumulate(self._source.parts, initial=0))
        empty = any(all(item in self.since for item in range(a, b)) for a, b in pairwise(ends) if b > a)
        if len(self) <= self._max_bad * len(self._source) and not empty:
            return
        names = [shown_id(self._source.ids[item]) for item in self.since]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise RunError(
            f"{len(names)} of {len(self._source)} items kill or hang the process that reads them (data.max_bad is "
            f"{self._max_bad:g}): mend or remove {', '.join(names[:NAMED])}{more}, or raise data.max_bad"
        )

    def _write(self, entry: Mapping[str, str | int]) -> str:
        """Append a line and bring it to the disk: no checkpoint may know of an item what the list does not."""
        if self._file is None:
            return ""
        try:
            with os.fdopen(open_own(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(entry)}\n")  # a line that a kill cut short must not swallow this one
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            return f" ({self._file}: not written: {problem.strerror})"
        return f" ({self._file})"


def _read(path: Path, ids: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(item, position) of every line that is whole and speaks of these items."""
    try:
        text = read_regular(path, LARGE).decode("utf-8", errors="replace")
    except OSError as problem:
        raise RunError(f"{path}: cannot be read: {problem.strerror}: mend it or move it away") from None
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            item, position, name = int(entry["item"]), int(entry["from"]), entry["id"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        if 0 <= item < len(ids) and keyed(ids[item]) == name:
            yield item, position
