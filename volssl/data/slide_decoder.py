"""One whole slide image: what it states of itself, and any rectangle of it at any resolution."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openslide import (
    PROPERTY_NAME_BACKGROUND_COLOR,
    PROPERTY_NAME_MPP_X,
    PROPERTY_NAME_MPP_Y,
    OpenSlide,
    OpenSlideCache,
)
from PIL import Image

from volssl.data.preflight import check_regular, check_shape, guard, times
from volssl.data.slide_file import Box
from volssl.errors import DataError

PLAUSIBLE_MPP = (0.02, 20.0)  # microns; what lies outside, such as a default of 72 dpi, states nothing
NEAR = 1.01  # a level may be so many times coarser than asked: pyramids round their sizes
DECODED = 2**26  # bytes of decoded tiles that a process keeps, over all of its slides; OpenSlide's own is 2**25 each
TILE = 2**27  # pixels of a stored tile, at most: OpenSlide dies where a damaged header claims more than the memory has
OPEN = 256  # slides that a process keeps open: opening one takes longer than reading a tile
BLOCK = 128  # pixels of an overview that are read at once
SIDES = ("width", "height")
SUPPORT = 2  # pixels that a bicubic filter reaches to each side, in pixels of the coarser grid


class Slide:
    """An open slide.

    columns, rows: at full resolution. mpp: microns per pixel there, along a row and along a column.

    Args:
        assume_mpp: microns per pixel where the slide states none.

    Raises:
        DataError: ``slide`` where OpenSlide cannot open it, ``mpp`` where neither says how large its pixels are,
            ``too_large`` where the header claims what no slide has.
    """

    def __init__(self, path: Path, assume_mpp: float | None = None) -> None:
        check_regular(path)
        with guard("slide", path):
            self._slide = OpenSlide(path)
            self._slide.set_cache(_decoded())
            self._check_tiles(path)
            self.columns, self.rows = self._slide.dimensions
            self.mpp = self._stated_mpp(path, assume_mpp)
            background = self._slide.properties.get(PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")
            self._background = f"#{background}"
        self._path = path

    def close(self) -> None:
        """Let the file go."""
        self._slide.close()

    def read(self, box: Box, rows: int, columns: int) -> NDArray[np.uint8]:
        """(rows, columns, 3) RGB of a box that lies within the slide.

        Read from the nearest level that is at least as fine, and resampled by Pillow's bicubic filter, which
        widens with the step and so does not alias. What was not scanned has the slide's background colour.

        Raises:
            DataError: ``slide``: the pixels cannot be decoded.
        """
        level = self._level(min(box.width / columns, box.height / rows))
        scale = self._slide.level_downsamples[level]
        right, down = box.x + box.width, box.y + box.height
        margins = [math.ceil(SUPPORT * step / scale) + 1 for step in (box.width / columns, box.height / rows)]
        corner = [max(math.floor(at / scale) - m, 0) for at, m in zip((box.x, box.y), margins, strict=True)]
        ends = [math.ceil(at / scale) + m for at, m in zip((right, down), margins, strict=True)]
        ends = [min(end, limit) for end, limit in zip(ends, self._slide.level_dimensions[level], strict=True)]
        size = (ends[0] - corner[0], ends[1] - corner[1])
        origin = (round(corner[0] * scale), round(corner[1] * scale))
        within = [(at - o) / scale for at, o in zip((box.x, box.y, right, down), origin * 2, strict=True)]
        limits = np.clip(within, 0, size * 2)  # by a part of a pixel: a level's size is rounded
        with guard("slide", self._path):
            picture = self._opaque(self._slide.read_region(origin, level, size))
            left, upper, right, lower = map(float, limits)
            area, smooth = (left, upper, right, lower), Image.Resampling.BICUBIC
            return np.array(picture.resize((columns, rows), smooth, box=area, reducing_gap=3.0))

    def overview(self, mpp: float) -> NDArray[np.uint8]:
        """(rows, columns, 3) RGB of the whole slide at about ``mpp``, read in blocks.

        Raises:
            DataError: as ``read``, or ``too_large`` for a header that claims what no slide has.
        """
        shape = [max(round(n * own / mpp), 1) for n, own in zip((self.rows, self.columns), self.mpp[::-1], strict=True)]
        check_shape((*shape, 3), str(self._path))
        high, wide = self.rows / shape[0], self.columns / shape[1]
        image = np.empty((*shape, 3), dtype=np.uint8)
        for top in range(0, shape[0], BLOCK):
            for left in range(0, shape[1], BLOCK):
                rows, columns = min(BLOCK, shape[0] - top), min(BLOCK, shape[1] - left)
                box = Box(left * wide, top * high, columns * wide, rows * high)
                image[top : top + rows, left : left + columns] = self.read(box, rows, columns)
        return image

    def _check_tiles(self, path: Path) -> None:
        for level in range(self._slide.level_count):
            stored = [self._slide.properties.get(f"openslide.level[{level}].tile-{side}", "1") for side in SIDES]
            if math.prod(map(int, stored)) > TILE:
                raise DataError("too_large", f"claims stored tiles of {' x '.join(stored)}: export it again", str(path))

    def _level(self, step: float) -> int:
        """The coarsest level that is as fine as ``step``, in pixels of full resolution."""
        fine = [i for i, scale in enumerate(self._slide.level_downsamples) if scale <= step * NEAR]
        return fine[-1] if fine else 0

    def _opaque(self, picture: Image.Image) -> Image.Image:
        paper = Image.new("RGB", picture.size, self._background)
        paper.paste(picture, mask=picture.getchannel("A"))
        return paper

    def _stated_mpp(self, path: Path, assumed: float | None) -> tuple[float, float]:
        stated = [self._slide.properties.get(name) for name in (PROPERTY_NAME_MPP_X, PROPERTY_NAME_MPP_Y)]
        low, high = PLAUSIBLE_MPP
        if all(s is not None and low <= float(s) <= high for s in stated):
            return float(stated[0] or 0), float(stated[1] or 0)
        if assumed is not None:
            return assumed, assumed
        sizes = times(float(s) for s in stated if s)
        told = "no size of its pixels" if None in stated else f"pixels of {sizes} microns"
        raise DataError("mpp", f"states {told}: set data.assume_mpp to the microns per pixel it has", str(path))


@lru_cache(maxsize=1)
def _decoded() -> OpenSlideCache:
    return OpenSlideCache(DECODED)


_open: OrderedDict[str, Slide] = OrderedDict()


def opened(path: str, assume_mpp: float | None, token: str) -> Slide:
    """The slide that has been opened under this token, or is now; the longest unused one is closed for it."""
    if token not in _open:
        _open[token] = Slide(Path(path), assume_mpp)
        if len(_open) > OPEN:
            _open.popitem(last=False)[1].close()
    _open.move_to_end(token)
    return _open[token]


def close(token: str) -> None:
    """Let its file go, if it is open."""
    if slide := _open.pop(token, None):
        slide.close()
