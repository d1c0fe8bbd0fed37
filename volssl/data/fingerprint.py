"""What a set of files contains, as a SHA-256, and a memory of it that knows when files have been replaced."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from volssl.data.preflight import opened, reached
from volssl.errors import DataError, RunError
from volssl.regular import LARGE, IrregularError, open_own, read_regular

# A file system's clock may not tell two writes apart; files younger than this are not remembered.
SETTLED_NS = 2_000_000_000
_LINE = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{64})")


@dataclass(frozen=True)
class Stamp:
    """The state of some files without reading them. digest: of their paths, sizes, times and inodes."""

    digest: str
    settled: bool


def stamp(files: Sequence[Path]) -> Stamp:
    """The files' present state. Whoever replaces one and restores its size and mtime still changes its ctime.

    Raises:
        DataError: a file is not there.
    """
    state, newest = hashlib.sha256(), 0
    for file in files:
        with reached(file):
            s = file.stat()
        state.update(os.fsencode(file.absolute()))
        state.update(f"\0{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}\n".encode())
        newest = max(newest, s.st_ctime_ns)
    return Stamp(state.hexdigest(), time.time_ns() - newest > SETTLED_NS)


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 of one file's bytes, or of the digests of several in their order.

    Raises:
        DataError: a file cannot be read.
    """
    digests = []
    for file in files:
        try:
            with opened(file) as f:
                digests.append(hashlib.file_digest(f, "sha256"))
        except OSError as error:
            raise DataError("unreadable", f"cannot be read ({error.strerror})", str(file)) from error
    return combined([digest.hexdigest() for digest in digests])


def combined(digests: Sequence[str]) -> str:
    """The fingerprint of several files, from that of each in their order."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


class Memory:
    """Stamp -> fingerprint, in a text file of one line each.

    Lines are only ever appended, in one write each, so several runs can share the file; a line that was cut
    short by a kill is no line, and costs one reading of the files.

    Raises:
        RunError: the file is a pipe, a device, or a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._in_use():
            text = read_regular(path, LARGE).decode("ascii", errors="replace") if path.exists() else ""
        matches = (_LINE.fullmatch(line) for line in text.splitlines())
        self._known = {m[1]: m[2] for m in matches if m}

    def recall(self, state: Stamp) -> str | None:
        """The fingerprint of files in this state, where it is known."""
        return self._known.get(state.digest)

    def remember(self, state: Stamp, content: str) -> None:
        """Keep a fingerprint, unless the files are so young that a later change might not show."""
        if not state.settled or self._known.get(state.digest) == content:
            return
        self._known[state.digest] = content
        with self._in_use(), os.fdopen(open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "wb") as f:
            f.write(f"\n{state.digest} {content}\n".encode())

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        try:
            yield
        except IrregularError as error:
            raise RunError(f"data.cache: {self.path} cannot be used ({error.strerror}): delete it") from error
