"""What is asked of a file before it is opened, and the net that turns every failure into a DataError."""

from __future__ import annotations

import errno
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import numpy as np

from volssl.errors import DataError
from volssl.names import cause, withheld
from volssl.regular import IrregularError, open_regular, require_regular

MAX_VOXELS = 2**30  # of one item over all channels: 4 GiB as float32
MAX_SIDE = 2**16 - 1  # voxels along one axis, or frames: what DICOM can count
MAX_BYTES = 2**32  # of one item as it is stored, unpacked
MAX_RATIO = 200  # of bytes claimed to bytes held, where over SUSPECT are claimed
SUSPECT = 2**28
SPACING_MM = (1e-3, 100.0)


def check_regular(path: Path) -> int:
    """Size in bytes of a regular file; a pipe or a device would block or never end.

    Raises:
        DataError: ``missing``, ``link``, ``permission`` or ``not_a_file``.
    """
    with reached(path):
        return require_regular(path)


def opened(path: Path) -> BufferedReader:
    """A regular file, open for reading: what another process puts in its place is neither waited for nor read.

    Raises:
        DataError: as ``check_regular``.
    """
    with reached(path):
        return open_regular(path)


@contextmanager
def reached(path: Path) -> Iterator[None]:
    """Say of a path what keeps it from being looked at.

    Raises:
        DataError: ``missing``, ``link``, ``permission``, ``not_a_file`` or ``unreadable``.
    """
    with guard("unreadable", path):
        try:
            yield
        except FileNotFoundError:
            raise DataError("missing", "no such file: check the path", str(path)) from None
        except IrregularError:
            raise DataError("not_a_file", "not a regular file: remove it from the folder", str(path)) from None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise DataError("link", "a link that leads in a circle: remove it", str(path)) from None


def check_inside(path: Path, top: str) -> None:
    """Refuse a link that leads out of the folder ``top``, which is a real path.

    Raises:
        DataError: ``link``.
    """
    if path.is_symlink() and os.path.commonpath([top, os.path.realpath(path)]) != top:
        what = "a link out of data.root is not followed"
        raise DataError("link", f"{what}: copy what it names, or name it in a labels.csv", str(path))


def check_shape(shape: Sequence[int], where: str) -> None:
    """Refuse an image that a header claims to be empty or absurdly large, before memory is asked for.

    Raises:
        DataError: ``empty`` or ``too_large``.
    """
    if not shape or min(shape) < 1:
        raise DataError("empty", f"the shape is {times(shape)}: export the image again", where)
    if math.prod(shape) > MAX_VOXELS or max(shape) > MAX_SIDE:
        limits = f"{MAX_VOXELS:,} voxels, or {MAX_SIDE:,} along a side"
        raise DataError("too_large", f"{times(shape)} is over {limits}: crop or split the image", where)


def times(numbers: Iterable[float]) -> str:
    """Numbers of a header, in four digits each: more may be a date."""
    return " x ".join(f"{n:.4g}" for n in numbers)


def check_claim(claimed: int, held: int, where: str) -> None:
    """Refuse pixels of which a header claims more bytes than an item has, or than those held can unpack to.

    Raises:
        DataError: ``too_large``.
    """
    if claimed > MAX_BYTES:
        raise DataError("too_large", f"claims {claimed:,} bytes, over {MAX_BYTES:,}: crop or split the image", where)
    check_ratio(claimed, held, where)


def check_ratio(claimed: int, held: int, where: str) -> None:
    """Refuse what would unpack to more than ``MAX_RATIO`` times its bytes, if that is much.

    Little may be packed as well as it likes: an empty mask is a thousandth of its size.

    Raises:
        DataError: ``too_large``.
    """
    if claimed > SUSPECT and claimed > MAX_RATIO * held:
        raise DataError("too_large", f"{held:,} bytes claim to be {claimed:,}: export the file again", where)


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
            f"voxels of {times(size)} mm, not {low:g}..{high:g}: repair the header",
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
    except RecursionError:
        raise DataError(code, "is nested too deeply: export the file again", str(where)) from None
    except BaseException as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {withheld(lines[0][:200])}" if lines else type(error).__name__
        raise DataError(code, f"{reason}: export the file again", str(where)) from cause(error)


T = TypeVar("T")


def guarded(code: str, where: Path | str, members: Iterator[T]) -> Iterator[T]:
    """``members``, each of them made within a guard of its own, which is left before the next is asked for."""
    while True:
        with guard(code, where):
            try:
                member = next(members)
            except StopIteration:
                return
        yield member
