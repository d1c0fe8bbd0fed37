"""Seeded folders of a DICOM series with faults, and what is true of them: the intensity at every place in the world."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

SLOPE, LOWEST = 0.5, -8000.0
GRADIENT = np.array([3.0, -5.0, 7.0])  # of the scene, per mm along R, A, S
SCENES = 4000.0  # by which the intensities of two scenes differ
LPS = np.array([-1.0, -1.0, 1.0])
Floats = NDArray[np.float64]


def scene(world: Floats, number: int) -> Floats:
    """The intensity at (x, y, z) RAS mm."""
    return np.asarray(np.round((world @ GRADIENT) / SLOPE) * SLOPE + number * SCENES)


@dataclass
class Slice:
    """A slice before it is written. at: mm along the normal; scene: which one it shows."""

    at: float
    scene: int
    attributes: dict[str, object] = field(default_factory=dict)
    frame: tuple[Floats, Floats, Floats] | None = None
    shape: tuple[int, int] | None = None
    syntax: UID = ExplicitVRLittleEndian
    damage: Callable[[bytes], bytes] | None = None
    inverted: bool = False
    scale: tuple[float, float] = (SLOPE, LOWEST)
    same_as: int | None = None  # its pixels are those of that slice


@dataclass
class Folder:
    """A series under construction. whole: the faults leave every slice readable, so that all of them must come back.

    shown: how many slices the volume of each scene has then.
    """

    draw: random.Random
    slices: list[Slice]
    frame: tuple[Floats, Floats, Floats]  # the first pixel's centre and the directions of a row and a column, LPS
    step: float
    spacing: tuple[float, float]
    shape: tuple[int, int]
    whole: bool = True
    shown: dict[int, int] = field(default_factory=dict)

    @property
    def normal(self) -> Floats:
        return np.cross(self.frame[1], self.frame[2])

    def lose(self) -> None:
        """Whatever is accepted must be true, but nothing has to be."""
        self.whole = False


def drawn(seed: int) -> tuple[Folder, tuple[str, ...]]:
    """A folder of one series with none, one or two faults, and their names."""
    draw = random.Random(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    straight = draw.random() < 0.4
    row, column = (np.eye(3)[0], np.eye(3)[1]) if straight else (turn[0], turn[1])
    origin = np.array([draw.uniform(-50, 50) for _ in range(3)]).round(2)
    step = draw.choice((1.0, 2.5, 3.0, 5.0))
    count = draw.randint(4, 10)
    spacing = (draw.choice((0.7, 1.0, 2.0)), draw.choice((0.7, 1.0, 1.5)))
    shape = (draw.randint(3, 7), draw.randint(3, 7))
    slices = [Slice(i * step, 0, {"InstanceNumber": i + 1}) for i in range(count)]
    folder = Folder(draw, slices, (origin, row, column), step, spacing, shape, shown={0: count})
    names = tuple(draw.sample(sorted(FAULTS), draw.choice((0, 1, 1, 1, 2))))
    for name in names:
        FAULTS[name](folder)
    return folder, names


def _any(folder: Folder) -> Slice:
    return folder.draw.choice(folder.slices)


def _shuffled(folder: Folder) -> None:
    """Instance numbers say nothing of the place."""
    numbers = folder.draw.sample(range(1, 500), len(folder.slices))
    numbers = sorted(numbers) if any(one.scene for one in folder.slices) else numbers  # repeats keep their turn
    for one, number in zip(folder.slices, numbers, strict=True):
        one.attributes["InstanceNumber"] = number


def _reversed(folder: Folder) -> None:
    for i, one in enumerate(folder.slices):
        one.attributes["InstanceNumber"] = len(folder.slices) - i


def _unnumbered(folder: Folder) -> None:
    for one in folder.slices:
        one.attributes["InstanceNumber"] = None


def _dropped(folder: Folder) -> None:
    del folder.slices[folder.draw.randrange(1, len(folder.slices) - 1)]
    folder.lose()


def _dropped_at_an_end(folder: Folder) -> None:
    del folder.slices[folder.draw.choice((0, -1))]
    folder.lose()


def _several_dropped(folder: Folder) -> None:
    for _ in range(folder.draw.randint(2, 3)):
        del folder.slices[folder.draw.randrange(len(folder.slices))]
    folder.lose()


def _every_other(folder: Folder) -> None:
    folder.slices[:] = folder.slices[::2]
    folder.lose()


def _copied(folder: Folder) -> None:
    """One object, twice in the folder."""
    one = _any(folder)
    one.attributes.setdefault("SOPInstanceUID", generate_uid())
    folder.slices.append(Slice(**{**vars(one), "attributes": dict(one.attributes)}))


def _copied_anew(folder: Folder) -> None:
    """The same pixels at the same place under a new name."""
    one = _any(folder)
    attributes = {key: value for key, value in one.attributes.items() if key != "SOPInstanceUID"}
    folder.slices.append(Slice(**{**vars(one), "attributes": attributes}))


def _repeated(folder: Folder) -> None:
    """One place twice, with other pixels."""
    one = _any(folder)
    folder.slices.append(Slice(**{**vars(one), "scene": one.scene + 2, "attributes": {"InstanceNumber": 900}}))
    folder.lose()


def _another_series(folder: Folder) -> None:
    folder.slices += [_second(one, SeriesInstanceUID="1.2.4") for one in list(folder.slices)]
    folder.shown[1] = folder.shown[0]


def _another_series_between(folder: Folder) -> None:
    """Its slices lie half way between."""
    for one in list(folder.slices):
        folder.slices.append(_second(one, SeriesInstanceUID="1.2.4", at=one.at + folder.step / 2))
    folder.shown[1] = folder.shown[0]


def _another_series_number(folder: Folder) -> None:
    folder.slices += [_second(one, SeriesNumber=9) for one in list(folder.slices)]
    folder.shown[1] = folder.shown[0]


def _echoes(folder: Folder) -> None:
    for one in folder.slices:
        one.attributes["EchoTime"] = 10.0
    folder.slices += [_second(one, EchoTime=80.0) for one in list(folder.slices)]
    folder.shown[1] = folder.shown[0]


def _times(folder: Folder) -> None:
    """A second time through, of which nothing but the instance numbers tell."""
    folder.slices += [
        _second(one, InstanceNumber=1000 + int(str(one.attributes["InstanceNumber"] or 0))) for one in folder.slices
    ]
    folder.lose()


def _second(one: Slice, at: float | None = None, **attributes: object) -> Slice:
    kept = {key: value for key, value in one.attributes.items() if key != "SOPInstanceUID"}
    there = one.at if at is None else at
    return Slice(**{**vars(one), "at": there, "scene": 1, "attributes": kept | attributes})


def _localizer(folder: Folder) -> None:
    """One that says so, and one that does not; they show what lies there."""
    origin, row, column = folder.frame
    across = (origin, column, np.cross(row, column))
    for kind in (["ORIGINAL", "PRIMARY", "LOCALIZER"], ["ORIGINAL", "PRIMARY"]):
        folder.slices.append(Slice(0.0, 0, {"InstanceNumber": 0, "ImageType": kind}, across))


def _odd_shape(folder: Folder) -> None:
    one = _any(folder)
    one.shape = (folder.shape[0] + 1, folder.shape[1])
    folder.lose()


def _jittered_little(folder: Folder) -> None:
    for one in folder.slices:
        one.at += folder.draw.uniform(-0.002, 0.002) * folder.step


def _jittered(folder: Folder) -> None:
    for one in folder.slices:
        one.at += folder.draw.uniform(-0.3, 0.3) * folder.step
    folder.lose()


def _one_place(folder: Folder) -> None:
    for one in folder.slices:
        one.at = 0.0
    folder.lose()


def _tilted(folder: Folder) -> None:
    """Slices that slip along a column as they go."""
    slip = np.tan(np.deg2rad(folder.draw.uniform(5, 20)))
    for one in folder.slices:
        origin, row, column = one.frame or folder.frame
        one.frame = (origin + slip * one.at * column, row, column)
    folder.lose()


def _turned(folder: Folder) -> None:
    """One slice is stored from its last row and column to its first, and says so."""
    one = _any(folder)
    origin, row, column = one.frame or folder.frame
    rows, columns = one.shape or folder.shape
    corner = origin + (rows - 1) * folder.spacing[0] * column + (columns - 1) * folder.spacing[1] * row
    one.frame = (corner, -row, -column)
    folder.lose()


def _mirrored(folder: Folder) -> None:
    """All slices are stored from right to left, and say so."""
    for one in folder.slices:
        origin, row, column = one.frame or folder.frame
        columns = (one.shape or folder.shape)[1]
        one.frame = (origin + (columns - 1) * folder.spacing[1] * row, -row, column)
        one.at = -one.at  # the normal turns round


def _odd_spacing(folder: Folder) -> None:
    _any(folder).attributes["PixelSpacing"] = [folder.spacing[0] * 1.1, folder.spacing[1]]
    folder.lose()


def _no_spacing(folder: Folder) -> None:
    _any(folder).attributes["PixelSpacing"] = folder.draw.choice(([0.0, 0.0], None, [1.0, float("inf")]))
    folder.lose()


def _no_position(folder: Folder) -> None:
    wrong = folder.draw.choice((None, [0.0, float("nan"), 0.0], [1.0, 2.0]))
    _any(folder).attributes["ImagePositionPatient"] = wrong
    folder.lose()


def _no_orientation(folder: Folder) -> None:
    _any(folder).attributes["ImageOrientationPatient"] = folder.draw.choice(([0.0] * 6, [1, 0, 0, 1, 0, 0], None))
    folder.lose()


def _rescaled(folder: Folder) -> None:
    """Slope and intercept differ from slice to slice, as in PET; the steps stay within what is allowed."""
    for one in folder.slices:
        one.scale = (SLOPE * folder.draw.choice((1.0, 1.25, 1.5)), LOWEST + folder.draw.randint(-9, 9))


def _no_slope(folder: Folder) -> None:
    _any(folder).attributes["RescaleSlope"] = folder.draw.choice((0.0, float("nan"), 1e30))
    folder.lose()


def _inverted(folder: Folder) -> None:
    """MONOCHROME1: reflected in the stored range."""
    for one in folder.slices:
        one.inverted = True


def _encoded(folder: Folder) -> None:
    syntax = folder.draw.choice((ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless))
    for one in folder.slices:
        one.syntax = syntax


def _cut(folder: Folder) -> None:
    lost = folder.draw.randint(1, 40)
    _any(folder).damage = lambda data: data[:-lost]
    folder.lose()


def _emptied(folder: Folder) -> None:
    _any(folder).damage = lambda data: folder.draw.choice((b"", data[:100], data[:140]))
    folder.lose()


def _no_pixels(folder: Folder) -> None:
    _any(folder).attributes["PixelData"] = None
    folder.lose()


FAULTS: dict[str, Callable[[Folder], None]] = {
    function.__name__[1:]: function
    for function in (
        *(_shuffled, _reversed, _unnumbered, _dropped, _dropped_at_an_end, _several_dropped, _every_other),
        *(_copied, _copied_anew, _repeated, _another_series, _another_series_between, _another_series_number),
        *(_echoes, _times, _localizer, _odd_shape, _jittered_little, _jittered, _one_place, _tilted, _turned),
        *(_mirrored, _odd_spacing, _no_spacing, _no_position, _no_orientation, _rescaled, _no_slope, _inverted),
        *(_encoded, _cut, _emptied, _no_pixels),
    )
}


def written(folder: Folder, path: Path) -> None:
    """Every slice into a file of which the name says nothing."""
    path.mkdir()
    names = folder.draw.sample(range(1000), len(folder.slices))
    for one, name in zip(folder.slices, names, strict=True):
        target = path / f"{name:03}.dcm"
        _dataset(folder, one).save_as(target, enforce_file_format=True)
        if one.damage:
            target.write_bytes(one.damage(target.read_bytes()))


def _dataset(folder: Folder, one: Slice) -> Dataset:
    origin, row, column = one.frame or folder.frame
    first = origin + one.at * np.cross(row, column) if one.frame is None or one.at else origin
    down, across = np.mgrid[tuple(slice(n) for n in one.shape or folder.shape)]
    spacing = one.attributes.get("PixelSpacing")
    high, wide = spacing if isinstance(spacing, list) and np.isfinite(spacing).all() else folder.spacing
    lps = first + down[..., None] * high * column + across[..., None] * wide * row
    slope, intercept = one.scale
    stored = np.round((scene(lps * LPS, one.scene) - intercept) / slope).astype(np.int64)
    assert 0 <= stored.min() <= stored.max() < 2**16
    stored = (65535 - stored if one.inverted else stored).astype(np.uint16)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = one.syntax if one.syntax != RLELossless else ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.Modality = "1.2.3", 4, "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ImagePositionPatient = [f"{v:.6f}" for v in first]
    ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*row, *column)]
    ds.PixelSpacing, (ds.RescaleSlope, ds.RescaleIntercept) = list(folder.spacing), one.scale
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *stored.shape, 1
    ds.PhotometricInterpretation = "MONOCHROME1" if one.inverted else "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = stored.astype(">u2" if one.syntax == ExplicitVRBigEndian else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    if one.syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    for keyword, value in one.attributes.items():
        if value is None and keyword in ds:
            delattr(ds, keyword)
        elif value is not None:
            setattr(ds, keyword, value)
    return ds


def untrue(image: Floats, affine: Floats, scenes: Sequence[int], step: float) -> str:
    """What of a volume is not as the scene that its first voxel shows; "" where all of it is.

    Places may be wrong by a twentieth of the distance between slices, which is what uneven slices may add up to.
    """
    index = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    allowed = np.linalg.norm(GRADIENT) * step / 20 + 2 * SLOPE
    off = min(float(np.abs(image - scene(world, number)).max()) for number in scenes)
    return "" if off <= allowed else f"intensities are off by {off:.1f}, {allowed:.1f} are allowed"
