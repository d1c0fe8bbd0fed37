"""Tiled TIFFs of several levels, as slide scanners write them, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TILE = 32  # pixels of the tiles in which it is stored
Pixels = np.ndarray[Any, Any]


def write(
    path: Path,
    levels: Sequence[Pixels],
    *,
    mpp: float | None = 0.5,
    lost: Sequence[int] = (),
    beyond: int = 0,
    told: bytes = b"",
) -> Path:
    """One of (rows, columns, 3) bytes per level, without compression (TIFF 6.0, sections 2 and 15).

    mpp: microns per pixel of the first level. lost: its tiles that are not there; beyond: by how many bytes its last
    tile is said to lie off. told: its ImageDescription.
    """
    out = bytearray(b"II*\0" + bytes(4))
    link = 4
    for n, image in enumerate(levels):
        rows, columns = image.shape[:2]
        at: list[int] = []
        padded = np.pad(image, ((0, -rows % TILE), (0, -columns % TILE), (0, 0)))
        for top in range(0, rows, TILE):
            for left in range(0, columns, TILE):
                at.append(len(out))
                out += padded[top : top + TILE, left : left + TILE].tobytes()
        size = [TILE * TILE * 3] * len(at)
        for i in lost if n == 0 else ():
            at[i] = size[i] = 0
        at[-1] += beyond if n == 0 else 0
        tags = [(254, "I", [int(n > 0)]), (256, "I", [columns]), (257, "I", [rows]), (258, "H", [8, 8, 8])]
        tags += [(259, "H", [1]), (262, "H", [2]), (277, "H", [3]), (284, "H", [1])]
        if told:
            tags.append((270, "B", list(told + bytes(9))))
        if mpp is not None:
            per_cm = round(1e7 / mpp) | 1000 << 32  # a fraction of 32 bits over 32 bits
            tags += [(282, "Q", [per_cm]), (283, "Q", [per_cm]), (296, "H", [3])]
        tags += [(322, "I", [TILE]), (323, "I", [TILE]), (324, "I", at), (325, "I", size)]
        entries = b""
        for tag, kind, values in sorted(tags, key=lambda t: t[0]):
            data = struct.pack(f"<{len(values)}{kind}", *values)
            if len(data) > 4:
                data, place = struct.pack("<I", len(out)), data
                out += place
            entries += struct.pack("<HHI", tag, {"B": 2, "H": 3, "I": 4, "Q": 5}[kind], len(values)) + data.ljust(
                4, b"\0"
            )
        out += bytes(len(out) % 2)
        out[link : link + 4] = struct.pack("<I", len(out))
        out += struct.pack("<H", len(tags)) + entries
        link = len(out)
        out += bytes(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out)
    return path
