"""A stand-in for timm with the parts of its interface that volssl uses, and models in small of every kind it has."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth, as timm names its rate."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        return x * (torch.rand(len(x), *[1] * (x.ndim - 1), dtype=x.dtype) > self.drop_prob)


class BatchNormAct2d(nn.BatchNorm2d):
    """timm's batch norm, which has its activation inside."""

    def __init__(self, features: int) -> None:
        super().__init__(features, eps=1e-3, momentum=0.3)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


class EvoNorm(nn.Module):
    """A norm whose statistics move in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_var", torch.ones(8))


class CNN(nn.Module):
    """Maps (B, 8, rows / 4, columns / 4), or channels last; a classifier ``fc``."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, channels_last: bool = False, odd: str = "") -> None:
        super().__init__()
        self.num_features, self.feature_info = 8, [{"reduction": 2}, {"reduction": 4}]
        self.pretrained_cfg = {"input_size": (3, 16, 16), "first_conv": "conv_stem", "classifier": "fc"}
        self.conv_stem = nn.Conv2d(in_chans, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNormAct2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8, eps=1e-4, momentum=0.2)
        nn.init.constant_(self.bn2.weight, 0.5)
        self.drop_path, self.drop_rate, self.odd = DropPath(0.5), 0.5, odd
        self.drop = EvoNorm() if odd == "moves" else nn.Dropout(0.5)
        self.fc: nn.Module = nn.Linear(8, num_classes) if num_classes else nn.Identity()
        if channels_last:
            self.output_fmt = "NHWC"

    def forward_features(self, x: Tensor) -> Any:
        x = self.drop_path(self.bn2(self.conv2(self.bn1(self.conv_stem(x)))))
        if self.odd == "list":
            return [x]
        return x.movedim(1, -1) if hasattr(self, "output_fmt") else x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(x.mean((1, 2) if hasattr(self, "output_fmt") else (2, 3)))
        x = nn.functional.dropout(x, self.drop_rate, self.training)
        x = torch.cat([x, x], dim=1) if self.odd == "wide" else x
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class PatchEmbed(nn.Module):
    """Patches of 4 x 4; of one size only, unless ``free``."""

    def __init__(self, in_chans: int, size: tuple[int, int], free: bool) -> None:
        super().__init__()
        self.proj, self.size, self.free = nn.Conv2d(in_chans, 8, 4, stride=4), size, free

    def forward(self, x: Tensor) -> Tensor:
        assert self.free or tuple(x.shape[2:]) == self.size, f"Input size doesn't match model {self.size}."
        assert all(n % 4 == 0 for n in x.shape[2:]), "Input size should be divisible by patch size."
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class Transformer(nn.Module):
    """Two prefix tokens, then those of the patches; the features are the first prefix token."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: tuple[int, int] = (16, 16),
        dynamic_img_size: bool = False,
    ) -> None:
        super().__init__()
        self.num_features, self.num_prefix_tokens, self.feature_info = 8, 2, [{"reduction": 4}]
        names = {"first_conv": "patch_embed.proj", "classifier": ("head", "head_dist")}
        self.pretrained_cfg = {"input_size": (3, 16, 16)} | names
        self.patch_embed = PatchEmbed(in_chans, img_size, dynamic_img_size)
        self.prefix = nn.Parameter(torch.randn(1, 2, 8))
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.drop, self.drop_path = nn.LayerNorm(8), nn.Dropout(0.5), DropPath(0.5)
        self.head: nn.Module = nn.Linear(8, num_classes) if num_classes else nn.Identity()
        self.head_dist: nn.Module = nn.Linear(8, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        x = torch.cat([self.prefix.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        out: Tensor = self.norm(x + self.drop_path(self.mix(x, x, x, need_weights=False)[0]))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(x[:, 0] + x[:, 1])
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class FixedTransformer(Transformer):
    """Of one size, said when it is made."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, img_size: tuple[int, int] = (16, 16)) -> None:
        super().__init__(num_classes, in_chans, img_size)


MODELS: dict[str, Any] = {
    "cnn": CNN,
    "cnn_last": lambda **given: CNN(channels_last=True, **given),
    "vit": Transformer,
    "vit_fixed": FixedTransformer,
    "moves": lambda **given: CNN(odd="moves", **given),
    "several": lambda **given: CNN(odd="list", **given),
    "wide": lambda **given: CNN(odd="wide", **given),
}


def create_model(name: str, pretrained: bool, **given: Any) -> nn.Module:
    """As timm's, which downloads weights if ``pretrained``."""
    assert not pretrained
    net: nn.Module = MODELS[name](**given)
    return net


def stand_in() -> ModuleType:
    """The module."""
    timm = ModuleType("timm")
    vars(timm).update(
        __version__="1.0.0", create_model=create_model, is_model=MODELS.__contains__, list_models=lambda: list(MODELS)
    )
    return timm
