"""Two ranks, of which one is killed or stands still: the other ends in time with one line, and both go on exactly."""

from __future__ import annotations

import random
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.gates import test_kill, zygote
from tests.gates.record import record
from tests.gates.sizes import size
from tests.gates.test_kill import config, lines, result
from tests.gates.zygote import Started
from tests.test_ranks import free_port

TIMEOUT, MORE = size(5.0, 10.0), 5.0
TRIALS, STARTS = size(1, 8), size(1, 4)

folder = test_kill.folder  # a fixture: stacks, and a whole run of one rank


def start(folder: Path, out: str, rank: int, port: int, *overrides: str, sabotage: str = "") -> Started:
    """One of two ranks, as torchrun would start it, with a file of what it says."""
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    overrides = ("loop.workers=0", f"loop.peer_timeout={TIMEOUT}", *overrides)
    told = folder / f"{out}-{rank}.txt"
    return zygote.start("train", config(folder, out), *overrides, told=told, environ=environ, sabotage=sabotage)


def pair(folder: Path, out: str, *overrides: str, sabotage: str = "") -> list[Started]:
    """Both of them."""
    port = free_port()
    return [start(folder, out, rank, port, *overrides, sabotage=sabotage) for rank in range(2)]


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """What two ranks make."""
    for rank in pair(folder, "two"):
        assert rank.wait() == 0, rank.told.read_text()
    return folder / "two"


def lose(folder: Path, out: str, number: signal.Signals, victim: int, least: int) -> tuple[float, str]:
    """Seconds until the other rank has ended after one was lost, and the last line that it said."""
    ranks = pair(folder, out)
    while lines(folder / out) < least:
        assert all(rank.running() for rank in ranks), [rank.told.read_text() for rank in ranks]
        time.sleep(0.002)
    ranks[victim].send(number)
    began = time.monotonic()
    other = ranks[1 - victim]
    try:
        assert other.wait(TIMEOUT + MORE + 30) == 2, other.told.read_text()
        seconds = time.monotonic() - began
    finally:
        ranks[victim].send(signal.SIGCONT)
        if number == signal.SIGSTOP:  # once it wakes up, it finds nobody
            assert ranks[victim].wait(TIMEOUT + MORE + 30) == 2, ranks[victim].told.read_text()
        else:
            ranks[victim].wait()
    return seconds, other.told.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_others_end_in_time_and_the_same_command_goes_on(
    folder: Path, undisturbed: Path, number: signal.Signals
) -> None:
    draw, slowest, good = random.Random(int(number)), 0.0, 0
    for n in range(TRIALS):
        out, victim = f"{number.name}-{n}", n % 2
        seconds, said = lose(folder, out, number, victim, draw.randint(1, 12))
        slowest = max(slowest, seconds)
        assert "another rank has ended or is silent" in said
        assert "Traceback" not in said
        for rank in pair(folder, out):
            assert rank.wait() == 0, rank.told.read_text()
        good += result(folder / out) == result(undisturbed)
    what = f"2 gloo ranks, one {'killed' if number == signal.SIGKILL else 'stopped'}"
    bar = f"all end within {TIMEOUT:g} + {MORE:g} s, relaunch bit-exact"
    record(what, f"{good}/{TRIALS} bit-exact, at most {slowest:.1f} s", bar)
    assert good == TRIALS
    assert slowest < TIMEOUT + MORE


def test_a_longer_patience_does_not_pass(folder: Path, undisturbed: Path) -> None:
    """Negative control: with a limit of a minute, nobody has ended after the time."""
    del undisturbed
    ranks = pair(folder, "patient", "loop.peer_timeout=60")
    while lines(folder / "patient") < 3:
        assert all(rank.running() for rank in ranks), [rank.told.read_text() for rank in ranks]
        time.sleep(0.002)
    ranks[1].send(signal.SIGSTOP)
    time.sleep(TIMEOUT + MORE)
    waiting = ranks[0].running()
    for rank in ranks:
        rank.send(signal.SIGKILL)
        rank.wait()
    assert waiting


def test_ranks_that_forget_where_they_were_do_not_pass(folder: Path, undisturbed: Path) -> None:
    """Negative control: started again, they take the samples from the start."""
    lose(folder, "forgetful", signal.SIGKILL, 0, 14)
    for rank in pair(folder, "forgetful", sabotage=f"{test_kill.__name__}:{test_kill.forget_the_position.__name__}"):
        assert rank.wait() == 0, rank.told.read_text()
    assert result(folder / "forgetful") != result(undisturbed)


def wait_for_rank_0(folder: Path, out: str) -> tuple[Started, int]:
    """The first rank, where it waits for the other, and its port."""
    port = free_port()
    first, deadline = start(folder, out, 0, port), time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as tried:
            if not tried.connect_ex(("127.0.0.1", port)):
                return first, port
        time.sleep(0.01)
    raise AssertionError(first.told.read_text())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_lost_before_all_have_met_is_not_waited_for_either(
    folder: Path, undisturbed: Path, number: signal.Signals
) -> None:
    slowest, good = 0.0, 0
    for n in range(STARTS):
        out = f"start-{number.name}-{n}"
        first, port = wait_for_rank_0(folder, out)
        first.send(number)
        began, other = time.monotonic(), start(folder, out, 1, port)
        try:
            assert other.wait(TIMEOUT + MORE + 30) == 2, other.told.read_text()
            slowest = max(slowest, time.monotonic() - began)
        finally:
            first.send(signal.SIGKILL)
            first.wait()
        assert "volssl: environment: 2 ranks do not meet" in other.told.read_text()
        assert "Traceback" not in other.told.read_text()
        for rank in pair(folder, out):
            assert rank.wait() == 0, rank.told.read_text()
        good += result(folder / out) == result(undisturbed)
    what = f"2 gloo ranks, one {'killed' if number == signal.SIGKILL else 'stopped'} before they have met"
    bar = f"the other ends within {TIMEOUT:g} + {MORE:g} s, relaunch bit-exact"
    record(what, f"{good}/{STARTS} bit-exact, at most {slowest:.1f} s", bar)
    assert good == STARTS
    assert slowest < TIMEOUT + MORE


@pytest.mark.parametrize("peer", ["absent", "stopped"])
def test_a_rank_that_waits_for_another_ends_at_once_where_it_is_asked_to(folder: Path, peer: str) -> None:
    slowest = 0.0
    for n in range(STARTS):
        first, port = wait_for_rank_0(folder, f"asked-{peer}-{n}")
        waiting = first
        if peer == "stopped":
            first.send(signal.SIGSTOP)
            waiting = start(folder, f"asked-{peer}-{n}", 1, port)
        time.sleep(1.0)
        waiting.send(signal.SIGTERM)
        began = time.monotonic()
        try:
            assert waiting.wait(TIMEOUT + 30) == 143, waiting.told.read_text()
        finally:
            first.send(signal.SIGKILL)
            first.wait()
        slowest = max(slowest, time.monotonic() - began)
    record(f"SIGTERM to a rank whose peer is {peer}", f"exit 143, at most {slowest:.1f} s", "at once")
    assert slowest < TIMEOUT  # nearly all of it is the end of an interpreter that has loaded torch
