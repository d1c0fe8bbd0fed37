"""Looks for a planted word in every output byte, however it is written down."""

from __future__ import annotations

import base64
import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

DEPTH = 4  # of archives in archives
_BLOB = re.compile(rb"base64,([A-Za-z0-9+/=\s]{16,})")
_PARQUET, _PNG, _GZIP, _ZIP = b"PAR1", b"\x89PNG\r\n\x1a\n", b"\x1f\x8b", b"PK\x03\x04"


def encodings(word: str) -> dict[str, list[bytes]]:
    """How a word may be written: by name, what then stands in the file, in small letters where the case may vary."""
    plain = word.encode()
    return {
        "raw": [plain],
        "utf-16": [word.encode("utf-16-le"), word.encode("utf-16-be")],
        "hexadecimal": [plain.hex().encode()],
        "base64": list(_base64(plain)),
    }


def _base64(plain: bytes) -> Iterator[bytes]:
    """At each of three places in a group, the letters that depend on nothing but the word."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + plain)
        first = -(-before * 8 // 6)
        yield whole[first : (before + len(plain)) * 8 // 6]


def hits(place: Path, words: tuple[str, ...]) -> list[str]:
    """One line for each file below, or name of one, that holds one of the words: where, and how it is written."""
    found = []
    for path in sorted([place, *place.rglob("*")]):
        name = str(path.relative_to(place.parent))
        found += [f"{name}: its name" for word in words if word.lower() in name.lower()]
        if path.is_file():
            found += [f"{name}: {how}" for how in in_bytes(path.read_bytes(), words)]
    return found


def in_bytes(content: bytes, words: tuple[str, ...], depth: int = DEPTH) -> list[str]:
    """How the words stand in some bytes, and in what they hold packed."""
    small = content.lower()
    found = []
    for word in words:
        for how, forms in encodings(word).items():
            sensitive = how == "base64"  # of others the case says nothing
            if any((form if sensitive else form.lower()) in (content if sensitive else small) for form in forms):
                found.append(how)
    if depth:
        for how, inside in _unpacked(content):
            found += [f"{how} > {deeper}" for deeper in in_bytes(inside, words, depth - 1)]
    return found


def _unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What a file is made of, where it is packed."""
    if content.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield "zip", name.encode() + b"\n" + archive.read(name)
    elif content.startswith(_GZIP):
        yield "gzip", gzip.decompress(content)
    elif content.startswith(_PARQUET):
        yield "parquet", _parquet(content)
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                inside = tar.extractfile(member)
                yield "tar", inside.read() if inside else b""
    if content.startswith(_PNG):
        for kind, chunk in _chunks(content):
            if kind in (b"zTXt", b"iTXt"):
                yield "png text", _inflated(chunk)
    for blob in _BLOB.findall(content):
        try:
            yield "data uri", base64.b64decode(b"".join(blob.split()))
        except ValueError:
            continue


def _parquet(content: bytes) -> bytes:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    texts = [str(table.schema.metadata or {}), *table.column_names]
    for column in table.columns:
        if str(column.type) in ("string", "large_string"):
            texts += map(str, column.to_pylist())
    return "\n".join(texts).encode()


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at + 8 <= len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        yield kind, png[at + 8 : at + 8 + length]
        at += length + 12


def _inflated(chunk: bytes) -> bytes:
    """Whatever of a text chunk is compressed."""
    found = b""
    for at in range(min(len(chunk), 100)):
        try:
            found += zlib.decompress(chunk[at:])
        except zlib.error:
            continue
    return found
