"""NIfTI: axes and place, time, and every damage that a reader would pass over in silence."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volssl.data import gunzip, nifti
from volssl.errors import DataError

AFFINE = np.array([[0.0, -2, 0, 10], [3, 0, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1]])


def write(path: Path, image: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(image, affine), path)
    return path


def code_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        nifti.read(path)
    return caught.value.code


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_axes_are_slices_rows_columns_in_place(suffix: str, image_class: type[nib.Nifti1Image], tmp_path: Path) -> None:
    """Voxel (i, j, k) holds 100i + 10j + k; it is found at [0, k, j, i], and its place in mm is unchanged."""
    i, j, k = np.indices((5, 4, 3))
    path = tmp_path / f"a{suffix}"
    nib.save(image_class((100 * i + 10 * j + k).astype(np.int16), AFFINE), path)
    image, affine = nifti.read(path)
    assert image.shape == (1, 3, 4, 5)
    assert image.dtype == np.float32
    assert image[0, 2, 1, 4] == 412
    np.testing.assert_allclose(affine @ [2, 1, 4, 1], AFFINE @ [4, 1, 2, 1])


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((2, 2, 2), 3, np.int16), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    assert np.unique(nifti.read(tmp_path / "a.nii")[0]).tolist() == [11.5]


def test_time_points_are_channels_or_one_of_them(tmp_path: Path) -> None:
    series = np.arange(4, dtype=np.float32) * np.ones((5, 4, 3, 1), np.float32)
    path = write(tmp_path / "a.nii.gz", series)
    assert nifti.shape(path) == (4, 3, 4, 5)
    assert nifti.read(path)[0][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert np.unique(nifti.read(path, time=2)[0]).tolist() == [2]


def test_trailing_axes_of_one_are_no_dimensions(tmp_path: Path) -> None:
    image = np.zeros((5, 4, 3, 2, 1), np.float32)
    image[..., 1, 0] = 7
    path = write(tmp_path / "a.nii", image)
    assert nifti.read(path)[0].shape == (2, 3, 4, 5)
    assert np.unique(nifti.read(path, time=1)[0]).tolist() == [7]
    assert nifti.read(write(tmp_path / "b.nii", np.zeros((5, 4), np.float32)))[0].shape == (1, 1, 4, 5)


def test_the_sform_comes_before_the_qform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    image.set_qform(np.diag([2.0, 2, 2, 1]), code=1)
    nib.save(image, tmp_path / "q.nii")
    image.set_sform(np.diag([-3.0, 3, 3, 1]), code=2)
    nib.save(image, tmp_path / "s.nii")
    np.testing.assert_allclose(np.diag(nifti.read(tmp_path / "q.nii")[1][:, [2, 1, 0, 3]])[:3], 2)
    np.testing.assert_allclose(nifti.read(tmp_path / "s.nii")[1][:, [2, 1, 0, 3]], np.diag([-3.0, 3, 3, 1]))


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    """The last 8 bytes of gzip are the CRC and the length; nibabel reads on without them."""
    path = write(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (40, 40, 40)).astype(np.int16))
    packed = bytearray(path.read_bytes())
    packed[-6] ^= 1
    path.write_bytes(packed)
    assert nib.load(path).get_fdata().shape == (40, 40, 40)
    assert code_of(path) == "gzip"


def test_every_flipped_byte_of_the_stream_is_noticed(tmp_path: Path) -> None:
    """A flip past the 10-byte gzip header is refused, or the numbers are what they were."""
    image = np.random.default_rng(0).integers(0, 9, (9, 8, 7)).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", image)
    packed = path.read_bytes()
    silent = 0
    for at in range(10, len(packed), 3):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x10]) + packed[at + 1 :])
        try:
            silent += not np.array_equal(nifti.read(path)[0][0], image.T)
        except DataError:
            continue
    assert silent == 0


def test_what_follows_a_stream_is_another_one_or_nothing(tmp_path: Path) -> None:
    """RFC 1952: members follow one another and make one file; each has its own checksum, and flags that are known."""
    image = np.random.default_rng(0).integers(0, 9, (9, 8, 7)).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", image)
    whole, plain = path.read_bytes(), gzip.decompress(path.read_bytes())
    second = bytearray(gzip.compress(plain[500:]))
    for data in (gzip.compress(plain[:500]) + second, whole + bytes(100), whole + gzip.compress(b"more")):
        path.write_bytes(data)
        assert np.array_equal(nifti.read(path)[0][0], image.T)
    second[-6] ^= 1
    odd = whole[:3] + b"\x80" + whole[4:]
    for data in (gzip.compress(plain[:500]) + second, whole + b"rubbish", whole + whole[:50], odd):
        path.write_bytes(data)
        assert code_of(path) == "gzip"


def test_padding_is_read_over_up_to_a_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tapes and copies pad with zeros; a file's name, a comment and members without a byte are padding, too."""
    image = np.random.default_rng(0).integers(0, 9, (9, 8, 7)).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", image)
    whole = path.read_bytes()
    name = b"a" * 2**20 + b"\0a comment\0"
    body = whole[10:] if not whole[3] else whole[whole.index(b"\0", 10) + 1 :]
    padded = [whole[:3] + b"\x18" + whole[4:10] + name + body, whole + bytes(2**20), whole + gzip.compress(b"") * 1000]
    padded.append(whole + bytes(9) + gzip.compress(b"more") + bytes(9))
    for data in padded:
        path.write_bytes(data)
        assert np.array_equal(nifti.read(path)[0][0], image.T)
    monkeypatch.setattr(gunzip, "MAX_IDLE", 2**19)
    monkeypatch.setattr(gunzip, "MAX_MEMBERS", 1000)
    for data in padded[:3]:
        path.write_bytes(data)
        assert code_of(path) == "gzip"


def test_many_members_are_one_file(tmp_path: Path) -> None:
    """bgzip packs 64 KiB at a time; here even the header is in pieces."""
    image = np.random.default_rng(0).integers(0, 9, (9, 8, 7)).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", image)
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(plain[at : at + 100]) for at in range(0, len(plain), 100)))
    assert np.array_equal(nifti.read(path)[0][0], image.T)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_extensions_are_skipped_up_to_a_ceiling(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 9, (9, 8, 7)).astype(np.int16), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"c" * 3_000_000))
    path = tmp_path / f"a{suffix}"
    nib.save(image, path)
    assert np.array_equal(nifti.read(path)[0][0], np.asarray(image.dataobj).T)
    monkeypatch.setattr(nifti, "MAX_OFFSET", 3_000_000)
    assert code_of(path) == "too_large"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    path = write(tmp_path / f"a{suffix}", noise)
    path.write_bytes(path.read_bytes()[:-50])
    assert code_of(path) in {"truncated", "gzip"}


@pytest.mark.parametrize(
    ("affine", "code"),
    [
        (np.diag([np.nan, 1, 1, 1]), "bad_affine"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "bad_affine"),
        (np.diag([1.0, 0, 1, 1]), "bad_spacing"),
        (np.diag([1000.0, 1, 1, 1]), "bad_spacing"),
        (np.diag([1e-4, 1, 1, 1]), "bad_spacing"),
    ],
)
def test_affines_that_place_nothing_are_refused(affine: np.ndarray, code: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["sform_code"] = 1
    for row, name in zip(affine, ("srow_x", "srow_y", "srow_z"), strict=False):
        image.header[name] = row
    path = tmp_path / "a.nii"
    path.write_bytes(image.header.binaryblock + bytes(4 + 8))
    data = bytearray(path.read_bytes())
    data[108:112] = struct.pack("<f", 352.0)  # vox_offset
    data[344:348] = b"n+1\0"
    path.write_bytes(data)
    assert code_of(path) == code


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    assert code_of(write(tmp_path / "empty.nii", np.zeros((0, 4, 3), np.uint8))) == "empty"
    assert code_of(write(tmp_path / "five.nii", np.zeros((2, 2, 2, 2, 3), np.uint8))) == "dims"
    assert code_of(write(tmp_path / "complex.nii", np.zeros((2, 2, 2), np.complex64))) == "dtype"
    (tmp_path / "text.nii").write_text("no image")
    assert code_of(tmp_path / "text.nii") == "not_nifti"
    (tmp_path / "zero.nii.gz").write_bytes(b"")
    assert code_of(tmp_path / "zero.nii.gz") == "not_nifti"


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """1,000 x 1,000 x 1,000 float32 in a few hundred bytes: nothing of it is inflated."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((1000, 1000, 1000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(100_000)))
    assert code_of(path) == "too_large"
