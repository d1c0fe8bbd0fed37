"""Convolutions that are right on thin images in bfloat16, where oneDNN's are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that pads an axis itself where the image is smaller along it than the kernel.

    torch 2.13's CPU build (oneDNN 3.12, AVX-512 bf16) reads memory that nobody wrote when a kernel of 3 with padding
    1 meets a single column with stride 2, two slices (both: gradient of the weights) or, with one input channel, one
    slice (result): NaN, or silently other numbers each time. Small views meet it in the last stages, and R3D-18 at 16
    frames. With the same zeros written out the result is right, at the cost of a copy of a few pixels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, rows, columns) to (B, C', rows', columns')."""
        padded, padding = _pad_thin(self, input)
        return F.conv2d(padded, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv3d(nn.Conv3d):
    """As ``Conv2d``, of volumes."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, slices, rows, columns) to (B, C', slices', rows', columns')."""
        padded, padding = _pad_thin(self, input)
        return F.conv3d(padded, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _pad_thin(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> tuple[Tensor, list[int]]:
    """The image with its thin axes padded, and the padding that is left to do."""
    wanted = [int(p) for p in conv.padding]
    thin = [size < kernel for size, kernel in zip(x.shape[2:], conv.kernel_size, strict=True)]
    ours = [p if is_thin else 0 for p, is_thin in zip(wanted, thin, strict=True)]
    if any(ours):
        x = F.pad(x, [p for p in reversed(ours) for _ in range(2)])
    return x, [p - own for p, own in zip(wanted, ours, strict=True)]


def replace_convolutions(net: nn.Module) -> None:
    """Put a convolution of this file with the same weights where torch's are that pad with so many zeros, in place."""
    ours: dict[type[nn.Module], type[Conv2d] | type[Conv3d]] = {nn.Conv2d: Conv2d, nn.Conv3d: Conv3d}
    for module in list(net.modules()):
        for name, old in module.named_children():
            if type(old) in ours and isinstance(old.padding, tuple) and old.padding_mode == "zeros":
                setattr(module, name, _with_the_weights_of(old, ours[type(old)]))


def _with_the_weights_of(old: Any, kind: type[Conv2d] | type[Conv3d]) -> nn.Module:
    given = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation", "groups")}
    with torch.device("meta"):  # draws no weights
        new = kind(old.in_channels, old.out_channels, **given, bias=old.bias is not None)
    new.weight, new.bias = old.weight, old.bias
    return new
