"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what a disk says that takes no more


@contextmanager
def whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """The name to write under: after the block the file is on the disk and becomes ``path``; if it fails, it is gone.

    Whatever has that name before, be it a link or a pipe, is gone when the block begins.

    Args:
        shared: other processes may write the same file meanwhile, so the name is this one's own. Otherwise what a
            killed process left goes.
    """
    own = f".{os.getpid()}" if shared else ""
    fresh = path.with_name(f".{path.name}{own}.new")
    try:
        remove(fresh)
        yield fresh
        flush(fresh)
        os.replace(fresh, path)
    finally:
        with suppress(OSError):
            remove(fresh)


def remove(path: Path) -> None:
    """A file, a folder with all that is in it, or nothing; of a link the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
