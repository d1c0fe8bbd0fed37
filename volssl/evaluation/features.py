"""Frozen features of every item of a source, in order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from volssl.evaluation.encoder import Encoder
from volssl.types import Source


def extract(
    encoder: Encoder,
    source: Source,
    *,
    batch: int = 8,
    device: str | torch.device = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Pooled features of each item's whole view, (N, D), row i from item i.

    The encoder runs in evaluation mode without a graph; every module is left in the mode and on the device it
    came in, since it may be in the middle of its training.

    Args:
        batch: items forwarded at once; no number depends on it beyond rounding. report: (items done, in all).
    """
    home, modes = next(encoder.parameters()).device, {module: module.training for module in encoder.modules()}
    encoder.eval().to(device)
    parts = []
    try:
        for i in range(0, len(source), batch):
            images = torch.stack([source[j].image for j in range(i, min(i + batch, len(source)))])
            with torch.inference_mode():
                parts.append(encoder(images.to(device)).pooled.float().cpu().numpy())
            if report:
                report(i + len(images), len(source))
    finally:
        encoder.to(home)
        for module, mode in modes.items():
            module.training = mode
    return np.concatenate(parts)
