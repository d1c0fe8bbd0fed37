"""The source of flat images: pictures and single-frame DICOM in folders and tables, and rows of one archive."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from volssl.data.archive import read_row, release, rows
from volssl.data.cache import CachedSource
from volssl.data.cache_build import build_cache
from volssl.data.dicom_pixels import read_image
from volssl.data.door import Found, Kind, holds_dicom, kind_of, other_kind, walk
from volssl.data.header import check_flat, is_colour, is_image, read_dataset
from volssl.data.image_config import ImageConfig
from volssl.data.items import HERE, Readers, Report, Size
from volssl.data.listing import listing_by
from volssl.data.picture import flat, read_picture
from volssl.data.preflight import guard
from volssl.data.recipe import Entry
from volssl.errors import DataError

KINDS: frozenset[Kind] = frozenset({"images", "dicom"})


def build(config: ImageConfig, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> CachedSource:
    """Find, read, preprocess and cache every image that ``config.root`` names.

    Raises:
        DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
    """
    bad: list[DataError] = []
    if config.archive:
        entries = rows(config)
    else:
        listed, bad = listing_by(config.root, config.name, find_images, config.split)
        entries = [Entry(one.found.id, (one.found,), label=one.label, patient=one.patient) for one in listed]
    try:
        return build_cache(entries, partial(_read, config), config, region, readers=readers, report=report, bad=bad)
    finally:
        release()


def find_images(root: Path) -> tuple[list[Found], list[DataError]]:
    """Every picture under ``root`` (a folder, or one file), sorted by id, which is its path below it.

    A few volumes beside many pictures are passed by; a few pictures beside many volumes are no data set of pictures.

    Returns:
        what can be loaded, and one error per file or series that cannot.

    Raises:
        DataError: ``missing`` if ``root`` does not exist, ``kind`` if it holds more volumes than images,
            or ``empty`` if it holds none.
    """
    found: list[Found] = []
    errors: list[DataError] = []
    volumes = 0
    with guard("unreadable", root):
        if not root.exists():
            raise DataError("missing", "no such folder: check data.root", str(root))
        base = root if root.is_dir() else root.parent
        for _, files in walk(root, errors):
            volumes += sum(kind_of(file) in ("nifti", "npy") for file in files)
            pictures = [file for file in files if kind_of(file) == "images"]
            found += [Found(file.relative_to(base).as_posix(), "images", (file,)) for file in pictures]
            lone, refused = _lone([file for file in files if kind_of(file) == "dicom"])
            found += [Found(file.relative_to(base).as_posix(), "dicom", (file,)) for file in lone]
            errors += refused
    if volumes > len(found) or (not found and not errors):
        raise other_kind(root, KINDS)
    return sorted(found, key=lambda one: one.id), errors


def _lone(files: list[Path]) -> tuple[list[Path], list[DataError]]:
    """The DICOM files of one folder that are images of their own: no slices of a volume, no clips.

    A series is a volume where its slices lie at several positions. Radiographs have none, colour makes no volume.
    """
    series: dict[str, list[tuple[Path, tuple[float, ...]]]] = {}
    errors: list[DataError] = []
    for file in files:
        try:
            ds = read_dataset(file) if holds_dicom(file) else None
            with guard("header", file):
                if ds is not None and is_image(ds):
                    check_flat(ds, file)
                    position = () if is_colour(ds) else tuple(ds.get("ImagePositionPatient") or ())
                    series.setdefault(str(ds.get("SeriesInstanceUID") or ""), []).append((file, position))
        except DataError as error:
            errors.append(error)
    lone: list[Path] = []
    for members in series.values():
        positions = {position for _, position in members if position}
        if len(positions) < 2:
            lone += [file for file, _ in members]
            continue
        what = f"{len(positions)} slices of one series are a volume: use data.name: volume (slices: N makes 2D items)"
        errors.append(DataError("kind", f"{what}, or name the files in a labels.csv", str(members[0][0])))
    return lone, errors


def _read(config: ImageConfig, entry: Entry) -> MetaTensor:
    with guard("unreadable", entry.id):
        return flat(_pixels(entry), config, entry.id)


def _pixels(entry: Entry) -> np.ndarray:
    """float32 (rows, columns) or (rows, columns, 3)."""
    part = entry.parts[0]
    if part.kind == "npz":
        return read_row(entry)
    return read_image(part.files[0]) if part.kind == "dicom" else read_picture(part.files[0])
