"""Where the tissue of a stained slide is, and which tiles of a grid hold enough of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

FAINT, STRONG = 20, 30  # the threshold's bounds: no glass is more coloured, no stained tissue need be more


def otsu(values: NDArray[np.uint8]) -> int:
    """The threshold t that best parts the values into those <= t and those above.

    It maximises the variance between the two, w0 w1 (m0 - m1)^2 (Otsu, IEEE Trans. SMC 9(1), 1979).
    """
    count = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(count)
    total, sum_below = below[-1], np.cumsum(count * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * sum_below - below * sum_below[-1]) ** 2 / (below * (total - below))
    return int(np.argmax(np.nan_to_num(between, posinf=0.0)))


def tissue_mask(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of an RGB overview (rows, columns, 3) are stained tissue.

    Stains are coloured; glass, air bubbles, shadows, black ink and the black or white around a scan are grey. So the
    measure is the chroma, the greatest of R, G, B minus the least: HSV's saturation, but not divided by the value,
    which would make noise of what is nearly black. Otsu's threshold parts the slide's own pixels; it always finds
    two classes, so it is kept within ``FAINT`` and ``STRONG``: a slide that is all glass has no tissue, and one that
    is all tissue nothing else. Ink in colour counts as tissue; a stain without colour is not seen.
    """
    chroma = overview.max(axis=2) - overview.min(axis=2)
    return np.asarray(chroma > np.clip(otsu(chroma), FAINT, STRONG))


def grid(extent: float, tile: float, stride: float) -> NDArray[np.int64]:
    """Whole-numbered starts of the tiles that lie within ``extent``, all in one unit; none where it is too small."""
    slack = 1e-6 * tile  # of rounding in microns
    count = int(np.floor((extent - tile + slack) / stride)) + 1 if extent + slack >= tile else 0
    starts = np.rint(np.arange(count) * stride)
    return np.asarray(np.minimum(starts, np.floor(extent - tile + slack)), dtype=np.int64)


def shares(
    mask: NDArray[np.bool_], rows: NDArray[np.float64], columns: NDArray[np.float64], tile: tuple[float, float]
) -> NDArray[np.float64]:
    """(len(rows), len(columns)): the share of each tile's area that the mask covers, exactly.

    rows, columns: of the tiles' upper left corners; tile: height and width; all in pixels of the mask, not whole
    numbers. The sums of the mask up to a point are linear between its pixels, hence four of them give an area.
    """
    sums = np.pad(np.cumsum(np.cumsum(mask, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))

    def up_to(row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.meshgrid(row, column, indexing="ij")
        return np.asarray(map_coordinates(sums, at, order=1, mode="nearest"))

    ends = rows + tile[0], columns + tile[1]
    area = up_to(*ends) - up_to(rows, ends[1]) - up_to(ends[0], columns) + up_to(rows, columns)
    return area / (tile[0] * tile[1])
