"""Looks for planted words in every output byte, however they are written down, in whole files and in cut ones."""

from __future__ import annotations

import base64
import bz2
import hashlib
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEPTH = 4  # of archives in archives
DIGITS, BYTES = 16, 8  # of a hash, which may be cut to so many
PIECE = 4096  # bytes that are unpacked at a time: what comes before damage is looked at
_BLOB = re.compile(rb"base64,([A-Za-z0-9+/=\s]{16,})")
_DIGITS = re.compile(rb"[0-9a-f]{16,}")
_PRINTED = re.compile(rb"[!-~]{6,}")
_HASHES = ("md5", "sha1", "sha256")
_ZIP, _PARQUET = b"PK\x03\x04", b"PAR1"
_DEFLATE, _EITHER = -15, 47  # what zlib calls bare streams, and those of zlib or gzip
_PACKED: dict[bytes, tuple[str, Callable[[], Any]]] = {
    b"\x1f\x8b\x08": ("gzip", lambda: zlib.decompressobj(_EITHER)),
    **{
        b"\x78" + level: ("zlib", lambda: zlib.decompressobj(_EITHER)) for level in (b"\x01", b"\x5e", b"\x9c", b"\xda")
    },
    b"\xfd7zXZ\x00": ("xz", lzma.LZMADecompressor),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
}
_ZSTD = b"\x28\xb5\x2f\xfd"


def encodings(word: str) -> dict[str, list[bytes]]:
    """How a word may be written: by name, what then stands in the file, in small letters where the case may vary."""
    plain = word.encode()
    return {
        "raw": [plain],
        "utf-16": [word.encode("utf-16-le"), word.encode("utf-16-be")],
        "utf-32": [word.encode("utf-32-le"), word.encode("utf-32-be")],
        "hexadecimal": [plain.hex().encode()],
        "base64": list(_base64(plain)),
    }


def _base64(plain: bytes) -> Iterator[bytes]:
    """At each of three places in a group, the letters that depend on nothing but the word."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + plain)
        first = -(-before * 8 // 6)
        yield whole[first : (before + len(plain)) * 8 // 6]


class Scanner:
    """Knows what must not be found.

    Args:
        words: parts of texts. texts: of which no hash without a key may be found either, whole or cut.
    """

    def __init__(self, words: Iterable[str], texts: Iterable[str] = ()) -> None:
        self.words = tuple(words)
        self._forms = [(how, form) for word in self.words for how, forms in encodings(word).items() for form in forms]
        digests = {
            hashlib.new(name, text.encode(errors="surrogateescape")).digest() for text in texts for name in _HASHES
        }
        self._digits = {digest.hex()[:DIGITS].encode() for digest in digests}
        self._raw = {int.from_bytes(digest[:BYTES], "little") for digest in digests}
        self._lows = np.zeros(2**16, dtype=bool)  # by which most bytes are told at once to be none
        self._lows[[number & 0xFFFF for number in self._raw]] = True

    def hits(self, place: Path) -> list[str]:
        """One line for each file below, or name of one, that holds one of the words: where, and how it is written."""
        found = []
        for path in sorted([place, *place.rglob("*")]):
            name = str(path.relative_to(place.parent))
            found += [f"{name}: its name" for word in self.words if word.lower() in name.lower()]
            if path.is_file():
                found += [f"{name}: {how}" for how in self.in_bytes(path.read_bytes())]
        return found

    def in_bytes(self, content: bytes, depth: int = DEPTH) -> list[str]:
        """How the words stand in some bytes, and in what they hold packed."""
        small = content.lower()
        found = list(dict.fromkeys(how for how, form in self._forms if _holds(content, small, how, form)))
        found += ["a hash"] * (self._holds_digits(small) or self._holds_raw(content))
        if depth:
            for how, inside in _unpacked(content):
                found += [f"{how} > {deeper}" for deeper in self.in_bytes(inside, depth - 1)]
        return found

    def _holds_digits(self, small: bytes) -> bool:
        return bool(self._digits) and any(
            run[at : at + DIGITS] in self._digits
            for run in set(_DIGITS.findall(small))
            for at in range(len(run) - DIGITS + 1)
        )

    def _holds_raw(self, content: bytes) -> bool:
        for first in range(BYTES if self._raw else 0):
            whole = (len(content) - first) // BYTES * BYTES
            numbers = np.frombuffer(content[first : first + max(whole, 0)], dtype="<u8")
            if not self._raw.isdisjoint(numbers[self._lows[numbers & 0xFFFF]].tolist()):
                return True
        return False


def _holds(content: bytes, small: bytes, how: str, form: bytes) -> bool:
    """Of all but base64 the case says nothing."""
    return form in content if how == "base64" else form.lower() in small


def _unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What is packed in some bytes, wherever it begins; of what is damaged or cut all that comes before."""
    for mark, (how, unpacker) in _PACKED.items():
        for at in _places(content, mark):
            yield how, _inflated(content[at:], unpacker())
    for at in _places(content, _ZIP):
        start = at + 30 + sum(int.from_bytes(content[at + n : at + n + 2], "little") for n in (26, 28))
        if content[at + 8 : at + 9] == b"\x08":
            yield "zip", _inflated(content[start:], zlib.decompressobj(_DEFLATE))
    for at in _places(content, _ZSTD):
        yield "zstd", _of_zstd(content[at:])
    if content.startswith(_PARQUET):
        yield "parquet", _parquet(content)
    for blob in _BLOB.findall(content):
        try:
            yield "data uri", base64.b64decode(b"".join(blob.split()))
        except ValueError:
            continue
    if escaped := [run for run in _PRINTED.findall(content) if b"%" in run]:
        plain = b"\n".join(map(unquote_to_bytes, escaped))
        yield from [("percent", plain)] * (plain != b"\n".join(escaped))


def _places(content: bytes, mark: bytes) -> Iterator[int]:
    at = content.find(mark)
    while at >= 0:
        yield at
        at = content.find(mark, at + 1)


def _inflated(packed: bytes, unpacker: Any) -> bytes:
    found = []
    for at in range(0, len(packed), PIECE):
        try:
            found.append(unpacker.decompress(packed[at : at + PIECE]))
        except (zlib.error, lzma.LZMAError, OSError):
            break
        if unpacker.eof:
            break
    return b"".join(found)


def _of_zstd(packed: bytes) -> bytes:
    found = []
    try:
        with pa.input_stream(pa.py_buffer(packed), compression="zstd") as stream:
            while piece := stream.read(PIECE):
                found.append(piece)
    except OSError:
        pass
    return b"".join(found)


def _parquet(content: bytes) -> bytes:
    """Every cell of every column; of a file without its end, or a damaged one, what could be read."""
    texts = []
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        texts += [str(file.metadata.metadata or {}), str(file.schema_arrow.metadata or {}), *file.schema_arrow.names]
        for batch in file.iter_batches():
            texts += [str(column.to_pylist()) for column in batch.columns]
    except (pa.ArrowException, OSError, ValueError):
        pass
    return "\n".join(texts).encode(errors="surrogateescape")
