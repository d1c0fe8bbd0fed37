"""The source of slide tiles: read from the slides when they are asked for, a few slides open per process."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volssl.data.each import Each
from volssl.data.fingerprint import stamp
from volssl.data.items import Keep, Origin, Size
from volssl.data.slide_config import SlideConfig
from volssl.data.slide_file import MAGNIFIED, Box, Slide
from volssl.errors import DataError
from volssl.types import Item

OPEN = 256  # slides that a process keeps open: opening one takes longer than reading a tile


def steps(mpp: tuple[float, float], asked: float, where: str) -> tuple[float, float]:
    """Pixels of full resolution per pixel asked for, along a row and along a column.

    Raises:
        DataError: ``mpp``: the slide was scanned too coarsely.
    """
    if asked * MAGNIFIED < max(mpp):
        told = f"scanned at {max(mpp):.4g} microns per pixel, data.mpp is {asked:g}"
        raise DataError("mpp", f"{told}: detail cannot be invented, leave it out or raise data.mpp", where)
    return asked / mpp[0], asked / mpp[1]


@dataclass(frozen=True)
class Tiles:
    """The tiles of one slide.

    id, label: of the slide. files: the first is opened. content: their SHA-256; state: what they were like then.
    mpp: microns per pixel of full resolution, along a row and along a column. corners (n, 2): column and row there
    of each tile's upper left. patient: as a table writes it.
    """

    id: str
    label: int
    files: tuple[Path, ...]
    content: str
    state: str
    mpp: tuple[float, float]
    corners: NDArray[np.int64]
    patient: str = ""


class SlideSource:
    """A Source of tiles, slide by slide in the order of their ids and each from its top left.

    What it says of its items: ``volssl.data.items.PreparedSource``; ids are ``slide.svs#x,y``, in pixels of the full
    resolution. It holds coordinates only: no slide is open until a tile of it is asked for, and none is pickled.
    """

    def __init__(
        self, slides: Sequence[Tiles], config: SlideConfig, region: Size, bad: Sequence[DataError] = ()
    ) -> None:
        self._slides, self._config = tuple(slides), config
        self._ends = list(accumulate(len(slide.corners) for slide in slides))
        self._open: OrderedDict[int, Slide] = OrderedDict()
        self.parts, self.weights, self.label_sets = (len(self),), (1,), (len(self),)
        self.channels, self.region, self.bad = config.channels, tuple(region), tuple(bad)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> Item:
        """The image is float32 (3, *region) at ``config.mpp``; the spacing is in mm.

        Raises:
            DataError: the slide has changed, or cannot be read any more.
        """
        which, (x, y) = self._find(i)
        tiles = self._slides[which]
        rows, columns = self.region
        across, down = steps(tiles.mpp, self._config.mpp, tiles.id)
        box = Box(x, y, columns * across, rows * down)
        pixels = torch.from_numpy(self._slide(which).read(box, rows, columns))
        image = self._scaled(pixels.permute(2, 0, 1).to(torch.float32))
        mm = self._config.mpp / 1000
        return Item(image.contiguous(), (mm, mm), self.ids[i], tiles.label)

    @property
    def ids(self) -> Sequence[str]:
        """Made when asked for: a large set has millions."""
        return Each(len(self), self._id)

    @property
    def labels(self) -> Sequence[int]:
        """Those of the slides."""
        return [slide.label for slide in self._slides for _ in range(len(slide.corners))]

    @property
    def fingerprints(self) -> Sequence[str]:
        """SHA-256 of the slide's own SHA-256, the tile's corner, its size and its resolution."""
        return Each(len(self), self._fingerprint)

    @property
    def origins(self) -> Iterator[Origin]:
        """One for each slide."""
        for slide in self._slides:
            yield Origin(slide.content, len(slide.corners), slide.patient)

    def _find(self, i: int) -> tuple[int, tuple[int, int]]:
        """Which slide, and the column and row of the tile's corner in it."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        which = bisect_right(self._ends, i)
        x, y = self._slides[which].corners[i - self._ends[which]]
        return which, (int(x), int(y))

    def _id(self, i: int) -> str:
        which, (x, y) = self._find(i)
        return f"{self._slides[which].id}#{x},{y}"

    def _fingerprint(self, i: int) -> str:
        which, (x, y) = self._find(i)
        made_from = f"{self._slides[which].content} {x},{y} {self.region} {self._config.mpp}"
        return hashlib.sha256(made_from.encode()).hexdigest()

    def _slide(self, which: int) -> Slide:
        """Open, the longest unused one being closed for it."""
        if which not in self._open:
            tiles = self._slides[which]
            if stamp(tiles.files).digest != tiles.state:
                raise DataError("changed", "changed while the run used it: start it again", tiles.id)
            self._open[which] = Slide(tiles.files[0], self._config.assume_mpp)
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(which)
        return self._open[which]

    def _scaled(self, image: Tensor) -> Tensor:
        window = self._config.intensity
        if isinstance(window, Keep):
            return image
        return ((image - (window.centre - window.width / 2)) / window.width).clamp(0, 1)
