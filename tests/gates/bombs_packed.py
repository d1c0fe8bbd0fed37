"""Streams that are small and unpack to much, or to nothing at length; and NIfTI files in them."""

from __future__ import annotations

import struct
import zlib

BLOCK = 2**24  # zeros that are packed once, and repeated
EMPTY = bytes.fromhex("1f8b08000000000000ff0300" + "00" * 8)  # a gzip member


def zeros(size: int, *, wbits: int) -> bytes:
    """A deflate (-15), zlib (15) or gzip (31) stream of about ``size`` zeros, made without packing them all."""
    packer = zlib.compressobj(9, wbits=wbits)
    head = packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size // BLOCK - 1) + packer.flush()


def nifti(shape: tuple[int, ...], dtype: str = "f4") -> bytes:
    """The header of a NIfTI-1 file, up to its voxels; written by hand, for nibabel refuses some."""
    kinds = {"u1": (2, 8), "f4": (16, 32), "f8": (64, 64)}
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, len(shape), *shape, *(1,) * (7 - len(shape)))
    struct.pack_into("<2h", head, 70, *kinds[dtype])
    struct.pack_into("<8f", head, 76, *(1.0,) * 8)
    struct.pack_into("<3f", head, 108, 352.0, 1.0, 0.0)
    head[344:348] = b"n+1\0"
    return bytes(head)


def zlib_nifti(shape: tuple[int, ...], size: int, dtype: str = "f4") -> bytes:
    """A NIfTI header and ``size`` zeros, packed; the checksum, which nobody gets to, is wrong."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(nifti(shape, dtype)) + packer.flush(zlib.Z_FULL_FLUSH)
    raw = zlib.compressobj(9, wbits=-15)
    block = raw.compress(bytes(BLOCK)) + raw.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size // BLOCK) + packer.flush()


def gz(header: bytes = b"", voxels: bytes = bytes(64), name: bytes = b"", tail: bytes = b"") -> bytes:
    """A NIfTI file of 4 x 4 x 4 bytes, packed, with a name in the head of its stream and a tail behind it."""
    packer = zlib.compressobj(9, wbits=31)
    whole = packer.compress((header or nifti((4, 4, 4), "u1")) + voxels) + packer.flush()
    return whole[:3] + b"\x08" + whole[4:10] + name + b"\0" + whole[10:] + tail


def extended(count: int) -> bytes:
    """Such a file with so many extensions of 16 bytes before its voxels."""
    head = bytearray(nifti((4, 4, 4), "u1"))
    struct.pack_into("<f", head, 108, 352 + 16 * count)
    head[348] = 1
    return gz(bytes(head), struct.pack("<2i8x", 16, 4) * count + bytes(64))
