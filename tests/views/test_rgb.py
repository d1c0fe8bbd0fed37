"""Views of images with three channels: every operation in two dimensions, and real tiles of H&E slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from volssl.views import Chances, ViewsConfig
from volssl.views.colour import LUMA
from volssl.views.draw import draw
from volssl.views.views import apply

REGION, SIZE = (40, 36), (24, 28)
SEEDS = torch.tensor([11, 2**61, -5])
SAME_IN_EVERY_CHANNEL: dict[str, dict[str, Any]] = {
    "crop": {"crop": (0.3, 0.7)},
    "aspect": {"crop": (0.3, 0.5), "aspect": (0.5, 2.0)},
    "flip": {"flip": (0, 1), "p": Chances(flip=1.0)},
    "rotate": {"rotate": (20, 160)},
    "scale": {"scale": (0.7, 1.4)},
    "coarse": {"coarse": (2.0, 4.0)},
    "blur": {"blur": (0.8, 2.0)},
    "bands": {"bands": (0.3, 3.0)},
    "bias": {"bias": (0.2, 0.3)},
    "dropout": {"dropout": (0.2, 0.4)},
}
COLOURS: dict[str, Any] = {"stain": (0.7, 1.4), "stain_shift": (-0.05, 0.05), "saturation": (0.6, 1.4), "joint": True}
EVERYTHING: dict[str, Any] = {
    **{name: given for settings in SAME_IN_EVERY_CHANNEL.values() for name, given in settings.items() if name != "p"},
    **{"histogram": (0.5, 1.0), "gamma": (0.7, 1.4), "contrast": (0.7, 1.4), "brightness": (-0.1, 0.1)},
    **{"noise": (0.01, 0.05), "hue": (-0.1, 0.1), "p": Chances(grey=0.3)},
    **COLOURS,
}


def images(*shape: int) -> Tensor:
    """Smooth, so that rounding of coordinates does not show."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).numpy()
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 1.0, 1.0)))


def view(x: Tensor, size: tuple[int, ...] = SIZE, **settings: Any) -> Tensor:
    return ViewsConfig(size=size, count=1, **settings).build()(x, SEEDS[: len(x)])["0"]


@pytest.mark.parametrize("operation", SAME_IN_EVERY_CHANNEL)
def test_each_channel_is_what_it_would_be_alone(operation: str) -> None:
    x = images(3, 3, *REGION)
    together = view(x, **SAME_IN_EVERY_CHANNEL[operation])
    assert together.shape == (3, 3, *SIZE)
    for channel in range(3):
        alone = view(x[:, channel : channel + 1], **SAME_IN_EVERY_CHANNEL[operation])
        torch.testing.assert_close(together[:, channel : channel + 1], alone, rtol=0, atol=1e-6)
    assert all((together - view(x)).abs().amax((1, 2, 3)) > 0.05)  # the control: it does something


def test_the_geometry_is_scipys() -> None:
    """The view at u shows the region at centre + matrix u; SciPy counts both in pixels from the first one's middle."""
    settings: dict[str, Any] = {"crop": (0.3, 0.8), "aspect": (0.7, 1.4), "scale": (0.8, 1.2), "rotate": (-90, 90)}
    config = ViewsConfig(size=SIZE, flip=(0, 1), antialias=False, p=Chances(flip=0.5), **settings)
    x, p = images(8, 3, *REGION), draw(config, range(8), 0, REGION)
    assert set(torch.det(p.matrix).sign().tolist()) == {-1.0, 1.0}  # mirrored ones and others
    views = apply(x, p, SIZE)
    half, edge = np.array(REGION) / 2, np.array(SIZE) / 2
    for i in range(8):
        matrix = p.matrix[i].numpy() * half[:, None] / edge
        offset = (p.centre[i].numpy() + 1.0) * half - 0.5 - matrix @ (edge - 0.5)
        for channel in range(3):
            expected = ndimage.affine_transform(
                x[i, channel].double().numpy(), matrix, offset, SIZE, order=1, mode="nearest"
            )
            np.testing.assert_allclose(views[i, channel].numpy(), expected, atol=2e-5)


def test_a_box_is_black_in_every_channel() -> None:
    x = images(3, 3, *REGION) + 1.0
    black = view(x, REGION, dropout=(0.2, 0.4), holes=2) == 0.0
    assert all(black.flatten(1).any(1))
    assert torch.equal(black.any(1), black.all(1))


def test_memory_layout_does_not_matter() -> None:
    x = images(3, 3, *REGION)
    last = x.contiguous(memory_format=torch.channels_last)
    assert last.stride() != x.stride()
    for size in (REGION, SIZE):
        for settings in (EVERYTHING, COLOURS, {"p": Chances(grey=1.0)}):
            assert torch.equal(view(last, size, **settings), view(x, size, **settings))
        parameters = draw(ViewsConfig(size=size, **EVERYTHING), SEEDS.tolist(), 0, REGION)
        assert torch.equal(apply(last, parameters, size, joint=True), apply(x, parameters, size, joint=True))


def test_jointly_a_grey_pixel_stays_grey() -> None:
    """Each channel by itself tints the white of a slide by the colour of its tissue."""
    x = images(3, 3, *REGION) * torch.tensor([0.9, 0.6, 0.8]).view(3, 1, 1)
    x[:, :, :8] = torch.linspace(0.3, 0.4, 36)
    for settings in ({"contrast": (0.6, 0.6)}, {"gamma": (2.0, 2.0)}, {"histogram": (1.0, 1.0)}):
        together, apart = (view(x, REGION, joint=joint, **settings)[:, :, :8] for joint in (True, False))
        assert (together.amax(1) - together.amin(1)).max() < 1e-6
        assert (apart.amax(1) - apart.amin(1)).max() > 0.01


def tiles(folder: Path, each: int = 4) -> Tensor:
    """(3 * each, 3, 112, 112), from as many classes and places in the folder."""
    pictures = []
    for name in ("lung_aca", "lung_n", "lung_scc"):
        files = sorted((folder / name).iterdir())
        pictures += [np.asarray(Image.open(file).convert("RGB")) for file in files[:: len(files) // each][:each]]
    return torch.from_numpy(np.stack(pictures)[:, ::2, ::2]).movedim(-1, 1).float() / 255


def of_h_and_e(x: Tensor) -> Tensor:
    """(B,): whether the mean colour lies from blue over purple to pink, where blue outweighs green."""
    mean = x.mean((2, 3))
    found: Tensor = mean[:, 2] > mean[:, 1] + 0.02
    return found


def test_a_real_tile_stays_a_picture_of_h_and_e(shared_data: Path) -> None:
    """What is dark and what is light stays, too; both controls, a strong hue and another tile, are noticed."""
    x = tiles(shared_data / "images" / "lc25000_lung")
    seeds, luma = torch.arange(len(x)), torch.tensor(LUMA).float()
    assert all(of_h_and_e(x))

    def seen(**settings: Any) -> Tensor:
        return ViewsConfig(size=(112, 112), count=1, **settings).build()(x, seeds)["0"]

    def likeness(views: Tensor) -> list[float]:
        pairs = zip(*(torch.einsum("bcij,c->bij", y, luma) for y in (views, x)), strict=True)
        return [float(np.corrcoef(ours.flatten(), theirs.flatten())[0, 1]) for ours, theirs in pairs]

    stain: dict[str, Any] = {"stain": (0.7, 1.4), "stain_shift": (-0.05, 0.05)}
    for settings in (stain, {"saturation": (0.6, 1.4)}, {"hue": (-0.04, 0.04)}):
        views = seen(**settings)
        assert all(of_h_and_e(views))
        assert min(likeness(views)) > 0.98
        assert all((views - x).abs().amax((1, 2, 3)) > 2e-3)
    assert not any(of_h_and_e(seen(hue=(0.3, 0.5))))
    assert max(likeness(x.roll(1, 0))) < 0.2
