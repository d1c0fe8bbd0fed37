"""The architectures that published weights belong to, written out with the names of their state dicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: F.max_pool2d, 3: F.max_pool3d}


class Residual(nn.Module):
    """torchvision's block: two 3^n convolutions, or with ``bottleneck`` 1, 3 and 1, the middle one strided."""

    def __init__(
        self, dims: int, c_in: int, planes: int, bottleneck: bool, stride: int, dilation: int, shortcut: str
    ) -> None:
        super().__init__()
        conv, norm, c_out = CONVOLUTION[dims], NORM[dims], planes * (4 if bottleneck else 1)
        middle = {"padding": dilation, "dilation": dilation, "bias": False}
        if bottleneck:
            self.conv1: nn.Module = conv(c_in, planes, 1, bias=False)
            self.conv2: nn.Module = conv(planes, planes, 3, stride=stride, **middle)  # type: ignore[arg-type]
            self.conv3 = conv(planes, c_out, 1, bias=False)
            self.bn3 = norm(c_out)
        else:
            self.conv1 = conv(c_in, planes, 3, stride=stride, **middle)  # type: ignore[arg-type]
            self.conv2 = conv(planes, planes, 3, **middle)  # type: ignore[arg-type]
        self.bn1, self.bn2, self.bottleneck = norm(planes), norm(planes), bottleneck
        self.stride, self.grows, self.downsample = stride, c_out - c_in, None
        if (stride > 1 or self.grows) and shortcut == "B":
            self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride=stride, bias=False), norm(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            out = self.bn3(self.conv3(torch.relu(out)))
        skip: Tensor = x if self.downsample is None else self.downsample(x)
        if self.downsample is None and (self.stride > 1 or self.grows):  # shortcut A: every other voxel, zeros behind
            every = x[:, :, :: self.stride, :: self.stride, :: self.stride]
            skip = torch.cat([every, torch.zeros_like(out[:, : self.grows])], dim=1)
        return torch.relu(out + skip)


class ResNet(nn.Module):
    """torchvision's ResNet (He et al. 2016, stride on the 3x3 convolution) in 2D; with ``dilated`` MedicalNet's in 3D.

    The features, before pooling: (B, C, *spatial) to (B, D, *grid).
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        dims: int = 2,
        channels: int = 3,
        dilated: bool = False,
        shortcut: str = "B",
        padding: int = 3,
    ) -> None:
        super().__init__()
        self.pool = POOL[dims]
        self.conv1 = CONVOLUTION[dims](channels, width, 7, stride=2, padding=padding, bias=False)
        self.bn1 = NORM[dims](width)
        c_in, strides, dilations = width, (1, 2, 1, 1) if dilated else (1, 2, 2, 2), (1, 1, 2, 4)
        for stage, count in enumerate(BLOCKS[depth]):
            blocks = []
            for block in range(count):
                stride, dilation = strides[stage] if block == 0 else 1, dilations[stage] if dilated else 1
                blocks.append(Residual(dims, c_in, width * 2**stage, depth >= 50, stride, dilation, shortcut))
                c_in = width * 2**stage * (4 if depth >= 50 else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.width = c_in

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
        return x


class SwAV(ResNet):
    """SwAV's ResNet-50: the image is padded by 1 before a first convolution that pads by 2; two heads."""

    def __init__(self, width: int) -> None:
        super().__init__(50, width, padding=2)
        self.projection_head = nn.Sequential(
            nn.Linear(self.width, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 128)
        )
        self.prototypes = nn.Linear(128, 3000, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class VideoBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_video_conv(c_in, c_out, stride), nn.ReLU())
        self.conv2 = nn.Sequential(*_video_conv(c_out, c_out, 1))
        self.downsample = None
        if stride > 1:
            project = nn.Conv3d(c_in, c_out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm3d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + skip)


class VideoResNet(nn.Module):
    """torchvision's R3D-18 (Tran et al. 2018, arXiv 1711.11248): (B, 3, frames, rows, columns) to (B, D, *grid)."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm3d(64), nn.ReLU())
        self.layer1 = nn.Sequential(VideoBlock(64, 64, 1), VideoBlock(64, 64, 1))
        self.layer2 = nn.Sequential(VideoBlock(64, 128, 2), VideoBlock(128, 128, 1))
        self.layer3 = nn.Sequential(VideoBlock(128, 256, 2), VideoBlock(256, 256, 1))
        self.layer4 = nn.Sequential(VideoBlock(256, 512, 2), VideoBlock(512, 512, 1))
        self.fc = nn.Linear(512, 400)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return out


def _video_conv(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv3d(c_in, c_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm3d(c_out)]


class ViT(nn.Module):
    """DINO's ViT (Caron et al. 2021, arXiv 2104.14294), 64 channels a head: (B, 3, *size) to (B, 1 + N, D)."""

    def __init__(self, size: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        heads = [part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in self.attn["qkv"](self.norm1(x)).chunk(3, -1)]
        q, k, v = heads
        mixed = (q @ k.transpose(-2, -1) / 8).softmax(-1) @ v
        x = x + self.attn["proj"](mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return out


def as_trained(net: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with nothing at its initial value: no buffer and no bias hides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim == 1 or "cls_token" in name or "pos_embed" in name:
                value.normal_(0, 0.1, generator=generator)
            elif value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
    return net.eval()
