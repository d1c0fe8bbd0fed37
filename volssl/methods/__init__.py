"""Methods: their configuration (torch-free) and the union that is the registry; long, for it stands in one place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from volssl.models import BackboneConfig, HeadNorm, ViTConfig
from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.methods.base import Method
    from volssl.models import Backbone

Width = Annotated[int, Field(ge=1, le=2**20)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0.0, le=10.0)]
MANY = 64


def _can_differ(classes: int) -> int:
    if classes == 1:
        raise ValueError("one class tells no item from another: use 2 or more, or 0 where there are no labels")
    return classes


Classes = Annotated[int, Field(ge=0), AfterValidator(_can_differ)]


class Settings(Schema):
    """What the rest of the house asks of every method's configuration."""

    VIEWS: ClassVar[tuple[int, int]] = (2, 2)
    LOCAL: ClassVar[bool] = False
    TEACHER: ClassVar[bool] = False

    @property
    def views(self) -> tuple[int, int]:
        """The fewest and the most global views of an item."""
        return self.VIEWS

    @property
    def local(self) -> bool:
        """Whether small views may be added (multi-crop)."""
        return self.LOCAL

    @property
    def teacher(self) -> bool:
        """Whether a slow copy of the encoder looks at the global views too."""
        return self.TEACHER

    @property
    def coupled(self) -> bool:
        """Whether one item's gradient depends on another: through the loss, or a head's BatchNorm."""
        return True

    @property
    def partners(self) -> dict[str, BackboneConfig]:
        """Encoders beside the one that ``backbone`` describes, on the same views, by their keys."""
        return {}

    @property
    def label_sets(self) -> tuple[int, ...]:
        """The number of classes of each set of labels it learns from; none where it takes no labels."""
        return ()

    @property
    def seen(self) -> float:
        """The share of a view that the encoder is shown."""
        return 1.0

    def never(self, steps: int) -> Iterator[tuple[str, str]]:
        """(key, what would never happen in a run of so many steps and what to do), of every schedule."""
        del steps
        yield from ()

    def fits(self, backbone: BackboneConfig, size: tuple[int, ...]) -> tuple[str, str] | None:
        """(key, why the method cannot train such an encoder on views of ``size`` and what to do), or None."""
        del backbone, size
        return None


class BYOLConfig(Settings):
    """BYOL (Grill et al. 2020, arXiv 2006.07733).

    projector, predictor: hidden and output width of each two-layer head. momentum: of the teacher, from the
    first value towards the second, along a half cosine. head_norm: ``batch`` sees the whole effective batch.
    """

    TEACHER: ClassVar[bool] = True
    name: Literal["byol"] = "byol"
    projector: tuple[Width, Width] = (4096, 256)
    predictor: tuple[Width, Width] = (4096, 256)
    momentum: tuple[Share, Share] = (0.996, 1.0)
    head_norm: HeadNorm = "batch"

    @model_validator(mode="after")
    def _widths_agree(self) -> Self:
        _end_alike(self.projector, self.predictor)
        return self

    @property
    def coupled(self) -> bool:
        return self.head_norm == "batch"

    def build(self, encoder: Backbone) -> Method:
        """The method around a freshly built encoder."""
        from volssl.methods.byol import BYOL

        return BYOL(self, encoder)


class SimCLRConfig(Settings):
    """SimCLR (Chen et al. 2020, arXiv 2002.05709). projector: hidden widths and output width of the head."""

    name: Literal["simclr"] = "simclr"
    projector: Widths = (2048, 128)
    temperature: Temperature = 0.5
    head_norm: HeadNorm = "batch"

    def build(self, encoder: Backbone) -> Method:
        """As ``BYOLConfig.build``."""
        from volssl.methods.simclr import SimCLR

        return SimCLR(self, encoder)


class MoCoV3Config(Settings):
    """MoCo v3 (Chen et al. 2021, arXiv 2104.02057).

    projector, predictor: hidden widths and output width; 4096-4096-256 and 4096-256 in the paper's ViTs.
    freeze_patches: leave a Transformer's patch embedding as it was drawn, which the paper found more stable.
    """

    TEACHER: ClassVar[bool] = True
    name: Literal["mocov3"] = "mocov3"
    projector: Widths = (4096, 256)
    predictor: Widths = (4096, 256)
    temperature: Temperature = 0.2
    momentum: tuple[Share, Share] = (0.99, 1.0)
    freeze_patches: bool = True

    @model_validator(mode="after")
    def _widths_agree(self) -> Self:
        _end_alike(self.projector, self.predictor)
        return self

    def build(self, encoder: Backbone) -> Method:
        """As ``BYOLConfig.build``."""
        from volssl.methods.mocov3 import MoCoV3

        return MoCoV3(self, encoder)


class VICRegConfig(Settings):
    """VICReg (Bardes et al. 2022, arXiv 2105.04906). The weights are the paper's lambda, mu and nu."""

    name: Literal["vicreg"] = "vicreg"
    projector: Widths = (8192, 8192, 8192)
    invariance: Weight = 25.0
    variance: Weight = 25.0
    covariance: Weight = 1.0
    head_norm: HeadNorm = "batch"

    def build(self, encoder: Backbone) -> Method:
        """As ``BYOLConfig.build``."""
        from volssl.methods.vicreg import VICReg

        return VICReg(self, encoder)


class BarlowTwinsConfig(Settings):
    """Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230). redundancy: weight of the off-diagonal terms."""

    name: Literal["barlow_twins"] = "barlow_twins"
    projector: Widths = (8192, 8192, 8192)
    redundancy: Weight = 0.0051
    head_norm: HeadNorm = "batch"

    def build(self, encoder: Backbone) -> Method:
        """As ``BYOLConfig.build``."""
        from volssl.methods.barlow_twins import BarlowTwins

        return BarlowTwins(self, encoder)


class SwAVConfig(Settings):
    """SwAV (Caron et al. 2020, arXiv 2006.09882); widths and temperatures are those of its recipe for small batches.

    projector: hidden widths and output width. epsilon, iterations: of Sinkhorn's algorithm. queue: rows of
    earlier batches, per global view, beside which the codes are made; from optimiser step ``queue_start`` on
    they are kept, and used once there are as many (the recipe's 15th epoch). freeze: steps for which the prototypes
    stay as drawn (its first epoch).
    """

    VIEWS: ClassVar[tuple[int, int]] = (2, MANY)
    LOCAL: ClassVar[bool] = True
    name: Literal["swav"] = "swav"
    projector: Widths = (2048, 128)
    prototypes: int = Field(default=3000, ge=2, le=2**24)
    temperature: Temperature = 0.1
    epsilon: float = Field(default=0.05, gt=0, le=10)
    iterations: int = Field(default=3, ge=1)
    queue: Count = 3840
    queue_start: Count = 0
    freeze: Count = 0
    head_norm: HeadNorm = "batch"

    def never(self, steps: int) -> Iterator[tuple[str, str]]:
        if self.freeze >= steps:
            yield _too_long("freeze", self.freeze, steps, "the prototypes would never move")
        if self.queue and self.queue_start >= steps:
            yield _too_long("queue_start", self.queue_start, steps, "the queue would never be used")

    def build(self, encoder: Backbone) -> Method:
        """As ``BYOLConfig.build``."""
        from volssl.methods.swav import SwAV

        return SwAV(self, encoder)


class DINOConfig(Settings):
    """DINO (Caron et al. 2021, arXiv 2104.14294).

    projector: hidden widths and bottleneck of the head. prototypes: its outputs. teacher_temperature: from the
    first step to step ``teacher_warmup``, in a straight line, then constant. centre_momentum: of the centre.
    freeze: steps for which the last layer stays as drawn. head_norm: ``none`` in the paper; with ``batch`` items
    depend on one another.
    """

    VIEWS: ClassVar[tuple[int, int]] = (2, MANY)
    LOCAL: ClassVar[bool] = True
    TEACHER: ClassVar[bool] = True
    name: Literal["dino"] = "dino"
    projector: Widths = (2048, 2048, 256)
    prototypes: int = Field(default=65536, ge=2, le=2**24)
    temperature: Temperature = 0.1
    teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07)
    teacher_warmup: Count = 0
    momentum: tuple[Share, Share] = (0.996, 1.0)
    centre_momentum: Share = 0.9
    freeze: Count = 0
    head_norm: HeadNorm = "none"

    @property
    def coupled(self) -> bool:
        return self.head_norm == "batch"

    def never(self, steps: int) -> Iterator[tuple[str, str]]:
        if self.freeze >= steps:
            yield _too_long("freeze", self.freeze, steps, "the last layer would never move")
        if self.teacher_warmup > steps:
            what = "the teacher's temperature would never reach its last value"
            yield _too_long("teacher_warmup", self.teacher_warmup, steps, what)

    def build(self, encoder: Backbone) -> Method:
        """As ``BYOLConfig.build``."""
        from volssl.methods.dino import DINO

        return DINO(self, encoder)


class CASSConfig(Settings):
    """CASS (Singh, Sizikova, Cirrone 2022, arXiv 2206.04170): two architectures agree on one view.

    partner: the other encoder. logits: outputs of the linear layer on each; the published code compares the 1000
    logits of two ImageNet classifiers. norm: ``none`` as published; ``batch`` standardises each logit over the
    whole effective batch, so that a constant answer does not count as agreement.
    """

    VIEWS: ClassVar[tuple[int, int]] = (1, MANY)
    name: Literal["cass"] = "cass"
    partner: BackboneConfig
    logits: Width = 1000
    norm: Literal["none", "batch"] = "none"

    @property
    def coupled(self) -> bool:
        return self.norm == "batch"

    @property
    def partners(self) -> dict[str, BackboneConfig]:
        return {"partner": self.partner}

    def build(self, *encoders: Backbone) -> Method:
        """The method around two freshly built encoders: that of ``backbone``, and ``partner``."""
        from volssl.methods.cass import CASS

        return CASS(self, encoders)


class MAEConfig(Settings):
    """Masked autoencoder (He et al. 2022, arXiv 2111.06377), in 3D as in VideoMAE (arXiv 2203.12602).

    mask: share of the patches that are hidden. tube: hide the same places in every slice or frame. width, depth,
    heads: of the decoder. normalise: predict patches of zero mean and unit variance.
    """

    VIEWS: ClassVar[tuple[int, int]] = (1, MANY)
    name: Literal["mae"] = "mae"
    mask: float = Field(default=0.75, gt=0, lt=1)
    tube: bool = False
    width: Width = 512
    depth: Width = 8
    heads: Width = 16
    normalise: bool = True

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide over {self.heads} heads: use a multiple")
        return self

    @property
    def coupled(self) -> bool:
        return False

    @property
    def seen(self) -> float:
        return 1 - self.mask

    def fits(self, backbone: BackboneConfig, size: tuple[int, ...]) -> tuple[str, str] | None:
        if not isinstance(backbone, ViTConfig):
            return "backbone.name", f"{backbone.name} cannot leave patches out, which mae needs: use vit"
        if self.tube and backbone.dims == 2:
            return "method.tube", "flat images have no slices or frames to hide a tube in: use false"
        grid = backbone.grid(size)
        if math.prod(grid[1:] if self.tube else grid) < 2:
            return "views.size", f"{list(size)} is one patch of {list(backbone.patch)}: use more, or smaller patches"
        return None

    def build(self, encoder: Backbone) -> Method:
        """As ``BYOLConfig.build``."""
        from volssl.methods.mae import MAE

        return MAE(self, encoder)


SelfSupervised = (
    BYOLConfig
    | SimCLRConfig
    | MoCoV3Config
    | VICRegConfig
    | BarlowTwinsConfig
    | SwAVConfig
    | DINOConfig
    | CASSConfig
    | MAEConfig
)


class HybridConfig(Settings):
    """Self-supervised and supervised training at once (Ghesu et al. 2022, arXiv 2201.01283).

    ssl: any other method, with weight 1. classes: the number of classes of each label set, in the order of the
    parts of ``data``; 0 for a part without labels, which gets no classifier. weight: of the cross entropy on the
    labelled items, from the first value towards the second, along a half cosine. smoothing: of the labels.
    """

    name: Literal["hybrid"] = "hybrid"
    ssl: Annotated[SelfSupervised, Field(discriminator="name")]
    classes: Annotated[tuple[Classes, ...], Field(min_length=1)]
    weight: tuple[Weight, Weight] = (1.0, 1.0)
    smoothing: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _learns_from_labels(self) -> Self:
        if not any(self.classes):
            raise ValueError("classes are 0 in every part, so there is nothing to learn from labels: use ssl alone")
        return self

    @property
    def views(self) -> tuple[int, int]:
        return self.ssl.views

    @property
    def local(self) -> bool:
        return self.ssl.local

    @property
    def teacher(self) -> bool:
        return self.ssl.teacher

    @property
    def seen(self) -> float:
        return self.ssl.seen

    @property
    def label_sets(self) -> tuple[int, ...]:
        return self.classes

    @property
    def partners(self) -> dict[str, BackboneConfig]:
        return {f"ssl.{key}": partner for key, partner in self.ssl.partners.items()}

    def fits(self, backbone: BackboneConfig, size: tuple[int, ...]) -> tuple[str, str] | None:
        problem = self.ssl.fits(backbone, size)
        return problem and (_inside(problem[0]), problem[1])

    def never(self, steps: int) -> Iterator[tuple[str, str]]:
        yield from ((_inside(key), what) for key, what in self.ssl.never(steps))

    def build(self, *encoders: Backbone) -> Method:
        """The method around the encoders of ``ssl``."""
        from volssl.methods.hybrid import Hybrid

        return Hybrid(self, encoders)


MethodConfig = Annotated[SelfSupervised | HybridConfig, Field(discriminator="name")]


def _inside(key: str) -> str:
    """The key of the method that a hybrid is around."""
    return key.replace("method.", "method.ssl.")


def _too_long(field: str, given: int, steps: int, what: str) -> tuple[str, str]:
    return f"method.{field}", f"{given} steps of a run of {steps}: {what}: make it shorter"


def _end_alike(projector: tuple[int, ...], predictor: tuple[int, ...]) -> None:
    if predictor[-1] != projector[-1]:
        better = [*predictor[:-1], projector[-1]]
        raise ValueError(
            f"predictor must end in the {projector[-1]} numbers that projector ends in "
            f"(got {predictor[-1]}): use predictor: {better}"
        )
