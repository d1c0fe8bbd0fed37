"""The cost of a DICOM header: the walk goes where pydicom goes, and stops it in time."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.gates.bombs import described, dicom, items
from volssl.data import elements
from volssl.data.dicom_pixels import read_image
from volssl.data.elements import End, check_cost
from volssl.data.header import is_image, read_dataset
from volssl.errors import DataError

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
UNDEFINED = 2**32 - 1


class Noted(io.BufferedReader):
    """A file that knows how far it was read before it was sought back."""

    last = 0

    def seek(self, at: int, whence: int = 0, /) -> int:
        """Note where it was."""
        if at == 0 and whence == 0:
            self.last = self.tell()
        return super().seek(at, whence)


@pytest.mark.parametrize("whole", [False, True])
def test_the_walk_ends_where_pydicom_ends(whole: bool) -> None:
    """Of every encoding in which pydicom has a file: big endian, implicit, sequences with lengths and without."""
    same = 0
    for path in sorted(FILES.glob("*.dcm")):
        with warnings.catch_warnings(), Noted(io.FileIO(path)) as file:
            warnings.simplefilter("ignore")
            try:
                header = read_partial(file, None if whole else End())
                end = file.tell()
            except Exception:
                continue
            if header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                continue
            check_cost(file, "", {0x00080005}, whole=whole)
            assert file.last == end or end == path.stat().st_size <= file.last, path.name
            same += 1
    assert same > 60


def test_what_follows_the_header_of_no_image_is_no_business_of_ours(tmp_path: Path) -> None:
    """A report, or contours, of a million items: neither refused nor read."""
    path = items(tmp_path / "a.dcm", 200_000, UNDEFINED)
    rows = struct.pack("<HH2s", 0x0028, 0x0010, b"US")
    path.write_bytes(path.read_bytes().replace(rows, struct.pack("<HH2s", 0x0028, 0x0009, b"US")))
    ds = read_dataset(path)
    assert not is_image(ds)
    assert ds.Modality == "OT"
    assert "PerFrameFunctionalGroupsSequence" not in ds


@pytest.mark.parametrize("length", [8 * 1000, UNDEFINED])
def test_items_are_counted(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = items(tmp_path / "a.dcm", 1000, length)
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 4100)
    read_dataset(path)
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 4000)
    refused(path)


def test_each_frame_may_be_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By as much as the file is worth."""
    path = dicom(tmp_path / "a.dcm", bytes(256 * 100), NumberOfFrames=100)
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 2)
    monkeypatch.setattr(elements, "PER_FRAME", 10)
    refused(path)  # what comes before the number of frames
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 12)
    read_dataset(path)
    monkeypatch.setattr(elements, "PER_BYTES", 2**20)
    refused(path)


@pytest.mark.parametrize("vr", [b"OB", b"UN", b"SQ", None])
def test_numbers_are_counted_whatever_the_file_calls_them(vr: bytes | None, tmp_path: Path) -> None:
    body = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 20_000 if vr == b"SQ" else b"1\\" * 200_000
    element = struct.pack("<HH2sHI", 0x0028, 0x1052, vr or b"", 0, len(body))
    syntax = ExplicitVRLittleEndian if vr else ImplicitVRLittleEndian
    refused(described(tmp_path / "a.dcm", (element if vr else element[:4] + element[8:]) + body, syntax))


def test_tables_of_65536_entries_and_profiles_are_read(tmp_path: Path) -> None:
    tables = struct.pack("<HH2sHI", 0x0028, 0x1201, b"OW", 0, 2**17) + bytes(2**17)
    tables += struct.pack("<HH2sHI", 0x0028, 0x2000, b"OB", 0, 2**22) + bytes(2**22)
    tables += struct.pack("<HH2sHI", 0x0028, 0x3006, b"OW", 0, 2**17) + bytes(2**17)
    path = described(tmp_path / "a.dcm", tables)
    assert read_image(path).shape == (16, 16)


def test_more_may_not_be_held_than_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private blob is passed over where the header is read, and held where the pixels are."""
    path = described(tmp_path / "a.dcm", struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 10_000) + bytes(10_000))
    assert read_image(path).shape == (16, 16)
    monkeypatch.setattr(elements, "MAX_HEADER", 9000)
    read_dataset(path)
    refused(path, pixels=True)


def test_the_first_element_may_not_be_read_in_two_ways(tmp_path: Path) -> None:
    """pydicom begins again without value representations where it does not know the first."""
    whole = dicom(tmp_path / "a.dcm", bytes(256)).read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[:136] + b"QQ" + whole[138:])
    refused(tmp_path / "a.dcm")


def refused(path: Path, *, pixels: bool = False) -> None:
    """Raises Failed unless it is, for its header."""
    with pytest.raises(DataError) as caught:
        read_dataset(path, pixels=pixels)
    assert caught.value.code == "header"
