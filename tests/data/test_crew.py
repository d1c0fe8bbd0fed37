"""Processes that share work: any of them may be killed or stopped at any time, and what is nobody's item ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from volssl.data.cache_work import run
from volssl.data.crew import Work, shared
from volssl.errors import DataError, RunError


@dataclass(frozen=True)
class Say:
    """Tells its number, and the process that said so."""

    number: int

    @property
    def id(self) -> str:
        return str(self.number)

    def __call__(self) -> tuple[int, int] | DataError:
        return self.number, os.getpid()


class Break(Say):
    """What no item may do."""

    def __call__(self) -> tuple[int, int] | DataError:
        raise SystemExit(self.number)


class Full(Say):
    """A disk that is full."""

    def __call__(self) -> tuple[int, int] | DataError:
        raise RunError("make room")


class Deadly(Say):
    """Ends its process before that has begun."""

    def __setstate__(self, state: object) -> None:
        os._exit(9)


def outcomes(*tasks: Work[tuple[int, int]], workers: int = 1) -> list[object]:
    return [outcome for _, outcome in sorted(run(dict(enumerate(tasks)), workers, 20.0))]


def test_a_fault_of_the_program_ends_the_work() -> None:
    with pytest.raises(RuntimeError, match=r"in a process that reads:\n(.|\n)*SystemExit: 1"):
        outcomes(Say(0), Break(1), Say(2))


def test_what_is_nobodys_item_ends_the_work_in_one_line() -> None:
    with pytest.raises(RunError, match=r"^make room$"):
        outcomes(Full(0), Say(1), workers=2)


def test_processes_that_never_come_to_an_item_end_the_work() -> None:
    """It is not the item's fault."""
    with pytest.raises(RunError, match=r"3 processes in a row ended before .* ended with code 9: if memory is short"):
        outcomes(Deadly(0))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_lost_while_it_has_nothing_to_do_is_replaced(number: signal.Signals) -> None:
    """All at once, too: the next task waits for its time and goes to another process."""
    tasks = iter(enumerate(map(Say, range(4))))
    given: list[int] = []

    def following() -> tuple[int, Say] | None:
        if len(given) - len(told) >= 1:
            return None
        given.append(0)
        return next(tasks, None)

    told: list[int] = []
    found: Iterator[tuple[int, tuple[int, int] | DataError]] = shared(following, 1, 1.0, __name__)
    for n, outcome in found:
        assert isinstance(outcome, tuple)
        assert outcome[0] == n
        told.append(outcome[1])
        if n == 1:
            os.kill(outcome[1], number)
    assert told[0] == told[1] != told[2] == told[3]


def test_the_processes_are_gone_when_the_work_is_left() -> None:
    work = run(dict(enumerate(map(Say, range(9)))), 2)
    _, outcome = next(work)
    assert isinstance(outcome, tuple)
    work.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(outcome[1], 0)
