"""A progress bar on a terminal; elsewhere what is worth telling and, of long work, a line a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 60.0  # seconds between two lines of a log


@contextmanager
def progress(
    console: Console, what: str, *, transient_lines: bool = False
) -> Iterator[Callable[[int, int, str], None]]:
    """Show ``what`` with a bar; gives what to call with how much is done, of how much, and a line or "".

    With ``transient_lines``, a line says what is being done, and is gone with the next; in a log, one a minute is kept.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, told = bar.add_task(what, total=None), monotonic()

        def report(done: int, total: int, line: str) -> None:
            nonlocal told
            bar.update(task, completed=done, total=total or None)
            if line and transient_lines:
                bar.update(task, description=line)
                if not console.is_terminal and monotonic() - told >= EVERY:
                    told = monotonic()
                    console.print(f"{what}: {done} of {total}, {line}", markup=False, soft_wrap=True)
            elif line:
                console.print(line, style="yellow", markup=False)

        yield report
