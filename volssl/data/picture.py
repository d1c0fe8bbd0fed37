"""The numbers of one flat image: pictures through Pillow, and what becomes of their colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image, ImageOps

from volssl.data.image_config import BYTES, Colour, Coloured
from volssl.data.preflight import check_regular, check_shape, finite, guard
from volssl.errors import DataError

PHOTOMETRIC = 262  # the tag of TIFF 6.0 that says what a number means; 0: zero is white
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # whatever the name says, no other decoder of Pillow is let near
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G and B: ITU-R BT.601


def read_picture(file: Path) -> np.ndarray:
    """float32 (rows, columns), or (rows, columns, 3) of 0..255 where the file is in colour, turned as EXIF says.

    Grey keeps its numbers (8, 16 or 32 bit, floating point), reflected where zero is white; black and white is 0 and
    255. A palette becomes colour; alpha is dropped.

    Raises:
        DataError: ``image``, also where Pillow would lose bits, ``dims`` where it has several pages, ``too_large``, ...
    """
    check_regular(file)
    # Opened by name, an uncompressed TIFF that lies on its side is mapped into memory as if it stood: scrambled.
    with guard("image", file), file.open("rb") as f, Image.open(f, formats=FORMATS) as picture:
        check_shape((picture.height, picture.width), str(file))
        if (pages := getattr(picture, "n_frames", 1)) != 1:
            raise DataError("dims", f"{pages} pages: save one picture per file", str(file))
        _keeps_bits(picture, file)
        white = getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == 0
        upright = ImageOps.exif_transpose(picture)
        if upright.mode not in ("L", "F") and not upright.mode.startswith("I"):
            upright = upright.convert("L" if upright.mode in ("1", "LA") else "RGB")
        pixels = np.array(upright, dtype=np.float32)
        return 65535 - pixels if white and upright.mode.startswith("I") else pixels


def _keeps_bits(picture: Image.Image, file: Path) -> None:
    """Raises DataError for what Pillow reads otherwise than it is stored: it makes bytes of grey with alpha, and
    reflects a TIFF in which zero is white at up to 8 bits only; floating point has no end to reflect at."""
    if any(tile[3] == "LA;16B" for tile in getattr(picture, "tile", ())):
        raise DataError("image", "16-bit grey with alpha: save it without alpha", str(file))
    if picture.mode == "F" and getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == 0:
        raise DataError("image", "floating point in which zero is white: save it with zero as black", str(file))


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
