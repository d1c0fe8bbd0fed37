"""BYOL (Grill et al. 2020, arXiv 2006.07733): a student predicts its own slow average on another view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from volssl.losses.agreement import cosine_agreement
from volssl.methods import BYOLConfig
from volssl.methods.base import StudentTeacher, half_cosine
from volssl.models.heads import MLP
from volssl.models.norm import defer_statistics
from volssl.types import Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class BYOL(StudentTeacher):
    """Equation 2 in both directions, summed as in the paper; views "0" and "1"."""

    def __init__(self, config: BYOLConfig, encoder: Backbone) -> None:
        projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        super().__init__(encoder, projector, momentum=config.momentum, coupled=config.coupled)
        self.predictor = MLP(config.projector[1], *config.predictor, norm=config.head_norm)
        defer_statistics(self.predictor)

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        online = {name: self.predictor(self.student.projector(z[name])) for name in ("0", "1")}
        with torch.no_grad():
            target = {name: self.teacher.projector(t[name]) for name in ("0", "1")}
        total = cosine_agreement(online=online["0"], target=target["1"])
        total = total + cosine_agreement(online=online["1"], target=target["0"])
        return Loss(total, metrics={"momentum": torch.tensor(half_cosine(self.momentum, at))})
