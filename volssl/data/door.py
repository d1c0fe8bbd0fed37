"""The one way in: what images a folder holds, and each of them as numbers in patient space."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys

from volssl.data import dicom, nifti
from volssl.data.array_file import array_header, type_name
from volssl.data.header import is_dicom
from volssl.data.picture import read_picture
from volssl.data.preflight import check_claim, check_inside, check_shape, finite, guard, opened
from volssl.data.suffixes import DICOM, IMAGES, NIFTI
from volssl.errors import DataError
from volssl.names import private

Kind = Literal["dicom", "nifti", "npy", "images", "npz", "slide", "video"]
KINDS: frozenset[Kind] = frozenset({"dicom", "nifti", "npy", "images"})  # what a folder's volumes are made of

_READ_BY = {  # what a kind is, and which data.name reads it
    "dicom": ("DICOM", "volume"),
    "nifti": ("volumes", "volume (slices: N makes 2D items)"),
    "npy": ("arrays", "stack"),
    "images": ("pictures", "image, or stack for folders of slices"),
    "npz": ("an archive", "image, and the file itself as data.root"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """One volume that can be loaded.

    id: its path relative to the root, unique; for a DICOM series or slice images that of the folder (``.``
    for the root), followed by ``#`` and a suffix where the folder holds several volumes.
    files: what it is read from, in slice order. description: SeriesDescription, or empty.
    frames: for DICOM, per slice (index into ``files``, frame in that file).
    sha256: of the files, and times: time points that they hold, where a manifest says it.
    """

    id: str
    kind: Kind
    files: tuple[Path, ...]
    description: str = ""
    frames: tuple[tuple[int, int], ...] = ()
    sha256: str = ""
    times: int = 0


def find(root: Path, *, kinds: frozenset[Kind] = KINDS) -> tuple[list[Found], list[DataError]]:
    """Every volume of the wanted kinds under ``root`` (a folder, or one file), by header alone, sorted by id.

    Returns:
        what can be loaded, and one error per file, series or folder that cannot; a bad file never raises.

    Raises:
        DataError: ``missing`` if ``root`` does not exist, ``empty`` if it holds nothing of those kinds.
    """
    root = Path(root)
    with guard("unreadable", root):
        if not root.exists():
            raise DataError("missing", "no such folder: check data.root", str(root))
        base = root if root.is_dir() else root.parent
        found: list[Found] = []
        errors: list[DataError] = []
        if base != root and kind_of(root) == "images" and "images" in kinds:
            raise DataError("kind", "one picture is no stack of slices: use data.name: image", str(root))
        for folder, files in walk(root, errors):
            good, bad = _find_in(folder, files, base, kinds)
            found += good
            errors += bad
    if not found and not errors:
        raise other_kind(root, kinds)
    return sorted(found, key=lambda one: one.id), errors


def time_points(found: Found) -> int:
    """How many volumes over time one file holds: 1 but for 4D NIfTI (a DICOM time series is several items).

    Raises:
        DataError: the header cannot be read.
    """
    if found.times:
        return found.times
    return nifti.shape(found.files[0])[0] if found.kind == "nifti" else 1


def load(found: Found, *, non_finite: Literal["refuse", "zero"] = "refuse", time: int | None = None) -> MetaTensor:
    """The numbers of one volume and where they lie.

    Args:
        found: from ``find``.
        non_finite: what becomes of NaN and infinity.
        time: one time point, from 0; all of them, as channels, where None.

    Returns:
        (C, slices, rows, columns) float32; its ``affine`` is 4x4 float64 from (slice, row, column) to RAS in
        mm. Arrays and slice images know no millimetres: their affine is the identity.

    Raises:
        DataError: and nothing else; the codes stand in ``docs/data.md``.
    """
    with guard("unreadable", found.id):
        if time is not None and not 0 <= time < time_points(found):
            raise DataError("time", f"no time point {time} among {time_points(found)}: see data.time", found.id)
        image, affine = _read(found, time)
        image = finite(image, non_finite, found.id)
        return MetaTensor(
            torch.from_numpy(image), affine=torch.from_numpy(affine), meta={MetaKeys.SPACE: SpaceKeys.RAS}
        )


def other_kind(root: Path, wanted: frozenset[Kind]) -> DataError:
    """What to say of a root that holds nothing wanted: ``kind`` where it holds something else, or ``empty``."""
    for _, files in walk(root, []):
        for file in files:
            kind = kind_of(file)
            if kind not in wanted and (kind != "dicom" or is_dicom(file)):
                what, source = _READ_BY[kind]
                return DataError("kind", f"holds {what}, such as {private(file)}: use data.name: {source}", str(root))
    return DataError("empty", f"holds nothing of the kinds {', '.join(sorted(wanted))}", str(root))


def walk(root: Path, errors: list[DataError]) -> Iterator[tuple[Path, list[Path]]]:
    """Folders and their files in order of name; links are followed within the root, but no folder is entered twice.

    Args:
        root: a folder, or anything else, which is all there is then. It may be a link itself.
        errors: gets one for every link that leads out of the root, and for every folder that cannot be listed, which
            ``os.walk`` would pass by in silence.
    """

    def refuse(error: OSError) -> None:
        code = "permission" if isinstance(error, PermissionError) else "unreadable"
        errors.append(DataError(code, f"cannot be listed ({error.strerror}): mend or remove it", str(error.filename)))

    def good(folder: str, names: list[str]) -> Iterator[Path]:
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            try:
                check_inside(path, top)
            except DataError as error:
                errors.append(error)
            else:
                yield path

    if not root.is_dir():
        yield root.parent, [root]
        return
    top = os.path.realpath(root)
    seen: set[tuple[int, int]] = set()
    for name, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(name)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [path.name for path in good(name, folders)]
        yield Path(name), list(good(name, files))


def _find_in(
    folder: Path, files: list[Path], base: Path, kinds: frozenset[Kind]
) -> tuple[list[Found], list[DataError]]:
    """What one folder holds."""
    name = folder.relative_to(base).as_posix()
    found: list[Found] = []
    errors: list[DataError] = []
    slices: list[Path] = []
    images: list[Path] = []
    for file in files:
        kind = kind_of(file)
        if kind not in kinds:
            continue
        try:
            if kind == "dicom":
                slices += [file] if holds_dicom(file) else []
            elif kind == "images":
                images.append(file)
            else:
                if kind == "nifti":
                    nifti.shape(file)
                found.append(Found(file.relative_to(base).as_posix(), kind, (file,)))
        except DataError as error:
            errors.append(error)
    volumes, refused = dicom.find_volumes(slices)
    several = len(volumes) + len(refused) > 1
    for one in volumes:
        label = f"{name}#{one.suffix}" if several else name
        found.append(Found(label, "dicom", one.files, one.description, one.frames))
    if images:
        label = f"{name}#images" if slices else name
        found.append(Found(label, "images", tuple(sorted(images, key=natural))))
    return found, errors + refused


def kind_of(file: Path) -> Kind:
    """By name alone; what no name tells may be DICOM."""
    name = file.name.lower()
    if name.endswith(NIFTI):
        return "nifti"
    if name.endswith(".npy"):
        return "npy"
    if name.endswith(".npz"):
        return "npz"
    return "images" if name.endswith(IMAGES) else "dicom"


def holds_dicom(file: Path) -> bool:
    """Whether to read it as DICOM; what neither is nor says it is, is none of our business."""
    if is_dicom(file):
        return True
    if file.name.lower().endswith(DICOM):
        raise DataError("not_dicom", "no DICOM mark at byte 128: export the file again", str(file))
    return False


def natural(file: Path) -> tuple[tuple[int, str], ...]:
    """Slice 10 comes after slice 9, with or without leading zeros."""
    return tuple((int(part), "") if i % 2 else (-1, part) for i, part in enumerate(re.split(r"(\d+)", file.name)))


def _read(found: Found, time: int | None) -> tuple[np.ndarray, np.ndarray]:
    if found.kind == "dicom":
        image, affine = dicom.read_volume(found.files, found.frames)
        return image[None], affine
    if found.kind == "nifti":
        return nifti.read(found.files[0], time)
    image = _read_array(found.files[0]) if found.kind == "npy" else _read_images(found.files)
    return image[None], np.eye(4)


def _read_array(path: Path) -> np.ndarray:
    """(slices, rows, columns) float32 of a .npy file; objects (pickles) are never loaded."""
    with guard("npy", path), opened(path) as file:
        shape, _, dtype = array_header(file)
        if dtype.hasobject:
            raise DataError("npy", "holds Python objects, which are never loaded: save numbers", str(path))
        if len(shape) != 3:
            raise DataError("dims", "not an array of slices x rows x columns: save one per file", str(path))
        if dtype.kind not in "biuf":
            raise DataError("dtype", f"voxels of type {type_name(dtype)}: real numbers are read", str(path))
        check_shape(shape, str(path))
        claimed = math.prod(shape) * dtype.itemsize
        check_claim(claimed, claimed, str(path))
        if (held := os.fstat(file.fileno()).st_size - file.tell()) < claimed:
            raise DataError("truncated", f"{held} bytes of {claimed}: copy the file again", str(path))
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False), dtype=np.float32)


def _read_images(files: tuple[Path, ...]) -> np.ndarray:
    """(slices, rows, columns) float32 of grey pictures of one shape."""
    slices: list[np.ndarray] = []
    for file in files:
        pixels = read_picture(file)
        check_shape((len(files), *pixels.shape[:2]), str(file))
        slices.append(pixels if pixels.ndim == 2 else pixels[..., 0])
        if pixels.ndim == 3 and not (pixels == pixels[..., :1]).all():
            raise DataError("colour", "a colour picture is no slice of a volume: leave it out", str(file))
        if slices[-1].shape != slices[0].shape:
            what = f"{slices[-1].shape} pixels where the first has {slices[0].shape}: not one stack"
            raise DataError("shapes", f"{what}; if each picture is an item, use data.name: image", str(file))
    return np.stack(slices)
