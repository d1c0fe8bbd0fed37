"""A synthetic scanner: DICOM slices whose values are a known function of where they lie in the patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

ROWS, COLUMNS, STEP = 6, 8, 3.0
SPACING = (2.0, 1.5)  # between rows, between columns
ORIGIN = np.array([-12.0, 7.0, 30.0])
_TILT = np.deg2rad(20.0)
ROW = np.array([np.cos(_TILT), np.sin(_TILT), 0.0])  # direction of increasing column index
COLUMN = np.array([0.0, 0.0, -1.0])
NORMAL = np.cross(ROW, COLUMN)
SLOPE, INTERCEPT = 0.5, -1000.0

MakeSlice = Callable[..., Dataset]
SaveAll = Callable[[Path, Sequence[Dataset]], list[Path]]


def scene(world: np.ndarray) -> np.ndarray:
    """The intensity at (x, y, z) RAS mm, in steps of the rescale slope: 3x - 5y + 7z, rounded to 0.5."""
    return np.asarray(np.round((world @ np.array([3.0, -5.0, 7.0])) / SLOPE) * SLOPE)


def slice_at(distance: float) -> np.ndarray:
    """Stored numbers (rows, columns) of the slice ``distance`` mm along the normal."""
    down, across = np.mgrid[:ROWS, :COLUMNS]
    lps = ORIGIN + distance * NORMAL + down[..., None] * SPACING[0] * COLUMN + across[..., None] * SPACING[1] * ROW
    return np.asarray((scene(lps * [-1, -1, 1]) - INTERCEPT) / SLOPE).astype(np.uint16)


@pytest.fixture
def make_slice() -> MakeSlice:
    """``make_slice(distance, Keyword=value, ...)``: an MR slice of the scene; ``pixels=`` replaces its numbers."""

    def make(distance: float, *, pixels: np.ndarray | None = None, **attributes: Any) -> Dataset:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.SeriesDescription = "1.2.3", 4, "T1 sagittal"
        ds.InstanceNumber, ds.ImageType, ds.Modality = round(distance), ["ORIGINAL", "PRIMARY"], "MR"
        ds.ImagePositionPatient = [float(v) for v in ORIGIN + distance * NORMAL]
        ds.ImageOrientationPatient = [float(v) for v in (*ROW, *COLUMN)]
        ds.PixelSpacing = list(SPACING)
        ds.RescaleSlope, ds.RescaleIntercept = SLOPE, INTERCEPT
        stored = slice_at(distance) if pixels is None else pixels
        ds.Rows, ds.Columns, ds.SamplesPerPixel = *stored.shape, 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelRepresentation = int(stored.dtype.kind == "i")
        ds.PixelData = stored.tobytes()
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        return ds

    return make


@pytest.fixture
def save_all() -> SaveAll:
    """Write each data set into the folder under a name that says nothing about its place in the volume."""

    def save(folder: Path, datasets: Sequence[Dataset]) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for i, ds in enumerate(datasets):
            paths.append(folder / f"{(i * 7 + 3) % 11:02d}-{len(list(folder.iterdir()))}.dcm")
            ds.save_as(paths[-1], enforce_file_format=True)
        return paths

    return save
