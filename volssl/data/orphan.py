"""Loaded by the server of processes alone: a process that starts when its parent has ended says nothing of it."""

from __future__ import annotations

import sys
from types import TracebackType

from volssl.silence import tell

GONE = (FileNotFoundError, ConnectionError, EOFError)  # what is left of a parent's locks and pipes


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    del kind, trace
    if not isinstance(error, GONE):
        tell(error)


sys.excepthook = _told  # of what fails before a process is at its work
