"""metrics.jsonl: a line for each step that is recorded, each once, and none torn, whatever the disk does."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from volssl.engine.checkpoint import free
from volssl.errors import RunError
from volssl.regular import LARGE, IrregularError, open_own, read_regular
from volssl.whole import replace_file

NAME = "metrics.jsonl"


class Metrics:
    """The file, cut to the steps that a run resumes from.

    Lines that a full disk does not take wait in memory until it does, so that training goes on. A checkpoint is not
    written before they are (``flush``): it never knows more than the metrics.

    Raises:
        RunError: the file cannot be opened, or not be cut.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.path = folder / NAME
        self._waiting: deque[bytes] = deque()
        self._refused = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            truncate(self.path, done)
            self._descriptor = open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except IrregularError as problem:
            raise RunError(f"{self.path}: cannot be used: {problem.strerror}: move it away") from None
        except OSError as problem:
            raise RunError(self._says(problem)) from None

    def __iter__(self) -> Iterator[dict[str, float]]:
        """The lines that are there."""
        with self.path.open(encoding="utf-8", errors="replace") as file:
            yield from map(numbers, file)

    def write(self, step: int, values: Mapping[str, float]) -> str | None:
        """Add a line; returns what a person should know where the disk has just begun to take none."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._waiting.append((json.dumps({"step": step} | finite) + "\n").encode())  # JSON knows no NaN
        before = self._refused
        try:
            self._catch_up()
        except OSError as problem:
            self._refused = True
            return None if before else f"{self._says(problem)}; lines are kept in memory meanwhile"
        self._refused = False
        return None

    def flush(self) -> None:
        """Bring all lines to the disk.

        Raises:
            RunError: it takes none.
        """
        try:
            self._catch_up()
            os.fsync(self._descriptor)
        except OSError as problem:
            raise RunError(self._says(problem)) from None

    def close(self) -> None:
        os.close(self._descriptor)

    def _catch_up(self) -> None:
        while self._waiting:
            line, end = self._waiting[0], os.fstat(self._descriptor).st_size
            try:
                if os.write(self._descriptor, line) < len(line):
                    os.ftruncate(self._descriptor, end)
                    os.write(self._descriptor, line)  # says what is the matter
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise
            self._waiting.popleft()

    def _says(self, problem: OSError) -> str:
        return f"{self.path}: not written: {problem.strerror} ({free(self.path.parent)}): make room"


def truncate(path: Path, done: int) -> None:
    """Keep the lines of steps up to ``done``; a torn line, as a killed process leaves it, goes."""
    if not path.exists():
        return
    text = read_regular(path, LARGE).decode("utf-8", errors="replace")
    kept = "".join(line for line in text.splitlines(keepends=True) if _step(line) <= done)
    if kept == text:
        return
    replace_file(path, kept)


def numbers(line: str) -> dict[str, float]:
    """The finite numbers that a line holds; none where it is no line of metrics."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    held = entry.items() if isinstance(entry, dict) else ()
    return {name: float(x) for name, x in held if isinstance(x, int | float) and abs(x) <= sys.float_info.max}


def _step(line: str) -> float:
    """The step of a line of metrics; infinite where the line is not whole."""
    return numbers(line).get("step", math.inf) if line.endswith("\n") else math.inf
