"""A segmentation, voxel by voxel of the item that is made of its image."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch import Tensor

from volssl.data import VolumeConfig, nifti
from volssl.data.door import find
from volssl.data.items import Keep, Size
from volssl.data.listing import Listed
from volssl.data.preprocess import located
from volssl.data.recipe import Entry
from volssl.data.volume import arrange, read
from volssl.errors import ConfigError, DataError

Floats = NDArray[np.float64]
OFF = 0.1  # voxels by which the grids of a mask and of its image may lie apart
UP = 1e-6  # voxels: rounding does not decide which of two is the nearest


def read_mask(mask: str | Path, image: str | Path, config: VolumeConfig, region: Size, *, classes: int) -> Tensor:
    """(*region) int64, 0 and 1..``classes``: voxel (i, j, k) is that of the item which ``config`` makes of the image.

    The image goes the whole way again, foreground crop included, and the affine with which it arrives says where each
    voxel of the item lies: there the mask is looked up, once, whatever the image was resampled in between. The nearest
    voxel counts, of two equally near that of the higher index; outside of the image's field of view there is nothing.

    Args:
        mask: a NIfTI file with the voxels of the image, be they in another order of the axes. It may be empty.
        image: the file, or the folder, that is one item. config, region: as it was prepared.

    Raises:
        DataError: ``mask``: it has other voxels than the image, or values other than 0..``classes``;
            ``not_one_volume``; or whatever keeps a file from being read, in the words of ``docs/data.md``.
        ConfigError: the items are slices.
    """
    if config.slices is not None:
        raise ConfigError(f"data.slices ({config.slices}): masks are of whole volumes, leave it out")
    values, affine = _values(Path(mask), classes)
    taken = read(config.non_finite, _entry(config, Path(image)))
    if not _same_voxels(values.shape, affine, tuple(taken.shape[1:]), _affine(taken)):
        what = f"{values.shape} voxels, the image {tuple(taken.shape[1:])}, or they lie elsewhere"
        raise DataError("mask", f"has {what}: resample it to the grid of its image", str(mask))
    if not config.crop_foreground:  # nothing but the crop depends on what the image shows
        config = config.model_copy(update={"intensity": Keep(), "n4": False})
    to_mask = np.linalg.inv(affine) @ _affine(located(config, region)(taken))
    start = to_mask[:3, 3] + UP
    looked_up = affine_transform(values, to_mask[:3, :3], start, region, order=0, mode="grid-constant")
    return torch.from_numpy(looked_up)


def _affine(image: MetaTensor) -> Floats:
    return np.asarray(image.affine, dtype=np.float64)


def _values(path: Path, classes: int) -> tuple[NDArray[np.int64], Floats]:
    """(slices, rows, columns) of the file, and its affine."""
    points, affine = nifti.read(path)
    if len(points) != 1:
        raise DataError("mask", f"has {len(points)} time points: give one of them as a file", str(path))
    odd = points[~np.isin(points, np.arange(classes + 1))]
    if len(odd):
        what = f"{len(odd)} voxels have values that are none of 0 to {classes}, such as {odd[0]:g}"
        raise DataError("mask", f"{what}: look at target.classes, and resample masks to the nearest voxel", str(path))
    return points[0].astype(np.int64), affine


def _entry(config: VolumeConfig, image: Path) -> Entry:
    """The one item that ``config`` makes of the path."""
    found, bad = find(image, kinds=frozenset({"dicom", "nifti"}))
    base = image if image.is_dir() else image.parent
    listed = [Listed(replace(one, id=f"{base.as_posix()}/{one.id}")) for one in found]
    entries, unfit = arrange(config, listed)
    if len(entries) == 1:
        return entries[0]
    if not entries and (bad or unfit):
        raise [*bad, *unfit][0]
    raise DataError("not_one_volume", f"makes {len(entries)} items: a mask is of one", str(image))


def _same_voxels(mask: tuple[int, ...], mask_affine: Floats, image: tuple[int, ...], image_affine: Floats) -> bool:
    """Whether every voxel of the image is one of the mask and the reverse, whichever way the axes run.

    From indices of one to those of the other leads a matrix of whole numbers that takes corners to corners.
    """
    exact = np.linalg.inv(mask_affine) @ image_affine
    whole = np.rint(exact)
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in image))])
    apart = np.abs(corners @ (exact - whole).T).max()
    reached = (corners @ whole.T)[:, :3]
    fills = (reached.min(0) == 0).all() and (reached.max(0) == np.array(mask) - 1).all()
    return bool(apart < OFF and fills and np.prod(mask) == np.prod(image))
