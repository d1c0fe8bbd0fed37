"""The Vision Transformer: DINO's weights, two and three dimensions, any size, any subset of patches."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from volssl.errors import ConfigError
from volssl.models import ViTConfig
from volssl.models.vit import Attention, ViT, resample_positions
from volssl.types import Features

PLANE = ViTConfig(dims=2, patch=(4, 4), size=(16, 16), width=24, depth=3, heads=2)
VOLUME = ViTConfig(dims=3, patch=(2, 4, 4), size=(4, 12, 8), width=24, depth=3, heads=2)
MEAN = VOLUME.model_copy(update={"pool": "mean", "layer_scale": 0.1, "depth": 1})
CONFIGS = {"plane": PLANE, "volume": VOLUME, "mean": MEAN}
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make(config: ViTConfig, seed: int = 0) -> ViT:
    """The network in float64, with every parameter moved off its start: nothing hides behind a zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = config.build(channels=2).double()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def images(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(a: Features, b: Features) -> None:
    assert a.grid == b.grid
    torch.testing.assert_close(a.tokens, b.tokens, rtol=0, atol=1e-10)
    torch.testing.assert_close(a.pooled, b.pooled, rtol=0, atol=1e-10)


# DINO's weights


def dino_vit_s16_shapes() -> dict[str, tuple[int, ...]]:
    """The keys and shapes of ``dino_deitsmall16_pretrain.pth``, from the published architecture."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 197, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    for i in range(12):
        shapes |= {
            f"blocks.{i}.norm1.weight": (384,),
            f"blocks.{i}.norm1.bias": (384,),
            f"blocks.{i}.attn.qkv.weight": (1152, 384),
            f"blocks.{i}.attn.qkv.bias": (1152,),
            f"blocks.{i}.attn.proj.weight": (384, 384),
            f"blocks.{i}.attn.proj.bias": (384,),
            f"blocks.{i}.norm2.weight": (384,),
            f"blocks.{i}.norm2.bias": (384,),
            f"blocks.{i}.mlp.fc1.weight": (1536, 384),
            f"blocks.{i}.mlp.fc1.bias": (1536,),
            f"blocks.{i}.mlp.fc2.weight": (384, 1536),
            f"blocks.{i}.mlp.fc2.bias": (384,),
        }
    return shapes


def plain_dino(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """ViT-S/16 written out for one image (3, 224, 224): (197, 384), the class token first.

    Patches by slicing, attention head by head with an explicit softmax, GELU from the error function.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    embedding = state["patch_embed.proj.weight"].flatten(1)
    patches = [
        embedding @ image[:, r : r + 16, c : c + 16].flatten() + state["patch_embed.proj.bias"]
        for r in range(0, 224, 16)
        for c in range(0, 224, 16)
    ]
    x = torch.stack([state["cls_token"][0, 0], *patches]) + state["pos_embed"][0]
    for i in range(12):
        block = f"blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=-1)
        heads = []
        for h in range(6):
            part = slice(64 * h, 64 * (h + 1))
            attention = (q[:, part] @ k[:, part].T / 8).exp()
            heads.append(attention / attention.sum(dim=-1, keepdim=True) @ v[:, part])
        x = x + linear(torch.cat(heads, dim=-1), f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = hidden * (1 + (hidden / math.sqrt(2)).erf()) / 2
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")


def test_dino_vit_s16_fits_key_by_key_and_computes_the_same() -> None:
    shapes = dino_vit_s16_shapes()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.05 * torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }
    for name in state:
        if "norm" in name and name.endswith("weight"):
            state[name] += 1  # a norm near 0.05 would hide what comes before it
    network = ViT(ViTConfig(dims=2, patch=(16, 16), size=(224, 224)), channels=3).double()
    assert {name: tuple(p.shape) for name, p in network.state_dict().items()} == shapes
    assert sum(p.numel() for p in network.parameters()) == 21_665_664  # as published
    network.load_state_dict(state, strict=True)
    image = images(1, 3, 224, 224)
    with torch.no_grad():
        features, expected = network(image[None]), plain_dino(state, image)
    assert features.grid == (14, 14)
    torch.testing.assert_close(features.pooled[0], expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(features.tokens[0], expected[1:], rtol=0, atol=1e-9)
    # Negative control: one bias of one channel of one block is noticed (norms hide a shift of all channels).
    state["blocks.7.attn.proj.bias"][5] += 0.01
    with torch.no_grad():
        assert (plain_dino(state, image) - expected).abs().max() > 1e-4


# The contract of a backbone


@ALL
def test_features_have_the_promised_shapes(config: ViTConfig) -> None:
    network = make(config)
    features = network(images(2, 3, 2, *config.size))
    assert features.grid == config.grid(config.size)
    assert features.tokens.shape == (3, math.prod(features.grid), network.width)
    assert features.pooled.shape == (3, network.width)
    assert network.dims == config.dims == len(features.grid)
    if config.pool == "mean":
        torch.testing.assert_close(features.pooled, features.tokens.mean(dim=1))


@ALL
def test_every_parameter_gets_a_gradient_from_the_pooled_features(config: ViTConfig) -> None:
    network = make(config)
    network(images(3, 2, 2, *config.size)).pooled.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@ALL
def test_a_batch_is_the_sum_of_its_parts_and_a_call_changes_nothing(config: ViTConfig) -> None:
    network, x = make(config), images(4, 3, 2, *config.size)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parts = [network(part) for part in torch.split(x, 1)]
    joined = Features(torch.cat([p.tokens for p in parts]), parts[0].grid, torch.cat([p.pooled for p in parts]))
    assert_same(network(x), joined)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    twin = make(config, seed=1)
    twin.load_state_dict(network.state_dict())
    assert_same(twin(x), network(x))


def test_tokens_are_in_the_order_of_the_grid() -> None:
    """A patch at slice 1, row 2, column 0 of a grid of 2 x 3 x 2 is token (1 * 3 + 2) * 2 + 0 = 10."""
    network = make(VOLUME)
    x = torch.zeros(1, 2, *VOLUME.size, dtype=torch.float64)
    x[:, :, 2:4, 8:12, 0:4] = 1.0
    changed = (network.patch_embed(x) - network.patch_embed(0 * x)).abs().sum(dim=1).flatten()
    assert changed.nonzero().flatten().tolist() == [10]


@ALL
def test_maps_are_the_tokens_after_some_blocks_where_they_lie(config: ViTConfig) -> None:
    """Of three blocks, or one, there are as many maps; the last holds the features' tokens. A network that ends after
    the first block has the first map."""
    network, x = make(config).eval(), images(1, 2, 2, *config.size)
    maps, features = network.maps(x), network(x)
    assert [one.shape for one in maps] == [(2, config.width, *features.grid)] * config.depth
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), features.tokens, rtol=0, atol=1e-12)
    network.blocks = network.blocks[:1]
    torch.testing.assert_close(maps[0].flatten(2).transpose(1, 2), network(x).tokens, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("depth", "after"), [(12, (3, 6, 9, 12)), (6, (1, 3, 4, 6)), (5, (1, 2, 3, 5))])
def test_maps_are_spread_evenly_over_the_blocks(depth: int, after: tuple[int, ...]) -> None:
    """A quarter, a half, three quarters and all of the blocks, rounded down."""
    network, x = make(PLANE.model_copy(update={"depth": depth})), images(1, 1, 2, *PLANE.size)
    maps, blocks = network.maps(x), network.blocks
    for one, blocks_before in zip(maps, after, strict=True):
        network.blocks = blocks[:blocks_before]
        torch.testing.assert_close(one.flatten(2).transpose(1, 2), network(x).tokens, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_autocast_run_at_another_size(dtype: torch.dtype) -> None:
    network, x = make(PLANE).float(), images(5, 2, 2, 8, 12).float()
    expected = network(x).pooled
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        features = network(x)
    assert features.pooled.dtype == torch.float32
    torch.testing.assert_close(features.pooled, expected, rtol=0, atol=0.1)


# Views of other sizes


@pytest.mark.parametrize(("config", "size", "mode"), [(PLANE, (8, 28), "bicubic"), (VOLUME, (10, 8, 16), "trilinear")])
def test_positions_are_interpolated(config: ViTConfig, size: tuple[int, ...], mode: str) -> None:
    network, grid = make(config), config.grid(size)
    learned = network.pos_embed[:, 1:].reshape(1, *config.grid(config.size), -1).movedim(-1, 1)
    expected = F.interpolate(learned, size=grid, mode=mode, align_corners=False)
    positions = resample_positions(network.pos_embed[:, 1:], config.grid(config.size), grid)
    torch.testing.assert_close(positions, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
    features = network(images(6, 2, 2, *size))
    assert features.grid == grid
    (gradient,) = torch.autograd.grad(features.pooled.sum(), network.pos_embed)
    assert (gradient.abs().sum(dim=-1) > 0).all()


def test_one_position_everywhere_stays_that_position() -> None:
    network = make(VOLUME)
    network.pos_embed.data[:] = network.pos_embed.data[:, :1]
    positions = resample_positions(network.pos_embed[:, 1:], VOLUME.grid(VOLUME.size), (3, 5, 7))
    torch.testing.assert_close(positions, network.pos_embed[:, :1].expand(1, 105, -1), rtol=0, atol=1e-12)


# Subsets of patches


@ALL
def test_keeping_all_is_keeping_none_back_and_order_is_only_order(config: ViTConfig) -> None:
    network, x = make(config), images(7, 2, 2, *config.size)
    count = math.prod(config.grid(config.size))
    order = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    whole, shuffled = network(x), network(x, keep=order)
    expected = torch.stack([tokens[rows] for tokens, rows in zip(whole.tokens, order, strict=True)])
    assert_same(shuffled, Features(expected, (count,), whole.pooled))


@ALL
def test_a_patch_that_is_left_out_changes_nothing_and_one_that_is_kept_does(config: ViTConfig) -> None:
    network, x = make(config), images(8, 2, 2, *config.size)
    keep = torch.tensor([[5, 1, 8], [2, 3, 0]])
    features = network(x, keep=keep)
    assert features.tokens.shape == (2, 3, config.width)
    assert features.grid == (3,)
    corner = tuple(slice(0, p) for p in config.patch)  # patch 0: left out of the first image, kept in the second
    changed = x.clone()
    changed[(slice(None), slice(None), *corner)] += 1.0
    other = network(changed, keep=keep)
    assert torch.equal(other.tokens[0], features.tokens[0])
    assert torch.equal(other.pooled[0], features.pooled[0])
    assert (other.tokens[1] - features.tokens[1]).abs().max() > 1e-6


# What it costs


@ALL
def test_the_cost_is_that_of_the_network_at_another_size(config: ViTConfig) -> None:
    """Multiply-adds: counted by a hook on every linear map, and 2 N^2 D per attention over N tokens."""
    size = tuple(2 * n for n in config.size)
    network, total = make(config), 0

    def add(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            total += module.weight.numel() * out[0].numel() // len(module.weight)
        if isinstance(module, Attention):
            total += 2 * out.shape[1] ** 2 * out.shape[2]

    for module in network.modules():
        module.register_forward_hook(add)
    network(images(9, 1, 2, *size))
    cost = config.cost(2, size)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.multiply_adds == total
    assert cost.width == network.width


# Shapes are told, not guessed


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((100, 96), "100 is not a multiple of backbone.patch 16: use 96 or 112"),
        ((96, 10), "10 is not a multiple of backbone.patch 16: use 16"),
        ((96, 0), "0 is not a multiple of backbone.patch 16: use 16"),
        ((16, 96, 96), "[16, 96, 96] has 3 numbers, backbone.dims is 2: give 2"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_a_remedy(size: tuple[int, ...], problem: str) -> None:
    config = ViTConfig(dims=2, patch=(16, 16), size=(96, 96), width=24, depth=1, heads=2)
    assert config.fits((112, 16)) is None
    assert config.fits(size) == problem
    with pytest.raises(ConfigError) as refused:
        config.build(channels=1)(torch.zeros(1, 1, *size))
    assert str(refused.value) == f"views.size {problem}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": (4, 4)}, r"patch \[4, 4\] has 2 numbers: give 3, one per axis"),
        ({"size": (4, 10, 8)}, "size 10 is not a multiple of patch 4: use 8 or 12"),
        ({"heads": 5}, "width 24 does not divide over 5 heads: use 20 or 25"),
        ({"patch": (2, 4, 0)}, "greater than or equal to 1"),
        ({"dropout": 0.1}, "Extra inputs"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ViTConfig.model_validate(VOLUME.model_dump() | change)


def test_the_configuration_loads_no_torch() -> None:
    code = (
        "import sys; from volssl.models import ViTConfig; "
        "ViTConfig(dims=2, patch=(16, 16), size=(224, 224)).fits((100, 100)); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
