"""One ``.npz`` in MedMNIST's layout: every row of its arrays is an item."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from volssl.data.array_file import array_header, type_name
from volssl.data.fingerprint import stamp
from volssl.data.image_config import SPLITS, ImageConfig
from volssl.data.preflight import check_ratio, check_shape, guard, opened
from volssl.errors import DataError
from volssl.names import private

if TYPE_CHECKING:
    from volssl.data.recipe import Entry


def rows(config: ImageConfig) -> list[Entry]:
    """An entry per row, called ``split/number``; its fingerprint is that of the row alone. ``all`` is what there is.

    Raises:
        DataError: ``npz`` or ``labels``: no archive of images and one label each.
    """
    path = Path(config.root)
    splits = (_held(path) if config.split == "all" else ()) or config.splits
    return [entry for split in splits for entry in _split(path, split, config.label_column)]


def label_columns(path: Path) -> int:
    """How many columns of labels each image of an archive has, at most.

    Raises:
        DataError: ``npz``: no archive of labels.
    """
    labels = [_array(path, f"{split}_labels") for split in _held(path)]
    return max((one.size // len(one) for one in labels), default=0)


def names(path: Path) -> tuple[str, ...]:
    """What all rows are called, told from the labels alone.

    Raises:
        DataError: ``npz``: no archive of labels.
    """
    held = _held(path) or SPLITS
    return tuple(_name(split, i) for split in held for i in range(len(_array(path, f"{split}_labels"))))


def read_row(entry: Entry) -> np.ndarray:
    """float32 (rows, columns) or (rows, columns, 3)."""
    part = entry.parts[0]
    return np.array(_images(part.files[0], part.id, stamp(part.files).digest)[entry.time], dtype=np.float32)


def release() -> None:
    """Forget the arrays, which hold a whole archive; a row that is read later reads them again."""
    _images.cache_clear()


def _name(split: str, i: int) -> str:
    return f"{split}/{i:06}"


def _held(path: Path) -> tuple[str, ...]:
    """The splits that an archive has images of."""
    with _opened(path) as archive:
        return tuple(split for split in SPLITS if f"{split}_images" in archive)


def _split(path: Path, split: str, column: int | None) -> list[Entry]:
    from volssl.data.door import Found  # they load torch, without which labels are checked
    from volssl.data.recipe import Entry

    images, part = _images(path, split, stamp([path]).digest), Found(split, "npz", (path,))
    kind = f"{images.dtype} {images.shape[1:]}".encode()
    digests = [hashlib.sha256(kind + np.ascontiguousarray(image).tobytes()).hexdigest() for image in images]
    labels = _labels(path, split, len(images), column)
    return [
        Entry(_name(split, i), (part,), i, label, digest)
        for i, (label, digest) in enumerate(zip(labels, digests, strict=True))
    ]


@lru_cache(maxsize=len(SPLITS))
def _images(path: Path, split: str, state: str) -> np.ndarray:
    """(N, rows, columns) or (N, rows, columns, 3). state: of the file, so that another one is read anew."""
    del state
    images = _array(path, f"{split}_images")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim != 3 and images.shape[3:] != (3,):
        what = f"{split}_images has the shape {images.shape}, not N x rows x columns (x 3)"
        raise DataError("npz", f"{what}: for volumes save each row as .npy and use data.name: stack", str(path))
    check_shape(images.shape[1:], str(path))
    return images


def labels_of(path: Path, split: str) -> np.ndarray:
    """(N, columns) int64, every column of a split's labels.

    Raises:
        DataError: ``npz``: there are none.
    """
    labels = _array(path, f"{split}_labels")
    return labels.reshape(len(labels), -1).astype(np.int64)


def _labels(path: Path, split: str, count: int, column: int | None) -> list[int]:
    labels = _array(path, f"{split}_labels")
    columns = labels.reshape(len(labels), -1).shape[1]
    if len(labels) != count or labels.dtype.kind not in "biu":
        what = f"{split}_labels are {len(labels)} of type {type_name(labels.dtype)}"
        raise DataError("labels", f"{what}, not a whole number for each of {count} images: mend the file", str(path))
    if (column is None and columns > 1) or (column or 0) >= columns:
        what = f"{split}_labels has {columns} columns: say which holds the class"
        raise DataError("labels", f"{what}, data.label_column of 0 to {columns - 1}", str(path))
    return [int(label) for label in labels.reshape(count, columns)[:, column or 0]]


def _array(path: Path, key: str) -> np.ndarray:
    """One array of real numbers; objects (pickles) are never loaded."""
    with _opened(path) as archive:
        if key not in archive:
            held = ", ".join(map(private, list(archive)[:8])) or "nothing"
            raise DataError("npz", f"has no {key} but {held}: look at data.split", str(path))
        _check_claims(path, key)
        array: np.ndarray = archive[key]
        if array.dtype.kind not in "biuf" or array.ndim == 0 or len(array) == 0:
            raise DataError("npz", f"{key} is {type_name(array.dtype)} {array.shape}: real numbers are read", str(path))
        return array


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    with guard("npz", path), opened(path) as file, np.load(file, allow_pickle=False) as archive:
        if not isinstance(archive, NpzFile):
            raise DataError("npz", "an array, no archive: use data.name: stack", str(path))
        yield archive


def _check_claims(path: Path, key: str) -> None:
    """Refuse a member that unpacks to too much, or whose array would be larger than the member."""
    with opened(path) as file, ZipFile(file) as members:
        info = members.getinfo(f"{key}.npy")
        check_ratio(info.file_size, min(info.compress_size, path.stat().st_size), str(path))
        with members.open(info) as member:
            shape, _, dtype = array_header(member)
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise DataError("truncated", f"{key} of {shape} is not all there: copy the file again", str(path))
