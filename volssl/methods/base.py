"""The contract of a method: four short hooks around one cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from volssl.models.norm import commit_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.types import Tensors


class Method(nn.Module, ABC):
    """One self-supervised method. The step calls the hooks; a method sees no chunks, ranks or optimiser.

    ``coupled``: whether one sample's gradient depends on another sample, through the loss or through a head
    with batch statistics. A method calls ``defer_statistics(self)`` when it is built, so that no hook but
    ``after_step`` changes a buffer. Randomness in a hook comes from ``batch.seeds``, for a hook may be
    called twice.
    """

    coupled: bool

    @property
    @abstractmethod
    def encoders(self) -> dict[str, nn.Module]:
        """What is kept at the end, by name. A copy trained by itself wants ``defer_statistics(copy, False)``."""

    @abstractmethod
    def encode(self, batch: Batch) -> Tensors:
        """The expensive part with a gradient, per sample: name -> (B, D), for any part of the batch."""

    @abstractmethod
    def target(self, batch: Batch) -> Tensors:
        """The expensive part without a gradient, per sample: name -> (B, D); empty where there is none."""

    @abstractmethod
    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        """The cheap part: heads and loss on the whole gathered batch in float32.

        If the method is not coupled, ``total``, ``metrics`` and ``stats`` are means over the samples, since
        the step then averages those of the chunks.
        """

    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:  # noqa: ARG002 (used by methods)
        """Everything that moves once per optimiser step, after the optimiser. Overrides call this first."""
        commit_statistics(self)
