"""One picture file as numbers, through Pillow (torch-free)."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageMode, ImageOps

from volssl.data.preflight import check_claim, check_shape, guard, opened
from volssl.errors import DataError

PHOTOMETRIC = 262  # the tag of TIFF 6.0 that says what a number means; 0: zero is white
_BITS = {"1": 1, **dict.fromkeys(("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"), 8), "I": 32, "F": 32}  # by mode
_FORM = re.compile(r"(?:L|LA|I|F|RGB|RGBA);(\d+)")  # in what Pillow calls the stored form, as "I;16B"
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # whatever the name says, no other decoder of Pillow is let near


def read(file: Path) -> np.ndarray:
    """float32 (rows, columns), or (rows, columns, 3) of 0..255 where the file is in colour, turned as EXIF says.

    Grey keeps its numbers (8, 16 or 32 bit, floating point), reflected where zero is white; black and white is 0 and
    255. A palette becomes colour; alpha is dropped.

    Raises:
        DataError: ``image``, also where Pillow would lose bits, ``dims`` where it has several pages, ``too_large``, ...
    """
    # Opened by name, an uncompressed TIFF that lies on its side is mapped into memory as if it stood: scrambled.
    with guard("image", file), opened(file) as f, _opened(f, file) as picture:
        _check_claims(picture, file)
        if _has_another(picture):
            raise DataError("dims", "several pages: save one picture per file", str(file))
        _keeps_bits(picture, file)
        white = getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == 0
        upright = ImageOps.exif_transpose(picture)
        if upright.mode not in ("L", "F") and not upright.mode.startswith("I"):
            upright = upright.convert("L" if upright.mode in ("1", "LA") else "RGB")
        pixels = np.array(upright, dtype=np.float32)
        return 65535 - pixels if white and upright.mode.startswith("I") else pixels


def bits(file: Path) -> list[int]:
    """How many a number has as it is stored; empty where a number stands for a colour.

    Raises:
        DataError: as ``read``.
    """
    with guard("image", file), opened(file) as f, _opened(f, file) as picture:
        tile = getattr(picture, "tile", ())
        told = tile[0].args if tile else None
        form = _FORM.match(told if isinstance(told, str) else str((told or ("",))[0]))
        return [int(form[1])] if form else [_BITS[picture.mode]] if picture.mode in _BITS else []


def _has_another(picture: Image.Image) -> bool:
    """Whether a second page follows; of a TIFF, Pillow's ``n_frames`` walks them all, in quadratic time."""
    if picture.format != "TIFF":
        return getattr(picture, "n_frames", 1) != 1
    with suppress(EOFError):
        picture.seek(1)
        return True
    return False


def _keeps_bits(picture: Image.Image, file: Path) -> None:
    """Raises DataError for what Pillow reads otherwise than it is stored: it makes bytes of grey with alpha, and
    reflects a TIFF in which zero is white at up to 8 bits only; floating point has no end to reflect at."""
    if any(tile[3] == "LA;16B" for tile in getattr(picture, "tile", ())):
        raise DataError("image", "16-bit grey with alpha: save it without alpha", str(file))
    if picture.mode == "F" and getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == 0:
        raise DataError("image", "floating point in which zero is white: save it with zero as black", str(file))


def _opened(f: BinaryIO, file: Path) -> Image.Image:
    try:
        return Image.open(f, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError("too_large", f"{error}: crop or split the picture", str(file)) from None


def _check_claims(picture: Image.Image, file: Path) -> None:
    check_shape((picture.height, picture.width), str(file))
    bytes_each = np.dtype(ImageMode.getmode(picture.mode).typestr).itemsize * len(picture.getbands())
    check_claim(picture.height * picture.width * bytes_each, file.stat().st_size, str(file))
