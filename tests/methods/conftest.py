"""Every method of the union in small, the geometries and backbones it is tried on, and batches for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from volssl.methods import (
    BarlowTwinsConfig,
    BYOLConfig,
    CASSConfig,
    DINOConfig,
    HybridConfig,
    MAEConfig,
    MethodConfig,
    MoCoV3Config,
    SimCLRConfig,
    SwAVConfig,
    VICRegConfig,
)
from volssl.methods.base import Method
from volssl.models import BackboneConfig, ResNetConfig, ViTConfig
from volssl.types import Batch, Progress

Norm = Literal["batch", "group"]
Kind = Literal["CNN", "ViT"]
AT = Progress(3, 10)


@dataclass(frozen=True)
class Geometry:
    """Views of an item: their size, that of the small ones, and backbones that fit both."""

    dims: Literal[2, 3]
    stem: Literal["small", "r3d"]
    size: tuple[int, ...]
    small: tuple[int, ...]
    patch: tuple[int, ...]

    def backbone(self, kind: Kind, norm: Norm = "group") -> BackboneConfig:
        """A CNN or a Transformer for these views."""
        if kind == "CNN":
            return ResNetConfig(dims=self.dims, stem=self.stem, depth=10, width=4, norm=norm)
        return ViTConfig(dims=self.dims, patch=self.patch, size=self.size, width=12, depth=2, heads=2, mlp=2)


GEOMETRIES = {
    "2D": Geometry(2, "small", (32, 48), (16, 32), (16, 16)),
    "3D": Geometry(3, "small", (16, 32, 32), (16, 16, 32), (8, 16, 16)),
    "video": Geometry(3, "r3d", (8, 32, 48), (8, 16, 32), (2, 16, 16)),
}


def methods(geometry: Geometry) -> dict[str, MethodConfig]:
    """Every method that a geometry allows, small enough to be tried in milliseconds."""
    partner = geometry.backbone("ViT")
    swav = SwAVConfig(projector=(16, 8), prototypes=6, queue=6, queue_start=0)
    listed: dict[str, MethodConfig] = {
        "byol": BYOLConfig(projector=(16, 8), predictor=(16, 8), momentum=(0.9, 1.0)),
        "byol-layer": BYOLConfig(projector=(16, 8), predictor=(16, 8), head_norm="layer"),
        "simclr": SimCLRConfig(projector=(16, 8)),
        "mocov3": MoCoV3Config(projector=(16, 16, 8), predictor=(16, 8), momentum=(0.9, 1.0)),
        "vicreg": VICRegConfig(projector=(16, 8)),
        "barlow_twins": BarlowTwinsConfig(projector=(16, 8)),
        "swav": swav,
        "dino": DINOConfig(projector=(16, 8), prototypes=12, momentum=(0.9, 1.0), teacher_warmup=8),
        "dino-batch": DINOConfig(projector=(16, 8), prototypes=12, momentum=(0.9, 1.0), head_norm="batch"),
        "cass": CASSConfig(partner=partner, logits=8),
        "cass-batch": CASSConfig(partner=partner, logits=8, norm="batch"),
        "mae": MAEConfig(mask=0.5, width=8, depth=1, heads=2),
        "hybrid-swav": HybridConfig(ssl=swav, classes=(3, 2), weight=(0.5, 2.0)),
        "hybrid-cass": HybridConfig(ssl=CASSConfig(partner=partner, logits=8), classes=(3, 2)),
    }
    if geometry.dims == 3:
        listed["mae-tube"] = MAEConfig(mask=0.5, width=8, depth=1, heads=2, tube=True)
    return listed


def backbones_of(config: MethodConfig, geometry: Geometry, kind: Kind, norm: Norm = "group") -> list[BackboneConfig]:
    """That of ``kind``, and what the method adds."""
    return [geometry.backbone(kind, norm), *config.partners.values()]


def build(config: MethodConfig, geometry: Geometry, kind: Kind, norm: Norm = "group") -> Method:
    """The method in float64, on images of one channel, a teacher already apart from its student."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = (backbone.build(1) for backbone in backbones_of(config, geometry, kind, norm))
        method: Method = config.build(*encoders).double()
        for name, parameter in method.named_parameters():
            if "teacher" in name.split("."):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def batch_of(config: MethodConfig, geometry: Geometry, samples: int = 4) -> Batch:
    """As many views as the method takes, two at most, and two small ones where it takes any; two label sets."""
    generator = torch.Generator().manual_seed(1)
    count = min(config.views[1], 2)
    sizes = {str(i): geometry.size for i in range(count)}
    sizes |= {f"local{i}": geometry.small for i in range(2)} if config.local else {}
    scale = torch.linspace(0.5, 2, samples, dtype=torch.float64).view(-1, *(1,) * (1 + geometry.dims))
    views = {
        name: scale * torch.randn(samples, 1, *size, generator=generator, dtype=torch.float64)
        for name, size in sizes.items()
    }
    index = torch.arange(samples)
    labels = torch.full((samples, 2), -1)
    labels[:2, 0], labels[2:4, 1] = torch.tensor([2, 0]), torch.tensor([1, 0])  # later chunks and ranks have none
    return Batch(views, 100 + index, 7 + index, labels)


def rows(batch: Batch, part: slice) -> Batch:
    """Some of the samples."""
    views = {name: x[part] for name, x in batch.views.items()}
    return Batch(views, batch.index[part], batch.seeds[part], batch.labels[part])


def fitting(config: MethodConfig, geometry: Geometry, kind: Kind) -> bool:
    """Whether the configuration takes this backbone."""
    return config.fits(geometry.backbone(kind), geometry.size) is None
