"""NIfTI through nibabel, with the whole gzip stream verified and the header's claims checked first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from volssl.data.gunzip import Gunzip
from volssl.data.preflight import check_affine, check_claim, check_regular, check_shape, guard, opened
from volssl.errors import DataError

_HEADERS = (nib.Nifti1Header, nib.Nifti2Header)
_HEAD = 540  # bytes of a NIfTI-2 header; a NIfTI-1 header has 348
_CHUNK = 2**20
_MAX_TRAILING = 2**26
MAX_OFFSET = 2**24  # bytes before the voxels: extensions, which are skipped; those of CIFTI may be some MB


def shape(path: Path) -> tuple[int, int, int, int]:
    """(time points, slices, rows, columns) = (t, k, j, i), from a header whose claims are plausible.

    Raises:
        DataError: ``not_nifti``, ``header``, ``dims``, ``dtype``, ``empty``, ``too_large``, ``truncated``,
            ``bad_affine`` or ``bad_spacing``.
    """
    return _checked(path)[1]


def header(path: Path) -> nib.Nifti1Header:
    """As nibabel has it.

    Raises:
        DataError: as ``shape``.
    """
    with guard("gzip" if _is_gzip(path) else "header", path), _unpacked(path) as stream:
        head = stream.read(_HEAD)
    with guard("header", path):
        for header_class in _HEADERS:
            if header_class.may_contain_header(head) and b"n+" in head[:12] + head[344:348]:
                return header_class(head[: header_class.sizeof_hdr])
    raise DataError("not_nifti", "no single-file NIfTI header: convert the file or remove it", str(path))


def read(path: Path, time: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scaled numbers of a file, or of one time point.

    Returns:
        (time points, slices, rows, columns) float32, and the 4x4 affine from (slice, row, column) to RAS in
        mm: the sform if it has a code, else the qform, else the voxel sizes, as nibabel decides.

    Raises:
        DataError: as ``shape``; also ``gzip``, ``truncated`` and ``pixels``.
    """
    head, (points, slices, rows, columns), size = _checked(path)
    with guard("pixels", path):
        proxy = ArrayProxy(BytesIO(_content(path, size)), head)
        if time is not None and points > 1:
            proxy = proxy[:, :, :, time]
            points = 1
        numbers = np.asarray(proxy, dtype=np.float32).T
        return np.ascontiguousarray(numbers).reshape(points, slices, rows, columns), _affine(head.get_best_affine())


def _affine(ijk: np.ndarray) -> np.ndarray:
    return np.asarray(ijk, dtype=np.float64)[:, [2, 1, 0, 3]]


def _checked(path: Path) -> tuple[nib.Nifti1Header, tuple[int, int, int, int], int]:
    """The header, its (t, k, j, i) shape and the bytes it must hold uncompressed."""
    on_disk = check_regular(path)
    head = header(path)
    where = str(path)
    with guard("header", path):
        dims = tuple(int(d) for d in head.get_data_shape())
        kind = head.get_data_dtype()
        affine = head.get_best_affine()
        offset = int(head.get_data_offset())
    if kind.kind not in "iuf" or kind.itemsize > 8:
        raise DataError("dtype", f"voxels of type {kind}: only real numbers of up to 64 bits are read", where)
    dims += (1,) * (3 - len(dims))
    check_shape(dims, where)
    while len(dims) > 4 and dims[-1] == 1:
        dims = dims[:-1]
    if len(dims) > 4:
        raise DataError("dims", f"{len(dims)} dimensions {dims}: 3 or 4 are read", where)
    check_affine(_affine(affine), where)
    if offset > MAX_OFFSET:
        raise DataError("too_large", f"{offset:,} bytes before the voxels, over {MAX_OFFSET:,}: export it again", where)
    claimed = offset + math.prod(dims) * kind.itemsize
    packed = _is_gzip(path)
    check_claim(claimed, on_disk, where)
    if offset < 0 or (not packed and claimed > on_disk):
        raise DataError("truncated", f"the header asks for {claimed} bytes: copy the file again", where)
    return head, (dims[3] if len(dims) == 4 else 1, dims[2], dims[1], dims[0]), claimed


def _content(path: Path, size: int) -> bytes:
    """The first ``size`` bytes, uncompressed, after reading to the end so that gzip checks its CRC."""
    with guard("gzip", path), _unpacked(path) as stream:
        content = stream.read(size)
        trailing = 0
        while (more := len(stream.read(_CHUNK))) and trailing <= _MAX_TRAILING:
            trailing += more
    if len(content) < size:
        raise DataError("truncated", f"{len(content)} of {size} bytes: copy the file again", str(path))
    if trailing > _MAX_TRAILING:
        raise DataError("too_large", f"over {_MAX_TRAILING} bytes follow the image: export it again", str(path))
    return content


def _is_gzip(path: Path) -> bool:
    with guard("unreadable", path), opened(path) as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file, or what gzip has packed in it."""
    with opened(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield BufferedReader(Gunzip(file, str(path))) if packed else file
