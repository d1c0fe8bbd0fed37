"""Regular files alone are opened: a pipe would block, a device may have no end; what is ours is no link elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path

SMALL = 2**24  # bytes: cards, keys and configurations have a few kB
LARGE = 2**34  # of weights, of a list of items, of a log: what is read whole


class IrregularError(OSError):
    """A file that is none, or that holds more than may be read."""

    def __init__(self, what: str, path: Path) -> None:
        super().__init__(errno.EINVAL, what, str(path))


def require_regular(path: Path) -> int:
    """The size in bytes of a regular file, to which a link may lead.

    Raises:
        OSError: it is none, or not there.
    """
    return _regular(path.stat(), path)


def open_regular(path: Path) -> BufferedReader:
    """The file, open for reading: what another process puts in its place is neither waited for nor read.

    Raises:
        OSError: as ``require_regular``.
    """
    require_regular(path)  # to open a device may do something
    return os.fdopen(_opened(path, os.O_RDONLY), "rb")


def read_regular(path: Path, most: int = SMALL) -> bytes:
    """All of a file, as it is when it is opened.

    Raises:
        OSError: as ``require_regular``, or it has more than ``most`` bytes, or than there is memory for.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise IrregularError(f"it has {size:,} bytes, more than {most:,}", path)
        try:
            return file.read(size)
        except MemoryError:
            raise IrregularError(f"its {size:,} bytes do not fit into memory", path) from None


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of a file that is ours to write, made where ``flags`` say so; never through a link.

    Raises:
        OSError: there is a link or no regular file in its place, or it cannot be opened.
    """
    if path.is_symlink():
        raise IrregularError("it is a symbolic link", path)
    if path.exists():
        require_regular(path)
    return _opened(path, flags | os.O_NOFOLLOW, mode)


def links(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """The symbolic links among what is called so in a folder (* for any letters), and among all that is below."""
    wanted = tuple(names)
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        path = folder / name
        if not any(fnmatchcase(name, one) for one in wanted):
            continue
        if path.is_symlink():
            yield path
            continue
        for top, folders, files in os.walk(path):
            yield from (Path(top, one) for one in sorted(folders + files) if os.path.islink(Path(top, one)))


def _opened(path: Path, flags: int, mode: int = 0) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    try:
        _regular(os.fstat(descriptor), path)
    except IrregularError:
        os.close(descriptor)
        raise
    return descriptor


def _regular(status: os.stat_result, path: Path) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise IrregularError("it is a directory" if stat.S_ISDIR(status.st_mode) else "it is no regular file", path)
    return status.st_size
