"""Backbones: their configuration (torch-free) and the union that is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from volssl.models.weights_config import WeightsConfig
from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.models.cost import Cost
    from volssl.models.resnet import ResNet
    from volssl.models.timm_model import Timm
    from volssl.models.vit import ViT

    Backbone: TypeAlias = ResNet | ViT | Timm

Positive = Annotated[int, Field(ge=1, le=2**16)]
HeadNorm = Literal["batch", "layer", "none"]


class ResNetConfig(Schema):
    """MONAI's ResNet. ``stem: r3d`` is torchvision's R3D-18 stem, which Kinetics-400 weights fit.

    Stems: ``imagenet`` 7^n stride 2 and max-pool; ``r3d`` 3x7x7 stride 1x2x2, no pool;
    ``small`` 3^n stride 2, no pool. ``width`` is the number of channels of the first stage (64 in papers).
    dilated: the last two stages keep the grid of the second and look further apart instead, by 2 and by 4 voxels.
    shortcut: where a stage changes its grid or channels, a convolution (B), or the voxels it keeps with zeros for
    the new channels (A). MedicalNet's ResNets are ``dilated``, and its 18 and 34 have ``shortcut: A``.
    weights: published ones to start from; ``build`` does not read them, ``volssl.models.weights`` does.
    """

    name: Literal["resnet"] = "resnet"
    dims: Literal[2, 3] = 3
    depth: Literal[10, 18, 34, 50, 101] = 18
    stem: Literal["imagenet", "r3d", "small"] = "imagenet"
    norm: Literal["batch", "group", "instance"] = "batch"
    width: int = Field(default=64, ge=4, le=2**12)
    dilated: bool = False
    shortcut: Literal["A", "B"] = "B"
    weights: WeightsConfig | None = None

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"resnet-{self.depth}"

    @model_validator(mode="after")
    def _stem_fits(self) -> Self:
        if self.stem == "r3d" and self.dims != 3:
            raise ValueError("stem r3d is three-dimensional: use dims: 3, or stem: imagenet or small")
        return self

    def fits(self, size: tuple[int, ...]) -> str | None:
        """What is wrong with images of ``size`` and what to do, or None: convolutions take any."""
        return _axes_fit(size, self.dims)

    def cost(self, channels: int, size: tuple[int, ...]) -> Cost:
        """What one image of ``size`` costs."""
        from volssl.models.cost import resnet_cost

        return resnet_cost(self, channels, size)

    def build(self, channels: int) -> ResNet:
        """The network for images of ``channels`` channels, randomly initialised."""
        from volssl.models.resnet import ResNet

        return ResNet(self, channels)


class ViTConfig(Schema):
    """Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) in two or three dimensions.

    patch: voxels of a patch along each axis, slices first. size: the image size at which the learned
    positions are stored; for views of other sizes they are interpolated. width: channels of a token. mlp:
    hidden channels of the perceptrons, in multiples of width. pool: the features of an image are its class
    token or the mean of its tokens. layer_scale: where LayerScale (arXiv 2103.17239) starts; none without it.
    weights: published ones to start from, as in ``ResNetConfig``.

    DINO's ViT-S/16 is ``dims: 2, patch: [16, 16], size: [224, 224]`` and the defaults.
    """

    name: Literal["vit"] = "vit"
    dims: Literal[2, 3] = 3
    patch: tuple[Positive, ...]
    size: tuple[Positive, ...]
    width: Positive = 384
    depth: int = Field(default=12, ge=1, le=1000)
    heads: Positive = 6
    mlp: Positive = 4
    pool: Literal["class", "mean"] = "class"
    layer_scale: float | None = Field(default=None, gt=0)
    weights: WeightsConfig | None = None

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if len(self.patch) != self.dims:
            given = f"patch {list(self.patch)} has {len(self.patch)} numbers"
            raise ValueError(f"{given}: give {self.dims}, one per axis")
        if problem := self.fits(self.size):
            raise ValueError(f"size {problem.replace('backbone.', '')}")
        if self.width % self.heads:
            near = self.width // self.heads * self.heads
            raise ValueError(
                f"width {self.width} does not divide over {self.heads} heads: "
                f"use {' or '.join(str(n) for n in (near, near + self.heads) if n)}"
            )
        return self

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"vit-{self.depth}"

    @property
    def norm(self) -> Literal["layer"]:
        """What normalises: no statistics over images, so nothing to choose."""
        return "layer"

    def fits(self, size: tuple[int, ...]) -> str | None:
        """What is wrong with images of ``size`` and what to do, or None."""
        if problem := _axes_fit(size, self.dims):
            return problem
        for n, patch in zip(size, self.patch, strict=True):
            if n < 1 or n % patch:
                near = " or ".join(str(m) for m in (n // patch * patch, (n // patch + 1) * patch) if m > 0)
                return f"{n} is not a multiple of backbone.patch {patch}: use {near}"
        return None

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """How many patches an image of a fitting ``size`` has along each axis."""
        return tuple(n // patch for n, patch in zip(size, self.patch, strict=True))

    def cost(self, channels: int, size: tuple[int, ...]) -> Cost:
        """What one image of ``size`` costs."""
        from volssl.models.cost import vit_cost

        return vit_cost(self, channels, size)

    def build(self, channels: int) -> ViT:
        """The network for images of ``channels`` channels, randomly initialised."""
        from volssl.models.vit import ViT

        return ViT(self, channels)


class TimmConfig(Schema):
    """A model of timm, where ``volssl[timm]`` is installed, with weights that are random or come from a file.

    model: as timm calls it, without the tag of its weights: nothing is ever downloaded. size: rows and columns
    that a model with learned positions or windows is laid out for; none: its own. weights: a state dict under timm's
    names, or as in ``ResNetConfig``.

    What a model takes and costs is asked of timm itself, which loads torch.

    Raises:
        ConfigError: asked, where timm is not installed or has no such model.
    """

    name: Literal["timm"] = "timm"
    dims: Literal[2] = 2
    model: str
    size: tuple[Positive, Positive] | None = None
    weights: WeightsConfig | None = None

    @field_validator("model")
    @classmethod
    def _names_no_weights(cls, model: str) -> str:
        if not model.replace("_", "").isalnum():
            raise ValueError(f"{model} is not a model alone (nothing is downloaded): write it as resnet18d is written")
        return model

    @property
    def title(self) -> str:
        """What a person calls it."""
        return self.model

    @property
    def norm(self) -> str:
        """What normalises; with ``batch``, a step depends on the size of the chunks."""
        from volssl.models.timm_model import timm_norm

        return timm_norm(self)

    def fits(self, size: tuple[int, ...]) -> str | None:
        """What is wrong with images of ``size`` and what to do, or None."""
        from volssl.models.timm_model import timm_refusal

        return _axes_fit(size, self.dims) or timm_refusal(self, size)

    def cost(self, channels: int, size: tuple[int, ...]) -> Cost:
        """What one image of ``size`` costs."""
        from volssl.models.timm_model import timm_cost

        return timm_cost(self, channels, size)

    def build(self, channels: int) -> Timm:
        """The network for images of ``channels`` channels, randomly initialised."""
        from volssl.models.timm_model import Timm

        return Timm(self, channels)


def _axes_fit(size: tuple[int, ...], dims: int) -> str | None:
    if len(size) == dims:
        return None
    return f"{list(size)} has {len(size)} numbers, backbone.dims is {dims}: give {dims}"


BackboneConfig = Annotated[ResNetConfig | ViTConfig | TimmConfig, Field(discriminator="name")]
