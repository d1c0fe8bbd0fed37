"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230): the cross-correlation of two views becomes the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volssl.losses.decorrelation import barlow_twins
from volssl.methods import BarlowTwinsConfig
from volssl.methods.base import JointEmbedding
from volssl.models.heads import MLP
from volssl.types import Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class BarlowTwins(JointEmbedding):
    """Equation 1 between the views "0" and "1"."""

    def __init__(self, config: BarlowTwinsConfig, encoder: Backbone) -> None:
        projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        super().__init__(encoder, projector, coupled=config.coupled)
        self.redundancy = config.redundancy

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        a, b = (self.projector(z[name]) for name in ("0", "1"))
        return Loss(barlow_twins(a=a, b=b, redundancy=self.redundancy))
