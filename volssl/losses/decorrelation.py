"""Losses that keep the dimensions of an embedding apart: the terms of VICReg, and Barlow Twins.

All but ``invariance`` see the samples together: they need the whole batch at once.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from volssl.losses.precision import full_precision


def invariance(*, a: Tensor, b: Tensor) -> Tensor:
    """VICReg's invariance: the mean square of a - b over samples and dimensions.

    Bardes et al. 2022 (arXiv 2105.04906), algorithm 1. Equation 5 sums over the dimensions instead; the
    published weights 25, 25, 1 belong to the mean.

    a, b: (B, D). Returns a scalar.
    """
    with full_precision(a, b) as (a, b):
        return F.mse_loss(a, b)


def variance(*, z: Tensor, target: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """VICReg's variance: how far the standard deviations fall short of ``target``, mean over dimensions.

    Bardes et al. 2022 (arXiv 2105.04906), equations 1 and 2, with the unbiased variance. VICReg adds that of
    both views. When all embeddings are one, it is target - sqrt(epsilon).

    z: (B, D), B > 1. Returns a scalar.
    """
    with full_precision(z) as (z,):
        return F.relu(target - (z.var(dim=0) + epsilon).sqrt()).mean()


def covariance(*, z: Tensor) -> Tensor:
    """VICReg's covariance: the squares of the off-diagonal covariances, summed and divided by D.

    Bardes et al. 2022 (arXiv 2105.04906), equations 3 and 4. VICReg adds that of both views. When all
    embeddings are one, it is zero.

    z: (B, D), B > 1. Returns a scalar.
    """
    with full_precision(z) as (z,):
        z = z - z.mean(dim=0)
        return _off_diagonal_squares(z.T @ z / (len(z) - 1)) / z.shape[1]


def barlow_twins(*, a: Tensor, b: Tensor, redundancy: float, epsilon: float = 1e-5) -> Tensor:
    """The cross-correlation of two views against the identity: Zbontar et al. 2021 (arXiv 2103.03230), eq. 1.

    Each dimension is standardised over the batch as BatchNorm does it (biased variance plus ``epsilon``), so
    a dimension that does not vary correlates with nothing: when all embeddings are one, the loss is D.

    a, b: (B, D), B > 1, row i of both from sample i; redundancy: the weight of the off-diagonal terms, 0.0051
    in the paper. Returns a scalar.
    """
    with full_precision(a, b) as (a, b):
        correlation = _standardise(a, epsilon).T @ _standardise(b, epsilon) / len(a)
        on_diagonal = (1 - correlation.diagonal()).square().sum()
        return on_diagonal + redundancy * _off_diagonal_squares(correlation)


def _standardise(z: Tensor, epsilon: float) -> Tensor:
    """(B, D) with mean zero and variance one per dimension."""
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + epsilon).sqrt()


def _off_diagonal_squares(matrix: Tensor) -> Tensor:
    """The sum of squares off the diagonal of a (D, D) matrix."""
    return (matrix - matrix.diagonal().diag()).square().sum()
