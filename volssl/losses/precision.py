"""The numeric precision inside a loss: float32 at least, autocast off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in float32, or as they are where they are float64, in a block without autocast.

    A softmax at T = 0.01 or a cross-correlation is noise in bfloat16, and under autocast a matrix product
    of float32 tensors would go back to it.
    """
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield tuple(x if x.dtype == torch.float64 else x.float() for x in tensors)
