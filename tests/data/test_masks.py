"""Masks: voxel by voxel of the item that is made of their image, whatever was done to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from volssl.data import VolumeConfig
from volssl.data.items import Keep, Percentile, Window
from volssl.data.masks import read_mask
from volssl.data.preprocess import located
from volssl.errors import ConfigError, DataError

Array = np.ndarray[Any, Any]
SHAPE = (20, 24, 28)  # slices, rows, columns
TURNED = np.array([[0, -1.5, 0, 24], [0, 0, 0.8, -24], [-1.2, 0, 0, 24], [0, 0, 0, 1.0]])
OBLIQUE = np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, -7], [0, 0, 2.5, 1], [0, 0, 0, 1.0]])


def save(path: Path, values: Array, affine: Array | None = None) -> Path:
    """A NIfTI file that is read back as slices x rows x columns (x time); the affine is of columns, rows, slices."""
    axes = (2, 1, 0, 3)[: values.ndim]
    nib.save(nib.Nifti1Image(values.transpose(axes), np.eye(4) if affine is None else affine), path)
    return path


def two_boxes(shape: tuple[int, ...] = SHAPE) -> Array:
    """1 in a box and 2 in another, neither of them symmetric, away from the border."""
    mask = np.zeros(shape, np.uint8)
    mask[4:10, 5:14, 6:20] = 1
    mask[10:16, 8:12, 5:17] = 2
    return mask


def both(folder: Path, image: Array, mask: Array, region: tuple[int, ...], affine: Array, **fields: Any) -> Any:
    """The item that is made of the image, and the mask: (*region) each."""
    root = folder / "images"
    root.mkdir(exist_ok=True)
    path = save(root / "scan.nii.gz", image, affine)
    config = VolumeConfig(root=str(root), cache=str(folder / "cache"), **{"intensity": Keep(), **fields})
    item = config.build(region)[0].image[0]
    return item, read_mask(save(folder / "mask.nii.gz", mask, affine), path, config, region, classes=2)


def overlap(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


EXACT: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "as it is": (SHAPE, {}),
    "turned": ((28, 20, 24), {"orientation": "LIP"}),
    "cropped": ((13, 15, 16), {}),
    "padded": ((33, 40, 35), {"orientation": "RAS"}),
    "padded and cropped": ((33, 10, 28), {"orientation": "SPL"}),
    "foreground": ((12, 9, 15), {"crop_foreground": True, "orientation": "SPL"}),
}


@pytest.mark.parametrize(("region", "fields"), EXACT.values(), ids=EXACT)
def test_an_image_that_is_its_mask_comes_out_as_its_mask(
    tmp_path: Path, region: tuple[int, ...], fields: dict[str, Any]
) -> None:
    """Nothing is interpolated here, so that every voxel is the same; a mirrored mask is another one."""
    mask = two_boxes()
    item, moved = both(tmp_path, mask.astype(np.float32), mask, region, TURNED, **fields)
    assert moved.dtype == torch.int64
    assert torch.equal(item, moved.float())
    assert set(moved.unique().tolist()) == {0, 1, 2}
    for axis in range(3):
        flipped = np.ascontiguousarray(np.flip(mask, axis))
        item, wrong = both(tmp_path, mask.astype(np.float32), flipped, region, TURNED, **fields)
        assert not torch.equal(item, wrong.float())


SAMPLED: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "finer": ((40, 48, 44), {"spacing": (0.5, 0.5, 0.7), "orientation": "RAS"}),
    "coarser": ((10, 14, 14), {"spacing": (2.0, 2.5, 2.0), "orientation": "SPL"}),
    "larger": ((30, 31, 57), {"fit": "resize"}),
    "smaller": ((10, 12, 9), {"fit": "resize", "orientation": "LIP"}),
    "slices alone": ((9, 22, 30), {"fit": ("resize", "crop", "crop"), "orientation": "SPL"}),
    "all at once": (
        (12, 14, 30),
        {
            "orientation": "LIP",
            "spacing": (0.9, 1.3, 0.7),
            "crop_foreground": True,
            "fit": ("resize", "resize", "crop"),
        },
    ),
}


@pytest.mark.parametrize("affine", [TURNED, OBLIQUE], ids=["turned", "oblique"])
@pytest.mark.parametrize(("region", "fields"), SAMPLED.values(), ids=SAMPLED)
def test_where_the_image_is_sure_the_mask_agrees(
    tmp_path: Path, region: tuple[int, ...], fields: dict[str, Any], affine: Array
) -> None:
    """The image is smoothed and interpolated, the mask is not: they may differ where the image is between 0 and 1."""
    mask = (two_boxes() > 0).astype(np.uint8)
    item, moved = both(tmp_path, mask.astype(np.float32), mask, region, affine, **fields)
    within = overlap(item > 0.5, moved > 0)
    assert (moved[item < 0.02] == 0).all()
    assert (moved[item > 0.98] == 1).all()
    assert within > 0.85
    for axis in range(3):
        item, wrong = both(tmp_path, mask.astype(np.float32), np.flip(mask, axis).copy(), region, affine, **fields)
        assert overlap(item > 0.5, wrong > 0) < within - 0.05


@pytest.mark.parametrize(
    ("region", "fields"),
    [
        ((16, 20, 18), {"orientation": "SPL", "spacing": (2.0, 1.5, 1.0)}),
        ((25, 40, 13), {"orientation": "RAS", "spacing": (0.7, 1.1, 2.2), "fit": "resize"}),
        ((20, 61, 30), {"fit": ("resize", "crop", "resize"), "crop_foreground": True}),
        ((31, 30, 64), {"orientation": "LIP"}),
    ],
)
def test_the_affine_says_where_each_voxel_lies(region: tuple[int, ...], fields: dict[str, Any]) -> None:
    """An image whose value is a coordinate in mm still says, at each voxel of the item, where it is.

    Only inside: border voxels are mixed with their repetition, which is no ramp.
    """
    shape = (44, 40, 46)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    inside, largest = 10, 0.0
    for axis in range(3):
        mm = index @ TURNED[axis, :3] + TURNED[axis, 3]
        image = MetaTensor(torch.from_numpy(mm + 1000).float()[None], affine=torch.from_numpy(TURNED))
        config = VolumeConfig(root="", intensity=Keep(), **fields)
        moved = located(config, region)(image)
        affine = np.asarray(moved.affine)
        told = np.stack(np.meshgrid(*map(np.arange, region), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
        source = (told - TURNED[:3, 3]) @ np.linalg.inv(TURNED[:3, :3]).T
        deep = ((source > inside) & (source < np.array(shape) - 1 - inside)).all(-1)
        assert deep.sum() > 500
        largest = max(largest, float(np.abs(moved[0].numpy() - 1000 - told[..., axis])[deep].max()))
    assert largest < 0.01


def test_the_crop_is_that_of_the_image(tmp_path: Path) -> None:
    """The image is not 0 in slices 2..9, the mask in 5 and 6 alone: they come out as slices 3 and 4 of eight."""
    image, mask = np.zeros((12, 4, 4), np.float32), np.zeros((12, 4, 4), np.uint8)
    image[2:10], mask[5:7] = 1 + np.arange(16).reshape(4, 4), 2
    item, moved = both(tmp_path, image, mask, (8, 4, 4), np.eye(4), crop_foreground=True)
    assert (item > 0).all()
    assert moved[:, 0, 0].tolist() == [0, 0, 0, 2, 2, 0, 0, 0]
    _, scaled = both(tmp_path, image, mask, (8, 4, 4), np.eye(4), crop_foreground=True, intensity=Percentile())
    assert scaled[:, 0, 0].tolist() == [0, 0, 0, 2, 2, 0, 0, 0]


def test_of_two_nearest_voxels_that_of_the_higher_index_counts(tmp_path: Path) -> None:
    """Columns 1 2 0 0 to two: the centres come to lie at 0.5 and 2.5, halfway, so that voxels 1 and 3 are taken."""
    mask = np.zeros((2, 2, 4), np.uint8)
    mask[..., 0], mask[..., 1] = 1, 2
    image = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    _, moved = both(tmp_path, image, mask, (2, 2, 2), np.eye(4), fit="resize")
    assert moved[0, 0].tolist() == [2, 0]
    _, moved = both(tmp_path, image, mask, (2, 2, 8), np.eye(4), fit="resize")
    assert moved[0, 0].tolist() == [1, 1, 2, 2, 0, 0, 0, 0]


def test_a_mask_whose_axes_run_otherwise_is_the_same_mask(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", np.random.default_rng(0).random(SHAPE, np.float32), TURNED)
    config = VolumeConfig(root="", orientation="SPL")
    straight = nib.load(save(tmp_path / "mask.nii", two_boxes(), TURNED))
    nib.save(nib.as_closest_canonical(straight), tmp_path / "turned.nii")
    assert nib.load(tmp_path / "turned.nii").shape != straight.shape
    a, b = (read_mask(tmp_path / name, path, config, SHAPE, classes=2) for name in ("mask.nii", "turned.nii"))
    assert torch.equal(a, b)
    assert a.any()


def test_an_exam_of_several_sequences_has_the_grid_of_the_first(tmp_path: Path) -> None:
    exam, mask = tmp_path / "p1", two_boxes()
    exam.mkdir()
    save(exam / "T1.nii.gz", mask.astype(np.float32), TURNED)
    coarse = TURNED @ np.diag([2, 2, 2, 1])
    save(exam / "FLAIR.nii.gz", np.random.default_rng(0).random((10, 12, 14), np.float32), coarse)
    config = VolumeConfig(root="", sequences=("*/T1*", "FLAIR*"), sequences_as="channels")
    saved = save(tmp_path / "mask.nii.gz", mask, TURNED)
    assert torch.equal(read_mask(saved, exam, config, SHAPE, classes=2), torch.from_numpy(mask.astype(np.int64)))
    with pytest.raises(DataError, match="not_one_volume: makes 2 items"):
        read_mask(saved, exam, VolumeConfig(root=""), SHAPE, classes=2)
    with pytest.raises(DataError, match=r"sequences: data\.sequences: T2"):
        read_mask(saved, exam, config.model_copy(update={"sequences": ("T1*", "T2*")}), SHAPE, classes=2)


def test_an_empty_mask_is_one(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    assert not both(tmp_path, image, np.zeros(SHAPE, np.uint8), SHAPE, np.eye(4))[1].any()


def moved_by(mm: float) -> Array:
    affine = TURNED.copy()
    affine[0, 3] += mm
    return affine


def with_one(value: float) -> Array:
    mask = two_boxes().astype(np.float32)
    mask[3, 3, 3] = value
    return mask


FAULTS: dict[str, tuple[Array, Array, str]] = {
    "shape": (two_boxes((20, 24, 27)), TURNED, "mask: has .* resample it to the grid of its image"),
    "transposed": (two_boxes().transpose(0, 2, 1), TURNED, "mask: has .* resample it"),
    "elsewhere": (two_boxes(), moved_by(0.3), "mask: has .* or they lie elsewhere"),
    "no affine": (two_boxes(), np.eye(4), "mask: has .* or they lie elsewhere"),
    "fraction": (with_one(0.5), TURNED, "mask: 1 voxels have values that are none of 0 to 2, such as 0.5"),
    "unnamed": (with_one(3), TURNED, "mask: 1 voxels have values that are none of 0 to 2, such as 3"),
    "negative": (with_one(-1), TURNED, "such as -1"),
    "nan": (with_one(np.nan), TURNED, "such as nan"),
    "time": (np.stack([two_boxes()] * 2, -1), TURNED, "mask: has 2 time points"),
}


@pytest.mark.parametrize(("mask", "affine", "says"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_mask_of_the_image_is_refused(tmp_path: Path, mask: Array, affine: Array, says: str) -> None:
    image = save(tmp_path / "scan.nii.gz", two_boxes().astype(np.float32), TURNED)
    with pytest.raises(DataError, match=says) as caught:
        read_mask(save(tmp_path / "m.nii.gz", mask, affine), image, VolumeConfig(root=""), SHAPE, classes=2)
    assert caught.value.where == str(tmp_path / "m.nii.gz")
    assert "\n" not in str(caught.value)


def test_a_header_that_rounds_is_the_same_grid(tmp_path: Path) -> None:
    image = save(tmp_path / "scan.nii.gz", two_boxes().astype(np.float32), TURNED)
    saved = save(tmp_path / "m.nii.gz", two_boxes(), moved_by(0.01))
    got = read_mask(saved, image, VolumeConfig(root=""), SHAPE, classes=2)
    assert torch.equal(got, torch.from_numpy(two_boxes().astype(np.int64)))


def test_other_faults_have_their_own_words(tmp_path: Path) -> None:
    image, config = save(tmp_path / "scan.nii.gz", two_boxes().astype(np.float32)), VolumeConfig(root="")
    mask = save(tmp_path / "mask.nii.gz", two_boxes())
    with pytest.raises(DataError, match="missing"):
        read_mask(tmp_path / "none.nii.gz", image, config, SHAPE, classes=2)
    with pytest.raises(DataError, match="missing"):
        read_mask(mask, tmp_path / "none.nii.gz", config, SHAPE, classes=2)
    with pytest.raises(ConfigError, match=r"data\.slices"):
        read_mask(mask, image, config.model_copy(update={"slices": 4}), SHAPE[1:], classes=2)


def test_real_hippocampi_lose_no_voxel(shared_data: Path) -> None:
    """Padded to 64 x 64 x 64, every labelled voxel of the file is there."""
    folder = shared_data / "nifti" / "hippocampus"
    config = VolumeConfig(root="", orientation="SPL")
    for name in ("hippocampus_011.nii.gz", "hippocampus_132.nii.gz"):
        mask = read_mask(folder / "labels" / name, folder / "images" / name, config, (64, 64, 64), classes=2)
        counts = np.bincount(np.asarray(nib.load(folder / "labels" / name).dataobj).ravel())
        assert mask.flatten().bincount().tolist()[1:] == counts.tolist()[1:]


def test_a_real_liver_stays_uniform_under_its_mask(shared_data: Path, tmp_path: Path) -> None:
    """CT of an abdomen, turned, cropped to the body, made coarser and resized: under the mask of the liver (5) the
    numbers vary little (45 HU, deviation 15 in the file: 0.04 of a window of 400), and more with every shift of it."""
    image, mask = (shared_data / "nifti" / "body" / name for name in ("example_ct_sm.nii.gz", "example_seg.nii.gz"))
    fields: dict[str, Any] = {"orientation": "SPL", "spacing": (4.0, 3.5, 3.0), "fit": ("crop", "resize", "resize")}
    fields |= {"intensity": Window(centre=40, width=400), "crop_foreground": True}
    config, region = VolumeConfig(root=str(image), cache=str(tmp_path), **fields), (20, 64, 72)
    item = config.build(region)[0].image[0]
    liver = read_mask(mask, image, config, region, classes=117) == 5
    assert liver.sum() > 5000
    assert item[liver].mean() == pytest.approx((45 - 40 + 200) / 400, abs=0.02)
    assert item[liver].std() < 0.07
    for axis in range(3):
        for by in (-2, 2):
            assert item[liver.roll(by, axis)].std() > 1.2 * item[liver].std()
        assert item[liver.flip(axis)].std() > 2 * item[liver].std()
