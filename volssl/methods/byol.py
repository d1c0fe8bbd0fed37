"""BYOL (Grill et al. 2020, arXiv 2006.07733): a student predicts its own slow average on another view."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from volssl.losses.agreement import cosine_agreement
from volssl.methods import BYOLConfig
from volssl.methods.base import Method, follow, half_cosine, pooled
from volssl.models.heads import MLP, Branch
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class BYOL(Method):
    """Equation 2 in both directions, summed as in the paper; views "0" and "1".

    The teacher is a deep copy that moves only in ``after_step``, parameters and BatchNorm's running
    statistics alike: statistics that lag as the weights do belong to them. In training it normalises, as the
    student does, with the statistics of the group at hand.
    """

    def __init__(self, config: BYOLConfig, encoder: Backbone) -> None:
        super().__init__()
        projector = MLP(encoder.width, *config.projector, norm=config.head_norm)
        self.student = Branch(encoder, projector)
        self.predictor = MLP(config.projector[1], *config.predictor, norm=config.head_norm)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.momentum = config.momentum
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
        online = {name: self.predictor(self.student.projector(z[name])) for name in ("0", "1")}
        with torch.no_grad():
            target = {name: self.teacher.projector(t[name]) for name in ("0", "1")}
        total = cosine_agreement(online=online["0"], target=target["1"])
        total = total + cosine_agreement(online=online["1"], target=target["0"])
        return Loss(total, metrics={"momentum": torch.tensor(half_cosine(self.momentum, at))})

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        follow(self.teacher, self.student, half_cosine(self.momentum, at))
