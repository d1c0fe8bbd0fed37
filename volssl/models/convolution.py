"""3D convolution that is right on thin stacks in bfloat16, where oneDNN's is not."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_Triple = tuple[int, int, int]


class StackConv3d(nn.Conv3d):
    """``nn.Conv3d`` that pads the slices itself where there are fewer than the kernel is deep.

    torch 2.13's CPU build (oneDNN 3.12, AVX-512 bf16) reads memory that nobody wrote when a kernel of depth 3
    with padding 1 meets two slices (gradient of the weights) or, with one input channel, one slice (result):
    NaN, or silently other numbers each time. R3D-18 meets it in its last stage at 16 frames. With the same
    zeros written out the result is right, at the cost of a copy of a few slices.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, slices, rows, columns) to (B, C', slices', rows', columns')."""
        if input.shape[2] >= self.kernel_size[0]:
            return super().forward(input)
        slices, *plane = (int(p) for p in self.padding)
        padded = F.pad(input, (0, 0, 0, 0, slices, slices))
        return F.conv3d(padded, self.weight, self.bias, self.stride, (0, *plane), self.dilation, self.groups)


def replace_conv3d(net: nn.Module) -> None:
    """Put a ``StackConv3d`` with the same weights where zero-padded 3D convolutions are, in place."""
    for module in list(net.modules()):
        for name, old in module.named_children():
            if type(old) is nn.Conv3d:
                setattr(module, name, _with_the_weights_of(old))


def _with_the_weights_of(old: nn.Conv3d) -> StackConv3d:
    with torch.device("meta"):  # draws no weights
        new = StackConv3d(
            old.in_channels,
            old.out_channels,
            cast(_Triple, old.kernel_size),
            cast(_Triple, old.stride),
            cast(_Triple, old.padding),
            cast(_Triple, old.dilation),
            old.groups,
            bias=old.bias is not None,
        )
    new.weight, new.bias = old.weight, old.bias
    return new
