"""What a backbone costs, by arithmetic alone: parameters, multiply-adds and activations, without loading torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volssl.models import ResNetConfig, ViTConfig

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass
class Cost:
    """parameters; multiply_adds and activations (numbers kept for the backward pass) of one image; its last grid."""

    width: int = 0
    parameters: int = 0
    multiply_adds: int = 0
    activations: int = 0
    grid: tuple[int, ...] = ()

    def convolution(self, c_in: int, c_out: int, kernel: tuple[int, ...], size: tuple[int, ...]) -> None:
        """A convolution without bias whose output has the spatial ``size``, and the norm behind it."""
        weights, out = c_in * c_out * math.prod(kernel), math.prod(size)
        self.parameters += weights + 2 * c_out
        self.multiply_adds += weights * out
        self.activations += 2 * c_out * out


def resnet_cost(config: ResNetConfig, channels: int, size: tuple[int, ...]) -> Cost:
    """The cost of ``config`` on one image of ``channels`` channels and spatial ``size``."""
    n, cost = config.dims, Cost()
    kernel = {"imagenet": (7,) * n, "r3d": (3, 7, 7), "small": (3,) * n}[config.stem]
    stride = {"imagenet": (2,) * n, "r3d": (1, 2, 2), "small": (2,) * n}[config.stem]
    size = _strided(size, stride)
    cost.convolution(channels, config.width, kernel, size)
    if config.stem == "imagenet":
        size = _strided(size, (2,) * n)
    strided = (1,) if config.dilated else (1, 2, 3)
    c_in, expansion = config.width, 4 if config.depth >= 50 else 1
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        planes = config.width * 2**stage
        for block in range(blocks):
            before, size = size, _strided(size, (2,) * n) if block == 0 and stage in strided else size
            _residual_block(cost, c_in, planes, expansion, before, size)
            if config.shortcut == "B" and c_in != planes * expansion:
                cost.convolution(c_in, planes * expansion, (1,) * n, size)
            c_in = planes * expansion
    cost.width, cost.grid = c_in, size
    return cost


def vit_cost(config: ViTConfig, channels: int, size: tuple[int, ...]) -> Cost:
    """The cost of ``config`` on one image of ``channels`` channels and spatial ``size``."""
    width, patch = config.width, channels * math.prod(config.patch)
    patches = math.prod(config.grid(size))
    tokens, matrices = 1 + patches, (4 + 2 * config.mlp) * width**2
    scales = 0 if config.layer_scale is None else 2 * width
    block = matrices + (9 + config.mlp) * width + scales  # beside the matrices: their biases and two norms
    return Cost(
        width=width,
        grid=config.grid(size),
        parameters=(patch + 1) * width  # the patch embedding
        + (2 + math.prod(config.grid(config.size))) * width  # the class token and the positions
        + config.depth * block
        + 2 * width,
        multiply_adds=patches * patch * width + config.depth * (tokens * matrices + 2 * tokens**2 * width),
        activations=config.depth * tokens * (8 + 2 * config.mlp) * width,
    )


def _residual_block(
    cost: Cost, c_in: int, planes: int, expansion: int, before: tuple[int, ...], size: tuple[int, ...]
) -> None:
    three, one = (3,) * len(size), (1,) * len(size)
    if expansion == 1:
        cost.convolution(c_in, planes, three, size)
        cost.convolution(planes, planes, three, size)
    else:
        cost.convolution(c_in, planes, one, before)
        cost.convolution(planes, planes, three, size)
        cost.convolution(planes, planes * expansion, one, size)


def _strided(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
