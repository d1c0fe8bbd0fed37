"""Where an encoder looks in one image: how alike its places are, and what a class token attends to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from volssl.evaluation.encoder import Encoder
from volssl.models.vit import Block, ViT
from volssl.types import Features


def similarity_map(
    encoder: nn.Module, image: Tensor, place: Sequence[int], *, within: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Cosine of the token at one place with the tokens of all places, after their mean has been subtracted.

    What all places share makes every plain cosine about 1, and most so in an untrained network.

    Args:
        encoder: an ``Encoder``, or its ``network``, which takes images of any size that fits. image: (C, *spatial).
        place: an index into each axis of the image. within: (*spatial), the places that are compared, all where absent:
            with much background, the mean is its, and the map tells tissue from air alone.

    Returns:
        (*grid), from -1 to 1; the token at the place has 1. NaN in cells of which no more than half lies within.

    Raises:
        ValueError: the place lies outside of the image, or of ``within``.
    """
    size = tuple(image.shape[1:])
    if len(place) != len(size) or not all(0 <= p < n for p, n in zip(place, size, strict=True)):
        raise ValueError(f"place {list(place)} lies outside of an image of {list(size)}: count from 0 along each axis")
    features = _look(encoder, image)
    tokens, grid = features.tokens[0].float(), features.grid
    compared = torch.ones(len(tokens), dtype=torch.bool) if within is None else _cells(within, grid)
    here = int(np.ravel_multi_index(tuple(p * g // n for p, g, n in zip(place, grid, size, strict=True)), grid))
    if not compared[here]:
        raise ValueError(f"place {list(place)} lies in a cell of which no more than half is within: take another")
    tokens = F.normalize(tokens - tokens[compared].mean(0), dim=1)
    cosines = torch.where(compared, tokens @ tokens[here], torch.nan)
    return cosines.reshape(grid).numpy()


def _cells(within: NDArray[np.bool_], grid: tuple[int, ...]) -> Tensor:
    """(N,) bool of the cells of a grid, by majority."""
    pool = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
    share: Tensor = pool(torch.from_numpy(np.ascontiguousarray(within))[None, None].float(), grid)  # type: ignore[arg-type]
    return share.flatten() > 0.5


def attention_map(encoder: nn.Module, image: Tensor, *, block: int = -1) -> NDArray[np.float32]:
    """What the class token of a ViT attends to: softmax(q k / sqrt(d)) of its query with the keys of all patches.

    As drawn by Caron et al. 2021 (arXiv 2104.14294, figure 1).

    Args:
        encoder: an ``Encoder`` of a ViT, or its ``network``. image: (C, *spatial). block: from 0; -1 is the last.

    Returns:
        (heads, *grid); the weights of a head sum to 1 less what the class token gives itself.

    Raises:
        ValueError: the encoder is no ViT of ours, or has no such block.
    """
    network = encoder.network if isinstance(encoder, Encoder) else encoder
    if not isinstance(network, ViT):
        raise ValueError(f"a {type(network).__name__} has no class token: give a ViT, or use similarity_map")
    depth = len(network.blocks)
    if not -depth <= block < depth:
        raise ValueError(f"block {block} of {depth}: the first is 0, the last -1")
    attention = cast(Block, network.blocks[block]).attn
    caught: list[Tensor] = []
    hook = attention.qkv.register_forward_hook(lambda _module, _given, out: caught.append(out))
    try:
        grid = _look(encoder, image).grid
    finally:
        hook.remove()
    query, key, _ = rearrange(caught[0].float(), "1 n (qkv h d) -> qkv h n d", qkv=3, h=attention.heads)
    weights = F.softmax(query[:, :1] @ key.mT / query.shape[-1] ** 0.5, dim=-1)
    return weights[:, 0, 1:].reshape(-1, *grid).cpu().numpy()


def _look(encoder: nn.Module, image: Tensor) -> Features:
    """Features of one image, on the CPU, without a trace on the encoder."""
    with evaluating(encoder), torch.inference_mode():
        features: Features = encoder(image[None].to(next(encoder.parameters()).device))
    return Features(features.tokens.cpu(), features.grid, features.pooled.cpu())


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """In evaluation mode; then every module is in its own again, since it may be in the middle of its training."""
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
