"""What the head of a JPEG, JPEG-LS or JPEG 2000 stream says of its size, which a codec believes."""

from __future__ import annotations

import struct

_J2K = b"\xff\x4f\xff\x51"  # the start of a stream, and of the segment that holds its size
_HEAD = 4096  # bytes in which it starts, where it lies in a file format of its own
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # all that start a frame, JPEG-LS's among them


def size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and samples per pixel; None where it is none of these, or says nothing."""
    if (start := stream.find(_J2K, 0, _HEAD)) >= 0 and len(stream) >= start + 42:
        right, down, left, up = struct.unpack_from(">4I", stream, start + 8)
        return down - up, right - left, int.from_bytes(stream[start + 40 : start + 42], "big")
    return _jpeg(stream) if stream.startswith(b"\xff\xd8") else None


def _jpeg(stream: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 10 <= len(stream):
        if stream[at] != 0xFF or stream[at + 1] == 0xFF:  # fill bytes
            at += 1
            continue
        marker = stream[at + 1]
        if marker in _FRAMES:
            rows, columns, samples = struct.unpack_from(">HHB", stream, at + 5)
            return rows, columns, samples
        if marker == 0xDA:  # numbers follow
            return None
        at += 2 if marker in _WITHOUT_LENGTH else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
