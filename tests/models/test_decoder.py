"""The decoder of masked autoencoders: patches by hand, the decoder in NumPy, and where it draws what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor
from torch.nn import functional as F

from volssl.models import ViTConfig
from volssl.models.decoder import Decoder, patchify, select
from volssl.models.vit import ViT
from volssl.types import Features

Array = NDArray[np.float64]
State = dict[str, Array]

PLANE = ViTConfig(dims=2, patch=(2, 4), size=(6, 8), width=8, depth=1, heads=2, mlp=2)
VOLUME = ViTConfig(dims=3, patch=(2, 4, 2), size=(4, 8, 4), width=8, depth=1, heads=2, mlp=2, layer_scale=0.1)
ALL = pytest.mark.parametrize("config", [PLANE, VOLUME], ids=["plane", "volume"])
KEEP, HIDDEN = torch.tensor([[0, 3], [2, 5]]), torch.tensor([[1, 2, 4, 5], [0, 1, 3, 4]])


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(config: ViTConfig, depth: int = 2) -> Decoder:
    """Two channels, with every parameter moved off its start: nothing hides behind a zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(config, 2, width=6, depth=depth, heads=3).double()
        for parameter in decoder.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return decoder


def seen(config: ViTConfig, seed: int = 0) -> Features:
    """What an encoder says of two patches of two images."""
    tokens = numbers(seed, 2, 3, config.width)
    return Features(tokens[:, 1:], (2,), tokens[:, 0])


def grid_of(config: ViTConfig) -> tuple[int, ...]:
    return config.grid(config.size)


# Patches


def test_patches_by_hand() -> None:
    """Rows 0 1 2 3 and 4 5 6 7, patches of 2 x 2: (0 1 4 5) and (2 3 6 7). With a second channel of tens, the two
    numbers of a pixel stand side by side. In a volume the slices of a patch come first."""
    image = torch.arange(8.0).view(1, 1, 2, 4)
    assert patchify(image, (2, 2)).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]
    colour = torch.cat([image, 10 * image], dim=1)
    assert patchify(colour, (1, 2))[0, 1].tolist() == [2, 20, 3, 30]
    volume = torch.stack([image, 100 + image], dim=2)
    assert patchify(volume, (2, 1, 2))[0, 3].tolist() == [6, 7, 106, 107]
    assert patchify(volume, (1, 2, 2))[0, 1:3].tolist() == [[2, 3, 6, 7], [100, 101, 104, 105]]


@ALL
def test_patches_are_those_that_the_encoder_embeds_in_their_order(config: ViTConfig) -> None:
    """An embedding whose weights pick one pixel each, in patchify's order, gives its rows."""
    pixels = 2 * math.prod(config.patch)
    embedding = ViT(config.model_copy(update={"width": pixels, "heads": 1}), channels=2).double().patch_embed.proj
    embedding.weight.data = torch.eye(pixels, dtype=torch.float64).view(pixels, *config.patch, 2).movedim(-1, 1)
    embedding.bias.data.zero_()  # type: ignore[union-attr]
    x = numbers(1, 2, 2, *config.size)
    assert torch.equal(embedding(x).flatten(2).transpose(1, 2), patchify(x, config.patch))
    # Negative control: with the channels before the pixels it is not so.
    embedding.weight.data = torch.eye(pixels, dtype=torch.float64).view(pixels, 2, *config.patch)
    assert not torch.equal(embedding(x).flatten(2).transpose(1, 2), patchify(x, config.patch))


def test_selected_rows_by_hand() -> None:
    rows = torch.tensor([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 1]]])
    chosen = select(rows, torch.tensor([[2, 0], [1, 1]]))
    assert chosen.tolist() == [[[5, 6], [1, 2]], [[9, 0], [9, 0]]]


# Against NumPy


def slow_norm(p: State, name: str, x: Array) -> Array:
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def slow_linear(p: State, name: str, x: Array) -> Array:
    out: Array = x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
    return out


def slow_block(p: State, name: str, x: Array, heads: int) -> Array:
    """One image's tokens (N, D) through attention, head by head, and a perceptron."""
    width = x.shape[1] // heads
    q, k, v = np.split(slow_linear(p, f"{name}.attn.qkv", slow_norm(p, f"{name}.norm1", x)), 3, axis=1)
    mixed = []
    for h in range(heads):
        part = slice(width * h, width * (h + 1))
        attention = np.exp(q[:, part] @ k[:, part].T / math.sqrt(width))
        mixed.append(attention / attention.sum(axis=1, keepdims=True) @ v[:, part])
    x = x + slow_linear(p, f"{name}.attn.proj", np.concatenate(mixed, axis=1))
    hidden = slow_linear(p, f"{name}.mlp.fc1", slow_norm(p, f"{name}.norm2", x))
    return x + slow_linear(p, f"{name}.mlp.fc2", hidden * (1 + erf(hidden / math.sqrt(2))) / 2)


def slow_decoder(p: State, tokens: Array, pooled: Array, keep: Array, hidden: Array, heads: int) -> Array:
    """One image: a token for the whole, one for each patch that was seen, a mask token for each that was not."""
    positions = p["pos_embed"][0]
    rows = [slow_linear(p, "embed", pooled) + positions[0]]
    rows += [slow_linear(p, "embed", token) + positions[1 + i] for token, i in zip(tokens, keep, strict=True)]
    rows += [p["mask_token"][0, 0] + positions[1 + i] for i in hidden]
    x, depth = np.stack(rows), len({name.split(".")[1] for name in p if name.startswith("blocks.")})
    for i in range(depth):
        x = slow_block(p, f"blocks.{i}", x, heads)
    return slow_linear(p, "predict", slow_norm(p, "norm", x[1 + len(keep) :]))


@ALL
def test_it_is_the_transformer_that_is_written_out(config: ViTConfig) -> None:
    decoder, features = make(config), seen(config)
    drawn = decoder(features, KEEP, HIDDEN, grid_of(config)).detach().numpy()
    p = {name: x.numpy() for name, x in decoder.state_dict().items()}
    tokens, pooled = features.tokens.numpy(), features.pooled.numpy()
    assert drawn.shape == (2, 4, 2 * math.prod(config.patch))
    for i in range(2):
        expected = slow_decoder(p, tokens[i], pooled[i], KEEP[i].numpy(), HIDDEN[i].numpy(), 3)
        np.testing.assert_allclose(drawn[i], expected, atol=1e-12)
        # Negative control: with another image's hidden places it is not that.
        other = slow_decoder(p, tokens[i], pooled[i], KEEP[i].numpy(), HIDDEN[1 - i].numpy(), 3)
        assert np.abs(drawn[i] - other).max() > 1e-2


# What it keeps to


@ALL
def test_places_are_told_by_their_numbers_not_by_their_order(config: ViTConfig) -> None:
    decoder, features, order = make(config), seen(config), torch.tensor([3, 1, 0, 2])
    drawn = decoder(features, KEEP, HIDDEN, grid_of(config))
    torch.testing.assert_close(decoder(features, KEEP, HIDDEN[:, order], grid_of(config)), drawn[:, order])
    backwards = Features(features.tokens.flip(1), features.grid, features.pooled)
    torch.testing.assert_close(decoder(backwards, KEEP.flip(1), HIDDEN, grid_of(config)), drawn)
    moved = decoder(features, KEEP.flip(1), HIDDEN, grid_of(config))  # Negative control: what was seen elsewhere.
    assert (moved - drawn).abs().max() > 1e-3


@ALL
def test_everything_takes_part(config: ViTConfig) -> None:
    """Every parameter, every token and the pooled features, which the encoder would not learn to pool otherwise."""
    decoder, features = make(config), seen(config)
    for x in (features.tokens, features.pooled):
        x.requires_grad_()
    decoder(features, KEEP, HIDDEN, grid_of(config)).square().sum().backward()
    for x in (*decoder.parameters(), features.tokens, features.pooled):
        assert x.grad is not None
        assert x.grad.abs().max() > 0
        assert x.grad.isfinite().all()


@ALL
def test_images_do_not_see_one_another(config: ViTConfig) -> None:
    decoder, features = make(config), seen(config)
    whole = decoder(features, KEEP, HIDDEN, grid_of(config))
    for i in range(2):
        one = Features(features.tokens[i : i + 1], (2,), features.pooled[i : i + 1])
        alone = decoder(one, KEEP[i : i + 1], HIDDEN[i : i + 1], grid_of(config))
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-12)


@ALL
def test_views_of_another_size_have_their_positions_interpolated(config: ViTConfig) -> None:
    """As a decoder for the finer grid draws whose positions were interpolated beforehand."""
    decoder, features, grid = make(config), seen(config), grid_of(config)
    finer = tuple(2 * n for n in grid)
    other = make(config.model_copy(update={"size": tuple(2 * n for n in config.size)}))
    field = decoder.pos_embed[:, 1:].view(1, *grid, -1).movedim(-1, 1)
    mode = "bicubic" if config.dims == 2 else "trilinear"
    positions = F.interpolate(field, size=finer, mode=mode, align_corners=False).flatten(2).transpose(1, 2)
    state = decoder.state_dict() | {"pos_embed": torch.cat([decoder.pos_embed[:, :1], positions], dim=1)}
    other.load_state_dict(state)
    drawn, expected = (net(features, KEEP, HIDDEN, finer) for net in (decoder, other))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-10)
    assert (drawn - decoder(features, KEEP, HIDDEN, grid)).abs().max() > 1e-3  # Negative control.


def test_its_size_is_its_own() -> None:
    """Width, depth and heads are the decoder's; LayerScale, which a deep encoder may need, is not taken over."""
    decoder = make(VOLUME, depth=3)
    assert len(decoder.blocks) == 3
    assert decoder.pos_embed.shape == (1, 1 + math.prod(grid_of(VOLUME)), 6)
    assert not any("gamma" in name for name, _ in decoder.named_parameters())
    assert any("gamma" in name for name, _ in ViT(VOLUME, 2).named_parameters())
