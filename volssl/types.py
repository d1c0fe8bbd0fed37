"""What the rooms hand one another: Item, Samples, Batch, Features, Loss, Progress."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # annotations only: a configuration is checked without loading torch
    from torch import Tensor

    Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Item:
    """One image as the door gives it.

    image: (C, *spatial), slices x rows x columns for volumes, rows x columns for images.
    spacing: mm per spatial axis, in the order of the axes.
    id: what messages call it. label: class index, -1 where unknown. part: the set it belongs to, whose labels
    are its own (0 where there is one set).
    """

    image: Tensor
    spacing: tuple[float, ...]
    id: str
    label: int = -1
    part: int = 0


@dataclass(frozen=True, slots=True)
class Samples:
    """Items collated, before views are made.

    images (B, C, *region); index (B,) position in the source; seeds (B,) int64, a function of
    (run seed, epoch, item); labels (B, S) int64, one column per set of items, -1 = unknown.
    """

    images: Tensor
    index: Tensor
    seeds: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def chunks(self, size: int) -> Iterator[Samples]:
        """Consecutive parts of at most ``size`` samples."""
        for i in range(0, len(self), size):
            part = slice(i, i + size)
            yield Samples(self.images[part], self.index[part], self.seeds[part], self.labels[part])


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of some samples, ready for a method.

    views: name -> (B, C, *size); index (B,); seeds (B,); labels (B, S), one column per label set, -1 = unknown.
    """

    views: Tensors
    index: Tensor
    seeds: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True)
class Features:
    """What a backbone returns; space dies here, no loss or head knows the number of dimensions.

    tokens (B, N, D); grid: the spatial shape with N = prod(grid); pooled (B, D).
    """

    tokens: Tensor
    grid: tuple[int, ...]
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """total: scalar with a graph. metrics: scalars to log. stats: what ``after_step`` wants. Both detached."""

    total: Tensor
    metrics: Tensors = field(default_factory=dict)
    stats: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run is: ``step`` of ``steps`` optimiser steps, counted from 0."""

    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """step / steps, in [0, 1]."""
        return min(self.step / self.steps, 1.0)


class Source(Protocol):
    """A finite, indexable set of items of one shape."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Item: ...
