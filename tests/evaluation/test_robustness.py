"""Changed images: by exactly the strength asked for, the same for every encoder, and clean where it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d, zoom
from torch import Tensor

from volssl.data import StackConfig
from volssl.data.image_config import ImageConfig
from volssl.data.slide_config import SlideConfig
from volssl.data.video_config import VideoConfig
from volssl.evaluation import RobustnessConfig
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import random_encoder
from volssl.evaluation.features import extract
from volssl.evaluation.robustness import CHANGES, Perturbed, coloured, features_under, perturbed, strengths
from volssl.models import ResNetConfig
from volssl.types import Item
from volssl.views.views import whole

SIZES = ((12, 12), (5, 12, 12))
IDENTITY = {"rotation": 0.0, "scale": 1.0, "intensity": 1.0, "noise": 0.0, "blur": 0.0}
STRONG = {"rotation": 30.0, "scale": 1.3, "intensity": 2.0, "noise": 0.1, "blur": 1.0}


class Noise:
    """Four items of noise of one shape, each a function of its position; channel c is up to 1 / (c + 1)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Item:
        image = torch.rand(self.shape, generator=torch.Generator().manual_seed(i))
        image /= torch.arange(1.0, 1 + len(image)).view(-1, *(1,) * (image.ndim - 1))
        return Item(image, (1.0, 1.0), str(i))


def changed(image: Tensor, size: tuple[int, ...], what: str, strength: float, *, joint: bool = False) -> Tensor:
    """(C, *size) of one image (C, *region)."""
    return perturbed(size, what, strength, joint=joint)(image[None], torch.tensor([7]))["0"][0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_identity_is_the_clean_view(size: tuple[int, ...], channels: int) -> None:
    """To the bit, whether the view is the region or a smaller one. Control: any other strength changes it."""
    for region in (size, tuple(n + 3 for n in size)):
        image = Noise(channels, *region)[0].image
        clean = whole(image[None], size)[0]
        for what, strength in IDENTITY.items():
            assert torch.equal(changed(image, size, what, strength), clean), what
            assert (changed(image, size, what, STRONG[what]) - clean).abs().max() > 0.05, what


@pytest.mark.parametrize("size", SIZES)
def test_a_quarter_turn_is_rot90(size: tuple[int, ...]) -> None:
    """Of the plane, slice by slice; positive degrees are clockwise on a screen, where rows go down."""
    image = Noise(2, *size)[0].image
    found = [changed(image, size, "rotation", degrees) for degrees in (90.0, -90.0, 180.0)]
    turned = [torch.rot90(image, times, (-2, -1)) for times in (-1, 1, 2)]
    for got, want in zip(found, turned, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert (found[0] - turned[1]).abs().max() > 0.1


def test_degrees_are_those_of_a_real_voxel() -> None:
    """A bar at 45 degrees, turned by 45: along an axis, also where the image is twice as wide as it is high."""
    rows, columns = torch.meshgrid(torch.arange(40.0) - 19.5, torch.arange(80.0) - 39.5, indexing="ij")
    bar = ((rows - columns).abs() < 3).float()[None]
    both = [changed(bar, (40, 80), "rotation", degrees)[0] for degrees in (45.0, -45.0)]
    middle = [view[12:28, 32:48] for view in both]
    spread = [(float(view.mean(0).std()), float(view.mean(1).std())) for view in middle]
    along = sorted(spread, key=lambda s: s[0])
    assert along[0][0] < 0.02  # every column of the bar that lies along the rows is alike
    assert along[0][1] > 0.3
    assert along[1][1] < 0.02
    assert along[1][0] > 0.3


@pytest.mark.parametrize("size", SIZES)
def test_magnification_is_linear_interpolation_about_the_middle(size: tuple[int, ...]) -> None:
    """By 2: the inner half of the plane, as SciPy's order-1 zoom of pixels sees it; slices stay where they are."""
    image = Noise(1, *size)[0].image
    got = changed(image, size, "scale", 2.0)
    planes = image.reshape(-1, 12, 12).numpy()
    want = np.stack([zoom(p, 2, order=1, mode="nearest", grid_mode=True)[6:18, 6:18] for p in planes])
    np.testing.assert_allclose(got.reshape(-1, 12, 12).numpy(), want, atol=1e-5)


def test_scale_half_shows_all_in_the_middle_and_repeats_the_edge() -> None:
    """A ramp of columns 0..11 by 1/2: its steps are 2, and beyond it stand its first and last value.

    Column j looks at 5.5 + 2 (j - 5.5): from column 3 on 0.5, 2.5, ..., 10.5; before, 0; after, 11.
    """
    ramp = torch.arange(12.0).expand(1, 12, 12)
    want = [0, 0, 0, 0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 11, 11, 11]
    plain = changed(ramp, (12, 12), "scale", 0.5)
    # down-sampling by 2 is smoothed by an sd of 1/2, which leaves a ramp as it is but for its ends
    torch.testing.assert_close(plain[0, 5, 4:8], torch.tensor(want[4:8]), atol=1e-4, rtol=0)
    torch.testing.assert_close(plain[0, 5], torch.tensor(want), atol=0.3, rtol=0)


def test_gamma_is_the_exponent_of_a_ramp() -> None:
    """10 + 4 r for r in 0..1: least and greatest stay, and between them r becomes r^2 (r^1/2)."""
    r = torch.linspace(0, 1, 144).view(1, 12, 12)
    for gamma in (0.5, 2.0):
        torch.testing.assert_close(
            changed(10 + 4 * r, (12, 12), "intensity", gamma), 10 + 4 * r**gamma, atol=1e-4, rtol=0
        )


def test_colours_share_one_gamma_curve() -> None:
    """Red to 1 and green to 1/2: jointly green becomes its square, alone its square of its own range, (2 r)^2 / 2."""
    r = torch.linspace(0, 1, 144).view(12, 12)
    image = torch.stack([r, r / 2, torch.zeros(12, 12)])
    together, alone = (changed(image, (12, 12), "intensity", 2.0, joint=joint) for joint in (True, False))
    torch.testing.assert_close(together, image**2, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone[1], 2 * image[1] ** 2, atol=1e-5, rtol=0)


def test_noise_has_its_sd_and_is_white() -> None:
    """10^5 voxels: the sd within 1 % (its standard error is 0.2 %), mean 0, neighbours uncorrelated."""
    flat = torch.full((1, 10, 100, 100), 0.5)
    noise = changed(flat, (10, 100, 100), "noise", 0.2) - 0.5
    assert noise.std() == pytest.approx(0.2, rel=0.01)
    assert abs(float(noise.mean())) < 0.003
    for axis in (1, 2, 3):
        product = noise.narrow(axis, 1, noise.shape[axis] - 1) * noise.narrow(axis, 0, noise.shape[axis] - 1)
        assert abs(float(product.mean())) < 0.0005


@pytest.mark.parametrize("size", SIZES)
def test_blur_is_a_gaussian_in_the_plane(size: tuple[int, ...]) -> None:
    """SciPy's, along rows and columns; slices are not mixed."""
    image = Noise(2, *size)[0].image
    want = image.numpy().astype(np.float64)
    for axis in (-2, -1):
        want = gaussian_filter1d(want, 1.5, axis=axis, mode="nearest")
    np.testing.assert_allclose(changed(image, size, "blur", 1.5).numpy(), want, atol=1e-5)


def test_every_field_of_the_configuration_is_a_change() -> None:
    """Its defaults hold the identity of each once; names say the unit; what is left empty is left out."""
    assert set(CHANGES) == set(RobustnessConfig.model_fields)
    every = list(strengths(RobustnessConfig()))
    assert [s.what for s in every if s.identity] == list(IDENTITY)
    assert all(s.identity == (s.value == IDENTITY[s.what]) for s in every)
    assert {s.axis for s in every if s.what == "rotation"} == {"rotation, degrees"}
    few = strengths(RobustnessConfig(rotation=(), scale=(), intensity=(), noise=(0.1,), blur=()))
    assert [(s.what, s.value, s.identity) for s in few] == [("noise", 0.1, False)]


@pytest.mark.parametrize(("what", "strength"), [("scale", 0.0), ("noise", -0.1), ("rotation", 270.0)])
def test_impossible_strengths_are_refused(what: str, strength: float) -> None:
    """No magnification of 0, no negative sd, no turn beyond 180 degrees."""
    with pytest.raises(ValueError, match="Input should be"):
        perturbed((12, 12), what, strength)


@pytest.fixture
def flat_card(card: Card) -> Card:
    """A ResNet-10 of coloured tiles, 20 x 20, seen as 16 x 16."""
    backbone = ResNetConfig(dims=2, depth=10, stem="small", norm="batch", width=4)
    shapes = {"backbone": backbone, "channels": 3, "region": (20, 20), "size": (16, 16)}
    return card.model_copy(update=shapes | {"data": ImageConfig(root="", colour="rgb")})


@pytest.mark.parametrize("dims", [2, 3])
def test_features_are_those_of_the_changed_items(card: Card, flat_card: Card, dims: int) -> None:
    """At the identity those of the clean items, to the bit; else item by item those of its changed image.

    Colours are changed together.
    """
    shown = flat_card if dims == 2 else card
    encoder, source = random_encoder(shown, 0), Noise(shown.channels, *shown.region)
    clean = extract(encoder, source)
    for what, identity in IDENTITY.items():
        np.testing.assert_array_equal(features_under(encoder, source, what, identity, seed=0), clean)
        found = features_under(encoder, source, what, STRONG[what], seed=0, batch=3)
        assert np.abs(found - clean).max() > 1e-4, what
    found = features_under(encoder, source, "intensity", 2.0, seed=0, batch=3)
    items = Perturbed(source, perturbed(shown.size, "intensity", 2.0, joint=dims == 2), 0)
    alone = np.stack([encoder(items[i].image[None]).pooled.detach().numpy()[0] for i in range(4)])
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6)


def test_noise_is_the_same_for_everybody_and_new_for_each_item() -> None:
    """A function of seed and position: drawn again it is the same; other items and other seeds get their own."""
    views, flat = perturbed((12, 12), "noise", 0.1), replace(Noise(1, 12, 12)[0], image=torch.zeros(1, 12, 12))

    class Flat(Noise):
        def __getitem__(self, i: int) -> Item:
            return replace(flat, id=str(i))

    first, again, other = (Perturbed(Flat(1, 12, 12), views, seed) for seed in (0, 0, 1))
    assert len(first) == 4
    assert first[2].id == "2"
    assert torch.equal(first[2].image, again[2].image)
    assert not torch.equal(first[2].image, first[3].image)
    assert not torch.equal(first[2].image, other[2].image)


def test_channels_are_colours_where_the_data_says_so(flat_card: Card) -> None:
    """Tiles of slides and pictures or clips in colour; not grey ones, nor three sequences of a volume."""
    rgb = [flat_card.data, SlideConfig(root=""), VideoConfig(root="", colour="rgb")]
    plain = [ImageConfig(root=""), VideoConfig(root=""), StackConfig(root="")]
    assert [coloured(flat_card.model_copy(update={"data": data})) for data in rgb + plain] == [True] * 3 + [False] * 3


def test_a_real_tile_keeps_its_colours_and_loses_its_grain(shared_data: Path) -> None:
    """Histology: gamma 2 darkens and leaves which colour leads; blur takes most of the difference of neighbours."""
    path = sorted((shared_data / "images/lc25000_lung/lung_aca").iterdir())[0]
    tile = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255).movedim(-1, 0)
    size = (tile.shape[1], tile.shape[2])
    dark = changed(tile, size, "intensity", 2.0, joint=True)
    assert dark.mean() < tile.mean() - 0.05
    assert (dark.argmax(0) == tile.argmax(0)).float().mean() > 0.99
    soft = changed(tile, size, "blur", 2.0)
    assert soft.diff(dim=-1).abs().mean() < 0.5 * tile.diff(dim=-1).abs().mean()
