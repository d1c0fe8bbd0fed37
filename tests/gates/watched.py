"""Work in a process of its own that may crash, hang or take what memory it likes: what became of it is told."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

Work = Callable[[], str]


@dataclass(frozen=True)
class Outcome:
    """said: what the work returned; ``crash:...`` or ``hang`` where it did not. megabytes: over those at its start."""

    said: str
    seconds: float
    megabytes: float


def watched(works: Sequence[Work], limit: float) -> Iterator[Outcome]:
    """Do one after the other in a fork of this process, in another fork after one that crashed or took ``limit`` s."""
    at = 0
    while at < len(works):
        ends, said = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ends)
            _work(works[at:], said)
        os.close(said)
        try:
            for outcome in islice(_heard(ends, pid, limit), len(works) - at):
                at += 1
                yield outcome
        finally:
            os.close(ends)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _work(works: Sequence[Work], said: int) -> None:
    faulthandler.disable()  # whoever crashes here was meant to, or is told of
    try:
        for work in works:
            before, start = _peak(), time.monotonic()
            told = work()
            line = [told, time.monotonic() - start, _peak() - before]
            os.write(said, json.dumps(line).encode() + b"\n")
    finally:
        os._exit(0)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _heard(pipe: int, pid: int, limit: float) -> Iterator[Outcome]:
    """What a fork says, up to the first work that it does not finish."""
    heard = b""
    while True:
        start = time.monotonic()
        while b"\n" not in heard:
            if not select.select([pipe], [], [], max(limit - (time.monotonic() - start), 0))[0]:
                yield Outcome("hang", limit, 0.0)
                return
            more = os.read(pipe, 65536)
            if not more:
                died = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                yield Outcome(f"crash:{died and died.si_status}", time.monotonic() - start, 0.0)
                return
            heard += more
        line, _, heard = heard.partition(b"\n")
        yield Outcome(*json.loads(line))
