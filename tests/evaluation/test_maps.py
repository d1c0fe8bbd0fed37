"""Maps of one image: worked out by hand, against a slow twin, and without a trace on the encoder."""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from volssl.evaluation.card import Card
from volssl.evaluation.encoder import random_encoder
from volssl.evaluation.maps import attention_map, similarity_map
from volssl.models import ViTConfig
from volssl.models.vit import Attention, Block, ViT
from volssl.types import Features


def _voxels(cell: tuple[int, ...], grid: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    """The voxels that a cell covers, from its lower edge rounded down to its upper edge rounded up."""
    return tuple(slice(c * n // g, -(-(c + 1) * n // g)) for c, n, g in zip(cell, size, grid, strict=True))


def attention(network: ViT, block: int) -> Attention:
    return cast(Block, network.blocks[block]).attn


class Pixels(nn.Module):
    """Each patch of 2 x 2 is one token: the first pixel of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Features:
        kept = x[:, :, ::2, ::2] * self.weight
        tokens = kept.flatten(2).transpose(1, 2)
        return Features(tokens, tuple(kept.shape[2:]), tokens.mean(1))


def vit(dims: Literal[2, 3] = 2, depth: int = 2) -> ViT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViT(ViTConfig(dims=dims, patch=(4,) * dims, size=(16,) * dims, width=12, depth=depth, heads=3), 1)


def blown_up(*tokens: tuple[float, float]) -> Tensor:
    """An image two pixels high, (2, 2, 2 N), whose patches are these N tokens side by side."""
    image = torch.zeros(2, 2, 2 * len(tokens))
    for i, token in enumerate(tokens):
        image[:, 0, 2 * i] = torch.tensor(token)
    return image


def test_similarity_by_hand() -> None:
    """Tokens (4, 1), (1, 4) and (1, 1): without their mean (2, 2) they are (2, -1), (-1, 2) and (-1, -1). The first has
    the cosine (-2 - 2) / 5 with the second and (-2 + 1) / sqrt(5 x 2) with the third. A patch is any of its pixels."""
    image = blown_up((4, 1), (1, 4), (1, 1))
    np.testing.assert_allclose(similarity_map(Pixels(), image, (1, 1)), [[1, -4 / 5, -1 / 10**0.5]], rtol=1e-6)
    np.testing.assert_allclose(similarity_map(Pixels(), image, (0, 5))[0, 2], 1, rtol=1e-6)


def test_only_places_within_are_compared() -> None:
    """Without the third token the mean is (2.5, 2.5) and the first two are opposite. Three of four pixels of a patch
    are enough to lie within, two are not."""
    image = blown_up((4, 1), (1, 4), (1, 1))
    within = np.array([[1, 1, 1, 1, 1, 0], [1, 0, 1, 1, 1, 0]], dtype=bool)
    np.testing.assert_allclose(similarity_map(Pixels(), image, (0, 0), within=within), [[1, -1, np.nan]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"place \[0, 4\] lies in a cell of which no more than half is within"):
        similarity_map(Pixels(), image, (0, 4), within=within)


def test_similarity_in_three_dimensions_is_that_of_plain_loops(card: Card) -> None:
    encoder, size, rng = random_encoder(card, 0).network, (24, 40, 33), np.random.default_rng(1)
    image, within = torch.from_numpy(rng.random((1, *size), dtype=np.float32)), rng.random(size) < 0.5
    with torch.no_grad():
        features = encoder(image[None])
    grid = features.grid
    field = features.tokens[0].double().numpy().reshape(*grid, -1)
    shares = {cell: within[_voxels(cell, grid, size)].mean() for cell in np.ndindex(grid)}
    inside = [cell for cell, share in shares.items() if share > 0.5]
    assert 0 < len(inside) < len(shares)
    place = tuple(-(-c * n // g) for c, n, g in zip(inside[-1], size, grid, strict=True))  # the first voxel in it
    made = similarity_map(encoder, image, place, within=within)
    mean = sum(field[cell] for cell in inside) / len(inside)
    here = field[inside[-1]] - mean
    for cell in np.ndindex(grid):
        one = field[cell] - mean
        cosine = here @ one / math.sqrt((here @ here) * (one @ one)) if cell in inside else np.nan
        assert made[cell] == pytest.approx(cosine, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("place", [(0,), (2, 0), (0, -1), (0, 0, 0)])
def test_a_place_outside_of_the_image_is_refused(place: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="lies outside of an image of"):
        similarity_map(Pixels(), blown_up((1, 0), (0, 1)), place)


@pytest.mark.parametrize("dims", [2, 3])
def test_attention_is_that_of_plain_loops(dims: Literal[2, 3]) -> None:
    """softmax over all tokens of q k / sqrt(4), head by head, in float64; the class token's own share is left out."""
    network = vit(dims)
    image = torch.rand(1, *(16,) * (dims - 1), 12, generator=torch.Generator().manual_seed(2))
    made = attention_map(network, image)
    assert made.shape == (3, *(4,) * (dims - 1), 3)
    hidden: list[Tensor] = []
    hook = attention(network, -1).register_forward_hook(lambda _module, given, _out: hidden.append(given[0]))
    with torch.no_grad():
        network(image[None])
    hook.remove()
    tokens = hidden[0][0].double().numpy()
    weight, bias = (p.detach().double().numpy() for p in attention(network, -1).qkv.parameters())
    projected = tokens @ weight.T + bias  # (1 + N, q k v of each head)
    for head in range(3):
        query = projected[0, 4 * head : 4 * head + 4]
        products = [query @ row[12 + 4 * head : 16 + 4 * head] / 2 for row in projected]
        powers = np.exp(products)
        np.testing.assert_allclose(made[head].ravel(), (powers / powers.sum())[1:], rtol=1e-5)


def test_attention_finds_the_patch_whose_key_answers_the_query() -> None:
    """Every query is (1, 0, 0, 0) and the key is the first feature; one patch alone has much of it: all look there."""
    network = vit(depth=1)
    qkv = attention(network, 0).qkv
    with torch.no_grad():
        for parameter in (*network.patch_embed.parameters(), *qkv.parameters(), network.pos_embed):
            parameter.zero_()
        network.cls_token.zero_()
        network.patch_embed.proj.weight[0] = 1.0  # a bright patch has feature 0
        for head in range(3):
            qkv.bias[4 * head] = 1.0
            qkv.weight[12 + 4 * head, 0] = 10.0
    image = torch.zeros(1, 16, 16)
    image[:, 8:12, 4:8] = 1.0
    made = attention_map(network, image)
    assert [np.unravel_index(head.argmax(), (4, 4)) for head in made] == [(2, 1)] * 3
    assert (made.reshape(3, -1).max(1) > 0.9).all()


def test_blocks_differ_and_are_counted() -> None:
    network, image = vit(), torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(3))
    first, last = attention_map(network, image, block=0), attention_map(network, image, block=1)
    np.testing.assert_array_equal(last, attention_map(network, image))
    assert not np.allclose(first, last)
    with pytest.raises(ValueError, match="block 2 of 2"):
        attention_map(network, image, block=2)


def test_an_encoder_and_its_network_are_the_same(card: Card) -> None:
    config = ViTConfig(patch=(3, 4, 4), size=(6, 16, 16), width=12, depth=1, heads=3)
    encoder = random_encoder(card.model_copy(update={"backbone": config}), 0)
    image = torch.rand(1, 6, 16, 16, generator=torch.Generator().manual_seed(4))
    np.testing.assert_array_equal(attention_map(encoder, image), attention_map(encoder.network, image))
    whole = torch.rand(1, 8, 24, 24, generator=torch.Generator().manual_seed(4))
    assert attention_map(encoder, whole).shape == (3, 2, 4, 4)  # a region is resampled to what the encoder takes


def test_only_a_vit_has_a_class_token(card: Card) -> None:
    with pytest.raises(ValueError, match="a ResNet has no class token"):
        attention_map(random_encoder(card, 0), torch.zeros(1, 6, 16, 16))


def test_no_trace_is_left(card: Card) -> None:
    """Modes, buffers and hooks are what they were, also where the image does not fit."""
    network = vit().train()
    network.blocks[0].eval()
    modes = [module.training for module in network.modules()]
    attention_map(network, torch.zeros(1, 16, 16))
    with pytest.raises(Exception, match="multiple"):
        attention_map(network, torch.zeros(1, 15, 16))
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    encoder = random_encoder(card, 0).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    similarity_map(encoder, torch.rand(1, 6, 16, 16), (0, 0, 0))
    assert encoder.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
