"""What a DICOM header says of each slice: where it lies, how it is scaled, what tells it from repeats."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import JPEGExtended12Bit, UncompressedTransferSyntaxes

from volssl.data.elements import End, check_cost
from volssl.data.preflight import SPACING_MM, check_claim, check_shape, guard, opened, times
from volssl.errors import DataError

# What may tell apart slices at one position, in the order in which it is tried; enhanced name before classic.
SPLITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("type", ("FrameType", "ImageType")),
    ("component", ("ComplexImageComponent",)),
    ("echo", ("EffectiveEchoTime", "EchoTime", "EchoNumbers")),
    ("time", ("TemporalPositionIndex", "TemporalPositionIdentifier")),
    ("b", ("DiffusionBValue",)),
    ("inversion", ("InversionTime",)),
    ("flip", ("FlipAngle",)),
    ("trigger", ("NominalCardiacTriggerDelayTime", "TriggerTime")),
    ("acquisition", ("FrameAcquisitionNumber", "AcquisitionNumber")),
)

# Where an enhanced image keeps an attribute per frame, or once for all frames.
_SEQUENCE = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "FlipAngle": "MRTimingAndRelatedParametersSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
}
ITEM = 8  # bytes that a packed frame has at least: the tag and the length of its item
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")

_TAGS = [
    "SeriesInstanceUID", "SOPInstanceUID", "SeriesNumber", "InstanceNumber", "SeriesDescription", "ImageType",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices",
    "RescaleSlope", "RescaleIntercept", "FrameTime", "FrameTimeVector", "Modality", "NumberOfSlices",
    "DetectorInformationSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    *(keyword for _, keywords in SPLITS for keyword in keywords),
]  # fmt: skip


def _numbers(keywords: Iterable[str]) -> list[BaseTag | int]:
    return [Tag(keyword) for keyword in keywords]


# What is looked at; a FrameTimeVector is not, but for being there, and as long as the clip.
_READ = frozenset(
    _numbers([*_TAGS, *_SEQUENCE, *_SEQUENCE.values(), *_FRAME_TYPES, "SpecificCharacterSet", "ModalityLUTSequence"])
) - {Tag("FrameTimeVector")}


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice, in DICOM's patient coordinates (LPS, mm).

    frame: the frame, or tile of a mosaic, within ``file``. position: the centre of the first pixel.
    orientation: direction cosines of a row, then of a column. spacing: between rows, between columns.
    shape: rows, columns. values = stored * slope + intercept. splits: one value per entry of ``SPLITS``.
    """

    file: Path
    frame: int
    uid: str
    instance: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]
    slope: float
    intercept: float
    splits: tuple[Hashable, ...]


def is_dicom(path: Path) -> bool:
    """Whether a regular file carries the mark ``DICM`` at byte 128."""
    with guard("unreadable", path), opened(path) as file:
        return file.read(132)[128:] == b"DICM"


def read_dataset(path: Path, *, pixels: bool = False, tags: Sequence[str] = ()) -> Dataset:
    """The header that the door needs, or the ``tags`` of it (keywords), or the whole file with its pixels.

    Raises:
        DataError: ``deflated`` (it would have to be inflated before its size is known), ``header``, ...
    """
    with guard("header", path), opened(path) as file:
        read = {*_READ, *_numbers(tags)}
        check_cost(file, str(path), read, whole=pixels)
        if pixels:
            return dcmread(file)
        header = read_partial(file, End(), specific_tags=_numbers(tags or _TAGS))
        if tags or not is_mosaic(header):
            return header
        check_cost(file, str(path), read, whole=True)
        return dcmread(file, stop_before_pixels=True)


def is_image(ds: Dataset) -> bool:
    """Whether it is a picture of the patient; reports, segmentations, doses and localizers are left out."""
    derived = ds.get("Modality") in ("SEG", "RTDOSE")
    return "Rows" in ds and not derived and "LOCALIZER" not in _texts(ds.get("ImageType"))


def is_mosaic(ds: Dataset) -> bool:
    """Whether the slices of a Siemens volume are tiled on one picture."""
    return "MOSAIC" in _texts(ds.get("ImageType")) and int(ds.get("NumberOfFrames") or 1) == 1


def planes(ds: Dataset, path: Path) -> list[Plane]:
    """Every slice of one DICOM object, in stored order.

    Raises:
        DataError: ``colour``, ``empty``, ``too_large``, ``jpeg_12_bit``, ``truncated``, ``mosaic``, ``no_geometry``,
            ``bad_spacing``, ``bad_orientation``, ``bad_rescale`` or ``header``.
    """
    with guard("header", path):
        if is_colour(ds):
            raise DataError("colour", "colour images are not volumes: leave the series out", str(path))
        check_pixels(ds, path)
        if is_mosaic(ds):
            return _tiles(ds, path)
        count = int(ds.get("NumberOfFrames") or 1)
        if "PerFrameFunctionalGroupsSequence" in ds or count == 1:
            return [_plane(ds, path, frame) for frame in range(count)]
        return _stacked(ds, path, count)


def is_colour(ds: Dataset) -> bool:
    """Whether its pixels are colours, whatever they are encoded as."""
    return int(ds.get("SamplesPerPixel") or 1) != 1 or ds.get("PhotometricInterpretation") == "PALETTE COLOR"


def check_flat(ds: Dataset, path: Path) -> None:
    """Refuse an object of several images.

    Raises:
        DataError: ``kind``, with the source that reads it.
    """
    count = int(ds.get("NumberOfFrames") or 1)
    if is_mosaic(ds) or (count > 1 and "PerFrameFunctionalGroupsSequence" in ds):
        raise DataError("kind", "a volume in one file: use data.name: volume", str(path))
    if count > 1:
        what = f"{count:.4g} frames, not one image"
        raise DataError("kind", f"{what}: use data.name: video (frames: N makes 2D items), or volume", str(path))


def check_pixels(ds: Dataset, path: Path) -> None:
    """Refuse pixels that cannot be decoded, or would take more memory than the file is worth.

    Raises:
        DataError: ``empty``, ``too_large``, ``jpeg_12_bit``, ``colour`` or ``truncated``.
    """
    count, samples = int(ds.get("NumberOfFrames") or 1), int(ds.get("SamplesPerPixel") or 1)
    shape = (count, int(ds.Rows or 0), int(ds.Columns or 0))
    check_shape(shape, str(path))
    if samples not in (1, 3):
        raise DataError("colour", f"{samples} samples per pixel: 1 (grey) or 3 (colour) are read", str(path))
    encoding, held = ds.file_meta.get("TransferSyntaxUID"), path.stat().st_size
    if encoding == JPEGExtended12Bit and int(ds.get("BitsStored") or 8) > 8:
        raise DataError("jpeg_12_bit", "12-bit JPEG is not read: convert it, e.g. with dcmdjpeg", str(path))
    halved = ds.get("PhotometricInterpretation") == "YBR_FULL_422"  # two of three samples for every second pixel
    claimed = int(np.prod(shape)) * (2 if halved else samples) * int(ds.get("BitsAllocated") or 1) // 8
    check_claim(claimed, held, str(path))
    if held < (claimed if encoding in UncompressedTransferSyntaxes else count * ITEM):
        raise DataError("truncated", f"{count} frames need more than {held} bytes: copy the file again", str(path))
    frames = ds.get("PerFrameFunctionalGroupsSequence")
    if frames is not None and len(frames) != count:
        raise DataError("header", f"{len(frames)} descriptions of {count} frames: export the file again", str(path))


def _plane(ds: Dataset, path: Path, frame: int) -> Plane:
    groups = _groups(ds, frame)
    get = [_value(ds, groups, keyword) for keyword in ("ImagePositionPatient", "ImageOrientationPatient")]
    spacing = _value(ds, groups, "PixelSpacing")
    if any(value is None or not len(value) for value in (*get, spacing)):
        raise DataError("no_geometry", "no position, orientation or pixel spacing: not a slice of a volume", str(path))
    slope, intercept = rescale(ds, path, frame)
    return _checked(
        Plane(
            file=path,
            frame=frame,
            uid=str(ds.get("SOPInstanceUID") or ""),
            instance=int(ds.get("InstanceNumber") or 0),
            position=_floats(get[0]),
            orientation=_floats(get[1]),
            spacing=_floats(spacing),
            shape=(int(ds.Rows), int(ds.Columns)),
            slope=slope,
            intercept=intercept,
            splits=tuple(_split(ds, groups, keywords) for _, keywords in SPLITS),
        )
    )


def rescale(ds: Dataset, path: Path, frame: int = 0) -> tuple[float, float]:
    """(slope, intercept) of one frame; values = stored * slope + intercept.

    Raises:
        DataError: ``bad_rescale``.
    """
    given = [_value(ds, _groups(ds, frame), keyword) for keyword in ("RescaleSlope", "RescaleIntercept")]
    slope, intercept = (
        default if value is None else float(value) for value, default in zip(given, (1.0, 0.0), strict=True)
    )
    if not (0 < abs(slope) < 1e9 and abs(intercept) < 1e9):
        raise DataError("bad_rescale", f"rescale slope {slope:.4g}, intercept {intercept:.4g}", str(path))
    return slope, intercept


def _groups(ds: Dataset, frame: int) -> list[Dataset]:
    """The functional groups that hold for one frame, its own before the shared ones."""
    return [
        holder[i]
        for keyword, i in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0))
        if (holder := ds.get(keyword)) and i < len(holder)
    ]


def _checked(plane: Plane) -> Plane:
    where = str(plane.file)
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    products = [row @ row - 1, column @ column - 1, row @ column] if len(plane.orientation) == 6 else [np.inf]
    if not np.all(np.abs(products) < 1e-2):
        raise DataError("bad_orientation", "the orientation is not two direction cosines: repair the header", where)
    low, high = SPACING_MM
    if len(plane.spacing) != 2 or not all(low <= s <= high for s in plane.spacing):
        told = times(plane.spacing)
        raise DataError("bad_spacing", f"pixel spacing {told} mm lies outside {low:g}..{high:g}", where)
    if len(plane.position) != 3 or not np.isfinite(plane.position).all():
        raise DataError("no_geometry", "the position is not three numbers", where)
    return plane


def _stacked(ds: Dataset, path: Path, count: int) -> list[Plane]:
    """Frames of a classic multi-frame image (NM): one position, then steps along the normal."""
    detector = ds.get("DetectorInformationSequence")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        if keyword not in ds and detector and keyword in detector[0]:
            setattr(ds, keyword, detector[0].get(keyword))
    step = ds.get("SpacingBetweenSlices")
    moving = "FrameTime" in ds or "FrameTimeVector" in ds
    if not step or moving or int(ds.get("NumberOfSlices") or count) != count:
        raise DataError("no_geometry", f"{count} frames without positions: a video is not a volume", str(path))
    first = _plane(ds, path, 0)
    stride = float(step) * np.cross(first.orientation[:3], first.orientation[3:])
    return [replace(first, frame=i, position=tuple(np.array(first.position) + i * stride)) for i in range(count)]


def _tiles(ds: Dataset, path: Path) -> list[Plane]:
    """Slices of a Siemens mosaic; their number, order and direction stand in the private CSA header."""
    from nibabel.nicom.dicomwrappers import MosaicWrapper

    with guard("mosaic", path):
        mosaic = MosaicWrapper(ds)
        normal = mosaic.csa_header and mosaic.slice_normal
        if normal is None:
            raise DataError("mosaic", "a mosaic without a slice direction: export it unmosaicked", str(path))
        rows, columns, count = mosaic.image_shape
        first, start, step = _plane(ds, path, 0), mosaic.image_position, float(mosaic.voxel_sizes[2])
        return [
            replace(first, frame=i, position=tuple(start + i * step * normal), shape=(rows, columns))
            for i in range(count)
        ]


def _value(ds: Dataset, groups: list[Dataset], keyword: str) -> Any:
    """An attribute of one frame: its own, or of all frames, or of the object; None where absent."""
    sequences = (_SEQUENCE[keyword],) if keyword in _SEQUENCE else _FRAME_TYPES
    for group in groups:
        for sequence in sequences:
            item = group.get(sequence)
            if item and item[0].get(keyword) is not None:
                return item[0].get(keyword)
    return ds.get(keyword)


def _split(ds: Dataset, groups: list[Dataset], keywords: tuple[str, ...]) -> Hashable:
    for keyword in keywords:
        value = _value(ds, groups, keyword)
        if value is not None and value != "":
            return _texts(value) if isinstance(value, MultiValue | str) else float(value)
    return None


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in value)


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)
