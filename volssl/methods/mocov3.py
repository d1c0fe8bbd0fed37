"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057): the prediction of a view finds the slow encoder's other view."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from volssl.losses.contrastive import info_nce
from volssl.methods import MoCoV3Config
from volssl.methods.base import Method, follow, half_cosine, pooled
from volssl.models.heads import MLP, Branch
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class MoCoV3(Method):
    """Algorithm 1 between the views "0" and "1", the keys being those of the whole effective batch."""

    def __init__(self, config: MoCoV3Config, encoder: Backbone) -> None:
        super().__init__()
        if config.freeze_patches and hasattr(encoder, "patch_embed"):
            encoder.patch_embed.requires_grad_(False)
        self.student = Branch(encoder, MLP(encoder.width, *config.projector, closing=True))
        self.predictor = MLP(config.projector[-1], *config.predictor, closing=True)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.momentum, self.temperature = config.momentum, config.temperature
        self.coupled = config.coupled
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self.student.encoder}

    def encode(self, batch: Batch) -> Tensors:
        return pooled(self.student.encoder, batch.views)

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensors:
        return pooled(self.teacher.encoder, batch.views)

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        query = {name: self.predictor(self.student.projector(z[name])) for name in ("0", "1")}
        with torch.no_grad():
            key = {name: self.teacher.projector(t[name]) for name in ("0", "1")}
        total = info_nce(query=query["0"], key=key["1"], temperature=self.temperature)
        total = total + info_nce(query=query["1"], key=key["0"], temperature=self.temperature)
        return Loss(total, metrics={"momentum": torch.tensor(half_cosine(self.momentum, at))})

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        follow(self.teacher, self.student, half_cosine(self.momentum, at))
