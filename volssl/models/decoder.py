"""The light Transformer that a masked autoencoder draws the hidden patches with."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from volssl.models import ViTConfig
from volssl.models.vit import Block, resample_positions
from volssl.types import Features


class Decoder(nn.Module):
    """Tokens of the visible patches to the pixels of the hidden ones (He et al. 2022, arXiv 2111.06377, section 3).

    The pooled features take part as one more token, so that they learn whatever the encoder pools.

    Args:
        encoder: whose patches, size and perceptrons it follows. channels: of the image.
        width, depth, heads: its own.
    """

    def __init__(self, encoder: ViTConfig, channels: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        config = encoder.model_copy(update={"width": width, "depth": depth, "heads": heads, "layer_scale": None})
        self.config = config
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=0.02))
        patches = math.prod(config.grid(config.size))
        self.pos_embed = nn.Parameter(nn.init.normal_(torch.empty(1, 1 + patches, width), std=0.02))
        self.blocks = nn.ModuleList(Block(config) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, channels * math.prod(encoder.patch))

    def forward(self, seen: Features, keep: Tensor, hidden: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Predict the patches at ``hidden`` (B, K), given the features of those at ``keep`` (B, M): (B, K, P)."""
        places = resample_positions(self.pos_embed[:, 1:], self.config.grid(self.config.size), grid)
        places = places.expand(len(keep), -1, -1)
        known = self.embed(seen.tokens) + select(places, keep)
        asked = self.mask_token + select(places, hidden)
        whole = self.embed(seen.pooled)[:, None] + self.pos_embed[:, :1]
        x = torch.cat([whole, known, asked], dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.predict(self.norm(x[:, 1 + keep.shape[1] :]))
        return out


def patchify(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """(B, C, *spatial) to (B, N, P): the pixels of each patch, in the order of the flattened grid."""
    if len(patch) == 2:
        rows, columns = patch
        return rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=rows, q=columns)
    slices, rows, columns = patch
    return rearrange(x, "b c (d o) (h p) (w q) -> b (d h w) (o p q c)", o=slices, p=rows, q=columns)


def select(patches: Tensor, which: Tensor) -> Tensor:
    """(B, N, D) to (B, K, D): the rows at ``which`` (B, K)."""
    return patches.gather(1, repeat(which, "b k -> b k d", d=patches.shape[-1]))
