"""The one resampling against affine_grid, the general path, MONAI's Affine, SciPy and a pencil."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Affine, Flip
from scipy import ndimage
from torch import Tensor

from volssl.views import Chances, ViewsConfig
from volssl.views.draw import Parameters, draw
from volssl.views.geometry import grid, resample

VOLUME = {"size": (12, 20, 24), "crop": (0.4, 0.9), "aspect": (0.8, 1.25), "slices": (0.5, 1.0)}
TURNED = VOLUME | {"flip": (0, 1, 2), "rotate": (-30, 30), "scale": (0.8, 1.2), "antialias": False}
REGION = (16, 28, 32)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth_noise(*shape: int) -> Tensor:
    """Noise without the steep edges that turn rounding of coordinates into differences."""
    return torch.from_numpy(ndimage.gaussian_filter(noise(*shape).numpy(), (0, 0, *(1.5,) * (len(shape) - 2))))


def drawn(config: dict[str, Any], region: tuple[int, ...], count: int = 5) -> tuple[Parameters, tuple[int, ...]]:
    settings = ViewsConfig(**config)
    return draw(settings, range(count), 0, region), settings.size


def general(x: Tensor, p: Parameters, size: tuple[int, ...]) -> Tensor:
    """The slow twin: torch's affine_grid and grid_sample, in float64."""
    theta = torch.cat([p.matrix.flip(1, 2), p.centre.flip(1)[:, :, None]], dim=2)
    points = F.affine_grid(theta, [len(x), 1, *size], align_corners=False)
    return F.grid_sample(x.double(), points, padding_mode="border", align_corners=False).float()


@pytest.mark.parametrize("size", [(5, 6, 7), (4, 9)])
def test_grid_is_affine_grid(size: tuple[int, ...]) -> None:
    n = len(size)
    matrix, centre = noise(3, n, n).double(), noise(3, n).double()
    theta = torch.cat([matrix.flip(1, 2), centre.flip(1)[:, :, None]], dim=2)
    expected = F.affine_grid(theta, [3, 1, *size], align_corners=False)
    points = grid(matrix, centre, size, torch.device("cpu"))
    torch.testing.assert_close(points.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_fast_path_has_the_weights_of_the_general_one(channels: int) -> None:
    x = smooth_noise(5, channels, *REGION)
    p, size = drawn(TURNED, REGION)
    torch.testing.assert_close(resample(x, p, size), general(x, p, size), rtol=0, atol=1e-5)


def test_a_wrong_axis_is_noticed() -> None:
    """The check above fails if the fast path turned the other way."""
    x = smooth_noise(5, 1, *REGION)
    p, size = drawn(TURNED, REGION)
    wrong = replace(p, matrix=p.matrix.mT.contiguous())
    assert (resample(x, wrong, size) - general(x, p, size)).abs().max() > 0.01


def test_tilt_takes_the_general_path() -> None:
    x = smooth_noise(5, 2, *REGION)
    p, size = drawn(TURNED | {"tilt": (5, 20), "voxel": (3, 1, 1)}, REGION)
    torch.testing.assert_close(resample(x, p, size), general(x, p, size), rtol=0, atol=1e-5)


def test_a_batch_of_still_turned_and_tilted_samples_is_each_alone() -> None:
    """p 0.4 for each: some samples of the batch take each path."""
    config = {"size": REGION, "rotate": (5, 20), "tilt": (5, 20), "p": Chances(rotate=0.5, tilt=0.3)}
    x = smooth_noise(12, 2, *REGION)
    p, size = drawn(config, REGION, 12)
    together = resample(x, p, size)
    still = (p.matrix == torch.eye(3)).flatten(1).all(1)
    tilted = p.matrix[:, 0, 1:].any(1)
    assert still.any()
    assert tilted.any()
    assert (~still & ~tilted).any()
    for i in range(12):
        assert torch.equal(resample(x[i : i + 1], p[i : i + 1], size)[0], together[i])
    assert torch.equal(together[still], x[still])


def test_images_are_bilinear() -> None:
    x = smooth_noise(5, 3, 40, 36)
    p, size = drawn({"size": (20, 30), "crop": (0.2, 0.9), "rotate": (-40, 40), "antialias": False}, (40, 36))
    torch.testing.assert_close(resample(x, p, size), general(x, p, size), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_resample_is_monai_affine(tilt: float) -> None:
    """MONAI's matrix takes voxels from the view's middle to voxels from the region's: A[a, b] = M[a, b] D[a] / S[b]."""
    x = smooth_noise(1, 1, *REGION)
    p, size = drawn(TURNED | {"tilt": (tilt, tilt)}, REGION, 1)
    affine = np.eye(4)
    affine[:3, :3] = p.matrix[0].numpy() * np.array(REGION)[:, None] / np.array(size)[None, :]
    affine[:3, 3] = p.centre[0].numpy() * np.array(REGION) / 2
    monai = Affine(affine=affine, spatial_size=size, padding_mode="border", image_only=True)(x[0])
    expected = torch.as_tensor(np.asarray(monai))
    torch.testing.assert_close(resample(x, p, size)[0], expected, rtol=0, atol=1e-4)


def test_a_quarter_turn_by_hand() -> None:
    """90 degrees: the view's columns run against the region's rows, its rows along the region's columns."""
    x = noise(1, 1, 6, 6)
    p, size = drawn({"size": (6, 6), "rotate": (90, 90)}, (6, 6), 1)
    expected = torch.empty(6, 6)
    for row in range(6):
        for column in range(6):
            expected[row, column] = x[0, 0, 5 - column, row]
    torch.testing.assert_close(resample(x, p, size)[0, 0], expected, rtol=0, atol=1e-5)


def test_a_flip_reverses_the_axis() -> None:
    x = noise(2, 1, 4, 5, 6)
    for axis in range(3):
        p, size = drawn({"size": (4, 5, 6), "flip": (axis,), "p": Chances(flip=1.0)}, (4, 5, 6), 2)
        torch.testing.assert_close(resample(x, p, size), x.flip(axis + 2), rtol=0, atol=1e-5)


def test_a_flip_is_monais() -> None:
    """Through the whole path, with resize: MONAI's Flip of the view that is not flipped."""
    x = smooth_noise(2, 2, *REGION)
    still, size = drawn({"size": (12, 20, 24)}, REGION, 2)
    for axis in range(3):
        p, _ = drawn({"size": size, "flip": (axis,), "p": Chances(flip=1.0)}, REGION, 2)
        for view, unflipped in zip(resample(x, p, size), resample(x, still, size), strict=True):
            expected = torch.as_tensor(np.asarray(Flip(spatial_axis=axis)(unflipped)))
            torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)
            assert (view - unflipped).abs().max() > 0.05  # the control: a flip that did nothing is noticed


def test_a_window_of_slices_is_copied_to_the_bit() -> None:
    x = noise(6, 2, 20, 9, 7)
    p, size = drawn({"size": (8, 9, 7), "slices": (0.4, 0.4)}, (20, 9, 7), 6)
    view = resample(x, p, size)
    first = ((p.centre[:, 0] + 1) * 10 - 4).round().long().tolist()
    assert len(set(first)) > 1
    for i, start in enumerate(first):
        assert torch.equal(view[i], x[i, :, start : start + 8])


def test_the_whole_region_is_a_new_copy() -> None:
    x = noise(2, 1, 4, 5, 6)
    p, size = drawn({"size": (4, 5, 6)}, (4, 5, 6), 2)
    view = resample(x, p, size)
    assert torch.equal(view, x)
    assert view.data_ptr() != x.data_ptr()


def test_blur_is_scipys_in_voxels_of_the_view() -> None:
    x = noise(3, 2, 12, 20, 24)
    p, size = drawn({"size": (12, 20, 24), "blur": (0.8, 2.0), "blur_slices": (0.3, 1.0)}, (12, 20, 24), 3)
    view = resample(x, p, size)
    for i in range(3):
        sigma = (0.0, *p.blur[i].tolist())
        expected = ndimage.gaussian_filter(x[i].double().numpy(), sigma, mode="nearest")
        np.testing.assert_allclose(view[i].numpy(), expected, atol=2e-6)


def test_blur_after_a_turn_and_a_resize() -> None:
    """The product through the slices holds resize and blur: the same as one after the other."""
    x = smooth_noise(3, 1, *REGION)
    blur = {"blur": (0.8, 2.0), "blur_slices": (0.5, 1.0)}
    p, size = drawn(TURNED | blur, REGION, 3)
    sampled = general(x, p, size)
    view = resample(x, p, size)
    for i in range(3):
        expected = ndimage.gaussian_filter(sampled[i].numpy(), (0.0, *p.blur[i].tolist()), mode="nearest")
        np.testing.assert_allclose(view[i].numpy(), expected, atol=1e-5)


def test_simulated_thick_slices_by_hand() -> None:
    """Slices 0, 2, 4, 10 become 1, 2.5, 5.5, 7 (test_axes), the plane stays."""
    x = torch.tensor([0.0, 2.0, 4.0, 10.0]).view(1, 1, 4, 1, 1).expand(1, 1, 4, 3, 3)
    p, size = drawn({"size": (4, 3, 3), "thick": (2, 2)}, (4, 3, 3), 1)
    torch.testing.assert_close(resample(x, p, size)[0, 0, :, 1, 1], torch.tensor([1.0, 2.5, 5.5, 7.0]))


@pytest.mark.parametrize("tilt", [0.0, 0.001])
def test_down_sampling_filters_first(tilt: float) -> None:
    """A checkerboard of +-1 at a third of the resolution is grey; without the filter some of it comes through."""
    board = (torch.arange(36)[:, None] + torch.arange(36)).remainder(2).float() * 2 - 1
    x = board.expand(1, 1, 6, 36, 36)
    config = {"size": (6, 12, 12), "tilt": (tilt, tilt)}
    p, size = drawn(config, (6, 36, 36), 1)
    assert resample(x, p, size).abs().max() < 0.1
    p, size = drawn(config | {"antialias": False}, (6, 36, 36), 1)
    assert resample(x, p, size).abs().max() > 0.9


def test_down_sampling_is_a_gaussian_and_then_plain_sampling() -> None:
    x = noise(2, 1, 24, 40, 40)
    p, size = drawn({"size": (8, 16, 16), "rotate": (-30, 30)}, (24, 40, 40), 2)
    assert (p.smooth > 0.5).all()
    view = resample(x, p, size)
    for i in range(2):
        sigma = (0.0, *p.smooth[i].tolist())
        filtered = torch.from_numpy(ndimage.gaussian_filter(x[i].double().numpy(), sigma, mode="nearest"))
        torch.testing.assert_close(view[i], general(filtered[None], p[i : i + 1], size)[0], rtol=0, atol=1e-5)
