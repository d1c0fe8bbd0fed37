"""The contract of a method: four short hooks around one cut."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from volssl.models.norm import commit_statistics
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
        return {next(iter(self.encoders)): [x for name, x in z.items() if name.isdecimal()]}

    @abstractmethod
    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        """The cheap part: heads and loss on the whole gathered batch in float32.

        If the method is not coupled, ``total``, ``metrics`` and ``stats`` are means over the samples, since
        the step then averages those of the chunks.
        """

    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        """Everything that moves once per optimiser step, after the optimiser. Overrides call this first."""
        commit_statistics(self)


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
