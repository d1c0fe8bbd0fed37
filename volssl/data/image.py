"""The source of flat images: pictures and single-frame DICOM in folders and tables, and rows of one archive."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from monai.data import MetaTensor

from volssl.data.archive import read_row, rows
from volssl.data.cache import CachedSource
from volssl.data.cache_build import build_cache
from volssl.data.door import Found, Kind, kind_of, other_kind, walk
from volssl.data.image_config import ImageConfig
from volssl.data.items import Report, Size
from volssl.data.listing import listing_by
from volssl.data.picture import flat, read_picture
from volssl.data.preflight import guard
from volssl.data.recipe import Entry
from volssl.errors import DataError

KINDS: frozenset[Kind] = frozenset({"images", "dicom"})


def build(config: ImageConfig, region: Size, *, workers: int = 0, report: Report | None = None) -> CachedSource:
    """Find, read, preprocess and cache every image that ``config.root`` names.

    Raises:
        DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
    """
    bad: list[DataError] = []
    if config.archive:
        entries = rows(config)
    else:
        listed, bad = listing_by(config.root, find_images)
        entries = [Entry(one.found.id, (one.found,), label=one.label) for one in listed]
    return build_cache(entries, partial(_read, config), config, region, workers=workers, report=report, bad=bad)


def find_images(root: Path) -> tuple[list[Found], list[DataError]]:
    """Every picture under ``root`` (a folder, or one file), sorted by id, which is its path below it.

    Returns:
        what can be loaded, and one error per file or series that cannot.

    Raises:
        DataError: ``missing`` if ``root`` does not exist, ``kind`` or ``empty`` if it holds none.
    """
    found: list[Found] = []
    errors: list[DataError] = []
    with guard("unreadable", root):
        if not root.exists():
            raise DataError("missing", "no such folder: check data.root", str(root))
        base = root if root.is_dir() else root.parent
        for _, files in walk(root, errors):
            pictures = [file for file in files if kind_of(file) == "images"]
            found += [Found(file.relative_to(base).as_posix(), "images", (file,)) for file in pictures]
    if not found and not errors:
        raise other_kind(root, KINDS)
    return sorted(found, key=lambda one: one.id), errors


def _read(config: ImageConfig, entry: Entry) -> MetaTensor:
    part = entry.parts[0]
    with guard("unreadable", entry.id):
        pixels = read_row(entry) if part.kind == "npz" else read_picture(part.files[0])
        return flat(pixels, config, entry.id)
