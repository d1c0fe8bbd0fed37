"""The order of work of an index: folders go out to processes as they are walked, and their rows come back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from volssl.data.cache_work import run_as_they_come
from volssl.data.door import walk
from volssl.data.fingerprint import stamp
from volssl.data.index_folder import Place, look, refused
from volssl.data.index_row import Candidate, Row
from volssl.data.items import PASSING, Report
from volssl.data.journal import Journal
from volssl.data.manifest import Ids
from volssl.data.preflight import guard
from volssl.errors import DataError
from volssl.reasons import ReasonCode

FORMAT = 2  # raise it when the same files give other rows
FILES, BYTES = 256, 2**28  # that one task reads at most, beyond its first item
AHEAD = 256  # folders that are begun before an earlier one is done
FLEETING = PASSING | {"unreadable", "changed", "extra"}  # reasons that may be gone the next time

Portion = tuple[Candidate, ...]
Turn = tuple[int, ...]  # orders the rows of a folder


@dataclass(frozen=True)
class Outcome:
    """rows: done; later: candidates that are yet to be read, portion by portion; passed: files that are no images."""

    rows: list[Row]
    later: list[Portion] = field(default_factory=list)
    passed: int = 0


@dataclass(frozen=True)
class Task:
    """A folder to look through, of which some is read ``at_once``; or a portion of its candidates to read.

    probing: a file whose header is read only to see whether the process dies of it.
    """

    ids: Ids
    place: Place
    files: tuple[Path, ...] = ()
    portion: Portion = ()
    at_once: bool = True
    probing: bool = False

    @property
    def id(self) -> str:
        """What messages would call it."""
        return self.ids("folder", self.place.text(self.place.folder))

    def __call__(self) -> Outcome | DataError:
        """Raises nothing but a request to stop."""
        if self.portion:
            return Outcome([one.row(self.ids) for one in self.portion])
        try:
            with guard("unreadable", self.id):
                held = look(self.place, self.files, self.ids)
        except DataError as error:
            return error
        if self.probing:
            return Outcome([])
        first, *later = portions(held.candidates) or [()]
        if not self.at_once:
            first, later = (), [one for one in (first, *later) if one]
        return Outcome([*held.refused, *(one.row(self.ids) for one in first)], later, held.passed)


def portions(candidates: Sequence[Candidate]) -> list[Portion]:
    """So that each is some seconds of work."""
    made: list[list[Candidate]] = []
    files = size = 0
    for one in candidates:
        more = sum(map(_size, one.found.files))
        if not made or files + len(one.files) > FILES or size + more > BYTES:
            made.append([])
            files = size = 0
        made[-1].append(one)
        files, size = files + len(one.files), size + more
    return [tuple(one) for one in made]


def _size(file: Path) -> int:
    """0 of a file that is gone, which its row will say."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class _Given:
    """A task that is given out. number: its folder's; state: of its portion's files before any of them is read."""

    number: int
    turn: Turn
    task: Task
    state: str | None = None


@dataclass
class _Unit:
    """A folder on its way. state: of its files where that is known; open: tasks that have not come back.

    probed: files that do no harm by themselves, where its headers together have done some.
    """

    files: int
    state: str | None = None
    rows: dict[Turn, list[Row]] = field(default_factory=dict)
    passed: int = 0
    open: int = 0
    probed: list[Path] | None = None


class Indexing:
    """The rows of some roots, while they are made. passed: files that are no images and do not say that they are.

    Args:
        own: files that are the index's own.
        report: (files done, files in all, "").
    """

    def __init__(
        self, roots: Sequence[Path], ids: Ids, journal: Journal, *, own: frozenset[Path], report: Report | None
    ) -> None:
        self._roots, self._ids, self._journal, self._own = tuple(roots), ids, journal, own
        self._report = report
        self._units: dict[int, _Unit] = {}
        self._tasks: dict[int, _Given] = {}
        self._ready: deque[_Given] = deque()
        self._places, self._walked = self._walk(), False
        self._begun = self._given = self._numbered = self.passed = 0

    def rows(self, workers: int) -> Iterator[Row]:
        """All rows, folder by folder in the order of the walk and in each by name, whatever the workers."""
        done, total = 0, sum(len(files) for _, files, _ in self._walk()) if self._report else 0
        while self._units or not self._walked:
            for number, outcome in run_as_they_come(self._following, workers):
                self._came(self._tasks.pop(number), outcome)
                for unit in self._finished():
                    done += unit.files
                    yield from (row for turn in sorted(unit.rows) for row in unit.rows[turn])
                if self._report:
                    self._report(done, total, "")
            for unit in self._finished():
                done += unit.files
                yield from (row for turn in sorted(unit.rows) for row in unit.rows[turn])

    def _walk(self) -> Iterator[tuple[Place, tuple[Path, ...], list[DataError]]]:
        """Every folder, its files, and what could not be listed on the way to it."""
        for number, root in enumerate(self._roots):
            base = root if root.is_dir() else root.parent
            errors: list[DataError] = []
            for folder, files in walk(root, errors):
                place = Place(folder, base, number, len(self._roots))
                yield place, tuple(file for file in files if file not in self._own), errors[:]
                errors.clear()
            if errors:
                yield Place(base, base, number, len(self._roots)), (), errors

    def _following(self) -> tuple[int, Task] | None:
        while not self._ready:
            if self._begun - self._given >= AHEAD:
                return None
            if (place := next(self._places, None)) is None:
                self._walked = True
                return None
            self._begin(*place)
        self._numbered += 1
        self._tasks[self._numbered] = self._ready.popleft()
        return self._numbered, self._tasks[self._numbered].task

    def _begin(self, place: Place, files: tuple[Path, ...], errors: Sequence[DataError]) -> None:
        unit = _Unit(len(files))
        self._units[self._begun], self._begun = unit, self._begun + 1
        unit.rows[-1,] = [refused(place, error.code, [Path(error.where)], self._ids) for error in errors]
        if not files:
            return
        unit.state = self._state(place.text(place.folder), files)
        if unit.state and (known := self._journal.recall(unit.state)) is not None:
            unit.rows[0,], unit.passed = known
            return
        self._schedule(self._begun - 1, (0,), Task(self._ids, place, files))

    def _schedule(self, number: int, turn: Turn, task: Task, state: str | None = None) -> None:
        self._units[number].open += 1
        self._ready.append(_Given(number, turn, task, state))

    def _came(self, given: _Given, outcome: Outcome | DataError) -> None:
        unit, turn, task = self._units[given.number], given.turn, given.task
        unit.open -= 1
        if isinstance(outcome, DataError):
            self._again(given, outcome.code)
            outcome = Outcome([])
        elif task.probing and unit.probed is not None:
            unit.probed += task.files
        for i, portion in enumerate(outcome.later, start=1):
            state = self._state_of(portion)
            if (known := self._journal.recall(state) if state else None) is None:
                self._schedule(given.number, (turn[0] + i,), Task(self._ids, task.place, portion=portion), state)
            else:
                unit.rows[turn[0] + i,] = known
        unit.rows.setdefault(turn, []).extend(outcome.rows)
        unit.passed += outcome.passed
        self._keep(given.state, outcome.rows, outcome.rows)
        if task.probing and not unit.open and unit.probed:
            rest = tuple(sorted(unit.probed))
            self._schedule(given.number, (0,), Task(self._ids, task.place, rest, at_once=False))
        if not unit.open:
            rows = [row for key in sorted(unit.rows) for row in unit.rows[key] if key != (-1,)]
            self._keep(unit.state, rows, [rows, unit.passed])

    def _again(self, given: _Given, code: ReasonCode) -> None:
        """What crashed or hung is done in parts; what is one item, or one file's header, is refused."""
        unit, turn, task = self._units[given.number], given.turn, given.task
        if len(task.portion) > 1:
            for i, one in enumerate(task.portion):
                self._schedule(given.number, (*turn, i), replace(task, portion=(one,)), self._state_of((one,)))
        elif task.portion:
            unit.rows[turn] = [task.portion[0].refused(code, self._ids)]
        elif task.at_once:
            self._schedule(given.number, turn, replace(task, at_once=False))
        elif len(task.files) > 1 and unit.probed is None:
            unit.probed = []
            for i, file in enumerate(task.files):
                probe = Task(self._ids, task.place, (file,), at_once=False, probing=True)
                self._schedule(given.number, (*turn, i), probe)
        else:
            where = task.files[0] if len(task.files) == 1 else task.place.folder
            unit.rows[turn] = [refused(task.place, code, [where], self._ids)]

    def _finished(self) -> Iterator[_Unit]:
        while (unit := self._units.get(self._given)) is not None and not unit.open:
            del self._units[self._given]
            self._given += 1
            self.passed += unit.passed
            yield unit

    def _keep(self, state: str | None, rows: Sequence[Row], value: object) -> None:
        """Remember what is done, unless it may come out otherwise the next time."""
        if state and rows and not any(row.get("reason") in FLEETING for row in rows):
            self._journal.keep(state, value)

    def _state_of(self, portion: Portion) -> str | None:
        label = "\0".join(f"{one.kind} {one.text} {one.found.frames}" for one in portion)
        return self._state(label, [file for one in portion for file in one.found.files])

    def _state(self, label: str, files: Sequence[Path]) -> str | None:
        """Of files that lie there long enough for every change of them to show."""
        try:
            state = stamp(files)
        except DataError:
            return None
        return self._ids("state", f"{FORMAT}\0{label}\0{state.digest}") if state.settled else None
