"""The table of a volume: numbers worked out by hand, and nothing that could name a patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from volssl.data.door import find, load
from volssl.data.inspect import ROWS, describe, geometry

Make = Callable[..., Dataset]
Save = Callable[[Path, Sequence[Dataset]], list[Path]]

SECRETS = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19700203",
    "StudyDate": "20240506",
    "AccessionNumber": "ACC-99",
    "InstitutionName": "St. Elsewhere",
    "StationName": "Bay-7",
    "SeriesDescription": "knee of Jane",
    "ProtocolName": "for Dr. Who",
    "ImageComments": "call her",
    "StudyInstanceUID": "1.2.840.555",
    "SeriesInstanceUID": "1.2.840.777",
}


def table(root: Path) -> dict[str, str]:
    (found,), errors = find(root)
    assert not errors
    return describe(found, load(found))


def test_geometry_by_hand() -> None:
    """2 slices 5 mm apart upwards, 3 rows 2 mm apart backwards, 4 columns 1 mm apart leftwards, from (10, 20, 30).

    The centres reach x 10..7, y 20..16, z 30..35; half a voxel more at each end: x 6.5..10.5, y 15..21, z 27.5..37.5.
    """
    affine = np.array([[0, 0, -1, 10], [0, -2, 0, 20], [5, 0, 0, 30], [0, 0, 0, 1.0]])
    where = geometry((2, 3, 4), affine)
    assert where.matrix == (2, 3, 4)
    assert where.spacing == (5.0, 2.0, 1.0)
    assert f"{where.orientation} {where.plane} {where.tilt:g}" == "SPL axial 0"
    np.testing.assert_allclose(where.bounds, [[6.5, 10.5], [15.0, 21.0], [27.5, 37.5]])


@pytest.mark.parametrize("degrees", [0.0, 10.0, 44.0])
def test_a_slice_is_tilted_by_the_angle_that_it_was_turned(degrees: float) -> None:
    """Sagittal slices turned about the axis from foot to head: their normal leaves left-right by that angle."""
    turn = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:3, 0] = [np.cos(turn), np.sin(turn), 0]  # slices
    affine[:3, 1] = [0, 0, -1]  # rows
    affine[:3, 2] = [-np.sin(turn), np.cos(turn), 0]  # columns
    where = geometry((4, 4, 4), affine)
    assert where.plane == "sagittal"
    assert where.tilt == pytest.approx(degrees, abs=1e-4)


@given(
    arrays(np.float64, (3, 3), elements=st.floats(-1, 1)), arrays(np.float64, 3, elements=st.floats(-50, 50)), st.data()
)
def test_every_voxel_lies_within_the_bounds(steps: np.ndarray, origin: np.ndarray, data: st.DataObject) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps + 3 * np.eye(3), origin
    matrix = (2, 5, 3)
    index = [data.draw(st.floats(-0.5, n - 0.5)) for n in matrix]
    at = affine[:3, :3] @ index + origin
    low, high = geometry(matrix, affine).bounds.T
    assert (low - 1e-9 <= at).all()
    assert (at <= high + 1e-9).all()


def test_dicom_by_hand(tmp_path: Path, make_slice: Make, save_all: Save) -> None:
    """The scene's slices: 6 x 8 pixels of 2 x 1.5 mm, 3 mm apart and 2.2 mm thick, so 0.8 mm lie between them."""
    made = {"Manufacturer": "ACME", "MagneticFieldStrength": 1.5, "ScanningSequence": ["SE", "IR"], "EchoTime": "80.25"}
    save_all(tmp_path, [make_slice(d, SliceThickness=2.2, InversionTime=0, **made) for d in (0.0, 3.0, 6.0, 9.0)])
    rows = table(tmp_path)
    assert rows["from"] == "4 DICOM files, Explicit VR Little Endian"
    assert (rows["modality"], rows["manufacturer"], rows["field strength"]) == ("MR", "ACME", "1.5 T")
    assert (rows["sequence"], rows["echo time"]) == ("SE + IR", "80.25 ms")
    assert (rows["matrix"], rows["voxel"]) == ("4 x 6 x 8", "3 x 2 x 1.5 mm")
    assert (rows["slice thickness"], rows["between slices"]) == ("2.2 mm", "a gap of 0.8 mm")
    assert rows["plane"] == "coronal, tilted by 20.0 degrees"  # as the scanner of the tests is turned
    assert not {"inversion time", "kernel", "channels"} & rows.keys()


@pytest.mark.parametrize(("thickness", "told"), [(3.0, "no gap"), (4.5, "an overlap of 1.5 mm")])
def test_thick_slices_touch_or_overlap(
    tmp_path: Path, make_slice: Make, save_all: Save, thickness: float, told: str
) -> None:
    save_all(tmp_path, [make_slice(d, SliceThickness=thickness) for d in (0.0, 3.0, 6.0)])
    assert table(tmp_path)["between slices"] == told


def test_nothing_that_could_name_a_patient(tmp_path: Path, make_slice: Make, save_all: Save) -> None:
    """None of what identifies a patient is told, nor a private element; the control is that the file holds it."""
    slices = [make_slice(d, **SECRETS) for d in (0.0, 3.0, 6.0)]
    for one in slices:
        one.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", "private eye")
    path = save_all(tmp_path, slices)[0]
    told = str(table(tmp_path))
    for secret in (*SECRETS.values(), "private eye", slices[0].SOPInstanceUID):
        assert secret.encode() in path.read_bytes()
        assert secret not in told


def test_only_what_the_device_writes_is_asked_for() -> None:
    """A keyword that is added must not be one that the standard's confidentiality profile removes or cleans."""
    asked = {keyword for _, keywords, _ in ROWS for keyword in keywords}
    typed = ("Name", "Date", "UID", "Description", "Comments", "Address", "Serial", "Station", "Operator", "Patient")
    assert not [keyword for keyword in asked if any(word in keyword.removesuffix("ModelName") for word in typed)]


def test_enhanced_frames_tell_their_own_numbers(tmp_path: Path, make_slice: Make, save_all: Save) -> None:
    """What stands in a functional group is found: of all frames (repetition time), or of each (echo time)."""

    def group(**sequences: Dataset) -> Dataset:
        out = Dataset()
        for keyword, item in sequences.items():
            setattr(out, keyword, Items([item]))
        return out

    def of(**values: object) -> Dataset:
        out = Dataset()
        for keyword, value in values.items():
            setattr(out, keyword, value)
        return out

    template = [make_slice(d) for d in (0.0, 3.0, 6.0)]
    ds = make_slice(0.0, pixels=np.stack([np.frombuffer(t.PixelData, np.uint16).reshape(6, 8) for t in template])[0])
    ds.PixelData, ds.NumberOfFrames = b"".join(t.PixelData for t in template), 3
    ds.SharedFunctionalGroupsSequence = Items(
        [
            group(
                PlaneOrientationSequence=of(ImageOrientationPatient=ds.ImageOrientationPatient),
                PixelMeasuresSequence=of(PixelSpacing=ds.PixelSpacing, SliceThickness="3"),
                PixelValueTransformationSequence=of(RescaleSlope="1", RescaleIntercept="0"),
                MRTimingAndRelatedParametersSequence=of(RepetitionTime="2450"),
            )
        ]
    )
    ds.PerFrameFunctionalGroupsSequence = Items(
        [
            group(
                PlanePositionSequence=of(ImagePositionPatient=t.ImagePositionPatient),
                MREchoSequence=of(EffectiveEchoTime=12.5),
            )
            for t in template
        ]
    )
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(ds, keyword)
    save_all(tmp_path, [ds])
    rows = table(tmp_path)
    assert rows["from"] == "1 DICOM file, Explicit VR Little Endian"
    assert (rows["repetition time"], rows["echo time"], rows["between slices"]) == ("2450 ms", "12.5 ms", "no gap")


def test_nifti_tells_its_space_and_its_time_points(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(48, dtype=np.int16).reshape(4, 3, 2, 2), np.diag([1.0, 2, 3, 1]))
    image.header.set_zooms((1, 2, 3, 2.5))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_sform(image.affine, code=4)
    image.header["descrip"] = b"Jane Doe"
    nib.save(image, tmp_path / "bold.nii.gz")
    rows = table(tmp_path)
    assert rows["from"] == "a NIfTI file, int16"
    assert (rows["space"], rows["between time points"], rows["channels"]) == ("MNI", "2.5 sec", "2")
    assert (rows["matrix"], rows["voxel"], rows["orientation"]) == ("2 x 3 x 4", "3 x 2 x 1 mm", "SAR")
    assert rows["reaches"] == "L 0 to R 4, P 1 to A 5, I 2 to S 4 mm"  # -0.5..3.5, -1..5, -1.5..4.5 rounded to even
    assert rows["values"] == "0 to 47"
    assert "Jane" not in str(rows)


def test_an_array_has_no_millimetres(tmp_path: Path) -> None:
    np.save(tmp_path / "0001.npy", np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    rows = table(tmp_path)
    assert rows == {"from": "an array, which knows no millimetres", "matrix": "2 x 3 x 4", "values": "0 to 23"}


def test_the_echoes_of_a_real_series(shared_data: Path) -> None:
    """Eight echoes at 24 positions, 3 mm thick and 4 mm apart: each volume tells its own echo time, evenly spaced."""
    found, _ = find(shared_data / "dicom" / "knee_mr_t2map")
    rows = [describe(one, load(one)) for one in (found[0], found[3])]
    first, fourth = (float(row["echo time"].removesuffix(" ms")) for row in rows)
    assert fourth == pytest.approx(4 * first)
    assert rows[0]["between slices"] == "a gap of 1 mm"
    assert rows[0]["plane"].startswith("sagittal")
