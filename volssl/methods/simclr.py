"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an item find each other among the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from volssl.losses.contrastive import nt_xent
from volssl.methods import SimCLRConfig
from volssl.methods.base import Method, pooled
from volssl.models.heads import MLP
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class SimCLR(Method):
    """NT-Xent over the whole effective batch: equation 1 between the views "0" and "1"."""

    def __init__(self, config: SimCLRConfig, encoder: Backbone) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        self.temperature = config.temperature
        self.coupled = config.coupled
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def encode(self, batch: Batch) -> Tensors:
        return pooled(self.encoder, batch.views)

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        a, b = (self.projector(z[name]) for name in ("0", "1"))
        return Loss(nt_xent(a=a, b=b, temperature=self.temperature))
