"""DINO (Caron et al. 2021, arXiv 2104.14294): the student gives every view the label that its teacher gave another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from volssl.losses.assignment import distillation
from volssl.losses.collapse import prototypes_used
from volssl.methods import DINOConfig
from volssl.methods.base import StudentTeacher, half_cosine
from volssl.models.heads import MLP, Prototypes
from volssl.types import Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class Head(nn.Module):
    """A perceptron to a narrow embedding, and its scores against many prototypes: (B, D) to (B, K)."""

    def __init__(self, config: DINOConfig, width: int) -> None:
        super().__init__()
        self.perceptron = MLP(width, *config.projector, norm=config.head_norm, gelu=True)
        self.prototypes = Prototypes(config.projector[-1], config.prototypes)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        out: Tensor = self.prototypes(self.perceptron(x), frozen=frozen)
        return out


class DINO(StudentTeacher):
    """Algorithm 1: the teacher looks at the global views, the student at all.

    The centre is that of the steps before, so no item depends on another, and the mean over a chunk is a part of
    the next centre.
    """

    centre: Tensor

    def __init__(self, config: DINOConfig, encoder: Backbone) -> None:
        head = Head(config, encoder.width)
        super().__init__(encoder, head, momentum=config.momentum, coupled=config.coupled)
        self.config = config
        self.register_buffer("centre", torch.zeros(config.prototypes))

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        config, frozen = self.config, at.step < self.config.freeze
        with torch.no_grad():
            teacher = {name: self.teacher.projector(x) for name, x in t.items()}
        sharp = warm_up(config.teacher_temperature, config.teacher_warmup, at)
        total = distillation(
            student={name: self.student.projector(x, frozen=frozen) for name, x in z.items()},
            teacher=teacher,
            centre=self.centre,
            student_temperature=config.temperature,
            teacher_temperature=sharp,
        )
        metrics = {"momentum": half_cosine(self.momentum, at), "teacher_temperature": sharp}
        return Loss(
            total,
            metrics={name: torch.tensor(value) for name, value in metrics.items()},
            stats={
                "centre": torch.stack([x.mean(0) for x in teacher.values()]).mean(0),
                "assigned": torch.stack(
                    [((x - self.centre) / sharp).softmax(1).mean(0) for x in teacher.values()]
                ).mean(0),
            },
        )

    def gauges(self, stats: Tensors) -> Tensors:
        return {"prototypes_used": prototypes_used(shares=stats["assigned"])}

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        self.centre.lerp_(stats["centre"].to(self.centre), 1 - self.config.centre_momentum)


def warm_up(ends: tuple[float, float], steps: int, at: Progress) -> float:
    """From the first value to the last in a straight line over the first ``steps`` optimiser steps."""
    first, last = ends
    return first + (last - first) * min(at.step / steps, 1.0) if steps else last
