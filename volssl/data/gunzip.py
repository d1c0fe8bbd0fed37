"""What gzip has packed, with every checksum compared (by zlib) and nothing skipped without end."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO

from volssl.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBERS = 2**12  # and one more for each ...
MEMBER = 2**12  # ... bytes unpacked: bgzip packs 64 KiB in one
MAX_IDLE = 2**24  # bytes in a row that unpack to nothing: a file's name, a comment, zeros after a member
_STRIDE = 2**15  # bytes read at once: of so many, the rest is copied after each member and each piece
_PIECE = 2**20  # bytes unpacked at once


class Gunzip(io.RawIOBase):
    """The members of a gzip file one after the other; zeros may lie between them and at the end.

    Reading raises ``zlib.error``, ``EOFError``, or ``DataError`` (``gzip``) for what no program writes.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where, self._packed = file, where, b""
        self._member = zlib.decompressobj(wbits=31)
        self._members, self._unpacked, self._idle = 1, 0, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill some of ``buffer``; 0 at the end of the file."""
        into = memoryview(buffer)
        while not self._member.eof or self._next():
            packed = self._packed or self._file.read(_STRIDE)
            piece = self._member.decompress(packed, min(len(into), _PIECE))
            self._packed = self._member.unconsumed_tail or self._member.unused_data
            if piece:
                self._unpacked += len(piece)
                self._idle = 0
                into[: len(piece)] = piece
                return len(piece)
            if not packed and not self._member.eof:
                raise EOFError("the packed stream is cut short")
            self._idled(len(packed) - len(self._packed))
        return 0

    def _next(self) -> bool:
        """Whether another member follows, which is begun."""
        self._packed = self._packed.lstrip(b"\0")
        while not self._packed:
            packed = self._file.read(_STRIDE)
            if not packed:
                return False
            self._packed = packed.lstrip(b"\0")
            self._idled(len(packed) - len(self._packed))
        self._members += 1
        if self._members > MAX_MEMBERS + self._unpacked // MEMBER:
            raise DataError("gzip", f"{self._members:,} members of next to nothing: pack the file again", self._where)
        self._member = zlib.decompressobj(wbits=31)
        return True

    def _idled(self, count: int) -> None:
        self._idle += count
        if self._idle > MAX_IDLE:
            raise DataError("gzip", f"over {MAX_IDLE:,} bytes that unpack to nothing: pack the file again", self._where)
