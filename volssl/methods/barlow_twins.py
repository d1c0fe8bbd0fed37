"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230): the cross-correlation of two views becomes the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from volssl.losses.decorrelation import barlow_twins
from volssl.methods import BarlowTwinsConfig
from volssl.methods.base import Method, pooled
from volssl.models.heads import MLP
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class BarlowTwins(Method):
    """Equation 1 between the views "0" and "1"."""

    def __init__(self, config: BarlowTwinsConfig, encoder: Backbone) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        self.redundancy = config.redundancy
        self.coupled = config.coupled
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def encode(self, batch: Batch) -> Tensors:
        return pooled(self.encoder, batch.views)

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        a, b = (self.projector(z[name]) for name in ("0", "1"))
        return Loss(barlow_twins(a=a, b=b, redundancy=self.redundancy))
