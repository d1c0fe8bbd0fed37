"""What native codecs do, with little memory: here, or served by ``python -m volssl.data.decoder``, which may die of it.

Requests and answers are JSON after its length in four bytes; an array's own bytes follow the answer that tells of it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from volssl.data.preflight import guard
from volssl.errors import DataError

MEMORY = 2**32  # bytes that decoding may take beside what the process has: the largest picture, and its copies
LENGTH = struct.Struct(">I")
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # they are meant for the run

Arrays = Iterator[np.ndarray]


def run(job: str, *arguments: Any) -> Arrays:
    """The arrays of a job of ``JOBS``, each made when it is asked for, under the limit of memory.

    Args:
        arguments: the first is a path.

    Raises:
        DataError: as the job.
    """
    arrays = JOBS[job](*arguments)
    while True:
        with limited(MEMORY):
            array = next(arrays, None)
        if array is None:
            return
        yield array


@contextmanager
def limited(extra: int) -> Iterator[None]:
    """Let this process take no more than ``extra`` bytes beside what it has; more is a MemoryError, or its end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    ceilings = [one for one in (soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(pages * resource.getpagesize() + extra, *ceilings, 2**62), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def packed(message: Mapping[str, Any]) -> bytes:
    """A request or an answer as it travels."""
    text = json.dumps(message).encode()
    return LENGTH.pack(len(text)) + text


def serve() -> None:
    """Do what is asked on the standard input until it ends; a crash leaves no core, which would hold the patient's."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(0, "rb") as requests, os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a codec prints is no answer
        _answer(answers, {"ready": True})
        while length := requests.read(LENGTH.size):
            request = json.loads(requests.read(*LENGTH.unpack(length)))
            try:
                _do(request, answers)
            except DataError as error:
                _answer(answers, {"error": [error.code, error.message, error.where]})


def _do(request: Mapping[str, Any], answers: IO[bytes]) -> None:
    arrays = run(request["job"], *request["arguments"])
    while True:
        with guard("pixels", request["arguments"][0]):
            array = next(arrays, None)
        if array is None:
            break
        array = np.ascontiguousarray(array)
        _answer(answers, {"dtype": array.dtype.str, "shape": array.shape}, array.data.cast("B"))
    _answer(answers, {"end": True})


def _answer(answers: IO[bytes], message: Mapping[str, Any], numbers: memoryview | None = None) -> None:
    answers.write(packed(message))
    if numbers is not None:
        answers.write(numbers)
    answers.flush()


def _dicom(path: str, frames: list[int]) -> Arrays:
    from volssl.data.dicom_pixels import unpacked

    return unpacked(Path(path), frames)


def _picture(path: str) -> Arrays:
    from volssl.data.picture_file import read

    yield read(Path(path))


def _picture_bits(path: str) -> Arrays:
    from volssl.data.picture_file import bits

    yield np.array(bits(Path(path)), dtype=np.int64)


def _video_count(path: str) -> Arrays:
    from volssl.data.video_decoder import count

    yield np.array([count(Path(path))])


def _video(path: str) -> Arrays:
    from volssl.data.video_decoder import every

    return every(Path(path))


def _video_clip(path: str, state: str, wanted: list[int]) -> Arrays:
    from volssl.data.video_decoder import read

    return read(Path(path), state, wanted)


def _slide(path: str, assume_mpp: float | None, token: str) -> Arrays:
    from volssl.data.slide_decoder import opened

    slide = opened(path, assume_mpp, token)
    yield np.array([slide.columns, slide.rows, *slide.mpp], dtype=np.float64)


def _slide_box(path: str, assume_mpp: float | None, token: str, box: list[float], rows: int, columns: int) -> Arrays:
    from volssl.data.slide_decoder import opened
    from volssl.data.slide_file import Box

    yield opened(path, assume_mpp, token).read(Box(*box), rows, columns)


def _slide_overview(path: str, assume_mpp: float | None, token: str, mpp: float) -> Arrays:
    from volssl.data.slide_decoder import opened

    yield opened(path, assume_mpp, token).overview(mpp)


def _slide_close(_: str, token: str) -> Arrays:
    from volssl.data.slide_decoder import close

    close(token)
    return iter(())


def _manifest(path: str, rows: bool) -> Arrays:
    from volssl.data.manifest_file import contents

    return contents(Path(path), rows)


JOBS: dict[str, Callable[..., Arrays]] = {
    "dicom": _dicom,
    "manifest": _manifest,
    "picture": _picture,
    "picture_bits": _picture_bits,
    "video": _video,
    "video_clip": _video_clip,
    "video_count": _video_count,
    "slide": _slide,
    "slide_box": _slide_box,
    "slide_overview": _slide_overview,
    "slide_close": _slide_close,
}

if __name__ == "__main__":
    serve()
