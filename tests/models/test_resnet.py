"""The backbone in two and three dimensions: geometry, norms, features."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from volssl.models import ResNetConfig
from volssl.models.norm import BatchNorm
from volssl.models.resnet import ResNet

Norm = Literal["batch", "group", "instance"]


def build(channels: int = 1, **options: Any) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNetConfig(**options).build(channels)


@pytest.mark.parametrize("depth", [10, 18, 34, 50, 101])
@pytest.mark.parametrize("dims", [2, 3])
def test_grid_and_width(dims: Literal[2, 3], depth: Literal[10, 18, 34, 50, 101]) -> None:
    """64 pixels: stem 2, pool 2, stages 1 2 2 2 -> 2; width 8 doubles three times, times 4 in a bottleneck."""
    net = build(dims=dims, depth=depth, width=8)
    features = net.eval()(torch.zeros(2, 1, *[64] * dims))
    assert (net.dims, net.width) == (dims, 64 * (4 if depth >= 50 else 1))
    assert features.grid == (2,) * dims
    assert features.tokens.shape == (2, 2**dims, net.width)
    assert features.pooled.shape == (2, net.width)


@pytest.mark.parametrize(
    ("stem", "size", "grid"),
    [("imagenet", (32, 64, 64), (1, 2, 2)), ("r3d", (16, 64, 64), (2, 4, 4)), ("small", (32, 64, 64), (2, 4, 4))],
)
def test_stems(stem: str, size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    assert build(stem=stem, depth=10, width=4).eval()(torch.zeros(1, 1, *size)).grid == grid


def test_tokens_are_the_grid_in_row_major_order_and_pooled_is_their_mean() -> None:
    net = build(depth=10, width=4).eval()
    x = torch.randn(2, 1, 32, 64, 96, generator=torch.Generator().manual_seed(1))
    last, features = net.layers(net.stem(x)), net(x)
    assert features.grid == (1, 2, 3)
    torch.testing.assert_close(features.tokens[:, 4], last[:, :, 0, 1, 1])
    torch.testing.assert_close(features.pooled, features.tokens.mean(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x).pooled.dtype == torch.float32


@pytest.mark.parametrize("options", [{"dims": 2}, {"norm": "group"}, {"shortcut": "A", "depth": 18}, {"depth": 50}])
def test_maps_are_those_of_the_stem_and_of_each_stage(options: dict[str, Any]) -> None:
    """32 pixels: stem 2 -> 16, stages 1 2 2 2 -> 16, 8, 4, 2. No stage writes over what the one before it gave."""
    net = build(**{"depth": 10, "width": 4, "stem": "small", **options}).double().eval()
    x = torch.randn(2, 1, *[32] * net.dims, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        maps, features, expected = net.maps(x), net(x), [net.stem(x)]
        for stage in net.layers:
            expected.append(stage(expected[-1].clone()))
    assert [tuple(one.shape[2:]) for one in maps] == [(n,) * net.dims for n in (16, 16, 8, 4, 2)]
    assert [one.shape[1] for one in maps][-1] == net.width
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))
    assert torch.equal(features.tokens, maps[-1].flatten(2).transpose(1, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_norm_is_everywhere(dims: Literal[2, 3]) -> None:
    """MONAI's ResNet hands ``norm`` to its stem only; the other 11 of ResNet-10's 12 norms stay batch norms."""
    wanted = {
        "batch": BatchNorm,
        "group": nn.GroupNorm,
        "instance": nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
    }
    every = (*wanted.values(), nn.modules.batchnorm._BatchNorm)
    for norm, kind in wanted.items():
        net = build(dims=dims, depth=10, width=4, norm=norm)
        norms = [m for m in net.modules() if isinstance(m, every)]
        assert {type(m) for m in norms} == {kind}
        assert len(norms) == 1 + 8 + 3


@pytest.mark.parametrize("dims", [2, 3])
def test_dilated_stages_keep_the_grid(dims: Literal[2, 3]) -> None:
    """64 pixels: stem 2, pool 2, stages 1 2 1 1 -> 8. One voxel of stage 2 reaches stage 3 at distances 2 and 4, one
    convolution after the other: in a block of two, offsets -4, -2, 0, 2, 4."""
    net = build(dims=dims, depth=10, width=4, dilated=True).double().eval()
    features = net(torch.zeros(1, 1, *[64] * dims, dtype=torch.float64))
    assert features.grid == (8,) * dims
    x = torch.zeros(1, 8, *[15] * dims, dtype=torch.float64)
    still = net.layers[2](x)
    x[0, :].view(8, -1)[:, 15**dims // 2] = 1
    moved = (net.layers[2](x) - still).abs().sum(1)[0].nonzero()
    assert {tuple(row) for row in moved.tolist()} == set(itertools.product((3, 5, 7, 9, 11), repeat=dims))


@pytest.mark.parametrize("depth", [18, 50])
def test_shortcut_a_keeps_every_other_voxel_and_lets_the_gradient_through(depth: Literal[18, 50]) -> None:
    """With the last norm of the branch at zero a block is its shortcut; gradient 1 where a voxel was kept."""
    net = build(depth=depth, width=4, shortcut="A")
    assert not [name for name in net.state_dict() if "downsample" in name]
    block: Any = net.layers.eval().get_submodule("1.0")
    nn.init.zeros_((block.bn2 if depth == 18 else block.bn3).weight)
    channels = block.conv1.in_channels
    x = torch.rand(1, channels, 4, 4, 4, generator=torch.Generator().manual_seed(0)).add(1).requires_grad_()
    out = block(x)
    assert torch.equal(out[:, :channels], x[:, :, ::2, ::2, ::2])
    assert not out[:, channels:].any()
    (gradient,) = torch.autograd.grad(out.sum(), x)
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2, ::2] = 1
    assert torch.equal(gradient, expected)


def test_r3d18_has_as_many_parameters_as_torchvision_s() -> None:
    """R3D-18's 33,371,472 with three channels and a head, less the head (512 * 400 + 400), less two thirds of
    the stem (64 * 2 * 147): 33,147,456."""
    net = build(stem="r3d")
    count = sum(p.numel() for p in net.parameters())
    assert count == 33_371_472 - (512 * 400 + 400) - 64 * 2 * 147


def test_r3d_in_two_dimensions_is_refused() -> None:
    with pytest.raises(ValidationError, match="use dims: 3"):
        ResNetConfig(dims=2, stem="r3d")


def test_the_seed_decides_the_weights() -> None:
    a, b = build(depth=10, width=4), build(depth=10, width=4)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
