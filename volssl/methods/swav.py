"""SwAV (Caron et al. 2020, arXiv 2006.09882): every view predicts the cluster of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from volssl.losses.assignment import sinkhorn, swapped_prediction
from volssl.losses.collapse import prototypes_used
from volssl.methods import SwAVConfig
from volssl.methods.base import JointEmbedding
from volssl.models.heads import MLP, Prototypes
from volssl.types import Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


CODED = ("0", "1")  # the views that get codes, as in the released code


class SwAV(JointEmbedding):
    """Equation 2: every view predicts the codes of the first two.

    The codes come from the whole effective batch, beside the rows of the queue: the unit embeddings of earlier
    batches under the prototypes of today. The queue moves once per optimiser step.
    """

    queue: Tensor
    queued: Tensor

    def __init__(self, config: SwAVConfig, encoder: Backbone) -> None:
        projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        super().__init__(encoder, projector, coupled=config.coupled)
        self.prototypes = Prototypes(config.projector[-1], config.prototypes)
        self.config = config
        self.register_buffer("queue", torch.zeros(len(CODED), config.queue, config.projector[-1]))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        embedding = {name: F.normalize(self.projector(x), dim=1) for name, x in z.items()}
        frozen = at.step < self.config.freeze
        scores = {name: self.prototypes(x, frozen=frozen) for name, x in embedding.items()}
        codes = {name: self._codes(scores[name].detach(), queue) for name, queue in zip(CODED, self.queue, strict=True)}
        total = swapped_prediction(scores=scores, codes=codes, temperature=self.config.temperature)
        keep = self.config.queue > 0 and at.step >= self.config.queue_start
        used = torch.stack([code.detach().sum(0) for code in codes.values()]).sum(0)
        return Loss(
            total,
            metrics={"prototypes_used": prototypes_used(shares=used)},
            stats={name: embedding[name].detach() for name in CODED} if keep else {},
        )

    @torch.no_grad()
    def _codes(self, scores: Tensor, queue: Tensor) -> Tensor:
        """(B, K) to the codes of the same rows; the queue counts once it is full."""
        full = len(queue) > 0 and int(self.queued) == len(queue)
        rows = torch.cat([scores, self.prototypes(queue)]) if full else scores
        codes = sinkhorn(scores=rows, epsilon=self.config.epsilon, iterations=self.config.iterations)
        return codes[: len(scores)]

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        self.prototypes.normalise()
        if stats:
            rows = torch.stack([stats[name] for name in CODED])
            self.queue.copy_(torch.cat([rows.to(self.queue), self.queue], dim=1)[:, : self.config.queue])
            self.queued.copy_((self.queued + rows.shape[1]).clamp(max=self.config.queue))
