"""Gauges of collapse: is the embedding still using its space, and are prototypes still told apart?"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from volssl.losses.precision import full_precision


def spread(*, z: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of the normalised rows, times sqrt(D).

    1 for directions spread evenly over the sphere, 0 where all rows point the same way. The standard
    deviation is that of the rows at hand (divided by B). SimSiam (arXiv 2011.10566), section 4.1. z: (B, D).
    """
    with full_precision(z) as (z,):
        deviation: Tensor = F.normalize(z, dim=1).std(dim=0, correction=0)
        return deviation.mean() * math.sqrt(z.shape[1])


def effective_rank(*, z: Tensor) -> Tensor:
    """exp of the entropy of the singular values: RankMe (arXiv 2210.02885), equation 1.

    Between 1 (all rows on one line; also all zero) and min(B, D) (orthogonal, equally long).
    z: (B, D), finite.
    """
    with full_precision(z) as (z,):
        values: Tensor = torch.linalg.svdvals(z)
        share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
        entropy: Tensor = torch.special.entr(share).sum()
        return entropy.exp()


def prototypes_used(*, shares: Tensor) -> Tensor:
    """How many prototypes in equal shares would be as many as these: 1 / sum of squared shares (Simpson 1949, inverse).

    Between 1 (all items fall on one) and K. shares: (K,), not negative, of any sum but 0: what each is given.
    """
    with full_precision(shares) as (shares,):
        return (shares / shares.sum()).square().sum().reciprocal()
