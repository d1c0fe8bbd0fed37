"""VICReg (Bardes et al. 2022, arXiv 2105.04906): views agree while every dimension varies for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volssl.losses.decorrelation import covariance, invariance, variance
from volssl.methods import VICRegConfig
from volssl.methods.base import JointEmbedding
from volssl.models.heads import MLP
from volssl.types import Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class VICReg(JointEmbedding):
    """Equation 6 between the views "0" and "1", with the variance and covariance terms of both added."""

    def __init__(self, config: VICRegConfig, encoder: Backbone) -> None:
        projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        super().__init__(encoder, projector, coupled=config.coupled)
        self.config = config

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        a, b = (self.projector(z[name]) for name in ("0", "1"))
        near, wide, apart = invariance(a=a, b=b), variance(z=a) + variance(z=b), covariance(z=a) + covariance(z=b)
        config = self.config
        total = config.invariance * near + config.variance * wide + config.covariance * apart
        metrics = {"invariance": near, "variance": wide, "covariance": apart}
        return Loss(total, metrics={name: term.detach() for name, term in metrics.items()})
