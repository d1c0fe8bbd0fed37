"""The contract of a method: four short hooks around one cut."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from volssl.models.heads import Branch
from volssl.models.norm import commit_statistics, defer_statistics
from volssl.types import Batch, Features, Loss, Progress

if TYPE_CHECKING:
    from volssl.types import Tensors


class Method(nn.Module, ABC):
    """One self-supervised method. The step calls the hooks; a method sees no chunks, ranks or optimiser.

    ``coupled``: whether one sample's gradient depends on another sample, through the loss or through a head
    with batch statistics. A method calls ``defer_statistics(self)`` when it is built, so that no hook but
    ``after_step`` changes a buffer. Randomness in a hook comes from ``batch.seeds``, for a hook may be
    called twice. ``collapses``: whether embeddings that are all alike can be a solution, of which a person is warned.
    """

    coupled: bool
    collapses: bool = True

    @property
    @abstractmethod
    def encoders(self) -> dict[str, nn.Module]:
        """What is kept at the end, by name. A copy trained by itself wants ``defer_statistics(copy, False)``."""

    @abstractmethod
    def encode(self, batch: Batch) -> Tensors:
        """The expensive part with a gradient, per sample: name -> (B, D), for any part of the batch."""

    def target(self, batch: Batch) -> Tensors:
        """What the loss needs without a gradient, per sample: name -> (B, D). By default there is nothing."""
        del batch
        return {}

    def features(self, z: Tensors) -> dict[str, list[Tensor]]:
        """Of what ``encode`` returned, the pooled features (B, D) of every global view, by encoder.

        The collapse gauges look at the first view of each.
        """
        return {next(iter(self.encoders)): list(global_views(z).values())}

    def gauges(self, stats: Tensors) -> Tensors:
        """What is logged, and watched for collapse, of the stats of the whole batch. By default there is nothing."""
        del stats
        return {}

    @abstractmethod
    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        """The cheap part: heads and loss on the whole gathered batch in float32.

        If the method is not coupled, ``total``, ``metrics`` and ``stats`` are means over the samples, since
        the step then averages those of the chunks.
        """

    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        """Everything that moves once per optimiser step, after the optimiser. Overrides call this first."""
        commit_statistics(self)


class JointEmbedding(Method):
    """One encoder and one projector for all views; what is particular to a method is its loss on their embeddings."""

    def __init__(self, encoder: nn.Module, projector: nn.Module, *, coupled: bool) -> None:
        super().__init__()
        self.encoder, self.projector, self.coupled = encoder, projector, coupled
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def encode(self, batch: Batch) -> Tensors:
        return pooled(self.encoder, batch.views)


class StudentTeacher(Method):
    """A student looks at all views, a slow copy of it at the global ones.

    The teacher is a deep copy that moves only in ``after_step``, parameters and BatchNorm's running statistics
    alike: statistics that lag as the weights do belong to them. In training it normalises, as the student does, with
    the statistics of the group at hand.

    Args:
        momentum: of the teacher, at the first step and towards the last, along a half cosine.
    """

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, *, momentum: tuple[float, float], coupled: bool
    ) -> None:
        super().__init__()
        self.student = Branch(encoder, projector)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.momentum, self.coupled = momentum, coupled
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self.student.encoder}

    def encode(self, batch: Batch) -> Tensors:
        return pooled(self.student.encoder, batch.views)

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensors:
        return pooled(self.teacher.encoder, global_views(batch.views))

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        follow(self.teacher, self.student, half_cosine(self.momentum, at))


def pooled(encoder: nn.Module, views: Tensors) -> Tensors:
    """Pooled features (B, D) of every view, by its name."""
    features: dict[str, Features] = {name: encoder(view) for name, view in views.items()}
    return {name: f.pooled for name, f in features.items()}


def global_views(views: Tensors) -> Tensors:
    """Those of full size: ``0``, ``1``, ..."""
    return {name: x for name, x in views.items() if name.isdecimal()}


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student, parameters and running statistics alike."""
    for ours, theirs in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1 - momentum)
        else:  # the number of steps that the running statistics have seen
            ours.copy_(theirs)


def half_cosine(ends: tuple[float, float], at: Progress) -> float:
    """last - (last - first) (cos(pi k / K) + 1) / 2 at step k = 0 ... K - 1 of K: from ``first`` towards ``last``.

    BYOL's momentum (Grill et al. 2020, arXiv 2006.07733, section 3.3; there ``last`` is 1).
    """
    first, last = ends
    return last - (last - first) * (math.cos(math.pi * at.fraction) + 1) / 2
