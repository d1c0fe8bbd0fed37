"""What libraries say, and where the program fails by its own fault, without words that may hold a patient's name."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from volssl.names import SHOW, WITHHELD, visible

OWN = "volssl"
HOW = f"its words are withheld, for they may hold names; {SHOW}=1 shows them"


def quieten() -> None:
    """Let no warning, no log and no traceback of this process say more than where it comes from.

    Where names are shown, everything stays as it was. The libraries' own handlers stay; records lose their words.
    """
    if visible():
        return
    logging.setLogRecordFactory(_record)
    warnings.showwarning = _warn
    sys.excepthook = lambda _kind, error, _trace: tell(error)
    threading.excepthook = lambda told: tell(told.exc_value) if told.exc_value else None
    sys.unraisablehook = lambda told: tell(told.exc_value) if told.exc_value else None


def quieten_codecs() -> None:
    """As ``quieten``; and let what is written past Python, as libraries in C do, go nowhere in this process."""
    quieten()
    if visible():
        return
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def tell(error: BaseException, file: TextIO | None = None) -> None:
    """Print a fault of the program: the stack and the kinds of the errors; what they say only where names are shown."""
    file = file or sys.stderr
    if visible():
        traceback.print_exception(error, file=file)
        return
    print(f"volssl: a fault of the program; please report these lines ({HOW})", file=file)
    for one in _chain(error):
        for frame in traceback.extract_tb(one.__traceback__):
            print(f"  {_short(frame.filename)}:{frame.lineno} in {frame.name}", file=file)
        print(f"{type(one).__name__}: {WITHHELD}", file=file)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What led to it first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _chain(before)
    yield error


def _short(filename: str) -> str:
    """A file of a library or of this package, without the folder that it is installed in, which may name a user."""
    for mark in ("/site-packages/", f"/{OWN}/"):
        if mark in filename:
            return (f"{OWN}/" if mark == f"/{OWN}/" else "") + filename.rpartition(mark)[2]
    return filename.rpartition("/")[2]


_plain = logging.getLogRecordFactory()
_show = warnings.showwarning


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _plain(*args, **kwargs)
    if not visible():
        record.msg, record.args = f"{record.name} ({_short(record.pathname)}:{record.lineno}): {HOW}", ()
        record.exc_info = record.exc_text = record.stack_info = None
    return record


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if visible():
        _show(message, category, filename, lineno, file, line)
    else:
        print(f"{_short(filename)}:{lineno}: {category.__name__}: {HOW}", file=file or sys.stderr)
