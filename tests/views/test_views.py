"""Views end to end: identity to the bit, the same in any chunk, names, types, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from volssl.views import LocalConfig, ViewsConfig
from volssl.views.draw import draw
from volssl.views.views import apply, whole

PLANE: dict[str, Any] = {
    "crop": (0.4, 0.9),
    "aspect": (0.8, 1.25),
    "rotate": (-20, 20),
    "scale": (0.9, 1.1),
    "coarse": (1.0, 2.5),
    "blur": (0.5, 1.5),
    "bands": (0.5, 2.0),
    "histogram": (0.0, 1.0),
    "gamma": (0.7, 1.5),
    "contrast": (0.7, 1.4),
    "brightness": (-0.1, 0.1),
    "bias": (0.0, 0.3),
    "noise": (0.0, 0.1),
    "dropout": (0.1, 0.3),
}
SPACE = PLANE | {"slices": (0.5, 1.0), "thick": (1.0, 2.0), "blur_slices": (0.0, 1.0), "flip": (0, 1, 2)}
HALF = dict.fromkeys(
    ("rotate", "coarse", "blur", "bands", "histogram", "gamma", "contrast", "bias", "noise", "dropout"), 0.5
)
SEEDS = torch.tensor([11, 2**61, -5, 0, 7, 8])


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("region", [(6, 20, 24), (20, 24)])
@pytest.mark.parametrize("channels", [1, 4])
def test_with_everything_off_a_view_is_the_region_to_the_bit(region: tuple[int, ...], channels: int) -> None:
    x = images(6, channels, *region)
    views = ViewsConfig(size=region, count=3).build()(x, SEEDS)
    assert list(views) == ["0", "1", "2"]
    assert all(torch.equal(view, x) for view in views.values())
    assert torch.equal(whole(x, region), x)


@pytest.mark.parametrize(
    ("region", "size", "extra"),
    [
        ((7, 31, 33), (5, 17, 19), SPACE),
        ((8, 32, 32), (8, 32, 32), SPACE | {"tilt": (-10, 10)}),
        ((8, 32, 32), (8, 32, 32), {k: SPACE[k] for k in HALF} | {"p": HALF}),
        ((33, 31), (17, 19), PLANE),
    ],
)
@pytest.mark.parametrize("channels", [1, 4])
def test_a_view_does_not_depend_on_its_chunk(
    region: tuple[int, ...], size: tuple[int, ...], extra: dict[str, Any], channels: int
) -> None:
    x = images(6, channels, *region)
    views = ViewsConfig.model_validate({"size": size, **extra}).build()
    together = views(x, SEEDS)
    assert not torch.equal(together["0"], together["1"])
    for chunk in (1, 2, 4):
        for i in range(0, 6, chunk):
            part = views(x[i : i + chunk].clone(), SEEDS[i : i + chunk])
            assert all(torch.equal(part[name], together[name][i : i + chunk]) for name in views.recipes)


@pytest.mark.parametrize(
    ("region", "extra"),
    [((8, 32, 32), SPACE | {"tilt": (-10, 10)}), ((8, 32, 32), {"p": HALF} | SPACE), ((32, 32), PLANE)],
)
def test_the_batch_at_once_is_one_sample_after_another(region: tuple[int, ...], extra: dict[str, Any]) -> None:
    """What a GPU does, on the CPU: equal but for the rounding of vectors' ends."""
    x = images(6, 2, *region)
    config = ViewsConfig.model_validate({"size": region, **extra})
    batched = apply(x, draw(config, SEEDS.tolist(), 0, region), region)
    torch.testing.assert_close(batched, config.build()(x, SEEDS)["0"], rtol=0, atol=2e-5)


def test_the_same_seed_is_the_same_view_and_another_is_not() -> None:
    x = images(1, 1, 8, 32, 32).expand(3, 1, 8, 32, 32)
    view = ViewsConfig(size=(6, 24, 24), **SPACE).build()(x, torch.tensor([4, 4, 5]))["0"]
    assert torch.equal(view[0], view[1])
    assert not torch.allclose(view[0], view[2], atol=0.05)


def test_local_views_have_their_own_size_and_place() -> None:
    local = LocalConfig(count=2, size=(4, 12, 12), crop=(0.1, 0.2), slices=(0.5, 0.5))
    views = ViewsConfig(size=(8, 32, 32), local=local).build()(images(2, 1, 8, 32, 32), SEEDS[:2])
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "0": (2, 1, 8, 32, 32),
        "1": (2, 1, 8, 32, 32),
        "local0": (2, 1, 4, 12, 12),
        "local1": (2, 1, 4, 12, 12),
    }
    assert not torch.equal(views["local0"], views["local1"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.int16, torch.float64])
def test_any_type_is_converted_once_and_not_touched(dtype: torch.dtype) -> None:
    x = (images(2, 1, 8, 32, 32) * 200).to(dtype)
    before = x.clone()
    views = ViewsConfig(size=(8, 24, 24), **SPACE).build()
    view = views(x, SEEDS[:2])["0"]
    assert view.dtype == torch.float32
    assert torch.equal(view, views(x.float(), SEEDS[:2])["0"])
    assert torch.equal(x, before)


def test_float32_images_are_not_changed_either() -> None:
    x = images(2, 1, 8, 32, 32)
    before = x.clone()
    everything_but_space = {k: v for k, v in PLANE.items() if k in HALF and k not in ("rotate", "coarse", "blur")}
    ViewsConfig(size=(8, 32, 32), **everything_but_space).build()(x, SEEDS[:2])
    assert torch.equal(x, before)


def test_views_come_in_the_type_asked_for_and_have_no_graph() -> None:
    x = images(2, 1, 8, 32, 32).requires_grad_()
    view = ViewsConfig(size=(8, 24, 24), **SPACE).build()(x, SEEDS[:2], dtype=torch.bfloat16)["1"]
    assert view.dtype == torch.bfloat16
    assert not view.requires_grad


def test_memory_layout_does_not_matter() -> None:
    x = images(2, 4, 8, 32, 32)
    views = ViewsConfig(size=(6, 24, 24), **SPACE).build()
    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(views(last, SEEDS[:2])["0"], views(x, SEEDS[:2])["0"])


def test_no_global_generator_is_read_or_moved() -> None:
    x = images(2, 1, 8, 32, 32)
    views = ViewsConfig(size=(6, 24, 24), **SPACE).build()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = views(x, SEEDS[:2])["0"]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(views(x, SEEDS[:2])["0"], first)


@pytest.mark.parametrize(("region", "size"), [((8, 32, 40), (5, 12, 20)), ((32, 40), (12, 20))])
def test_whole_is_a_view_with_identity_settings(region: tuple[int, ...], size: tuple[int, ...]) -> None:
    x = images(3, 2, *region)
    assert torch.equal(whole(x, size), ViewsConfig(size=size).build()(x, SEEDS[:3])["1"])
    constant = torch.full((1, 1, *region), 0.7)
    torch.testing.assert_close(whole(constant, size), torch.full((1, 1, *size), 0.7))
