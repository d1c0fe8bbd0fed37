"""The pixels of DICOM images as numbers, and those that need no geometry: radiographs, frames of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UncompressedTransferSyntaxes

from volssl.data.child import decode
from volssl.data.codestream import size
from volssl.data.header import check_flat, check_pixels, is_colour, read_dataset, rescale
from volssl.data.preflight import guard, guarded
from volssl.errors import DataError


def read_image(file: Path) -> np.ndarray:
    """The numbers of a flat image: a radiograph, an angiogram, a lone slice. No geometry is asked for.

    Returns:
        float32 (rows, columns), scaled as in ``read_volume``; or, in colour, (rows, columns, 3) of 0..255.

    Raises:
        DataError: any code of the table in ``docs/data.md``.
    """
    ds = read_dataset(file, pixels=True)
    with guard("header", file):
        check_flat(ds, file)
    return next(_pictures(ds, file, [0]))


def read_frames(file: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Some frames of a clip, numbered from 0, one by one and each as ``read_image`` gives it.

    Raises:
        DataError: any code of the table in ``docs/data.md``.
    """
    return _pictures(read_dataset(file, pixels=True), file, frames)


def _pictures(ds: Dataset, file: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    with guard("header", file):
        check_pixels(ds, file)
        scales = [rescale(ds, file, frame) for frame in frames]
    for scale, one in zip(scales, stored(ds, file, frames), strict=True):
        with guard("pixels", file):
            picture = _picture(ds, one, *scale)
        yield picture


def stored(ds: Dataset, file: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """The numbers of some frames as they are stored, one by one; packed ones are unpacked by another process.

    Raises:
        DataError: ``no_pixels``, ``pixels``, or as ``child.decode``.
    """
    check_held(ds, file)
    if ds.file_meta.get("TransferSyntaxUID") in UncompressedTransferSyntaxes:
        return _frames(ds, file, frames)
    return decode("dicom", file, list(frames))


def unpacked(file: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """As ``stored``, of a packed file and in this process.

    Raises:
        DataError: ``pixels``, also where a frame is packed as another size than that of the header.
    """
    ds = read_dataset(file, pixels=True)
    with guard("pixels", file):
        check_pixels(ds, file)
        check_held(ds, file)
        said = (int(ds.Rows), int(ds.Columns), int(ds.SamplesPerPixel))
        count = int(ds.get("NumberOfFrames") or 1)
        for n, stream in enumerate(generate_frames(ds.PixelData, number_of_frames=count)):
            packed = size(stream) or said
            if packed[:2] != said[:2] or packed[2] > said[2]:
                what = f"frame {n} is packed as {packed} rows, columns and samples, not {said}"
                raise DataError("pixels", f"{what}: export the file again", str(file))
    return _frames(ds, file, frames)


def _frames(ds: Dataset, file: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    with guard("pixels", file):
        return guarded("pixels", file, iter_pixels(ds, indices=list(frames)))


def _picture(ds: Dataset, stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if not is_colour(ds):
        return values(ds, stored, slope, intercept)
    bits = int(ds.BitsStored)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        stored, bits = apply_color_lut(stored, ds), _palette_bits(ds)
    return np.asarray(stored[..., :3], dtype=np.float32) * np.float32(255 / (2**bits - 1))


def _palette_bits(ds: Dataset) -> int:
    """8 where the palette's greatest entry fits, whatever its descriptor says: bytes are often stored in 16 bits."""
    entries, first, _ = ds.RedPaletteColorLookupTableDescriptor
    palette = apply_color_lut(np.arange(entries or 2**16, dtype=np.int32) + first, ds)
    return 8 if palette[..., :3].max() < 256 else 16


def check_held(ds: Dataset, where: Path) -> None:
    """Raises DataError (``no_pixels``) where an image object holds no image."""
    if "PixelData" not in ds and "FloatPixelData" not in ds and "DoubleFloatPixelData" not in ds:
        raise DataError("no_pixels", "the file holds no pixel data: export it again", str(where))


def values(ds: Dataset, stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """float32 of what a grey image means: more is brighter, rescaled or through its look-up table."""
    if ds.PhotometricInterpretation == "MONOCHROME1" and stored.dtype.kind in "iu":
        low, high = (-1, 0) if ds.PixelRepresentation else (0, 2 ** int(ds.BitsStored) - 1)
        stored = low + high - stored.astype(np.int64)
    if "ModalityLUTSequence" in ds:
        return np.asarray(apply_modality_lut(stored, ds), dtype=np.float32)
    return (stored * slope + intercept).astype(np.float32)
