"""One whole slide image, read by another process: what it states of itself, and any rectangle at any resolution."""

from __future__ import annotations

import uuid
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volssl.data.child import SECONDS_PER_FILE, decode

MAGNIFIED = 1.05  # at most, beyond what the slide was scanned at


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the slide's full resolution, not whole numbers."""

    x: float
    y: float
    width: float
    height: float


class Slide:
    """As ``slide_decoder.Slide``. columns, rows: at full resolution. mpp: microns per pixel along a row and a column.

    Args:
        assume_mpp: microns per pixel where the slide states none.

    Raises:
        DataError: ``slide`` where OpenSlide cannot open it, ``mpp`` where neither says how large its pixels are,
            ``too_large`` where the header claims what no slide has.
    """

    def __init__(self, path: Path, assume_mpp: float | None = None) -> None:
        self._path, self._named = path, (assume_mpp, uuid.uuid4().hex)  # opened anew, it is another
        columns, rows, across, down = self._asked("slide").tolist()
        self.columns, self.rows, self.mpp = int(columns), int(rows), (across, down)

    def close(self) -> None:
        """Let the file go."""
        list(decode("slide_close", self._path, self._named[1]))

    def read(self, box: Box, rows: int, columns: int) -> NDArray[np.uint8]:
        """As ``slide_decoder.Slide.read``."""
        return self._asked("slide_box", astuple(box), rows, columns)

    def overview(self, mpp: float) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """The whole slide at about ``mpp``, and the size of its pixels in those of full resolution.

        Returns:
            (rows, columns, 3) RGB; height and width of a pixel.

        Raises:
            DataError: as ``read``, or ``too_large`` for a header that claims what no slide has.
        """
        image = self._asked("slide_overview", mpp)
        return image, (self.rows / image.shape[0], self.columns / image.shape[1])

    def _asked(self, job: str, *arguments: Any) -> np.ndarray:
        (array,) = decode(job, self._path, *self._named, *arguments, seconds=SECONDS_PER_FILE)
        return array
