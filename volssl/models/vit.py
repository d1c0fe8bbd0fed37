"""A Vision Transformer in two and three dimensions, for views of any size and any subset of patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volssl.errors import ConfigError
from volssl.models import ViTConfig
from volssl.types import Features

_MAPS = 4  # as the dense prediction transformer takes (Ranftl et al. 2021, arXiv 2103.13413)


class ViT(nn.Module):
    """ViT (Dosovitskiy et al. 2021, arXiv 2010.11929), pre-norm, with DINO's parameter names.

    Attributes: ``dims`` (spatial dimensions), ``width`` (D, the channels of the features).
    Weights: normal with deviation 0.02, biases 0; the patch embedding keeps torch's default, which scales
    with the volume of a patch. They come from torch's global generator, so whoever builds one forks and seeds
    that generator first.
    """

    def __init__(self, config: ViTConfig, channels: int) -> None:
        super().__init__()
        self.config, self.dims, self.width = config, config.dims, config.width
        patches = math.prod(config.grid(config.size))
        self.cls_token = nn.Parameter(_normal(torch.empty(1, 1, config.width)))
        self.pos_embed = nn.Parameter(_normal(torch.empty(1, 1 + patches, config.width)))
        self.patch_embed = PatchEmbedding(config, channels)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Features:
        """(B, C, *spatial) to the tokens of all patches, or of those in ``keep`` alone.

        keep: (B, M) int64, for each image which patches go through, as indices into the flattened
        ``config.grid(spatial)``; the others cost nothing and change nothing.

        Returns tokens (B, N, D) without the class token, their grid, and pooled (B, D) by ``config.pool``. Of
        a subset, the tokens are (B, M, D) in the order of ``keep`` and the grid is (M,).

        Raises:
            ConfigError: the image's size is no multiple of the patch.
        """
        hidden, grid = self._embed(x, keep)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.norm(hidden)
        tokens = hidden[:, 1:]
        return Features(tokens, grid, hidden[:, 0] if self.config.pool == "class" else tokens.mean(dim=1))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The patches' tokens after every quarter of the blocks, (B, D, *grid) each, under the last norm.

        Those after the last block are the tokens of ``forward``; there are as many as blocks where those are fewer
        than four.

        Raises:
            ConfigError: as ``forward``.
        """
        hidden, grid = self._embed(x, None)
        parts = min(_MAPS, len(self.blocks))
        ends = [(part + 1) * len(self.blocks) // parts for part in range(parts)]
        out = []
        for depth, block in enumerate(self.blocks, start=1):
            hidden = block(hidden)
            if depth in ends:
                out.append(self.norm(hidden)[:, 1:].transpose(1, 2).unflatten(2, grid))
        return out

    def _embed(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, tuple[int, ...]]:
        """The class token and those of the patches (B, 1 + M, D) with their positions, and the patches' grid."""
        if problem := self.config.fits(tuple(x.shape[2:])):
            raise ConfigError(f"views.size {problem}")
        patches = self.patch_embed(x)
        grid = tuple(patches.shape[2:])
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = tokens + resample_positions(self.pos_embed[:, 1:], self.config.grid(self.config.size), grid)
        if keep is not None:
            tokens, grid = tokens.gather(1, keep[..., None].expand(-1, -1, self.width)), (keep.shape[1],)
        class_token = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([class_token.expand(x.shape[0], -1, -1), tokens], dim=1), grid


def resample_positions(positions: Tensor, learned: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """(1, N, D): learned positions (1, prod(learned), D) of patches, resampled to ``grid`` where it is another.

    Bicubic in 2D and trilinear in 3D, one axis after the other as a product with a constant matrix: the
    gradient of ``interpolate`` itself adds in no fixed order on a GPU.
    """
    if grid == learned:
        return positions
    with torch.autocast(positions.device.type, enabled=False):
        field = positions[0].reshape(*learned, -1)
        for axis, (old, new) in enumerate(zip(learned, grid, strict=True)):
            matrix = _resampling(old, new, "bicubic" if len(grid) == 2 else "bilinear", field)
            field = torch.tensordot(matrix, field, dims=([1], [axis])).movedim(0, axis)
    return field.flatten(0, -2)[None]


class PatchEmbedding(nn.Module):
    """(B, C, *spatial) to (B, D, *grid): one linear map of each patch."""

    def __init__(self, config: ViTConfig, channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if config.dims == 2 else nn.Conv3d
        self.proj = convolution(channels, config.width, config.patch, stride=config.patch)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class Block(nn.Module):
    """Attention, then a perceptron, each behind a norm and added to what came in: (B, N, D) to the same."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config)
        self.ls1 = _layer_scale(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Perceptron(config)
        self.ls2 = _layer_scale(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: (B, N, D) to the same."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = _linear(config.width, 3 * config.width)
        self.proj = _linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Perceptron(nn.Module):
    """Two linear maps with a GELU between them: (B, N, D) to the same."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = _linear(config.width, config.mlp * config.width)
        self.fc2 = _linear(config.mlp * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al. 2021, arXiv 2103.17239): (B, N, D) to the same."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _layer_scale(config: ViTConfig) -> nn.Module:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.width, config.layer_scale)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    _normal(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _normal(x: Tensor) -> Tensor:
    return nn.init.normal_(x, std=0.02)


def _resampling(old: int, new: int, mode: str, like: Tensor) -> Tensor:
    """(new, old): the weights with which ``interpolate`` resamples one axis."""
    unit = torch.eye(old, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None, None], size=(new, old), mode=mode, align_corners=False)[0, 0]
