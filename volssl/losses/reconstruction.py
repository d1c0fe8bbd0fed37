"""The error of drawn patches: the loss of masked autoencoders."""

from __future__ import annotations

from torch import Tensor

from volssl.losses.precision import full_precision


def patch_error(*, drawn: Tensor, pixels: Tensor, normalise: bool, epsilon: float = 1e-6) -> Tensor:
    """Mean squared error over items, hidden patches and their pixels (He et al. 2022, arXiv 2111.06377, section 3).

    normalise: the patches to draw are first given zero mean and unit variance, each by itself, with the unbiased
    variance plus ``epsilon`` as in the released code. The best constant answer then scores (P - 1) / P for patches
    that vary, P being their pixels. No gradient flows into ``pixels``.

    drawn, pixels: (B, K, P). Returns a scalar.
    """
    with full_precision(drawn, pixels.detach()) as (x, y):
        if normalise:
            y = (y - y.mean(dim=-1, keepdim=True)) / (y.var(dim=-1, keepdim=True) + epsilon).sqrt()
        return (x - y).square().mean()
