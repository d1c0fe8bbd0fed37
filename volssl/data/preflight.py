"""What is asked of a file before it is opened, and the net that turns every failure into a DataError."""

from __future__ import annotations

import math
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from volssl.errors import DataError
from volssl.names import cause, withheld

MAX_VOXELS = 2**30  # of one item over all channels: 4 GiB as float32
SPACING_MM = (1e-3, 100.0)


def check_regular(path: Path) -> int:
    """Size in bytes of a regular file; a pipe or a device would block or never end.

    Raises:
        DataError: ``missing``, ``permission`` or ``not_a_file``.
    """
    with guard("not_a_file", path):
        try:
            status = path.stat()
        except FileNotFoundError:
            raise DataError("missing", "no such file: check the path", str(path)) from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not_a_file", "not a regular file: remove it from the folder", str(path))
        return status.st_size


def check_shape(shape: Sequence[int], where: str) -> None:
    """Refuse an image that a header claims to be empty or absurdly large, before memory is asked for.

    Raises:
        DataError: ``empty`` or ``too_large``.
    """
    if not shape or min(shape) < 1:
        raise DataError("empty", f"the shape is {tuple(shape)}: export the image again", where)
    if math.prod(shape) > MAX_VOXELS:
        raise DataError("too_large", f"{tuple(shape)} is over {MAX_VOXELS:,} voxels: crop or split the image", where)


def check_affine(affine: np.ndarray, where: str) -> None:
    """Refuse a 4x4 affine in mm that is not finite, not invertible or whose voxels are no plausible size.

    Raises:
        DataError: ``bad_affine`` or ``bad_spacing``.
    """
    matrix = affine[:3, :3]
    if not np.isfinite(affine).all():
        raise DataError("bad_affine", "the affine holds NaN or infinity: repair the header", where)
    size = np.linalg.norm(matrix, axis=0)
    if (size < SPACING_MM[0]).any() or (size > SPACING_MM[1]).any():
        low, high = SPACING_MM
        raise DataError(
            "bad_spacing",
            f"voxels of {' x '.join(f'{s:.4g}' for s in size)} mm, not {low:g}..{high:g}: repair the header",
            where,
        )
    if abs(np.linalg.det(matrix / size)) < 1e-3:
        raise DataError("bad_affine", "the affine is singular: repair the header", where)


def finite(image: np.ndarray, non_finite: str, where: str) -> np.ndarray:
    """``image`` if all of it is finite; else zero in place of NaN and infinity, or a refusal.

    Raises:
        DataError: ``non_finite`` unless ``non_finite == "zero"``.
    """
    good = np.isfinite(image)
    if good.all():
        return image
    if non_finite == "zero":
        return np.where(good, image, image.dtype.type(0))
    raise DataError(
        "non_finite",
        f"{int((~good).sum())} voxels are NaN or infinite: mend the file or set data.non_finite: zero",
        where,
    )


@contextmanager
def guard(code: str, where: Path | str) -> Iterator[None]:
    """Let nothing but DataError and a request to stop leave the block; the readers' warnings are silent.

    Native codecs raise outside ``Exception`` (pylibjpeg-rle's PanicException), hence BaseException.

    Args:
        code: the reason code of a failure that has none of its own.
        where: the file or series to name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except PermissionError:
        raise DataError("permission", "may not be read: change its permissions", str(where)) from None
    except MemoryError:
        raise DataError("memory", "does not fit into memory: crop or split the image", str(where)) from None
    except BaseException as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {withheld(lines[0][:200])}" if lines else type(error).__name__
        raise DataError(code, f"{reason}: export the file again", str(where)) from cause(error)
