"""The numbers of one flat image, and what becomes of their colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from volssl.data.child import decode
from volssl.data.image_config import BYTES, Colour, Coloured
from volssl.data.preflight import check_regular, finite
from volssl.errors import DataError

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G and B: ITU-R BT.601


def read_picture(file: Path) -> np.ndarray:
    """As ``picture_file.read``, in another process.

    Raises:
        DataError: as there, and as ``child.decode``.
    """
    check_regular(file)
    (pixels,) = decode("picture", file)
    return pixels


def picture_bits(file: Path) -> int | None:
    """As ``picture_file.bits``, in another process.

    Raises:
        DataError: as ``read_picture``.
    """
    check_regular(file)
    (stored,) = decode("picture_bits", file)
    return int(stored[0]) if len(stored) else None


def as_picture(array: NDArray[np.generic]) -> np.ndarray:
    """float32 (rows, columns) or (rows, columns, 3) of an array that has its one or three channels at either end.

    Raises:
        DataError: ``dims`` where it has other axes, or both ends may be the channels.
    """
    pixels = np.asarray(array, dtype=np.float32)
    if pixels.ndim == 3 and (pixels.shape[0] in (1, 3)) != (pixels.shape[2] in (1, 3)):
        pixels = np.moveaxis(pixels, 0, -1) if pixels.shape[0] in (1, 3) else pixels
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    elif pixels.ndim != 2:
        what = f"an array of shape {array.shape}: rows x columns are wanted, or x 3 in colour"
        raise DataError("dims", f"{what} (3 x rows x columns will do)")
    return pixels


def flat(pixels: np.ndarray, config: Coloured, where: str) -> MetaTensor:
    """(rows, columns) or (rows, columns, 3) as the config wants them: (C, rows, columns) of pixels of 1 mm.

    Raises:
        DataError: ``colour`` where it would be lost, ``non_finite``, or ``range`` where the fixed window of
            colour would cut the numbers off, or make fractions up to 1 almost black.
    """
    pixels = finite(pixels, config.non_finite, where)
    if config.intensity == BYTES:
        _expect_bytes(pixels, where)
    image = np.ascontiguousarray(in_colour(pixels, config.colour, where))
    return MetaTensor(torch.from_numpy(image), affine=torch.eye(4, dtype=torch.float64))


def _expect_bytes(pixels: np.ndarray, where: str) -> None:
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 255 and (high > 1 or not (pixels % 1).any()):
        return
    what = f"numbers of {low:g} to {high:g}, where data.intensity expects bytes (0..255)"
    raise DataError("range", f"{what}: set it, e.g. to {{name: percentile}}", where)


def in_colour(pixels: np.ndarray, colour: Colour, where: str) -> np.ndarray:
    """(rows, columns) or (rows, columns, 3) to (1, rows, columns) or, for ``rgb``, (3, rows, columns).

    Raises:
        DataError: ``colour`` for a coloured picture where ``grey`` is asked for.
    """
    if pixels.ndim == 2:
        return np.repeat(pixels[None], 3 if colour == "rgb" else 1, axis=0)
    if colour == "rgb":
        return np.moveaxis(pixels, -1, 0)
    if (pixels == pixels[..., :1]).all():
        return pixels[None, ..., 0]
    if colour == "luma":
        return (pixels @ LUMA)[None]
    raise DataError("colour", "a colour picture: set data.colour to rgb, or to luma, which makes it grey", where)
