"""Hypercolumns: what is interpolated at some voxels, and projected at all, is what interpolating all maps gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from volssl.evaluation import hypercolumns
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import Encoder, random_encoder
from volssl.evaluation.hypercolumns import Hypercolumns, Maps, encoder_maps, pixel_maps
from volssl.types import Item
from volssl.views.views import whole

REGION = (6, 10, 9)
GRIDS = {3: ((6, 10, 9), (3, 5, 5), (3, 5, 5), (1, 2, 3)), 2: ((12, 7), (6, 4), (2, 1))}


class Noise:
    """Items of noise, each a function of its position."""

    def __init__(self, region: tuple[int, ...] = REGION) -> None:
        self.region = region

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> Item:
        image = torch.rand(1, *self.region, generator=torch.Generator().manual_seed(i))
        return Item(image, (1.0,) * len(self.region), str(i))


def some_maps(dims: int) -> Maps:
    """Maps of 1, 2, ... channels on the grids, each another function of the image."""

    def maps(images: Tensor) -> list[Tensor]:
        pool = F.adaptive_avg_pool3d if dims == 3 else F.adaptive_avg_pool2d
        found = []
        for channels, grid in enumerate(GRIDS[dims], start=1):
            small = pool(images, grid)  # type: ignore[arg-type]
            found.append(torch.cat([torch.sin(3 * k * small) for k in range(1, channels + 1)], dim=1))
        return found

    return maps


def all_columns(maps: list[Tensor], region: tuple[int, ...]) -> Tensor:
    """(D, *region): every map interpolated to all voxels."""
    mode = "trilinear" if len(region) == 3 else "bilinear"
    return torch.cat([F.interpolate(one, size=region, mode=mode, align_corners=False)[0] for one in maps])


@pytest.mark.parametrize("region", [REGION, (12, 7)], ids=["volume", "plane"])
def test_columns_and_projections_are_those_of_interpolated_maps(region: tuple[int, ...]) -> None:
    maps, source = some_maps(len(region)), Noise(region)
    columns, expected = Hypercolumns(maps, source), all_columns(maps(source[2].image[None]), region)
    voxels = np.random.default_rng(0).permutation(int(np.prod(region)))[:40]
    np.testing.assert_allclose(columns.at(2, voxels, region), expected.flatten(1)[:, voxels].T, atol=1e-6)
    weights = np.random.default_rng(1).normal(size=(3, len(expected)))
    projected = torch.tensordot(torch.from_numpy(weights).float(), expected, dims=1)
    torch.testing.assert_close(columns.project(2, weights, region), projected, rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError):  # negative control: another item
        torch.testing.assert_close(columns.project(1, weights, region), projected, rtol=1e-5, atol=1e-5)


def test_a_ramp_is_read_where_it_lies() -> None:
    """The image is the column index 0..7; its means over pairs lie at 0.5, 2.5, 4.5, 6.5. Between them it is the index
    itself that interpolation gives, beyond the outer two it stays: 0.5, 1, 2, ..., 6, 6.5."""

    class Ramp:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> Item:
            return Item(torch.arange(8.0).expand(1, 2, 4, 8), (1.0, 1.0, 1.0), str(i))

    columns = Hypercolumns(lambda images: [F.avg_pool3d(images, 2)], Ramp())
    told = columns.at(0, np.arange(8, 16), (2, 4, 8))[:, 0]
    assert told.tolist() == pytest.approx([0.5, 1, 2, 3, 4, 5, 6, 6.5])


def test_maps_are_made_once_and_beyond_the_ceiling_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of the 3D grids hold 540 + 2 * 75 + 3 * 75 + 4 * 6 numbers: 3,756 bytes. Two items fit into 8,000."""
    made = []

    def counted(images: Tensor) -> list[Tensor]:
        made.append(len(images))
        return some_maps(3)(images)

    monkeypatch.setattr(hypercolumns, "KEPT", 8000)
    columns, free = Hypercolumns(counted, Noise()), Hypercolumns(some_maps(3), Noise())
    for _ in range(2):
        for i in range(4):
            for one, other in zip(columns.maps(i), free.maps(i), strict=True):
                assert torch.equal(one, other)
    assert made == [1] * (4 + 2)


def test_an_encoder_sees_the_whole_item_and_is_left_as_it_was(card: Card) -> None:
    """Items of 8 x 24 x 24, seen as 6 x 16 x 16: the stem makes 3 x 8 x 8 of them."""
    encoder = Encoder(random_encoder(card, 0).network.train(), card)
    next(encoder.network.children()).eval()
    modes = [module.training for module in encoder.modules()]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    image = Noise((8, 24, 24))[0].image[None]
    maps = encoder_maps(encoder)(image)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert [tuple(one.shape[1:]) for one in maps[:2]] == [(4, 3, 8, 8)] * 2
    network = random_encoder(card, 0).network
    with torch.inference_mode():
        expected = network.maps(whole(image, card.size))  # type: ignore[operator]
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))


def test_pixels_are_the_image_and_its_smoothed_copies() -> None:
    """One bright voxel: its smoothed copies sum to 1 and fall off as exp(-d^2 / 2 s^2); a flat image stays flat."""
    image = torch.zeros(1, 1, 65, 65, 65)
    image[0, 0, 32, 32, 32] = 1
    first, *smooth = pixel_maps(image)
    assert torch.equal(first, image)
    assert len(smooth) == len(hypercolumns.SCALES)
    for one, scale in zip(smooth, hypercolumns.SCALES, strict=True):
        assert float(one.sum()) == pytest.approx(1, abs=1e-3)
        fall = float(one[0, 0, 32, 32, 34] / one[0, 0, 32, 32, 32])
        assert fall == pytest.approx(np.exp(-(2**2) / (2 * scale**2)), abs=1e-3)
    for one in pixel_maps(torch.full((1, 2, 8, 9, 10), 0.25)):
        torch.testing.assert_close(one, torch.full((1, 2, 8, 9, 10), 0.25))
