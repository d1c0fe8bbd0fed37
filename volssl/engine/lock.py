"""One writer per run folder: a lock that the system lets go of when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from volssl.errors import RunError
from volssl.regular import IrregularError, links, open_own

LOCK = "lock"


@contextmanager
def lock(folder: Path, ours: Iterable[str] = ()) -> Iterator[None]:
    """Hold ``folder/lock`` for writing; the file stays, the lock does not.

    Args:
        ours: what is written in the folder (* for any letters), which may itself be a link, but nothing in there: what
            is written would land elsewhere.

    Raises:
        RunError: another process holds it, and the message says which and where; or the folder cannot be written, or
            there is a link in it.
    """
    try:
        if link := next(links(folder, (LOCK, *ours)), None):
            what = f"{link} is a symbolic link, through which it would be written elsewhere"
            raise RunError(f"output: {what}: put the file or folder itself there, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except IrregularError as problem:
        raise RunError(f"output: {folder / LOCK}: {problem.strerror}: remove it") from None
    except OSError as problem:
        raise RunError(f"output: {folder} cannot be written ({problem.strerror}): give another folder") from None
    try:
        try:
            # A record lock, not flock: loader workers outlive a killed parent by seconds and would keep that.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            what = f"{folder}: {holder} is writing here: wait for it, or give another output"
            raise RunError(what) from None
        except OSError as problem:
            what = f"{folder}: this disk keeps no locks ({problem.strerror}), so two runs could write here at once"
            raise RunError(f"output: {what}: give a folder on another") from None
        if _removed(folder / LOCK, descriptor):  # by hand, since it was opened: it would keep out nobody
            with lock(folder):
                yield
            return
        with contextlib.suppress(OSError):  # of a full disk: the name is for people, the lock holds without it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _removed(path: Path, descriptor: int) -> bool:
    """Whether the open file is not the one under this name any more."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return True
