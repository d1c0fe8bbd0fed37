"""How many items a source will have, told from names and array headers alone, for ``volssl check``."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from volssl.data.manifest import count as manifest_count
from volssl.data.manifest import is_manifest
from volssl.data.suffixes import DICOM, IMAGES, VIDEOS
from volssl.data.table import is_table, rows
from volssl.errors import DataError

if TYPE_CHECKING:
    from volssl.data import Sources


def count(config: Sources) -> int | None:
    """The number of items, or None where names cannot tell (DICOM, several sequences, 4D, slides, many clips).

    Raises:
        DataError: ``root`` does not exist, or is no table of labels or one of several splits.
        ConfigError: what reads the data is not installed.
    """
    if config.name == "phantom":
        exams = config.train if config.split == "train" else config.valid
        return 3 * exams if config.plane == "all" else exams
    root = Path(config.root)
    try:
        there = root.exists()
    except OSError as error:
        raise DataError("unreadable", f"{error.strerror}: data.root must name a folder", str(root)) from error
    if not there:
        raise DataError("missing", "no such folder: data.root must name one", str(root))
    if config.name == "slide":
        config.require()
        return None
    if config.name == "video" and any(p.suffix.lower() in VIDEOS for p in (root, *root.rglob("*"))):
        config.require()
    if config.name == "video" and config.clips != 1:
        return None
    if config.name == "image" and config.archive:
        return sum(_length(root, f"{split}_images") for split in config.splits)
    if is_manifest(root):
        return _listed(config, root)
    if is_table(root):
        return _tabled(config, root)
    if root.is_file():
        return None if config.name == "volume" else _each(config)
    if config.name == "volume":
        return None
    if config.name == "image":
        return _named(root, IMAGES)
    if config.name == "video":
        videos = _named(root, VIDEOS)
        return None if videos is None else videos * _each(config)
    files = [p for p in root.rglob("*") if p.suffix.lower() in (*IMAGES, ".npy")]
    return len({p if p.suffix == ".npy" else p.parent for p in files})


def _tabled(config: Sources, table: Path) -> int | None:
    """None where a row names a folder, or what it names may be several items."""
    named = rows(table, config.split)
    if config.name == "volume" and (config.sequences or config.time == "items"):
        return None
    try:
        if any((table.parent / row.path).is_dir() for row in named):
            return None
    except OSError:  # a name too long for a file: the run leaves it out, with its reason
        return None
    return len(named) * _each(config)


def _listed(config: Sources, manifest: Path) -> int | None:
    """None where the manifest alone cannot tell: of a folder of pictures, or of exams of several sequences."""
    if config.name == "volume" and config.sequences:
        return None
    items, times = manifest_count(manifest, config.name)
    if config.name == "stack":
        return items or None
    return (times if config.name == "volume" and config.time == "items" else items) * _each(config)


def _each(config: Sources) -> int:
    """Items of two dimensions that are made of one file."""
    if config.name == "volume":
        return config.slices or 1
    return (config.frames or 1) if config.name == "video" else 1


def _named(root: Path, wanted: Sequence[str]) -> int | None:
    """Files so called; None where there may be DICOM, of which only the header says what it is."""
    suffixes = [p.suffix.lower() for p in root.rglob("*") if p.is_file()]
    return None if {*DICOM, ""} & set(suffixes) else sum(suffix in wanted for suffix in suffixes)


def _length(archive: Path, key: str) -> int:
    """The length of one array of an ``.npz``, from its header; 0 where there is none, which the run will refuse."""
    try:
        with zipfile.ZipFile(archive) as members, members.open(f"{key}.npy") as f:
            version = np.lib.format.read_magic(f)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return int(read(f)[0][0])
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile):
        return 0
