"""DICOM: files to volumes, volumes to numbers, and a MONAI reader of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from pydicom import Dataset

from volssl.data.dicom_pixels import stored, values
from volssl.data.header import Plane, is_dicom, is_image, is_mosaic, planes, read_dataset
from volssl.data.preflight import check_affine, check_shape, guard
from volssl.data.series import affine, by_geometry, ordered, volumes, without_strays
from volssl.errors import DataError

NUMBERS = 10**5  # series are told by numbers below it


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of a folder.

    files: each file once. frames: per slice in order, (index into ``files``, frame in that file).
    suffix: what tells it from the other volumes of the folder. description: SeriesDescription.
    """

    files: tuple[Path, ...]
    frames: tuple[tuple[int, int], ...]
    suffix: str
    description: str


@dataclass(frozen=True, slots=True)
class Series:
    """A series of one folder. files: all that hold a picture; suffix: as a volume's; errors: what of it is refused."""

    suffix: str
    files: tuple[Path, ...]
    volumes: list[Volume]
    errors: list[DataError]


Note = Callable[[Path, Dataset], None]


def find_volumes(files: Iterable[Path]) -> tuple[list[Volume], list[DataError]]:
    """Every volume among the DICOM files of one folder, by header alone, in any order of the files.

    Localizers and objects without pixels are left out. Series come apart by SeriesInstanceUID and
    SeriesNumber, then by geometry, then where positions repeat. One faulty file refuses its series: the rest
    of it would be another volume.

    Returns:
        volumes in order of their suffix, and one error per file or series that is refused.
    """
    series, errors = find_series(files)
    found = [volume for one in series for volume in one.volumes]
    errors += [error for one in series for error in one.errors]
    return sorted(found, key=lambda volume: volume.suffix), errors


def find_series(files: Iterable[Path], note: Note | None = None) -> tuple[list[Series], list[DataError]]:
    """As ``find_volumes``, series by series.

    Args:
        note: told of every file that is DICOM, with its header, before anything is made of it.

    Returns:
        every series that holds a picture, and one error per file that belongs to none.
    """
    scanned, errors = _scan(files, note)
    found: list[Series] = []
    names: dict[str, int] = {}
    for _, one in sorted(scanned.items()):
        name = one.name
        names[name] = names.get(name, 0) + 1
        suffix = name if names[name] == 1 else f"{name}~{names[name]}"
        found.append(Series(suffix, tuple(one.files), *one.volumes(suffix)))
    return found, errors


def read_volume(files: Sequence[Path], frames: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of one volume and where they lie.

    Rescale slope and intercept (or the modality look-up table) are applied slice by slice. MONOCHROME1 is
    reflected within its stored range first, so that more is always brighter.

    Args:
        files, frames: as in ``Volume``; the geometry is read and checked again.

    Returns:
        (slices, rows, columns) float32, and the 4x4 affine from (slice, row, column) to RAS in mm.

    Raises:
        DataError: any code of the table in ``docs/data.md``.
    """
    where = str(files[0])
    pixels: dict[Plane, np.ndarray] = {}
    for i, file in enumerate(files):
        ds = read_dataset(file, pixels=True)
        available = planes(ds, file)
        check_shape((len(frames), *available[0].shape), where)
        chosen = [available[frame] for n, frame in frames if n == i]
        pixels.update(zip(chosen, _decode(ds, chosen), strict=True))
    with guard("geometry", where):
        stack = ordered(list(pixels))
        matrix = affine(stack)
        check_affine(matrix, where)
        return np.stack([pixels[plane] for plane in stack]), matrix


class DicomReader(ImageReader):  # type: ignore[misc]
    """A MONAI reader of one volume in a folder, a file or a list: ``LoadImage(reader=DicomReader())``.

    ``LoadImage`` tries its other readers when ``read`` fails, and would hand a refused series to one that
    bends it. Here ``read`` only takes note of the files; ``get_data`` does the work, and has no second try.

    Args:
        volume: which one, where the files hold several: the part of the id after ``#``.
    """

    def __init__(self, volume: str | None = None) -> None:
        super().__init__()
        self.volume = volume

    def verify_suffix(self, filename: Sequence[PathLike[str] | str] | PathLike[str] | str) -> bool:
        """Whether everything named is a folder or carries the DICOM mark; names say nothing."""
        return all(path.is_dir() or (path.is_file() and is_dicom(path)) for path in _paths(filename))

    def read(self, data: Sequence[PathLike[str] | str] | PathLike[str] | str, **_: Any) -> tuple[Path, ...]:
        """The paths; no file is opened yet."""
        return _paths(data)

    def get_data(self, img: tuple[Path, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """float32 in MONAI's order (x, y, z) = (column, row, slice), and its affine to RAS.

        Raises:
            DataError: ``not_one_volume``, or why the series is refused.
        """
        where = str(img[0])
        with guard("unreadable", where):
            files = [file for path in img for file in (_dicom_in(path) if path.is_dir() else [path])]
            volume = self._choose(*find_volumes(files), where)
            stack, matrix = read_volume(volume.files, volume.frames)
        matrix = matrix[:, [2, 1, 0, 3]]
        image = np.ascontiguousarray(stack.transpose(2, 1, 0))
        return image, {
            MetaKeys.AFFINE: matrix,
            MetaKeys.ORIGINAL_AFFINE: matrix.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(image.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        }

    def _choose(self, found: list[Volume], errors: list[DataError], where: str) -> Volume:
        chosen = [volume for volume in found if self.volume in (None, volume.suffix)]
        if errors and not chosen:
            raise errors[0]
        if len(chosen) != 1:
            names = ", ".join(volume.suffix for volume in found[:20]) or "none"
            raise DataError(
                "not_one_volume", f"holds {len(found)}: name one by DicomReader(volume=...) of {names}", where
            )
        return chosen[0]


class _Series:
    """The slices of one series in one folder, and what is wrong with them."""

    def __init__(self, ds: Dataset) -> None:
        self.name = _called(ds.get("SeriesNumber") or 0)
        self.description = str(ds.get("SeriesDescription") or "")
        self.files: list[Path] = []
        self.planes: list[Plane] = []
        self.faults: list[DataError] = []

    def volumes(self, name: str) -> tuple[list[Volume], list[DataError]]:
        if self.faults:
            first = self.faults[0]
            told = f"{first.message} ({len(self.faults)} such files in series {name})"
            return [], [DataError(first.code, told, first.where)]
        found: list[Volume] = []
        errors: list[DataError] = []
        groups = without_strays(by_geometry(self.planes))
        for g, group in enumerate(groups, 1):
            part = f"{name}-geometry{g}" if len(groups) > 1 else name
            with _noted(errors, group, part):
                for label, members in volumes(group, _same_pixels):
                    suffix = f"{part}-{label}".rstrip("-")
                    with _noted(errors, group, suffix):
                        found.append(self._volume(ordered(members), suffix))
        return found, errors

    def _volume(self, stack: list[Plane], suffix: str) -> Volume:
        files = tuple(dict.fromkeys(plane.file for plane in stack))
        frames = tuple((files.index(plane.file), plane.frame) for plane in stack)
        return Volume(files, frames, suffix, self.description)


def _called(number: object) -> str:
    """A series by its number; pydicom gives what is none as it stands there, and a long one may be a date or an id."""
    return str(int(number)) if isinstance(number, int) and abs(number) < NUMBERS else "unnumbered"


@contextmanager
def _noted(errors: list[DataError], group: Sequence[Plane], suffix: str) -> Iterator[None]:
    """Take note of a refusal under the name of what is refused, and go on after the block."""
    where = str(group[0].file.parent)
    try:
        with guard("geometry", where):
            yield
    except DataError as error:
        errors.append(DataError(error.code, f"series {suffix}: {error.message}", error.where or where))


def _scan(files: Iterable[Path], note: Note | None) -> tuple[dict[tuple[str, str], _Series], list[DataError]]:
    series: dict[tuple[str, str], _Series] = {}
    errors: list[DataError] = []
    for file in sorted(files):
        try:
            ds = read_dataset(file)
            with guard("header", file):
                if note:
                    note(file, ds)
                if not is_image(ds):
                    continue
                key = (str(ds.get("SeriesInstanceUID") or ""), str(ds.get("SeriesNumber") or 0))
                one = series.setdefault(key, _Series(ds))
        except DataError as error:
            errors.append(error)
            continue
        one.files.append(file)
        try:
            one.planes += planes(ds, file)
        except DataError as error:
            one.faults.append(error)
    return series, errors


def _decode(ds: Dataset, chosen: Sequence[Plane]) -> list[np.ndarray]:
    """float32 values of some slices of one object."""
    where = chosen[0].file
    if is_mosaic(ds):
        (mosaic,) = stored(ds, where, [0])
        numbers = [_tile(mosaic, plane) for plane in chosen]
    else:
        numbers = list(stored(ds, where, [plane.frame for plane in chosen]))
    with guard("pixels", where):
        return [values(ds, one, plane.slope, plane.intercept) for plane, one in zip(chosen, numbers, strict=True)]


def _tile(mosaic: np.ndarray, plane: Plane) -> np.ndarray:
    rows, columns = plane.shape
    down, across = divmod(plane.frame, mosaic.shape[1] // columns)
    return mosaic[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns]


def _same_pixels(a: Plane, b: Plane) -> bool:
    one, two = (read_dataset(plane.file, pixels=True) for plane in (a, b))
    return a.frame == b.frame and _digest(one) == _digest(two)


def _digest(ds: Dataset) -> bytes:
    return hashlib.sha256(ds.get("PixelData") or b"").digest()


def _dicom_in(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.is_file() and is_dicom(file)]


def _paths(data: Sequence[PathLike[str] | str] | PathLike[str] | str) -> tuple[Path, ...]:
    return tuple(Path(d) for d in ([data] if isinstance(data, str | PathLike) else data))
