"""MONAI's ResNet in two and three dimensions as a backbone: image in, Features out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.networks.nets import resnet as monai_resnet
from torch import Tensor, nn

from volssl.models import ResNetConfig
from volssl.models.convolution import replace_convolutions
from volssl.models.cost import BLOCKS
from volssl.models.norm import replace_norm
from volssl.types import Features


class ResNet(nn.Module):
    """ResNet (He et al. 2016, arXiv 1512.03385); with ``stem: r3d`` and depth 18, R3D-18 (arXiv 1711.11248).

    Attributes: ``dims`` (spatial dimensions), ``width`` (D, the channels of the features).
    Weights: normal with variance 2 / fan-out (arXiv 1502.01852), norms 1 and 0. They come from torch's global
    generator, so whoever builds one forks and seeds that generator first.
    """

    def __init__(self, config: ResNetConfig, channels: int) -> None:
        super().__init__()
        net = _build(config, channels)
        if config.dilated:
            _dilate(net.layer3, 2)
            _dilate(net.layer4, 4)
        if config.shortcut == "A":
            _take_weights_off_shortcuts(net)
        pool = [net.maxpool] if config.stem == "imagenet" else []
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act, *pool)
        self.layers = nn.Sequential(net.layer1, net.layer2, net.layer3, net.layer4)
        self.dims: int = config.dims
        self.width: int = net.in_planes
        # MONAI hands `norm` to the first layer only, so all are built as batch norm and replaced here
        replace_norm(self, config.norm)
        replace_convolutions(self)

    def forward(self, x: Tensor) -> Features:
        """(B, C, *spatial) to tokens (B, N, D) of the last stage and their mean (B, D)."""
        out: Tensor = self.layers(self.stem(x))
        tokens = rearrange(out, "b d ... -> b (...) d")
        pooled = tokens.mean(1, dtype=torch.promote_types(out.dtype, torch.float32))
        return Features(tokens, grid=tuple(out.shape[2:]), pooled=pooled)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What the stem and each of the four stages make of (B, C, *spatial): (B, D_s, *grid_s), the finest first."""
        out = [self.stem(x)]
        for stage in self.layers:
            out.append(stage(out[-1]))
        return out


class Shortcut(nn.Module):
    """He et al.'s shortcut A: (B, C, *spatial) to every ``stride``-th voxel, with ``grow`` channels of zeros behind.

    MONAI's own stops the gradient.
    """

    def __init__(self, grow: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.grow = grow
        self.kept = tuple(slice(None, None, s) for s in (1, 1, *stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[self.kept], (*(0, 0) * (x.ndim - 2), 0, self.grow))


def _dilate(stage: nn.Module, by: int) -> None:
    """Turn the stage's strides into dilations ``by`` so many voxels, in place."""
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d | nn.Conv3d):
            conv.stride = (1,) * len(conv.stride)
            if conv.kernel_size[0] > 1:
                conv.dilation = conv.padding = (by,) * len(conv.stride)


def _take_weights_off_shortcuts(net: nn.Module) -> None:
    for block in net.modules():
        if isinstance(shortcut := getattr(block, "downsample", None), nn.Sequential):
            conv: Any = shortcut[0]
            block.downsample = Shortcut(conv.out_channels - conv.in_channels, conv.stride)


def _build(config: ResNetConfig, channels: int) -> monai_resnet.ResNet:
    kernel, stride = {
        "imagenet": ((7,) * config.dims, (2,) * config.dims),
        "r3d": ((3, 7, 7), (1, 2, 2)),
        "small": ((3,) * config.dims, (2,) * config.dims),
    }[config.stem]
    return monai_resnet.ResNet(
        block="bottleneck" if config.depth >= 50 else "basic",
        layers=list(BLOCKS[config.depth]),
        block_inplanes=[config.width * 2**i for i in range(4)],
        spatial_dims=config.dims,
        n_input_channels=channels,
        conv1_t_size=kernel,
        conv1_t_stride=stride,
        shortcut_type="B",
        feed_forward=False,
        bias_downsample=False,
    )
