"""The arithmetic of a backbone's cost against the network itself."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from volssl.models import ResNetConfig
from volssl.models.cost import resnet_cost


def measured(config: ResNetConfig, channels: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Parameters, and multiply-adds counted by a hook on every convolution."""
    net = config.build(channels).eval()
    total = 0

    def add(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Conv3d)
        total += module.weight.numel() * out[0, 0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(add)
    with torch.no_grad():
        net(torch.zeros(1, channels, *size))
    return sum(p.numel() for p in net.parameters()), total


@pytest.mark.parametrize("depth", [10, 18, 50])
@pytest.mark.parametrize(
    ("stem", "dims", "size"),
    [(s, 3, (9, 20, 17)) for s in ("imagenet", "r3d", "small")] + [(s, 2, (33, 40)) for s in ("imagenet", "small")],
)
def test_parameters_and_multiply_adds_equal_the_network(
    depth: Literal[10, 18, 50],
    stem: Literal["imagenet", "r3d", "small"],
    dims: Literal[2, 3],
    size: tuple[int, ...],
) -> None:
    plain = ResNetConfig(dims=dims, depth=depth, stem=stem, width=8)
    for change in ({}, {"dilated": True}, {"shortcut": "A"}):
        config = ResNetConfig.model_validate(plain.model_dump() | change)
        cost = resnet_cost(config, 2, size)
        assert (cost.parameters, cost.multiply_adds) == measured(config, 2, size)
        net = config.build(2).eval()
        assert cost.width == net.width
        assert cost.grid == net(torch.zeros(1, 2, *size)).grid
