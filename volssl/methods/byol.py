"""BYOL (Grill et al. 2020, arXiv 2006.07733): a student predicts its own slow average on another view."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from volssl.losses.agreement import cosine_agreement
from volssl.methods import BYOLConfig
from volssl.methods.base import Method
from volssl.models.heads import MLP
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Features, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class Branch(nn.Module):
    """Encoder and projector: what student and teacher both have."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def encode(self, batch: Batch) -> Tensors:
        """Pooled features (B, D) of every view."""
        features: dict[str, Features] = {name: self.encoder(view) for name, view in batch.views.items()}
        return {name: f.pooled for name, f in features.items()}


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
        return self.student.encode(batch)

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensors:
        return self.teacher.encode(batch)

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        online = {name: self.predictor(self.student.projector(z[name])) for name in ("0", "1")}
        with torch.no_grad():
            target = {name: self.teacher.projector(t[name]) for name in ("0", "1")}
        total = cosine_agreement(online=online["0"], target=target["1"])
        total = total + cosine_agreement(online=online["1"], target=target["0"])
        return Loss(total, metrics={"momentum": torch.tensor(momentum(self.momentum, at))})

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        follow = 1 - momentum(self.momentum, at)
        for ours, theirs in zip(self.teacher.state_dict().values(), self.student.state_dict().values(), strict=True):
            if ours.is_floating_point():
                ours.lerp_(theirs, follow)
            else:  # the number of steps that the running statistics have seen
                ours.copy_(theirs)


def momentum(ends: tuple[float, float], at: Progress) -> float:
    """m1 - (m1 - m0) (cos(pi k / K) + 1) / 2, with k of K optimiser steps (section 3.3; there m1 = 1)."""
    first, last = ends
    return last - (last - first) * (math.cos(math.pi * at.fraction) + 1) / 2
