"""Preprocessing: geometry in mm, intensities by hand, and MONAI's traps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydantic import ValidationError
from torch import Tensor

from volssl.data import StackConfig, VolumeConfig
from volssl.data.items import Keep, Percentile, Window, ZScore
from volssl.data.preprocess import preprocess
from volssl.errors import DataError


def volume(values: Tensor, spacing: tuple[float, ...] = (1, 1, 1)) -> MetaTensor:
    """A one-channel volume whose index axes are the patient's R, A, S."""
    return MetaTensor(values[None].float(), affine=torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))


def run(image: MetaTensor, region: tuple[int, ...], **fields: Any) -> Tensor:
    fields = {"intensity": Keep(), **fields}
    return preprocess(VolumeConfig(root="", **fields), region)(image)[0]


def ramp(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape) + 1


def blob(affine: np.ndarray[Any, Any], shape: tuple[int, ...]) -> MetaTensor:
    """Two Gaussians given in mm, so that every grid samples the same anatomy."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    first = np.exp(-((mm - [5, -3, 2]) ** 2 / [200, 80, 120]).sum(-1))
    second = 0.7 * np.exp(-((mm - [-8, 6, -4]) ** 2 / [60, 90, 50]).sum(-1))
    return MetaTensor(torch.from_numpy(first + second).float()[None], affine=torch.from_numpy(affine))


def test_crop_keeps_the_centre_and_pads_with_zero() -> None:
    """Axis 0: 4 to 2 keeps 1..2. Axis 2: 2 to 4 gets one zero on either side."""
    x = ramp(4, 2, 2)
    y = run(volume(x), (2, 2, 4))
    assert torch.equal(y[0, :, :, 1:3], x[1:3])
    assert not y[0, :, :, [0, 3]].any()
    assert type(y) is Tensor


def test_percentile_by_hand() -> None:
    """0..100 with percentiles 10 and 90: x = 10 becomes 0, 50 becomes 1/2, 90 and more 1."""
    x = torch.arange(101.0).reshape(1, 1, 101)
    y = run(volume(x), (1, 1, 101), intensity=Percentile(lower=10, upper=90))[0, 0, 0]
    assert y[[0, 10, 50, 90, 100]].tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_percentiles_that_coincide_give_way_to_the_range() -> None:
    """One voxel in 1000 is 7: both percentiles are 0, so 0..7 is scaled and the voxel survives."""
    x = torch.zeros(10, 10, 10)
    x[5, 5, 5] = 7
    y = run(volume(x), (10, 10, 10), intensity=Percentile())
    assert y[0, 5, 5, 5] == 1
    assert y.sum() == 1


def test_each_channel_has_its_own_percentiles() -> None:
    x = torch.stack([ramp(4, 4, 4), 1000 * ramp(4, 4, 4)])
    y = run(MetaTensor(x, affine=torch.eye(4)), (4, 4, 4), intensity=Percentile(lower=0, upper=100))
    assert torch.allclose(y[0], y[1])
    assert (float(y[0].min()), float(y[0].max())) == (0, 1)


def test_zscore_is_over_the_foreground_and_zero_stays_zero() -> None:
    """Foreground 2 and 4: mean 3, standard deviation 1, so -1 and 1."""
    y = run(volume(torch.tensor([[[0, 2, 4, 0.0]]])), (1, 1, 4), intensity=ZScore())
    assert y[0, 0, 0].tolist() == [0, -1, 1, 0]


def test_window_by_hand() -> None:
    """Centre 40, width 400 covers -160..240: air is 0, 40 is 1/2, bone is 1."""
    y = run(volume(torch.tensor([[[-1000, 40, 1000.0]]])), (1, 1, 3), intensity=Window(centre=40, width=400))
    assert y[0, 0, 0].tolist() == [0, 0.5, 1]


def test_foreground_crop_comes_before_the_fit() -> None:
    """An object in a corner of a large empty volume ends up in the middle of the region."""
    x = torch.zeros(20, 20, 20)
    x[:4, :4, :4] = ramp(4, 4, 4)
    assert torch.equal(run(volume(x), (4, 4, 4), crop_foreground=True)[0], x[:4, :4, :4])
    with pytest.raises(AssertionError):  # negative control: without the crop the object is lost
        assert torch.equal(run(volume(x), (4, 4, 4))[0], x[:4, :4, :4])


def test_n4_takes_out_most_of_a_planted_bias_field() -> None:
    """Two tissues of signal 60 and 100 under a field that doubles from left to right."""
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (12, 48, 48)), indexing="ij")
    inside = y**2 + x**2 < 0.8
    tissue = np.where(inside, np.where((np.abs(4 * x) % 2 < 1) ^ (np.abs(4 * y) % 2 < 1), 100.0, 60.0), 0.0)
    biased = volume(torch.from_numpy(tissue * np.exp(0.35 * x)))
    spread = {}
    for n4 in (False, True):
        out = run(biased, (12, 48, 48), n4=n4)[0].numpy()
        spread[n4] = np.std(np.log(out[inside & (tissue == 100)]))
    assert spread[True] < 0.35 * spread[False]


def test_each_axis_may_fit_in_its_own_way() -> None:
    """Slices 0, 1, 2, 3 become 2 by halves: after smoothing they stay symmetric about 1.5; the middle columns stay."""
    x = torch.arange(4.0)[:, None, None] + torch.tensor([9.0, 0.0, 0.0, 9.0])
    y = run(volume(x.expand(4, 4, 4)), (2, 4, 2), fit=("resize", "crop", "crop"), intensity=Keep())
    assert torch.equal(y[..., 0], y[..., 1])
    assert torch.equal(y[0, :, 0], y[0, :, 3])
    assert float(y.mean()) == pytest.approx(1.5, abs=1e-6)
    with pytest.raises(ValueError, match="fit needs one word, or 3"):
        run(volume(x.expand(4, 4, 4)), (2, 4, 2), fit=("resize", "crop"))


def test_foreground_crop_after_a_ct_window_cuts_air() -> None:
    x = torch.full((9, 9, 9), -1000.0)
    x[6:, 6:, 6:] = 40
    y = run(volume(x), (3, 3, 3), crop_foreground=True, intensity=Window(centre=40, width=400))
    assert torch.equal(y, torch.full((1, 3, 3, 3), 0.5))


@pytest.mark.parametrize("codes", ["SPL", "RAS", "LIP"])
def test_the_same_anatomy_on_two_grids_gives_the_same_result(codes: str) -> None:
    """RAS at 1 mm against LPS-flipped, permuted axes at 1 x 1.5 x 0.8 mm."""
    one = np.diag([1.0, 1, 1, 1])
    one[:3, 3] = -24
    other = np.array([[0, -1.5, 0, 24], [0, 0, 0.8, -24], [-1, 0, 0, 24], [0, 0, 0, 1.0]])
    a, b = blob(one, (49, 49, 49)), blob(other, (49, 33, 61))
    same = {"orientation": codes, "spacing": (1.0, 1.0, 1.0)}
    assert (run(a, (32, 32, 32), **same) - run(b, (32, 32, 32), **same)).abs().max() < 0.05
    assert (run(a, (32, 32, 32)) - run(b, (32, 32, 32))).abs().max() > 0.3  # negative control: grids differ


def test_the_returned_spacing_is_that_of_the_result() -> None:
    """3 x 1 x 1 mm in R, A, S: SPL puts the 1 mm slices first; 8 columns of 3 mm become 4 of 6."""
    config = VolumeConfig(root="", orientation="SPL", fit="resize", intensity=Keep())
    result, spacing = preprocess(config, (6, 6, 4))(volume(ramp(8, 6, 6), (3, 1, 1)))
    assert spacing == pytest.approx((1, 1, 6))
    assert result.shape == (1, 6, 6, 4)
    config = VolumeConfig(root="", spacing=(2, 2, 2), intensity=Keep())
    assert preprocess(config, (4, 4, 4))(volume(ramp(8, 6, 6), (3, 1, 1)))[1] == pytest.approx((2, 2, 2))


def test_shrinking_smooths_without_darkening_the_border() -> None:
    """A flat 1 with one 0 in the corner: the far border stays 1 (MONAI's own filter makes it 0.74)."""
    x = torch.ones(4, 16, 16)
    x[0, 0, 0] = 0
    y = run(volume(x), (4, 4, 4), fit="resize")
    assert y[0, 3, 3].tolist() == pytest.approx([1] * 4, abs=1e-6)


def test_shrinking_does_not_alias() -> None:
    """Columns alternate 0, 1: at a quarter of the size nothing but their mean is left."""
    x = torch.arange(64.0).remainder(2).expand(4, 4, 64)
    y = run(volume(x), (4, 4, 16), fit="resize")
    assert (y[..., 2:-2] - 0.5).abs().max() < 0.02


def test_one_slice_can_be_resized_to_many() -> None:
    y = run(volume(ramp(1, 4, 4)), (3, 4, 4), fit="resize")
    assert torch.allclose(y[0], ramp(1, 4, 4).expand(3, 4, 4))


@pytest.mark.parametrize("intensity", [Keep(), Percentile(), ZScore(), Window(centre=0, width=1)])
def test_a_constant_image_is_refused(intensity: Any) -> None:
    for value in (0.0, 5.0):
        with pytest.raises(DataError, match="constant"):
            run(volume(torch.full((4, 4, 4), value)), (4, 4, 4), intensity=intensity)


def test_a_window_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="after window scaling every voxel is 1"):
        run(volume(ramp(4, 4, 4) + 500), (4, 4, 4), intensity=Window(centre=40, width=400))


def test_a_binary_image_has_no_zscore() -> None:
    with pytest.raises(DataError, match="after zscore"):
        run(volume((ramp(4, 4, 4) > 30).float()), (4, 4, 4), intensity=ZScore())


def test_not_finite_is_refused() -> None:
    x = ramp(4, 4, 4)
    x[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="non_finite"):
        run(volume(x), (4, 4, 4))


def test_a_plain_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="geometry"):
        preprocess(VolumeConfig(root=""), (4, 4, 4))(ramp(1, 4, 4, 4))


def test_threads_change_nothing_and_are_given_back() -> None:
    x = volume(torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(0)))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(run(x, (32, 32, 32), intensity=ZScore()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"orientation": "SPP"}, "one letter of each"),
        ({"orientation": "SP"}, "one letter of each"),
        ({"spacing": (1.0, 1.0)}, "spacing needs 3 numbers"),
        ({"region": (8, 8)}, "region needs 3 numbers"),
        ({"intensity": {"name": "percentile", "lower": 60.0, "upper": 40.0}}, "less than upper"),
        ({"sequences_as": "channels"}, "needs sequences"),
        ({"sequences": ("a",), "sequences_as": "channels", "time": "items"}, "time must be an index"),
    ],
)
def test_what_cannot_be_is_refused_in_the_configuration(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        VolumeConfig(root="", **fields)


def test_stacks_have_no_geometry() -> None:
    with pytest.raises(ValidationError, match="no geometry"):
        StackConfig(root="", spacing=(1, 1, 1))
