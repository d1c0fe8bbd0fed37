"""The batch of a step, cut into chunks whose views are made on the device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from volssl.types import Batch, Samples

if TYPE_CHECKING:
    from volssl.types import Tensors

Views = Callable[[Tensor, Tensor], "Tensors"]  # images (B, C, *region), seeds (B,) -> name -> (B, C, *size)
SHARE = 1 / 8  # of the device's memory that held views may take


class Chunks:
    """May be iterated more than once: views are held as long as they fit, the rest is made anew each time.

    Views are a function of the seeds, so holding them or not changes time and memory, never a number.

    Args:
        hold: bytes of views that may be held; 0 where one pass is all there will be.
    """

    def __init__(self, samples: Samples, views: Views, size: int, *, device: torch.device, hold: int = 0) -> None:
        self.samples, self.views, self.size = samples, views, size
        self.device, self.hold = device, hold
        self._held: dict[int, Batch] = {}

    def __iter__(self) -> Iterator[Batch]:
        for i, part in enumerate(self.samples.chunks(self.size)):
            batch = self._held.get(i) or self._make(part)
            if i not in self._held and _bytes(batch) <= self.hold:
                self._held[i] = batch
                self.hold -= _bytes(batch)
            yield batch

    @torch.no_grad()
    def _make(self, part: Samples) -> Batch:
        tensors = (part.images, part.index, part.seeds, part.labels)
        images, index, seeds, labels = (x.to(self.device, non_blocking=True) for x in tensors)
        return Batch(self.views(images, part.seeds), index, seeds, labels)  # drawn on the CPU: no waiting for a GPU


def _bytes(batch: Batch) -> int:
    return sum(view.nbytes for view in batch.views.values())


def memory(device: torch.device) -> int:
    """Bytes of memory that the device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
