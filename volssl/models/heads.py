"""Heads: what turns pooled features into what a loss compares."""

from __future__ import annotations

from typing import Literal

from torch import nn

from volssl.models.norm import BatchNorm

HeadNorm = Literal["batch", "layer", "none"]


class MLP(nn.Sequential):
    """BYOL's two-layer head: Linear, norm, ReLU, Linear (arXiv 2006.07733, section 3.3).

    The first Linear has a bias only where no norm follows. (B, width) to (B, out).
    Linear weights and biases: uniform within 1 / sqrt(fan-in), torch's default, from its global generator.
    """

    def __init__(self, width: int, hidden: int, out: int, norm: HeadNorm = "batch") -> None:
        norms: dict[HeadNorm, list[nn.Module]] = {
            "batch": [BatchNorm(hidden)],
            "layer": [nn.LayerNorm(hidden)],
            "none": [],
        }
        first = nn.Linear(width, hidden, bias=norm == "none")
        super().__init__(first, *norms[norm], nn.ReLU(inplace=True), nn.Linear(hidden, out))
