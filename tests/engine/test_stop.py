"""Signals end a run between two steps, on every rank."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.engine.toy import exit_code, in_child
from volssl.engine.distributed import Group
from volssl.engine.stop import Stop, until_stopped


class Other(Group):
    """Another rank was asked to stop before the third item."""

    asked = 0

    def any(self, flag: bool) -> bool:
        Other.asked += 1
        return flag or Other.asked > 2


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
def test_a_signal_sets_the_code_and_ends_the_items(number: str, code: int) -> None:
    taken = []
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        for item in until_stopped(range(9), stop, Group()):
            taken.append(item)
            if item == 3:
                os.kill(os.getpid(), signal.Signals[number])
    assert (taken, stop.code) == ([0, 1, 2, 3], code)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_changes_nothing() -> None:
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.code == 143


def interrupt_twice() -> None:
    """While a generator that nobody wants any more is taken down, where Python lets no exception out."""

    def feed() -> Iterator[int]:
        try:
            yield 0
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with Stop():
        os.kill(os.getpid(), signal.SIGINT)
        next(feed())
        os._exit(0)


def test_a_second_interrupt_ends_at_once_whatever_is_being_done() -> None:
    assert exit_code(in_child(interrupt_twice)) == 130


def test_a_signal_breaks_off_what_the_run_can_do_without_once() -> None:
    done = []
    with Stop() as stop:
        with stop.breaking_off():
            done.append("begun")
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                done.append("gone on")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("put away")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit, match="7"), Stop().breaking_off():
            raise SystemExit(7)
    assert (done, stop.code) == (["begun", "put away"], 143)


def test_another_rank_is_enough() -> None:
    Other.asked = 0
    stop = Stop()
    assert list(until_stopped(range(9), stop, Other())) == [0, 1]
    assert stop.code == 143


def test_what_dying_workers_raise_counts_only_where_no_stop_was_asked() -> None:
    def feed() -> Iterator[int]:
        yield 0
        raise RuntimeError("worker is killed")

    stop = Stop()
    with pytest.raises(RuntimeError, match="worker is killed"):
        list(until_stopped(feed(), stop, Group()))
    items = until_stopped(feed(), stop, Group())
    assert next(items) == 0
    stop.code = 143
    assert list(items) == []


def test_outside_the_main_thread_no_handler_is_set() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with Stop():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
