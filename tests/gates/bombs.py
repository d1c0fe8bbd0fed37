"""Files that are small and claim, or unpack to, more than a machine has; and what is called a file and is none."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tests.gates.bombs_packed import BLOCK, EMPTY, extended, gz, nifti, zeros, zlib_nifti


def dicom(path: Path, pixels: bytes, syntax: UID = ExplicitVRLittleEndian, **attributes: object) -> Path:
    """A grey picture of 16 x 16 bytes, unless it says otherwise."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = SecondaryCaptureImageStorage, generate_uid(), "OT"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 16, 16, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixels
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = syntax not in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
    ds.save_as(path, enforce_file_format=True)
    return path


def deflated(path: Path, size: int) -> Path:
    """A data set in the deflated syntax whose pixels are ``size`` zeros, a thousandth of which is on the disk."""
    dicom(path, b"", DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()
    ds = Dataset()
    ds.Rows, ds.Columns = 16, 16
    at = 132
    length = int.from_bytes(whole[at + 8 : at + 12], "little") + at + 12
    element = struct.pack("<HH2sHI", 0x0028, 0x0010, b"US", 2, 16)[:8] + struct.pack("<H", 16)
    element += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size)
    packer = zlib.compressobj(9, wbits=-15)
    stream = packer.compress(element) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(size, wbits=-15)
    path.write_bytes(whole[:length] + stream)
    return path


def nested(path: Path, depth: int) -> Path:
    """Sequences in sequences, of undefined length."""
    dicom(path, bytes(256))
    whole = path.read_bytes()
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 2**32 - 1) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 2**32 - 1
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    at = whole.index(struct.pack("<HH2s", 0x0028, 0x0002, b"US"))
    path.write_bytes(whole[:at] + opening * depth + closing * depth + whole[at:])
    return path


def described(path: Path, element: bytes, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """With an element of our own before its rows, or before its pixels if it belongs there."""
    dicom(path, bytes(256), syntax)
    whole = path.read_bytes()
    after = int.from_bytes(element[:2], "little") > 0x0028
    at = whole.rindex(struct.pack("<HH", *((0x7FE0, 0x0010) if after else (0x0028, 0x0002))))
    path.write_bytes(whole[:at] + element + whole[at:])
    return path


def items(path: Path, count: int, length: int) -> Path:
    """Frames of which nothing is said, in a sequence that says its ``length``, or does not."""
    head = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, length)
    return described(
        path, head + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )


def sparse(path: Path, length: int) -> Path:
    """A kind of image of ``length`` zeros, which take no room on the disk."""
    head = struct.pack("<HH2sHI", 0x0008, 0x0008, b"UN", 0, length)
    return longer(written(path, dicom(path, b"").read_bytes()[:-12] + head), length + 1000)


def png(path: Path, side: int, text: int = 0) -> Path:
    """``side`` x ``side`` black pixels, and a text that unpacks to so many bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zeros(max(side * (side + 1), 2 * BLOCK), wbits=15)
    words = chunk(b"zTXt", b"Comment\0\0" + zeros(text, wbits=15)) if text else b""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + words + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def tiff(path: Path, side: int, tile: int = 0) -> Path:
    """Deflated, one strip, or tiles of a size of which not one is there."""
    strip = zeros(2 * BLOCK, wbits=15)
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, len(strip))] if tile else []
    entries += [] if tile else [(273, 4, 8), (278, 4, side), (279, 4, len(strip))]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + directory + bytes(4))
    return path


def pages(path: Path, count: int) -> Path:
    """A TIFF of so many pages, which share one pixel."""
    entries = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    size = len(directory) + 4
    chain = b"".join(directory + struct.pack("<I", 10 + size * (i + 1)) for i in range(count - 1))
    path.write_bytes(struct.pack("<2sHI2x", b"II", 42, 10) + chain + directory + bytes(4))
    return path


def bmp(path: Path, side: int) -> Path:
    """A header and nothing."""
    head = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, *(0,) * 6)
    path.write_bytes(head)
    return path


def jpeg(rows: int, columns: int) -> bytes:
    """The head of a stream, and no numbers."""
    frame = struct.pack(">BHHB", 8, rows, columns, 1) + b"\x01\x11\x00"
    scan = b"\x01\x01\x00\x00\x3f\x00"
    tables = b"\xff\xdb\x00\x43\x00" + bytes([1] * 64)
    huffman = b"\xff\xc4\x00\x14\x00" + bytes([1]) + bytes(15) + b"\x00\xff\xc4\x00\x14\x10" + bytes([1]) + bytes(16)
    return (
        b"\xff\xd8" + tables + b"\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame + huffman
        + b"\xff\xda" + struct.pack(">H", 2 + len(scan)) + scan + bytes(64) + b"\xff\xd9"
    )  # fmt: skip


def j2k(side: int) -> bytes:
    """The size segment of a stream of ``side`` x ``side`` pixels in one tile, and little else."""
    siz = struct.pack(">H8IH3B", 0, side, side, 0, 0, side, side, 0, 0, 1, 7, 1, 1)
    cod = b"\x00\x00\x00\x01\x00\x00\x04\x04\x00\x01"
    qcd = b"\x40\x40"
    segments = b"".join(
        marker + struct.pack(">H", 2 + len(data)) + data
        for marker, data in ((b"\xff\x51", siz), (b"\xff\x52", cod), (b"\xff\x5c", qcd))
    )
    tile = b"\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x0e\x00\x01\xff\x93"
    return b"\xff\x4f" + segments + tile + b"\xff\xd9"


def gif(path: Path, side: int) -> Path:
    """A canvas and one frame of that size."""
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00"
    path.write_bytes(b"GIF89a" + struct.pack("<2H3B", side, side, 0x80, 0, 0) + bytes(6) + frame + b"\x3b")
    return path


def npy(path: Path, shape: tuple[int, ...], held: int = 0) -> Path:
    """A header, and so many bytes of numbers."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(held))
    return path


def npz(path: Path, shape: tuple[int, ...], size: int) -> Path:
    """An archive whose images are ``size`` packed zeros and claim to have a shape."""
    head = npy(path, shape).read_bytes()
    packer = zlib.compressobj(9, wbits=-15)
    stream = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(size, wbits=-15)
    name, count = b"train_images.npy", len(head) + size // BLOCK * BLOCK
    sizes = struct.pack("<IIIHH", 0, len(stream), count, len(name), 0)
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + name
    central = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes + bytes(14) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(stream), 0)
    path.write_bytes(local + stream + central + end)
    return path


def written(path: Path, data: bytes) -> Path:
    """``data`` in a file."""
    path.write_bytes(data)
    return path


def longer(path: Path, size: int) -> Path:
    """The file, with zeros that take no room on the disk up to ``size``."""
    os.truncate(path, size)
    return path


def pipe(path: Path) -> Path:
    """A pipe that nobody writes to."""
    os.mkfifo(path)
    return path


def listener(path: Path) -> Path:
    """A socket."""
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)
    return path


def link(path: Path, target: str | Path) -> Path:
    """A link to somewhere."""
    path.symlink_to(target)
    return path


def folder(path: Path) -> Path:
    """A folder that is called a file."""
    path.mkdir()
    return path


def _packed(path: Path, syntax: UID, stream: bytes, **attributes: object) -> Path:
    return dicom(path, encapsulate([stream]), syntax, **attributes)


RLE = struct.pack("<16I", 1, 64, *(0,) * 14) + b"\x81\x00" * 2
GIB = 2**30

# name, how it is made, the reason
BOMBS: tuple[tuple[str, Callable[[Path], Path], tuple[str, ...]], ...] = (
    ("deflated.dcm", lambda p: deflated(p, 2 * GIB), ("deflated",)),
    ("frames.dcm", lambda p: dicom(p, bytes(1536), NumberOfFrames=1_000_000), ("too_large", "truncated")),
    ("frames-packed.dcm", lambda p: _packed(p, RLELossless, RLE, NumberOfFrames=60_000), ("truncated",)),
    ("samples.dcm", lambda p: dicom(p, bytes(256), SamplesPerPixel=3, PhotometricInterpretation="RGB",
                                    PlanarConfiguration=0), ("truncated", "pixels")),
    ("side.dcm", lambda p: dicom(p, bytes(256), Rows=60_000, Columns=60_000), ("too_large",)),
    ("side-packed.dcm", lambda p: _packed(p, RLELossless, RLE, Rows=30_000, Columns=30_000), ("too_large",)),
    ("side-within.dcm", lambda p: _packed(p, JPEG2000Lossless, j2k(60_000)), ("pixels",)),
    ("side-within-jpeg.dcm", lambda p: _packed(p, JPEGBaseline8Bit, jpeg(65_500, 65_500)), ("pixels",)),
    ("nested.dcm", lambda p: nested(p, 300), ("header",)),
    ("nested-deep.dcm", lambda p: nested(p, 10_260), ("header",)),
    ("numbers.dcm", lambda p: described(p, struct.pack("<HHI", 0x0020, 0x0032, 10**6) + b"1\\" * 500_000,
                                        ImplicitVRLittleEndian), ("header",)),
    ("charset.dcm", lambda p: described(p, struct.pack("<HH2sHI", 0x0008, 0x0005, b"UN", 0, 100_000)
                                        + b"1\\" * 50_000), ("header",)),
    ("items.dcm", lambda p: items(p, 200_000, 2**32 - 1), ("header",)),
    ("items-said.dcm", lambda p: items(p, 200_000, 8 * 200_000), ("header",)),
    ("sparse.dcm", lambda p: sparse(p, 2**31), ("header",)),
    ("packed.nii.gz", lambda p: written(p, zlib_nifti((1000, 1000, 1000), 4 * GIB)), ("too_large",)),
    ("tail.nii.gz", lambda p: written(p, zlib_nifti((8, 8, 8), 8 * GIB)), ("too_large",)),
    ("claim.nii", lambda p: written(p, nifti((30_000, 30_000, 30_000)) + bytes(31_000)), ("too_large",)),
    ("claim-little.nii", lambda p: written(p, nifti((1000, 1000, 1000)) + bytes(31_000)), ("too_large", "truncated")),
    ("wide.nii.gz", lambda p: written(p, zlib_nifti((32_000, 32_000), GIB, "f8")), ("too_large",)),
    ("extended.nii.gz", lambda p: written(p, extended(2**21)), ("too_large",)),
    ("named.nii.gz", lambda p: written(p, gz(name=b"a" * 2**25)), ("gzip",)),
    ("zeros.nii.gz", lambda p: longer(written(p, gz()), 2**26), ("gzip",)),
    ("members.nii.gz", lambda p: written(p, gz(tail=EMPTY * 200_000)), ("gzip",)),
    ("black.png", lambda p: png(p, 30_000), ("too_large",)),
    ("words.png", lambda p: png(p, 16, GIB), ("image",)),
    ("strip.tif", lambda p: tiff(p, 30_000), ("too_large",)),
    ("pages.tif", lambda p: pages(p, 20_000), ("dims",)),
    ("head.bmp", lambda p: bmp(p, 60_000), ("too_large",)),
    ("wide.jpg", lambda p: written(p, jpeg(65_500, 65_500)), ("too_large",)),
    ("claim.npy", lambda p: npy(p, (30_000, 30_000, 30_000), 1000), ("too_large",)),
    ("claim-little.npy", lambda p: npy(p, (1000, 1000, 1000), 1000), ("truncated",)),
    ("packed.npz", lambda p: npz(p, (100_000, 100, 100), GIB), ("too_large",)),
    ("claim.npz", lambda p: npz(p, (10**8, 100, 100), 2 * BLOCK), ("truncated",)),
    ("canvas.gif", lambda p: gif(p, 65_535), ("video", "too_large", "memory")),
    ("tile.svs", lambda p: tiff(p, 100_000, 99_984), ("too_large", "slide")),
    ("pipe.png", pipe, ("not_a_file",)),
    ("pipe.dcm", pipe, ("not_a_file",)),
    ("pipe.mp4", pipe, ("not_a_file",)),
    ("socket.nii.gz", listener, ("not_a_file",)),
    ("device.nii", lambda p: link(p, "/dev/zero"), ("not_a_file",)),
    ("device.npy", lambda p: link(p, "/dev/zero"), ("not_a_file",)),
    ("device.jpg", lambda p: link(p, "/dev/urandom"), ("not_a_file",)),
    ("circle.npz", lambda p: link(p, "circle.npz"), ("link",)),
    ("folder.nii.gz", folder, ("empty", "not_a_file")),
)  # fmt: skip
