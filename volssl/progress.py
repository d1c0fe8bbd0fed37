"""A progress bar on a terminal, and nothing but what is worth telling elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, int, str], None]  # (done, in all, a line worth telling or "")


@contextmanager
def progress(console: Console, what: str, *, transient_lines: bool = False) -> Iterator[Report]:
    """Show ``what`` with a bar; with ``transient_lines``, a line says what is being done and is gone with the next."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int, line: str) -> None:
            bar.update(task, completed=done, total=total or None)
            if line and transient_lines:
                bar.update(task, description=line)
            elif line:
                console.print(line, style="yellow", markup=False)

        yield report
