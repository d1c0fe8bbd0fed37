"""Colour operations by hand, on pixels whose stains, luma and hue are known."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from volssl.views import Chances, ViewsConfig
from volssl.views.colour import LUMA, STAINS, adjust_stains, turn_colours
from volssl.views.draw import draw
from volssl.views.intensity import adjust_contrast, adjust_gamma, apply_intensity, shift_histogram

Array = NDArray[np.float64]

HEMATOXYLIN = np.array([0.65, 0.70, 0.29]) / np.sqrt(0.65**2 + 0.70**2 + 0.29**2)
EOSIN = np.array([0.07, 0.99, 0.11]) / np.sqrt(0.07**2 + 0.99**2 + 0.11**2)
COLOURS: dict[str, Any] = {
    "stain": (0.7, 1.4),
    "stain_shift": (-0.05, 0.05),
    "saturation": (0.5, 1.5),
    "hue": (-0.1, 0.1),
    "joint": True,
    "gamma": (0.7, 1.4),
    "histogram": (0.5, 1.0),
    "contrast": (0.7, 1.4),
}
SEEDS = torch.tensor([11, 2**61, -5, 0, 7, 8])


def pixel(values: ArrayLike) -> Tensor:
    """(1, 3, 1, 1)."""
    return torch.tensor(np.asarray(values), dtype=torch.float32).view(1, 3, 1, 1)


def stained(amounts: ArrayLike, factor: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)) -> Array:
    """What becomes of a pixel with these amounts of hematoxylin and eosin."""
    x = pixel(10.0 ** -(np.asarray(amounts) @ np.stack([HEMATOXYLIN, EOSIN])))
    adjust_stains(x, torch.tensor([factor]), torch.tensor([shift]))
    return x.flatten().double().numpy()


def turned(values: ArrayLike, saturation: float, hue: float) -> Array:
    x = pixel(values)
    turn_colours(x, torch.tensor([saturation]), torch.tensor([hue]))
    return x.flatten().double().numpy()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_twice_the_factor_doubles_the_optical_density_of_a_pure_stain(amount: float) -> None:
    """10^-(c h) becomes 10^-(2 c h), whatever happens to the stain that is not there."""
    for eosin in (0.5, 1.0, 3.0):
        np.testing.assert_allclose(stained([amount, 0.0], (2.0, eosin)), 10 ** (-2 * amount * HEMATOXYLIN), rtol=1e-5)
        np.testing.assert_allclose(stained([0.0, amount], (eosin, 2.0)), 10 ** (-2 * amount * EOSIN), rtol=1e-5)


def test_each_stain_has_its_own_factor_and_shift() -> None:
    """Amounts (0.4, 0.3): 1.5 * 0.4 + 0.1 = 0.7 of hematoxylin, 0.5 * 0.3 - 0.05 = 0.1 of eosin."""
    expected = 10 ** -(0.7 * HEMATOXYLIN + 0.1 * EOSIN)
    np.testing.assert_allclose(stained([0.4, 0.3], (1.5, 0.5), (0.1, -0.05)), expected, rtol=1e-5)


def test_the_residual_stays() -> None:
    """The third axis is at right angles to both stains; an optical density along it is neither."""
    np.testing.assert_allclose(STAINS[:, 2] @ np.stack([HEMATOXYLIN, EOSIN]).T, 0.0, atol=1e-15)
    density = 0.5 * HEMATOXYLIN + 0.5 * EOSIN + 0.2 * STAINS[:, 2]
    x = pixel(10**-density)
    adjust_stains(x, torch.tensor([[1.4, 0.7]]), torch.zeros(1, 2))
    expected = 0.7 * HEMATOXYLIN + 0.35 * EOSIN + 0.2 * STAINS[:, 2]
    np.testing.assert_allclose(x.flatten().numpy(), 10**-expected, rtol=1e-5)


def test_stains_stay_within_light_and_dark() -> None:
    """White has no stain to scale and gets no brighter; black counts as one step of a byte, not as infinitely dense."""
    np.testing.assert_allclose(stained([0.0, 0.0], (2.0, 0.5)), 1.0, atol=1e-6)
    np.testing.assert_array_equal(stained([0.0, 0.0], (1.0, 1.0), (-0.1, -0.1)), np.ones(3))
    x = images(2, 3, 8, 8).round()
    adjust_stains(x, torch.tensor([[1.5, 0.6], [0.6, 1.5]]), torch.full((2, 2), 0.05))
    assert x.isfinite().all()
    assert 0.0 < x.min() <= x.max() <= 1.0


def test_factors_of_one_leave_every_byte() -> None:
    bytes_ = torch.arange(1, 256).float() / 255
    x = torch.cartesian_prod(bytes_[::10], bytes_[::10], bytes_[::10]).T.reshape(1, 3, -1, 1).contiguous()
    y = x.clone()
    adjust_stains(y, torch.ones(1, 2), torch.zeros(1, 2))
    torch.testing.assert_close(y, x, rtol=5e-6, atol=0)


@pytest.mark.parametrize(("saturation", "hue"), [(0.3, 0.0), (2.0, 0.1), (1.0, -0.37), (0.0, 0.5)])
def test_grey_stays_and_so_does_the_luma(saturation: float, hue: float) -> None:
    np.testing.assert_allclose(turned([0.6, 0.6, 0.6], saturation, hue), 0.6, atol=1e-6)
    assert turned([0.8, 0.3, 0.6], saturation, hue) @ LUMA == pytest.approx(
        0.8 * 0.299 + 0.3 * 0.587 + 0.6 * 0.114, abs=1e-6
    )


def test_saturation_by_hand() -> None:
    """(1, 0, 0.5): luma 0.299 + 0.057 = 0.356. Halved: 0.678, 0.178, 0.428. At 0 all three are equal, to the bit."""
    np.testing.assert_allclose(turned([1.0, 0.0, 0.5], 0.5, 0.0), [0.678, 0.178, 0.428], atol=1e-6)
    grey = turned([1.0, 0.0, 0.5], 0.0, 0.3)
    assert grey[0] == grey[1] == grey[2] == pytest.approx(0.356)


def test_half_a_turn_negates_the_chroma_and_a_turn_is_none() -> None:
    """(0.6, 0.2, 0.4): luma 0.3424; mirrored at it 2 * 0.3424 - c."""
    luma = 0.6 * 0.299 + 0.2 * 0.587 + 0.4 * 0.114
    np.testing.assert_allclose(turned([0.6, 0.2, 0.4], 1.0, 0.5), 2 * luma - np.array([0.6, 0.2, 0.4]), atol=1e-6)
    np.testing.assert_allclose(turned(turned([0.6, 0.2, 0.4], 1.0, 0.2), 1.0, -0.2), [0.6, 0.2, 0.4], atol=1e-6)


def test_a_turn_is_a_rotation_of_i_and_q() -> None:
    """NTSC: I = 0.596 R - 0.274 G - 0.322 B, Q = 0.211 R - 0.523 G + 0.312 B; their length stays, their angle moves."""
    chroma = np.array([[0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    before, after = chroma @ [0.7, 0.2, 0.4], chroma @ turned([0.7, 0.2, 0.4], 1.0, 0.1)
    assert np.hypot(*after) == pytest.approx(np.hypot(*before), rel=2e-3)
    angle = np.arctan2(*before[::-1]) - np.arctan2(*after[::-1])
    assert np.rad2deg(angle) == pytest.approx(36.0, abs=0.5)


@pytest.mark.parametrize("colour", [(0.8, 0.3, 0.3), (0.3, 0.8, 0.3), (0.3, 0.3, 0.8)])
def test_a_turn_goes_the_way_of_hsv(colour: tuple[float, float, float]) -> None:
    start = colorsys.rgb_to_hsv(*colour)[0]
    for hue in (0.05, -0.05):
        moved = (colorsys.rgb_to_hsv(*np.clip(turned(colour, 1.0, hue), 0, 1))[0] - start + 0.5) % 1 - 0.5
        assert 0.01 < moved / np.sign(hue) < 0.1


def test_joint_contrast_and_gamma_by_hand() -> None:
    """Channels (0, 1), (1, 4), (2, 4): mean 2, doubled about it 2 c - 2; gamma 2 between 0 and 4 is c^2 / 4."""
    x = torch.tensor([[0.0, 1.0], [1.0, 4.0], [2.0, 4.0]]).view(1, 3, 1, 2)
    for joint in (True, False):
        y, z, w = x.clone(), x.clone(), x.clone()
        adjust_contrast(y, torch.tensor([2.0]), torch.zeros(1), joint=joint)
        adjust_gamma(z, torch.tensor([2.0]), joint=joint)
        shift_histogram(w, torch.tensor([[0.0, 0.125, 0.5, 0.75, 1.0]]), joint=joint)
        assert torch.allclose(y, 2 * x - 2) == joint
        assert torch.allclose(z, x**2 / 4, atol=1e-5) == joint
        assert torch.allclose(w, torch.where(x == 1, 0.5, x), atol=1e-5) == joint


@pytest.mark.parametrize("region", [(20, 24), (4, 20, 24)])
def test_a_view_does_not_depend_on_its_chunk(region: tuple[int, ...]) -> None:
    """Half of the samples stay as they are, to the bit, beside others that change."""
    x = images(6, 3, *region)
    p = {"stain": 0.5, "saturation": 0.5, "hue": 0.5, "grey": 0.3, "gamma": 0.5, "contrast": 0.5}
    for chances in (p, {"grey": 0.5}):
        views = ViewsConfig.model_validate({"size": region, "p": chances} | COLOURS).build()
        together = views(x, SEEDS)
        for chunk in (1, 2, 4):
            for i in range(0, 6, chunk):
                part = views(x[i : i + chunk].clone(), SEEDS[i : i + chunk])
                assert all(torch.equal(part[name], together[name][i : i + chunk]) for name in views.recipes)
        at_once = x.clone()
        apply_intensity(at_once, draw(views.config, SEEDS.tolist(), 0, region), joint=True)
        torch.testing.assert_close(at_once, together["0"], rtol=0, atol=2e-5)


def test_an_inactive_sample_keeps_its_bits_beside_active_ones() -> None:
    on = draw(ViewsConfig(size=(20, 24), **COLOURS), [5], 0, (20, 24))
    off = draw(ViewsConfig(size=(20, 24)), [6], 0, (20, 24))
    both = type(on)(*(torch.cat([getattr(on, f), getattr(off, f)]) for f in on.__slots__))
    x = images(2, 3, 20, 24)
    y = x.clone()
    apply_intensity(y, both, joint=True)
    assert torch.equal(y[1], x[1])
    assert not torch.allclose(y[0], x[0], atol=0.05)


def test_grey_alone_is_the_luma() -> None:
    x = images(6, 3, 20, 24)
    views = ViewsConfig(size=(20, 24), p=Chances(grey=0.5)).build()(x, SEEDS)["0"]
    luma = torch.einsum("bcij,c->bij", x, torch.tensor(LUMA).float())
    grey = [bool((view == view[:1]).all()) for view in views]
    assert 0 < sum(grey) < 6
    for view, source, expected, is_grey in zip(views, x, luma, grey, strict=True):
        torch.testing.assert_close(view, expected.expand(3, 20, 24) if is_grey else source)


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({}, None),
        ({"joint": True, "contrast": (0.5, 1.5), "p": Chances(hue=0.5)}, None),
        ({"stain": (0.7, 1.4), "hue": (-0.1, 0.1)}, "stain"),
        ({"stain_shift": (-0.1, 0.1)}, "stain_shift"),
        ({"saturation": (0.5, 1.0), "p": Chances(grey=0.1)}, "saturation"),
        ({"hue": (0.0, 0.1)}, "hue"),
        ({"p": Chances(grey=0.1)}, "p.grey"),
    ],
)
def test_the_first_colour_setting_in_use_is_named(given: dict[str, Any], setting: str | None) -> None:
    assert ViewsConfig(size=(8, 8), **given).colour() == setting
