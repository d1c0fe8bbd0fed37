"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an item find each other among the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volssl.losses.contrastive import nt_xent
from volssl.methods import SimCLRConfig
from volssl.methods.base import JointEmbedding
from volssl.models.heads import MLP
from volssl.types import Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class SimCLR(JointEmbedding):
    """NT-Xent over the whole effective batch: equation 1 between the views "0" and "1"."""

    def __init__(self, config: SimCLRConfig, encoder: Backbone) -> None:
        projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        super().__init__(encoder, projector, coupled=config.coupled)
        self.temperature = config.temperature

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        a, b = (self.projector(z[name]) for name in ("0", "1"))
        return Loss(nt_xent(a=a, b=b, temperature=self.temperature))
