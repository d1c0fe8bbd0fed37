"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what a disk says that takes no more


@contextmanager
def whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """The name to write under: after the block the file is on the disk and becomes ``path``; if it fails, it is gone.

    Args:
        shared: other processes may write the same file meanwhile, so the name is this one's own. Otherwise what a
            killed process left is written over.
    """
    own = f".{os.getpid()}" if shared else ""
    fresh = path.with_name(f".{path.name}{own}.new")
    try:
        yield fresh
        flush(fresh)
        os.replace(fresh, path)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def replace_file(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with whole(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Hand a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
