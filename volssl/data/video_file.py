"""One video file, decoded frame by frame by another process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volssl.data.child import SECONDS_PER_FILE, decode

Frame = NDArray[np.uint8]


def count(path: Path) -> int:
    """As ``video_decoder.count``."""
    (frames,) = decode("video_count", path, seconds=SECONDS_PER_FILE)
    return int(frames[0])


def every(path: Path) -> Iterator[Frame]:
    """As ``video_decoder.every``."""
    return decode("video", path)


def read(path: Path, state: str, wanted: Sequence[int]) -> Iterator[Frame]:
    """As ``video_decoder.read``."""
    return decode("video_clip", path, state, list(wanted), seconds=SECONDS_PER_FILE)
