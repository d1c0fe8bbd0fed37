"""Backbones: their configuration (torch-free) and the union that is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.models.resnet import ResNet


class ResNetConfig(Schema):
    """MONAI's ResNet. ``stem: r3d`` is torchvision's R3D-18 stem, which Kinetics-400 weights fit.

    Stems: ``imagenet`` 7^n stride 2 and max-pool; ``r3d`` 3x7x7 stride 1x2x2, no pool;
    ``small`` 3^n stride 2, no pool. ``width`` is the number of channels of the first stage (64 in the papers).
    """

    name: Literal["resnet"] = "resnet"
    dims: Literal[2, 3] = 3
    depth: Literal[10, 18, 34, 50, 101] = 18
    stem: Literal["imagenet", "r3d", "small"] = "imagenet"
    norm: Literal["batch", "group", "instance"] = "batch"
    width: int = Field(default=64, ge=4)

    @model_validator(mode="after")
    def _stem_fits(self) -> Self:
        if self.stem == "r3d" and self.dims != 3:
            raise ValueError(
                "backbone.stem r3d is three-dimensional: use dims: 3, or stem: imagenet or small"
            )
        return self

    def build(self, channels: int) -> ResNet:
        """The network for images of ``channels`` channels, randomly initialised."""
        from volssl.models.resnet import ResNet

        return ResNet(self, channels)


BackboneConfig = ResNetConfig
