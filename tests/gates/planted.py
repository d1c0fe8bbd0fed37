"""Images of every kind in which forty words are planted wherever a name may stand, and one that is broken of each."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image, PngImagePlugin
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage

from tests.data import tiff

WORD = "ZZPHI7"  # every planted word begins so; two more digits tell which of the forty it is
CODEC = "Fax4Decode"  # so begins what libtiff prints past Python
DATE, UID = "18471203", "1.2.826.0.1.3680043.9.71711871"
WORDS = (WORD, DATE, UID)
COUNT = 40
USER = f"{WORD}39user"

# Of PS3.15 Annex E, table E.1-1: attributes that tell who it is, where it was and when, of each kind of value.
TEXTS = (
    *("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ReferringPhysicianName"),
    *("PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy", "RequestingPhysician"),
    *("PatientID", "IssuerOfPatientID", "OtherPatientIDs", "MedicalRecordLocator", "PatientAddress", "EthnicGroup"),
    *("PatientTelephoneNumbers", "Occupation", "PatientReligiousPreference", "MilitaryRank", "BranchOfService"),
    *("AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber"),
    *("PatientComments", "AdditionalPatientHistory", "PatientState", "RequestedProcedureDescription"),
)
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "LastMenstrualDate")
CODES = ("BodyPartExamined", "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "ImageType")
UIDS = ("StudyInstanceUID", "FrameOfReferenceUID", "InstanceCreatorUID", "DeviceUID")
SIDE, DEPTH = 24, 8  # voxels of an image
NOT_UTF_8 = os.fsdecode(b"M\xfcller")  # as archives of old leave it
# Attributes for numbers that hold a word, or a date, in images and lone slices that are to be left out.
ODD: dict[str, list[tuple[str, str]]] = {
    "dicom": [
        *(("SeriesNumber", WORD), ("SeriesNumber", DATE), ("InstanceNumber", WORD), ("RescaleSlope", WORD)),
        ("PixelSpacing", DATE),
    ],
    "still": [("NumberOfFrames", WORD), ("NumberOfFrames", DATE), ("RescaleIntercept", WORD)],
}


class Planted:
    """The next planted word, over and over."""

    def __init__(self) -> None:
        self._numbers = count()

    def __call__(self) -> str:
        return f"{WORD}{next(self._numbers) % (COUNT - 1):02}"


def dicom(path: Path, word: Planted, pixels: np.ndarray[Any, Any], place: int = 0, *, volume: bool = True) -> Path:
    """One slice at ``place`` mm, or one picture that lies nowhere."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = MRImageStorage if volume else SecondaryCaptureImageStorage
    ds.SOPInstanceUID, ds.SeriesInstanceUID = f"{UID}.{abs(hash(path.name)) % 10**9}.{place}", f"{UID}.7"
    # Numbers of eight characters, over which ``spoil`` can write a word.
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "MR", "00000003", f"{place + 1:08}"
    ds.NumberOfFrames, ds.RescaleSlope, ds.RescaleIntercept = "00000001", "1.000000", "0.000000"
    for keyword in (*TEXTS, *CODES):
        setattr(ds, keyword, word())
    for keyword in DATES:
        setattr(ds, keyword, DATE)
    for keyword in UIDS:
        setattr(ds, keyword, f"{UID}.1")
    inner = Dataset()
    inner.PatientID, inner.TextValue, inner.PersonName, inner.UID = word(), word(), word(), f"{UID}.2"
    outer = Dataset()
    outer.OriginalAttributesSequence = Sequence([inner])
    ds.RequestAttributesSequence = Sequence([outer])
    block = ds.private_block(0x0011, word(), create=True)
    block.add_new(0x01, "LO", word())
    block.add_new(0x02, "UN", word().encode())
    if volume:
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0.0, 0.0, float(place)], [1.0, 0, 0, 0, 1.0, 0]
        ds.PixelSpacing = [1.0, 1.0]
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = pixels.astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def spoil(path: Path, keyword: str, text: str) -> None:
    """Write a text of eight characters over an element's value, which no library would."""
    ds = dcmread(path, stop_before_pixels=True)
    element: Any = ds.get_item(keyword)
    assert element.length >= len(text)
    with path.open("r+b") as file:
        file.seek(element.value_tell)
        file.write(text.encode().ljust(element.length))


def nifti(path: Path, word: Planted, voxels: np.ndarray[Any, Any]) -> Path:
    """With words in every text of the header, and in an extension."""
    image = nib.Nifti1Image(voxels.astype(np.int16), np.eye(4))
    for key in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[key] = word().encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", word().encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def png(path: Path, word: Planted, pixels: np.ndarray[Any, Any]) -> Path:
    """With words in tEXt, zTXt, iTXt and Exif."""
    about = PngImagePlugin.PngInfo()
    about.add_text("Author", word())
    about.add_text(word(), word(), zip=True)
    about.add_itxt("Comment", word(), zip=True)
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = word(), word(), word()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, pnginfo=about, exif=exif)
    return path


def fax(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    """A picture whose code is damaged, of which libtiff itself says so on stderr."""
    Image.fromarray((pixels > 450).astype(np.uint8) * 255).convert("1").save(path, compression="group4")
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[16:48] ^= 0x5A
    path.write_bytes(content.tobytes())
    return path


def video(path: Path, word: Planted, frames: np.ndarray[Any, Any]) -> Path:
    """With words in what the container says of itself."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        file.metadata["title"], file.metadata["artist"], file.metadata["comment"] = word(), word(), word()
        stream = file.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        file.mux(stream.encode())
    return path


def slide(path: Path, word: Planted, pixels: np.ndarray[Any, Any]) -> Path:
    """With words in its ImageDescription, as scanners write them."""
    told = f"Aperio Image Library|AppMag = 20|MPP = 0.5|Title = {word()}|User = {word()}|Filename = {word()}"
    return tiff.write(path, [pixels.astype(np.uint8)], told=told.encode())


def broken(path: Path) -> Path:
    """The file with its second half gone."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def folder_of(kind: str, root: Path, items: int = 8) -> Path:
    """A folder of ``items`` sound images of a kind and some that are none, under planted names.

    ``labels.csv`` names the sound ones, ``all.csv`` the broken and the odd ones too. Of NIfTI files all have masks,
    which are images of the folder as well. Two have names that are not UTF-8; of one the folder has, too, which no
    table can name.
    """
    word, rng = Planted(), np.random.default_rng(len(kind))
    root.mkdir(parents=True)
    rows: list[list[str]] = []
    list(_made(kind, root / f"{word()} {NOT_UTF_8}" / f"{word()}^{NOT_UTF_8}", word, rng, NOT_UTF_8))
    if kind == "png":
        fax(root / f"{word()}.tif", rng.integers(0, 900, (SIDE, SIDE)))
    odd = ODD.get(kind, [])
    for i in range(items + 1 + len(odd)):
        where = root / f"{word()} {kind}" / f"{word()}^{i}"
        files = list(_made(kind, where, word, rng, "" if i else NOT_UTF_8))
        if i == items:
            broken(files[0])
        elif i > items:
            keyword, text = odd[i - items - 1]
            spoil(files[0], keyword, word() if text == WORD else text)
            for file in files[1:]:
                file.unlink()
        mask = ""
        if kind == "nifti":
            inside = nifti(root / f"{word()} masks/{word()}.nii.gz", word, rng.integers(0, 3, (SIDE, SIDE, DEPTH)))
            mask = str(inside.relative_to(root))
        rows.append([str(where.relative_to(root)), ("ill", "well")[i % 2], f"{WORD}38-{i}", word(), mask])
    for table, held in (("labels.csv", rows[:items]), ("all.csv", rows)):
        with (root / table).open("w", newline="") as written:
            csv.writer(written).writerows([["path", "label", "patient", "remark", "mask"], *held])
    return root


def _made(kind: str, where: Path, word: Planted, rng: np.random.Generator, more: str = "") -> Iterator[Path]:
    """The files of one item, of which the first is the one to break. more: of their names."""
    if kind == "dicom":
        slices = rng.integers(0, 900, (DEPTH, SIDE, SIDE))
        files = [dicom(where / f"{word()}-{z}{more}.dcm", word, plane, z) for z, plane in enumerate(slices)]
        yield from files
    elif kind == "nifti":
        yield nifti(where / f"{word()}{more}.nii.gz", word, rng.integers(0, 900, (SIDE, SIDE, DEPTH)))
    elif kind == "png":
        yield png(where / f"{word()}{more}.png", word, rng.integers(0, 255, (SIDE, SIDE, 3)))
    elif kind == "still":
        yield dicom(where / f"{word()}{more}.dcm", word, rng.integers(0, 900, (SIDE, SIDE)), volume=False)
    elif kind == "video":
        yield video(where / f"{word()}{more}.mp4", word, rng.integers(0, 255, (8, 32, 32, 3)))
    else:
        stained = rng.integers(90, 190, (96, 96, 3)) - np.array([0, 60, 0])
        yield slide(where / f"{word()}{more}.tif", word, stained)


def texts(root: Path) -> Iterator[str]:
    """What a name below a root, a path, a patient or a word of a header may be hashed from."""
    yield from (f"{WORD}{number:02}" for number in range(COUNT))
    yield from (DATE, UID, USER, *(f"{UID}.{last}" for last in (1, 2, 7)))
    for path in root.rglob("*"):
        yield from (path.name, path.stem, str(path))
        parts = path.relative_to(root).parts
        yield from ("/".join(parts[first:]) for first in range(len(parts)))
    for table in root.rglob("all.csv"):
        with table.open(newline="") as file:
            yield from (cell for row in csv.DictReader(file) for cell in row.values() if WORD in cell)
