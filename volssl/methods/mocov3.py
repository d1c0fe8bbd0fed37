"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057): the prediction of a view finds the slow encoder's other view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from volssl.losses.contrastive import info_nce
from volssl.methods import MoCoV3Config
from volssl.methods.base import StudentTeacher, half_cosine
from volssl.models.heads import MLP
from volssl.models.norm import defer_statistics
from volssl.types import Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class MoCoV3(StudentTeacher):
    """Algorithm 1 between the views "0" and "1", the keys being those of the whole effective batch."""

    def __init__(self, config: MoCoV3Config, encoder: Backbone) -> None:
        if config.freeze_patches and hasattr(encoder, "patch_embed"):
            encoder.patch_embed.requires_grad_(False)
        projector = MLP(encoder.width, *config.projector, closing=True)
        super().__init__(encoder, projector, momentum=config.momentum, coupled=config.coupled)
        self.predictor = MLP(config.projector[-1], *config.predictor, closing=True)
        self.temperature = config.temperature
        defer_statistics(self.predictor)

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        query = {name: self.predictor(self.student.projector(z[name])) for name in ("0", "1")}
        with torch.no_grad():
            key = {name: self.teacher.projector(t[name]) for name in ("0", "1")}
        total = info_nce(query=query["0"], key=key["1"], temperature=self.temperature)
        total = total + info_nce(query=query["1"], key=key["0"], temperature=self.temperature)
        return Loss(total, metrics={"momentum": torch.tensor(half_cosine(self.momentum, at))})
