"""Heads: what turns pooled features into what a loss compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volssl.models import HeadNorm
from volssl.models.norm import BatchNorm


class MLP(nn.Sequential):
    """Linear, norm, activation, repeated; the last is a Linear alone: the head of SimCLR, BYOL and what came after.

    A Linear has a bias only where no norm follows. (B, width) to (B, widths[-1]).
    Linear weights and biases: uniform within 1 / sqrt(fan-in), torch's default, from its global generator.

    Args:
        widths: of each Linear. closing: a batch norm without parameters behind the last one (MoCo v3).
        gelu: in place of ReLU (DINO).
    """

    def __init__(
        self, width: int, *widths: int, norm: HeadNorm = "batch", closing: bool = False, gelu: bool = False
    ) -> None:
        layers: list[nn.Module] = []
        for wide in widths[:-1]:
            layers += [nn.Linear(width, wide, bias=norm == "none"), *_norm(norm, wide)]
            layers.append(nn.GELU() if gelu else nn.ReLU(inplace=True))
            width = wide
        layers.append(nn.Linear(width, widths[-1], bias=not closing))
        layers += [BatchNorm(widths[-1], affine=False)] if closing else []
        super().__init__(*layers)


class Prototypes(nn.Module):
    """Cosine scores against learned directions: rows (B, D) of any length to (B, K) in [-1, 1].

    SwAV's prototypes, and DINO's last layer: weight normalisation with every length fixed at 1.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(count, width)))
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Give every row of ``weight`` length one again, so that later steps turn it as far as the first did."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, z: Tensor, *, frozen: bool = False) -> Tensor:
        """frozen: the prototypes get no gradient."""
        weight = self.weight.detach() if frozen else self.weight
        return F.linear(F.normalize(z, dim=1), F.normalize(weight, dim=1))


class Branch(nn.Module):
    """Encoder and projector: what student and teacher both have."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector


def _norm(norm: HeadNorm, width: int) -> list[nn.Module]:
    norms: dict[HeadNorm, list[nn.Module]] = {"batch": [BatchNorm(width)], "layer": [nn.LayerNorm(width)], "none": []}
    return norms[norm]
