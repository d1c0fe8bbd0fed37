"""DICOM: grouping, order, numbers and place, on a synthetic scanner and on real series."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.data import PydicomReader
from monai.transforms import LoadImage, LoadImaged
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence as Items
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from tests.gates.planted import spoil
from volssl.data import dicom_pixels
from volssl.data.dicom import DicomReader, find_volumes, read_volume
from volssl.data.header import is_dicom
from volssl.errors import DataError
from volssl.names import SHOW

STEP = 3.0
DISTANCES = [STEP * i for i in range(5)]

# LoadImage builds every reader that MONAI has, and one of them warns that its GPU decoder is not installed.
monai_loader = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

Make = Callable[..., Dataset]
Save = Callable[[Path, Sequence[Dataset]], list[Path]]


def scene(world: np.ndarray) -> np.ndarray:
    """The scanner's intensity at RAS mm (see conftest): 3x - 5y + 7z in steps of 0.5."""
    return np.asarray(np.round((world @ np.array([3.0, -5.0, 7.0])) / 0.5) * 0.5)


def seen(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """What a volume of this shape and affine must hold."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    return scene(index @ affine[:3, :3].T + affine[:3, 3])


def only(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    found, errors = find_volumes(files)
    assert not errors
    (volume,) = found
    return read_volume(volume.files, volume.frames)


def code_of(files: Sequence[Path]) -> str:
    found, errors = find_volumes(files)
    assert not found
    (error,) = errors
    return error.code


def test_a_shuffled_series_holds_the_scene_at_its_place(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """Every voxel equals 3x - 5y + 7z of where the affine puts it; in order of file names it would not."""
    distances = random.Random(0).sample(DISTANCES, 5)
    files = save_all(tmp_path, [make_slice(d) for d in distances])
    image, affine = only(files)
    assert image.shape == (5, 6, 8)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, seen(image.shape, affine))
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [STEP, 2.0, 1.5])
    by_name = np.stack([pydicom.dcmread(f).pixel_array * 0.5 - 1000 for f in sorted(files)])
    assert not np.array_equal(by_name, seen(image.shape, affine))
    assert not np.array_equal(by_name[::-1], seen(image.shape, affine))


def test_the_names_of_the_files_change_nothing(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    slices = [make_slice(d) for d in DISTANCES]
    one = only(save_all(tmp_path / "one", slices))
    two = only(save_all(tmp_path / "two", slices[::-1]))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize(
    ("distances", "code"),
    [
        ([0, 3, 9, 12], "gap"),
        ([0, 2, 4, 6, 9, 15, 16, 30], "gap"),
        ([0, 3.0, 6.5, 9.2], "irregular_spacing"),
        ([5, 5, 5, 5], "one_position"),
        ([5], "single_slice"),
    ],
)
def test_slices_that_are_no_volume_are_refused(
    distances: list[float], code: str, make_slice: Make, save_all: Save, tmp_path: Path
) -> None:
    assert code_of(save_all(tmp_path, [make_slice(d) for d in distances])) == code


def test_spacing_may_vary_by_one_per_cent(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """Steps of 3.00, 3.02, 2.99 mm have a mean of 3.003; 3.05 is 1.3 % off its mean and refused."""
    assert only(save_all(tmp_path / "a", [make_slice(d) for d in (0, 3, 6.02, 9.01)]))[0].shape[0] == 4
    assert code_of(save_all(tmp_path / "b", [make_slice(d) for d in (0, 3, 6.05, 9.05)])) != ""


def test_a_sheared_stack_is_refused(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    slices = [make_slice(d) for d in DISTANCES]
    for i, ds in enumerate(slices):
        ds.ImagePositionPatient = [v + 0.9 * i * (axis == 2) for axis, v in enumerate(ds.ImagePositionPatient)]
    assert code_of(save_all(tmp_path, slices)) == "gantry_tilt"


def test_copies_are_dropped_and_contradictions_refused(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """A slice twice: as the same object, with the same pixels under a new UID, with other pixels."""
    slices = [make_slice(d) for d in DISTANCES]
    assert only(save_all(tmp_path / "same", [*slices, slices[2]]))[0].shape[0] == 5
    assert only(save_all(tmp_path / "pixels", [*slices, make_slice(DISTANCES[2])]))[0].shape[0] == 5
    other = make_slice(DISTANCES[2], pixels=np.full((6, 8), 9, np.uint16))
    assert code_of(save_all(tmp_path / "other", [*slices, other])) == "duplicate_positions"


def test_two_series_in_a_folder_are_two_volumes(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    one = [make_slice(d) for d in DISTANCES]
    two = [make_slice(d + 1, SeriesInstanceUID="1.2.4", SeriesNumber=7) for d in DISTANCES[:4]]
    found, errors = find_volumes(save_all(tmp_path, [s for pair in zip(one, [*two, one[0]]) for s in pair]))  # noqa: B905
    assert not errors
    assert [(volume.suffix, len(volume.frames)) for volume in found] == [("4", 5), ("7", 4)]
    for volume in found:
        image, affine = read_volume(volume.files, volume.frames)
        np.testing.assert_array_equal(image, seen(image.shape, affine))


def test_series_of_one_number_keep_their_own_names(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    two = [make_slice(d, SeriesInstanceUID=uid) for uid in ("1.2.3", "1.2.4") for d in DISTANCES]
    found, _ = find_volumes(save_all(tmp_path, two))
    assert [volume.suffix for volume in found] == ["4", "4~2"]


@pytest.mark.parametrize("planted", ["DOE^JANE", "18881103"])
def test_what_stands_where_a_number_should_is_not_told(
    planted: str, make_slice: Make, save_all: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name, or what may be a date, in the number of a lone slice, of a faulty series, of a size, of a scale."""
    fields = {"SeriesNumber": "00000004", "PixelSpacing": [1.0001, 1.5], "RescaleSlope": "0.500000"}
    messages = []
    monkeypatch.delenv(SHOW)
    for keyword, value in fields.items():
        (file,) = save_all(tmp_path / keyword, [make_slice(0, **{keyword: value})])
        spoil(file, keyword, planted)
        found, errors = find_volumes([file])
        assert not found
        messages += [str(error) for error in errors]
    (file,) = save_all(tmp_path / "both", [make_slice(0, SeriesNumber="00000004", Rows=0)])
    spoil(file, "SeriesNumber", planted)
    messages += [str(error) for error in find_volumes([file])[1]]
    assert len(messages) == 4
    assert "series unnumbered: one slice" in messages[0]
    assert messages[3].endswith("in series unnumbered)")
    assert not any(planted in message for message in messages)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"PixelSpacing": [18881103, 1]}, "1.888e+07 x 1 mm"),
        ({"ImageOrientationPatient": [18881103, 0, 0, 0, 1, 0]}, "bad_orientation"),
        ({"RescaleSlope": 18881103000}, "slope 1.888e+10"),
        ({"NumberOfFrames": 18881103}, "1.888e+07 x 6 x 8"),
    ],
)
def test_of_numbers_that_may_be_dates_four_digits_are_told(
    change: dict[str, Any], says: str, make_slice: Make, save_all: Save, tmp_path: Path
) -> None:
    _, (error,) = find_volumes(save_all(tmp_path, [make_slice(0, **change)]))
    assert says in str(error)
    assert "18881103" not in str(error)


def test_localizers_strays_and_objects_without_pixels_are_left_out(
    make_slice: Make, save_all: Save, tmp_path: Path
) -> None:
    slices = [make_slice(d) for d in DISTANCES]
    localizer = make_slice(
        1,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    stray = make_slice(2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    report = make_slice(4)
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    mask = make_slice(1, Modality="SEG")
    image, _ = only(save_all(tmp_path, [localizer, stray, report, mask, *slices]))
    assert image.shape[0] == 5


def test_other_geometry_in_a_series_is_another_volume(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    across = [make_slice(d, PixelSpacing=[1.0, 1.0]) for d in DISTANCES]
    found, errors = find_volumes(save_all(tmp_path, [*across, *(make_slice(d) for d in DISTANCES)]))
    assert not errors
    assert [volume.suffix for volume in found] == ["4-geometry1", "4-geometry2"]


@pytest.mark.parametrize(
    ("keyword", "values", "suffix"),
    [
        ("EchoTime", [10.0, 20.0, 30.0], "echo"),
        ("TemporalPositionIdentifier", [1, 2, 3], "time"),
        ("AcquisitionNumber", [1, 2, 3], "acquisition"),
        ("TriggerTime", [0.0, 40.5, 81.0], "trigger"),
        ("DiffusionBValue", [0.0, 500.0, 1000.0], "b"),
        ("ImageType", [["ORIGINAL", "PRIMARY", t] for t in "ABC"], "type"),
        ("InversionTime", [100.0, 200.0, 300.0], "inversion"),
        ("FlipAngle", [5.0, 10.0, 15.0], "flip"),
    ],
)
def test_repeated_positions_come_apart(
    keyword: str, values: list[Any], suffix: str, make_slice: Make, save_all: Save, tmp_path: Path
) -> None:
    """Three repeats of five positions, shuffled; the n-th has constant pixels n."""
    slices = [
        make_slice(d, pixels=np.full((6, 8), n, np.uint16), RescaleSlope=1, RescaleIntercept=0, **{keyword: v})
        for n, v in enumerate(values)
        for d in DISTANCES
    ]
    random.Random(1).shuffle(slices)
    found, errors = find_volumes(save_all(tmp_path, slices))
    assert not errors
    assert [volume.suffix for volume in found] == [f"4-{suffix}{n}" for n in (1, 2, 3)]
    for n, volume in enumerate(found):
        assert np.unique(read_volume(volume.files, volume.frames)[0]).tolist() == [n]


def test_an_echo_with_a_gap_is_refused_alone(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    slices = [make_slice(d, EchoTime=t) for t in (1.0, 2.0, 3.0) for d in DISTANCES if (t, d) != (2.0, STEP)]
    found, errors = find_volumes(save_all(tmp_path, slices))
    assert [volume.suffix for volume in found] == ["4-echo1", "4-echo3"]
    assert [(error.code, error.message.split(":")[0]) for error in errors] == [("gap", "series 4-echo2")]


def test_repeats_that_only_the_instance_number_orders(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """As an fMRI of GE: instance 1..5 is the first pass over the positions, 6..10 the second."""
    slices = [
        make_slice(d, pixels=np.full((6, 8), n, np.uint16), InstanceNumber=5 * n + i)
        for n in range(2)
        for i, d in enumerate(DISTANCES)
    ]
    found, _ = find_volumes(save_all(tmp_path, slices[::-1]))
    assert [volume.suffix for volume in found] == ["4-repeat1", "4-repeat2"]
    for n, volume in enumerate(found):
        assert np.unique(read_volume(volume.files, volume.frames)[0]).tolist() == [n * 0.5 - 1000]


def test_a_property_that_differs_without_repeats_splits_nothing(
    make_slice: Make, save_all: Save, tmp_path: Path
) -> None:
    """Acquisition 1 for the lower slices and 2 for the upper is one volume, and with a gap it is refused."""
    numbered = [make_slice(d, AcquisitionNumber=1 + (d > 5)) for d in DISTANCES]
    assert only(save_all(tmp_path / "whole", numbered))[0].shape[0] == 5
    assert code_of(save_all(tmp_path / "gap", numbered[:1] + numbered[2:])) == "gap"


def test_monochrome1_is_reflected_so_that_more_is_brighter(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """12 bits stored: a dark 4095 - v under MONOCHROME1 means what v means under MONOCHROME2."""
    bits = {"BitsStored": 12, "HighBit": 11}
    plain = [make_slice(d, **bits) for d in DISTANCES]
    negative = [
        make_slice(d, pixels=(4095 - p.pixel_array).astype(np.uint16), **bits)
        for d, p in zip(DISTANCES, plain, strict=True)
    ]
    for ds in negative:
        ds.PhotometricInterpretation = "MONOCHROME1"
    one, two = only(save_all(tmp_path / "one", plain)), only(save_all(tmp_path / "two", negative))
    np.testing.assert_array_equal(one[0], two[0])


def test_signed_values_and_a_slope_per_slice(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """Stored -3 at slope 2, 4, ... and intercept 1 is -5, -11, ...; 12 bits in 16 with the upper ones clear."""
    pixels = np.full((6, 8), -3, np.int16)
    slices = [
        make_slice(d, pixels=pixels, RescaleSlope=2 * (i + 1), RescaleIntercept=1) for i, d in enumerate(DISTANCES)
    ]
    assert sorted(only(save_all(tmp_path / "a", slices))[0][:, 0, 0]) == [-29, -23, -17, -11, -5]
    for ds in slices:
        ds.BitsStored, ds.HighBit = 12, 11
        ds.PixelData = (pixels & 0x0FFF).tobytes()
    assert sorted(only(save_all(tmp_path / "b", slices))[0][:, 0, 0]) == [-29, -23, -17, -11, -5]


def test_a_modality_table_is_applied(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """Stored 0 and 1 become 70 and 90 by look-up."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [2, 0, 16], [70, 90]
    slices = [make_slice(d, pixels=np.eye(6, 8, dtype=np.uint16)) for d in DISTANCES]
    for ds in slices:
        del ds.RescaleSlope, ds.RescaleIntercept
        ds.ModalityLUTSequence = Items([table])
        ds["ModalityLUTSequence"].value[0].add_new(0x00283002, "US", [2, 0, 16])
        ds["ModalityLUTSequence"].value[0].add_new(0x00283006, "US", [70, 90])
    assert np.unique(only(save_all(tmp_path, slices))[0]).tolist() == [70, 90]


def test_run_length_encoding(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    slices = [make_slice(d) for d in DISTANCES]
    plain = only(save_all(tmp_path / "plain", slices))
    for ds in slices:
        ds.compress(RLELossless)
    packed = only(save_all(tmp_path / "packed", slices))
    np.testing.assert_array_equal(plain[0], packed[0])


def test_enhanced_frames_with_two_echoes(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """One file, ten shuffled frames: five positions at two echo times, scaled per frame."""
    frames = [(d, echo) for d in DISTANCES for echo in (1, 2)]
    random.Random(2).shuffle(frames)
    parts = [make_slice(d) for d, _ in frames]
    file = parts[0].copy()
    file.NumberOfFrames = len(frames)
    file.PixelData = b"".join(part.PixelData for part in parts)
    file.PerFrameFunctionalGroupsSequence = Items(
        _groups(part, echo) for part, (_, echo) in zip(parts, frames, strict=True)
    )
    file.SharedFunctionalGroupsSequence = Items([_wrap("PixelMeasuresSequence", parts[0], ["PixelSpacing"])])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(file, keyword)
    found, errors = find_volumes(save_all(tmp_path, [file]))
    assert not errors
    assert [volume.suffix for volume in found] == ["4-echo1", "4-echo2"]
    for echo, volume in enumerate(found, 1):
        image, affine = read_volume(volume.files, volume.frames)
        np.testing.assert_array_equal(image, (seen(image.shape, affine) + 1000) * echo - 1000)


def _wrap(sequence: str, source: Dataset, keywords: Sequence[str]) -> Dataset:
    item, holder = Dataset(), Dataset()
    for keyword in keywords:
        setattr(item, keyword, source.get(keyword))
    setattr(holder, sequence, Items([item]))
    return holder


def _groups(part: Dataset, echo: int) -> Dataset:
    part.EffectiveEchoTime, part.RescaleSlope = 10.0 * echo, 0.5 * echo
    groups = _wrap("PlanePositionSequence", part, ["ImagePositionPatient"])
    groups.update(_wrap("PlaneOrientationSequence", part, ["ImageOrientationPatient"]))
    groups.update(_wrap("MREchoSequence", part, ["EffectiveEchoTime"]))
    groups.update(_wrap("PixelValueTransformationSequence", part, ["RescaleSlope", "RescaleIntercept"]))
    return groups


def test_classic_frames_step_along_the_normal_unless_they_are_time(
    make_slice: Make, save_all: Save, tmp_path: Path
) -> None:
    parts = [make_slice(d) for d in DISTANCES]
    file = parts[0].copy()
    file.NumberOfFrames, file.SpacingBetweenSlices = 5, STEP
    file.PixelData = b"".join(part.PixelData for part in parts)
    image, affine = only(save_all(tmp_path / "space", [file]))
    np.testing.assert_array_equal(image, seen(image.shape, affine))
    file.FrameTime = 40
    assert code_of(save_all(tmp_path / "time", [file])) == "no_geometry"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"RescaleSlope": 0}, "bad_rescale"),
        ({"RescaleIntercept": 1e30}, "bad_rescale"),
        ({"PixelSpacing": [0, 0]}, "bad_spacing"),
        ({"PixelSpacing": None}, "no_geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "bad_orientation"),
        ({"Rows": 0}, "empty"),
        ({"Rows": 60000, "Columns": 60000}, "too_large"),
        ({"Rows": 7}, "truncated"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "MOSAIC"]}, "mosaic"),
    ],
)
def test_one_faulty_file_refuses_its_series_and_no_other(
    change: dict[str, Any], code: str, make_slice: Make, save_all: Save, tmp_path: Path
) -> None:
    """The last slice is faulty: without it a shorter volume would pass unnoticed."""
    slices = [make_slice(d, pixels=np.zeros((6, 200), np.uint16)) for d in DISTANCES]
    for keyword, value in change.items():
        setattr(slices[-1], keyword, value)
    if change.get("Rows") == 7:  # beyond the header, which itself is larger than a row of six columns
        slices[-1].Rows = 700
    other = [make_slice(d, SeriesInstanceUID="9", SeriesNumber=9) for d in DISTANCES]
    found, errors = find_volumes(save_all(tmp_path, [*slices, *other]))
    assert [volume.suffix for volume in found] == ["9"]
    assert [error.code for error in errors] == [code]


def test_faults_that_only_the_pixels_show(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    slices = [make_slice(d) for d in DISTANCES]
    slices[1].compress(RLELossless)
    slices[1].PixelData = slices[1].PixelData[:80]
    files = save_all(tmp_path / "cut", slices)
    (volume,), _ = find_volumes(files)
    with pytest.raises(DataError, match="pixels"):
        read_volume(volume.files, volume.frames)
    del slices[1].PixelData
    (volume,), _ = find_volumes(save_all(tmp_path / "none", slices))
    with pytest.raises(DataError, match="no_pixels"):
        read_volume(volume.files, volume.frames)


def test_deflated_files_are_refused_unread(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    deflated = make_slice(0)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert code_of(save_all(tmp_path, [deflated])) == "deflated"


class Panic(BaseException):
    """What pylibjpeg-rle raises: no Exception."""


@pytest.mark.parametrize(("raised", "expected"), [(Panic, DataError), (KeyboardInterrupt, KeyboardInterrupt)])
def test_a_panicking_codec_becomes_a_reason(
    raised: type[BaseException],
    expected: type[BaseException],
    make_slice: Make,
    save_all: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def panic(*_: Any, **__: Any) -> Iterator[np.ndarray]:
        raise raised

    (volume,), _ = find_volumes(save_all(tmp_path, [make_slice(d) for d in DISTANCES]))
    monkeypatch.setattr(dicom_pixels, "iter_pixels", panic)
    with pytest.raises(expected):
        read_volume(volume.files, volume.frames)


@monai_loader
def test_the_monai_reader_gives_what_the_door_gives(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """A folder, or a list of its files, in MONAI's order (column, row, slice)."""
    files = save_all(tmp_path, [make_slice(d) for d in DISTANCES[::-1]])
    (tmp_path / "notes.txt").write_text("not DICOM")
    image, affine = only(files)
    loaded = LoadImaged("image", reader=DicomReader())({"image": tmp_path})["image"]
    listed = LoadImage(reader=DicomReader())(files)
    np.testing.assert_array_equal(loaded.numpy(), image.transpose(2, 1, 0))
    np.testing.assert_array_equal(listed.numpy(), loaded.numpy())
    np.testing.assert_allclose(loaded.affine.numpy(), affine[:, [2, 1, 0, 3]])
    assert DicomReader().verify_suffix(files)
    assert not DicomReader().verify_suffix(tmp_path / "notes.txt")


@monai_loader
def test_no_other_reader_gets_a_second_try(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    """A series with a gap: refused. A reader that failed in ``read`` would hand it to one that takes anything."""
    save_all(tmp_path, [make_slice(d) for d in (0.0, 3.0, 9.0)])
    with pytest.raises(DataError, match="gap"):
        LoadImage(reader=DicomReader())(tmp_path)

    class Eager(DicomReader):
        def read(self, data: Any, **_: Any) -> Any:
            return self.get_data(super().read(data))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert LoadImage(reader=[PydicomReader(), Eager()])(tmp_path).shape == (8, 6, 3)


@monai_loader
def test_the_monai_reader_wants_one_volume(make_slice: Make, save_all: Save, tmp_path: Path) -> None:
    save_all(tmp_path, [make_slice(d, EchoTime=t) for t in (1.0, 2.0) for d in DISTANCES])
    with pytest.raises(DataError, match="4-echo1, 4-echo2"):
        LoadImage(reader=DicomReader())(tmp_path)
    assert LoadImage(reader=DicomReader(volume="4-echo2"))(tmp_path).shape == (8, 6, 5)
    with pytest.raises(DataError, match="missing"):
        LoadImage(reader=DicomReader())(tmp_path / "nowhere.dcm")


def test_twelve_bit_jpeg_is_refused_by_header() -> None:
    """No decoder takes it safely: GDCM aborts the process on one of pydicom's two examples."""
    path = get_testdata_file("JPEG-lossy.dcm", download=False)
    assert isinstance(path, str)
    assert code_of([Path(path)]) == "jpeg_12_bit"


# Real series -----------------------------------------------------------------------------------------------


def in_folder(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if is_dicom(file)]


def worst_difference(image: np.ndarray, affine: np.ndarray, truth: Path, time: int = 0) -> float:
    """Largest difference to a NIfTI at the same place in the patient; every voxel must have its counterpart."""
    reference = nib.load(truth)
    numbers = np.asarray(reference.dataobj, dtype=np.float32)
    numbers = numbers[..., time] if numbers.ndim == 4 else numbers
    index = np.indices(image.shape).reshape(3, -1)
    to_reference = np.linalg.inv(reference.affine) @ affine
    place = to_reference[:3, :3] @ index + to_reference[:3, 3:]
    nearest = np.rint(place).astype(int)
    assert np.abs(place - nearest).max() < 1e-3
    assert image.size == numbers.size
    assert (nearest >= 0).all()
    return float(np.abs(numbers[tuple(nearest)] - image.ravel()).max())


VENDORS = [
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "philips_enhanced/anatomical/001",
    "philips_enhanced/anatomical/001_implicit",
    "philips_enhanced/fmri/001",
    "philips_enhanced/fmri/001_implicit",
    "siemens_multiframe/anatomical/001",
]


@pytest.mark.parametrize("case", VENDORS)
def test_vendors_agree_with_their_ground_truth_in_the_world(case: str, shared_data: Path) -> None:
    folder = shared_data / "dicom" / "vendor_cases" / case
    found, errors = find_volumes(in_folder(folder))
    assert not errors
    assert len(found) == (4 if "fmri" in case else 1)
    for time, volume in enumerate(found):
        image, affine = read_volume(volume.files, volume.frames)
        truth = folder.with_name(f"{folder.name}_ground_truth.nii.gz")
        assert worst_difference(image, affine, truth, time) < 1e-3


def test_nine_encodings_of_one_mosaic_are_one_volume(shared_data: Path) -> None:
    """Raw (three kinds), RLE, JPEG lossless (two coders), JPEG-LS (two) and JPEG 2000 equal the reference."""
    folder = shared_data / "dicom" / "transfer_syntaxes"
    found, errors = find_volumes(in_folder(folder / "In"))
    assert not errors
    assert [volume.suffix for volume in found] == [str(n) for n in range(1, 10)]
    for volume in found:
        image, affine = read_volume(volume.files, volume.frames)
        assert worst_difference(image, affine, folder / "Ref" / f"{volume.suffix}.nii") == 0


def test_the_knee_is_eight_echoes_of_24_slices(shared_data: Path) -> None:
    found, errors = find_volumes(in_folder(shared_data / "dicom" / "knee_mr_t2map"))
    assert not errors
    assert [len(volume.frames) for volume in found] == [24] * 8
    means = [float(read_volume(volume.files, volume.frames)[0].mean()) for volume in found[1:4]]
    assert means == sorted(means, reverse=True)  # the signal decays with the echo time


@pytest.mark.parametrize(
    ("case", "slices"),
    [
        ("ge_fmri_150", [15] * 10),
        ("chest_ct_j2k", [20]),
        ("siemens_mosaic", [5, 5]),
        ("enhanced/Philips", [32, 32]),
        ("enhanced/Siemens/XA10", [6] * 4),
        ("geometry_edge_cases/slicecount/001", [2]),
        ("geometry_edge_cases/sliceorientation/001", [2, 2]),
    ],
)
def test_real_series_have_the_slices_they_were_taken_with(case: str, slices: list[int], shared_data: Path) -> None:
    found, errors = find_volumes(in_folder(shared_data / "dicom" / case))
    assert not errors
    assert [len(volume.frames) for volume in found] == slices


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("geometry_edge_cases/gantrytilting/001", "gantry_tilt"),
        ("geometry_edge_cases/notavolume/001", "one_position"),
        ("geometry_edge_cases/sliceincrement/001", "gap"),
        ("geometry_edge_cases/sliceincrement/002", "gap"),
        ("us_cine", "colour"),
        ("vendor_cases/generic/rgb/001", "colour"),
        ("vendor_cases/ge/anatomical/001_single_slice", "single_slice"),
    ],
)
def test_real_series_that_are_no_volume_are_refused(case: str, code: str, shared_data: Path) -> None:
    assert code_of(in_folder(shared_data / "dicom" / case)) == code


def test_a_chest_ct_is_in_hounsfield_units(shared_data: Path) -> None:
    """Air is about -1000 HU; soft tissue lies between -100 and 100."""
    image, _ = only(in_folder(shared_data / "dicom" / "chest_ct_j2k"))
    assert np.percentile(image, 5) == pytest.approx(-1000, abs=30)
    assert ((image > -100) & (image < 100)).mean() > 0.1


def test_a_missing_slice_of_a_real_series_is_noticed(shared_data: Path, tmp_path: Path) -> None:
    files = sorted(in_folder(shared_data / "dicom" / "chest_ct_j2k"))
    kept = [Path(shutil.copy(file, tmp_path)) for i, file in enumerate(files) if i != 7]
    assert code_of(kept) == "gap"
