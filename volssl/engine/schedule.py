"""Learning rate and weight decay as pure functions of the optimiser step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from volssl.methods.base import half_cosine
from volssl.types import Progress

if TYPE_CHECKING:
    from volssl.engine import OptimConfig


def learning_rate(config: OptimConfig, at: Progress) -> float:
    """Linear warm-up, then a half cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, no restart).

    With w = ``warmup``, step s < w has ``lr * (s + 1) / (w + 1)``, so the first step already moves; step w
    has ``lr``; the last step of the run, ``steps - 1``, has ``final_lr``. A run that ends within its warm-up
    never reaches ``lr``.
    """
    if at.step < config.warmup:
        return config.lr * (at.step + 1) / (config.warmup + 1)
    fall = max(at.steps - 1 - config.warmup, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min((at.step - config.warmup) / fall, 1.0)))
    return config.final_lr + (config.lr - config.final_lr) * cosine


def weight_decay(config: OptimConfig, at: Progress) -> float:
    """One number always, or along a half cosine as DINO's rises (Caron et al. 2021, arXiv 2104.14294, section 3.2)."""
    decay = config.weight_decay
    return half_cosine(decay, at) if isinstance(decay, tuple) else decay
