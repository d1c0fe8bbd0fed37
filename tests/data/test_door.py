"""The door: what it finds, what it loads, and that nothing but DataError leaves it."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import Dataset

from volssl.data.door import Found, find, load, natural, time_points
from volssl.data.fingerprint import fingerprint
from volssl.errors import DataError

Make = Callable[..., Dataset]
Save = Callable[[Path, Sequence[Dataset]], list[Path]]

DISTANCES = [0.0, 3.0, 6.0, 9.0]


def write_nifti(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, np.diag([1.0, 2, 3, 1])), path)
    return path


def write_array(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def write_picture(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def mixed(tmp_path: Path, make_slice: Make, save_all: Save) -> Path:
    """Every kind, in folders of their own, with junk beside."""
    save_all(tmp_path / "p1" / "one", [make_slice(d) for d in DISTANCES])
    save_all(tmp_path / "p1" / "two", [make_slice(d, EchoTime=t) for t in (5.0, 9.0) for d in DISTANCES])
    write_nifti(tmp_path / "p2" / "t1.nii.gz", np.ones((4, 3, 2), np.float32))
    write_array(tmp_path / "p3" / "0001.npy", np.zeros((2, 3, 4), np.uint8))
    for n in range(11):
        write_picture(tmp_path / "p4" / f"slice{n}.png", np.full((3, 4), n, np.uint8))
    (tmp_path / "p1" / "one" / "README.txt").write_text("not an image")
    (tmp_path / "p2" / "._t1.nii.gz").write_bytes(b"a shadow of macOS")
    return tmp_path


def test_every_kind_is_found_by_id(mixed: Path) -> None:
    found, errors = find(mixed)
    assert not errors
    assert {one.id: one.kind for one in found} == {
        "p1/one": "dicom",
        "p1/two#4-echo1": "dicom",
        "p1/two#4-echo2": "dicom",
        "p2/t1.nii.gz": "nifti",
        "p3/0001.npy": "npy",
        "p4": "images",
    }
    assert found == find(mixed)[0]
    assert found[0].description == "T1 sagittal"
    assert pickle.loads(pickle.dumps(found)) == found


def test_only_the_wanted_kinds_are_found(mixed: Path) -> None:
    assert [one.id for one in find(mixed, kinds=frozenset({"npy"}))[0]] == ["p3/0001.npy"]
    with pytest.raises(DataError, match=r"kind: holds volumes, such as \S*t1.nii.gz: use data.name: volume"):
        find(mixed / "p2", kinds=frozenset({"dicom"}))


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, "permission"), (errno.EIO, "unreadable")])
def test_a_folder_that_cannot_be_listed_is_named(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    """``os.walk`` passes such a folder by in silence; the cohort would be smaller and nobody would know."""
    scandir = os.scandir

    def refusing(path: str) -> object:
        if Path(path).name == "p3":
            raise OSError(number, "no way in", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found, (problem,) = find(mixed)
    assert len(found) == 5
    assert (problem.code, problem.where) == (code, str(mixed / "p3"))
    assert "no way in" in str(problem)


def test_a_single_file_is_a_root_too(mixed: Path) -> None:
    ((one,), errors) = find(mixed / "p2" / "t1.nii.gz")
    assert (one.id, errors) == ("t1.nii.gz", [])


def test_every_kind_loads_as_channels_slices_rows_columns(mixed: Path) -> None:
    shapes = {one.id: tuple(load(one).shape) for one in find(mixed)[0]}
    assert shapes == {
        "p1/one": (1, 4, 6, 8),
        "p1/two#4-echo1": (1, 4, 6, 8),
        "p1/two#4-echo2": (1, 4, 6, 8),
        "p2/t1.nii.gz": (1, 2, 3, 4),
        "p3/0001.npy": (1, 2, 3, 4),
        "p4": (1, 11, 3, 4),
    }
    image = load(find(mixed / "p2")[0][0])
    assert image.dtype == torch.float32
    assert image.affine.dtype == torch.float64
    torch.testing.assert_close(image.pixdim, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))


def test_nothing_of_the_path_stays_with_the_image(mixed: Path) -> None:
    """Names of files and folders are the commonest personal data; what is loaded carries none."""
    for one in find(mixed)[0]:
        assert str(mixed.name) not in str(load(one).meta)


def test_a_number_in_another_script_is_a_name_like_others() -> None:
    """A superscript is no number, the digits of other scripts are."""
    names = ["2.png", "\u0663.png", "10\u00b2.png", "\u00b2.png", "\u00bd 1.png"]
    assert [path.name for path in sorted(map(Path, sorted(names)), key=natural)] == names


def test_pictures_are_in_natural_order(mixed: Path) -> None:
    """slice10 is the last of slice0 .. slice10; by letters it would be the third."""
    image = load(find(mixed / "p4")[0][0])
    assert image[0, :, 0, 0].tolist() == list(range(11))


def test_sixteen_bits_stay_and_colour_must_be_grey(tmp_path: Path) -> None:
    deep = write_picture(tmp_path / "deep.png", np.full((2, 2), 40000, np.uint16))
    assert load(Found("a", "images", (deep,))).max() == 40000
    grey = write_picture(tmp_path / "grey.png", np.full((2, 2, 3), 7, np.uint8))
    assert load(Found("a", "images", (grey,))).shape == (1, 1, 2, 2)
    red = write_picture(tmp_path / "red.png", np.array([[[255, 0, 0]] * 2] * 2, np.uint8))
    other = write_picture(tmp_path / "other.png", np.zeros((3, 2), np.uint8))
    for files, code in (((red,), "colour"), ((grey, other), "shapes")):
        with pytest.raises(DataError) as caught:
            load(Found("a", "images", files))
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros((3, 4)), "dims"),
        (np.zeros((2, 3, 4, 5)), "dims"),
        (np.zeros((0, 3, 4)), "empty"),
        (np.zeros((2, 3, 4), np.complex64), "dtype"),
        (np.full((2, 3, 4), np.nan), "non_finite"),
        (np.array([[[{}]]], dtype=object), "npy"),
    ],
)
def test_arrays_that_are_no_stack_are_refused(array: np.ndarray, code: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(Found("a", "npy", (write_array(tmp_path / "a.npy", array),)))
    assert caught.value.code == code


def test_what_the_fields_of_a_structure_are_called_is_not_told(tmp_path: Path) -> None:
    array = np.zeros((2, 3, 4), [("Jane Doe", "<i2")])
    with pytest.raises(DataError, match="voxels of type a structure of fields: real numbers"):
        load(Found("a", "npy", (write_array(tmp_path / "a.npy", array),)))


def test_a_truncated_array_is_refused(tmp_path: Path) -> None:
    path = write_array(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="npy"):
        load(Found("a", "npy", (path,)))


def test_nan_and_infinity_are_refused_or_zeroed(tmp_path: Path) -> None:
    image = np.ones((2, 2, 2), np.float32)
    image[0, 0, 0], image[1, 1, 1] = np.nan, np.inf
    ((one,), _) = find(write_nifti(tmp_path / "a.nii", image))
    with pytest.raises(DataError, match="non_finite: 2 voxels"):
        load(one)
    zeroed = load(one, non_finite="zero")
    assert zeroed.sum() == 6
    assert torch.isfinite(zeroed).all()


def test_time_points(tmp_path: Path) -> None:
    """Volume t of three holds t: all of them are channels, one of them one channel, and there is no fourth."""
    series = np.arange(3, dtype=np.float32) * np.ones((2, 2, 2, 1), np.float32)
    ((one,), _) = find(write_nifti(tmp_path / "a.nii", series))
    assert time_points(one) == 3
    assert load(one)[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert load(one, time=1).unique().tolist() == [1]
    with pytest.raises(DataError, match="no time point 3 among 3"):
        load(one, time=3)


def test_a_bad_file_is_one_line_and_the_rest_goes_on(mixed: Path) -> None:
    (mixed / "p2" / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    (mixed / "p1" / "empty.dcm").write_bytes(b"")
    (mixed / "p2" / "lost.nii").symlink_to(mixed / "nowhere.nii")
    found, errors = find(mixed)
    assert len(found) == 6
    assert sorted((error.code, Path(error.where).name) for error in errors) == [
        ("gzip", "broken.nii.gz"),
        ("missing", "lost.nii"),
        ("not_dicom", "empty.dcm"),
    ]
    assert all("\n" not in str(error) for error in errors)


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    """Reading a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "a.dcm")
    os.mkfifo(tmp_path / "b.nii.gz")
    _, errors = find(tmp_path)
    assert [error.code for error in errors] == ["not_a_file", "not_a_file"]


def test_links_are_followed_once(mixed: Path) -> None:
    (mixed / "p2" / "loop").symlink_to(mixed)
    assert len(find(mixed)[0]) == 6


def test_links_out_of_the_root_are_refused(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file and a folder elsewhere, and a circle; the root itself may be a link, and so may what lies in it."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_nifti(elsewhere / "far.nii", np.ones((4, 3, 2), np.float32))
    for name, target in (("far.nii", elsewhere / "far.nii"), ("far", elsewhere), ("circle.nii", Path("circle.nii"))):
        (mixed / "p3" / name).symlink_to(target)
    (mixed / "p3" / "near.nii.gz").symlink_to(Path("..", "p2", "t1.nii.gz"))
    root = elsewhere / "root"
    root.symlink_to(mixed)
    for start in (mixed, root):
        found, errors = find(start)
        assert {(error.code, Path(error.where).name) for error in errors} == {
            ("link", "far.nii"),
            ("link", "far"),
            ("link", "circle.nii"),
        }
        assert len(found) == 7
    assert [one.id for one in find(mixed / "p3" / "far.nii")[0]] == ["far.nii"]  # named by the user


def test_what_takes_the_place_of_a_file_after_the_look_is_not_read(tmp_path: Path) -> None:
    """A pipe in the place of an array or a picture: refused, and not waited for."""
    for name, kind in (("a.npy", "npy"), ("a.png", "images"), ("a.nii.gz", "nifti")):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="not_a_file"):
            load(Found(name, kind, (tmp_path / name,)))  # type: ignore[arg-type]
        with pytest.raises(DataError, match="not_a_file"):
            fingerprint([tmp_path / name])


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = write_array(tmp_path / "a.npy", np.zeros((2, 3, 4), np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated: 95 bytes of 96"):
        load(Found("a", "npy", (path,)))


def test_a_missing_folder_says_which(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: missing: .*data\.root"):
        find(tmp_path / "nowhere")
    with pytest.raises(DataError, match="empty"):
        find(tmp_path)


def test_damage_leaves_the_door_as_data_error_or_not_at_all(tmp_path: Path, make_slice: Make, save_all: Save) -> None:
    """300 files with flipped, cut or zeroed bytes: a finite volume or a DataError, whatever the reader did."""
    rng = random.Random(0)
    slices = [make_slice(d) for d in DISTANCES]
    slices[0].compress("1.2.840.10008.1.2.5")
    packed = write_nifti(tmp_path / "a.nii", np.ones((4, 3, 2), np.float32))
    victims = [save_all(tmp_path / "dicom", slices)[0], packed]
    originals = [victim.read_bytes() for victim in victims]
    outcomes = set()
    for _ in range(150):
        for victim, original in zip(victims, originals, strict=True):
            victim.write_bytes(damaged(original, rng))
        found, errors = find(tmp_path)
        outcomes |= {error.code for error in errors}
        for one in found:
            try:
                assert torch.isfinite(load(one)).all()
            except DataError as error:
                outcomes.add(error.code)
    assert len(outcomes) > 5


def damaged(original: bytes, rng: random.Random) -> bytes:
    data = bytearray(original)
    at = rng.randrange(len(data))
    kind = rng.choice(["flip", "cut", "zero"])
    if kind == "cut":
        return bytes(data[:at])
    for i in range(at, min(at + rng.choice([1, 4, 16]), len(data))):
        data[i] = rng.randrange(256) if kind == "flip" else 0
    return bytes(data)


def test_real_folders(shared_data: Path) -> None:
    """Numbers of volumes as the folders' own description has them."""
    knee, refused = find(shared_data / "dicom" / "knee_mr_t2map")
    assert ([one.id for one in knee], refused) == ([f".#8-echo{n}" for n in range(1, 9)], [])
    stacks, refused = find(shared_data / "stacks" / "lidc_nodules")
    assert (len(stacks), refused) == (882, [])
    assert load(stacks[0]).shape[2:] == (64, 64)
    hippocampus, refused = find(shared_data / "nifti" / "hippocampus" / "images")
    assert (len(hippocampus), refused) == (40, [])
    diffusion = Found("dmri", "nifti", (shared_data / "nifti" / "spine" / "dmri.nii.gz",))
    assert load(diffusion).shape[0] == time_points(diffusion) == 7


OPENERS = {"dcmread", "np.load", "Image.open", "nib.load", "av.open", "OpenSlide"}
DOOR = {"header", "nifti", "archive", "door", "picture_file", "video_decoder", "slide_decoder"}


def _opening(source: str) -> set[str]:
    """The readers of images that a source calls."""
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    return calls & OPENERS


def test_no_image_is_opened_but_at_the_door() -> None:
    volssl = Path(__file__).resolve().parents[2] / "volssl"
    opening = {path for path in volssl.rglob("*.py") if _opening(path.read_text())}
    assert opening <= {volssl / "data" / f"{name}.py" for name in DOOR}
    assert _opening("x = nib.load(path).get_fdata()") == {"nib.load"}
