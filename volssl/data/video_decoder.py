"""One video file, decoded frame by frame by FFmpeg's libraries (PyAV)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from volssl.data.preflight import check_claim, check_regular, check_shape, guard, guarded
from volssl.errors import DataError

# A file may name others, or the network, in formats that are lists; whatever its name says, they are not let near.
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,avi,matroska,webm,mpeg,mpegvideo,mpegts,asf,gif",
}

CHANNELS = 3
Frame = NDArray[np.uint8]


def count(path: Path) -> int:
    """Its frames, each of them decoded, because headers say what they like.

    Raises:
        DataError: ``video`` where it holds none or is damaged, ``shapes`` where they differ in size.
    """
    with guard("video", path):
        frames = sum(1 for _ in _decoded(path))
    if frames == 0:
        raise DataError("video", "holds no frame: export it again", str(path))
    return frames


def every(path: Path) -> Iterator[Frame]:
    """(rows, columns, 3) RGB of all its frames; turned as the file says.

    Raises:
        DataError: as ``count``.
    """
    return guarded("video", path, map(_upright, _decoded(path)))


def read(path: Path, state: str, wanted: Sequence[int]) -> Iterator[Frame]:
    """(rows, columns, 3) RGB of the wanted frames, which are numbered from 0 and in order; turned as the file says.

    Frames are found by counting, never by a time stamp. A process goes on where the last call left the same
    file, so that one clip after the other costs a single decoding.

    Args:
        state: of the file (``fingerprint.stamp``), so that another one of the same name is opened anew.

    Raises:
        DataError: as ``count``, or the video ends before.
    """
    if wanted[0] < _opened(path, state).next:
        _opened.cache_clear()
    return _opened(path, state).take(wanted)


class _Video:
    """A file being decoded. next: the number of the frame that comes next, infinity once it cannot go on."""

    def __init__(self, path: Path) -> None:
        self.next, self._path, self._frames = 0.0, path, _decoded(path)

    def take(self, wanted: Sequence[int]) -> Iterator[Frame]:
        number, self.next = self.next, math.inf
        chosen = set(wanted)
        while number <= wanted[-1]:
            with guard("video", self._path):
                frame = next(self._frames, None)
                if frame is None:
                    raise DataError("video", f"ends before frame {wanted[-1]}: export it again", str(self._path))
                picture = _upright(frame) if number in chosen else None
            if picture is not None:
                yield picture
            number += 1
        self.next = number


@lru_cache(maxsize=1)
def _opened(path: Path, state: str) -> _Video:
    del state
    return _Video(path)


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    """Every frame of the first video stream, in the order in which they are shown.

    One thread: the processes that read are as many as are wanted. What FFmpeg conceals of damage is refused.
    """
    held = check_regular(path)
    with av.open(f"file:{os.path.abspath(path)}", container_options=OPTIONS) as file:
        if not file.streams.video:
            raise DataError("video", "holds no moving picture: leave it out", str(path))
        stream = file.streams.video[0]
        codec = stream.codec_context
        codec.thread_count = 1
        if codec.width and codec.height:
            check_shape((codec.height, codec.width), str(path))
            check_claim(codec.height * codec.width * CHANNELS, held, str(path))
        number, shape = 0, (0, 0)
        for packet in file.demux(stream):
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                if packet.is_corrupt or frame.is_corrupt:
                    raise DataError("video", f"frame {number} is damaged: export it again", str(path))
                shape = shape if number else (frame.height, frame.width)
                check_shape(shape, str(path))
                if shape != (frame.height, frame.width):
                    raise DataError("shapes", f"frame {number} has another size than the first", str(path))
                yield frame
                number += 1


def _upright(frame: av.VideoFrame) -> Frame:
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
