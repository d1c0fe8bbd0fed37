"""Intensity operations: batched, in place, each with a setting per sample at which it does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from numpy.polynomial import legendre
from torch import Tensor

from volssl.views.axes import Matrix, along, gaussian
from volssl.views.colour import adjust_stains, turn_colours
from volssl.views.draw import Parameters

Change = Callable[[Tensor, Parameters], None]
_TINY = 1e-7  # keeps a constant channel from dividing by zero, as in MONAI's AdjustContrast


def apply_intensity(x: Tensor, p: Parameters, *, joint: bool = False) -> None:
    """Change x (B, C, *size) float32 in place, in the order in which an image comes about.

    Tissue first (stains, bands, curve, gamma, contrast and brightness, colours), then the coil (bias), the
    receiver (noise) and what is missing (boxes). Minimum, maximum and mean are each channel's own, or of all
    channels where ``joint``.
    """
    straight = np.linspace(0.0, 1.0, p.curve.shape[1], dtype=np.float32)
    moved = _differs(p.contrast, 1.0) | _differs(p.brightness, 0.0)
    stained = _differs(p.stain, 1.0) | _differs(p.stain_shift, 0.0)
    turned = _differs(p.saturation, 1.0) | _differs(p.hue, 0.0)
    _where(x, p, stained, lambda x, p: adjust_stains(x, p.stain, p.stain_shift))
    _where(x, p, _differs(p.bands, 1.0), lambda x, p: energy_bands(x, p.bands))
    _where(x, p, _differs(p.curve, straight), lambda x, p: shift_histogram(x, p.curve, joint=joint))
    _where(x, p, _differs(p.gamma, 1.0), lambda x, p: adjust_gamma(x, p.gamma, joint=joint))
    _where(x, p, moved, lambda x, p: adjust_contrast(x, p.contrast, p.brightness, joint=joint))
    _where(x, p, turned, lambda x, p: turn_colours(x, p.saturation, p.hue))
    _where(x, p, _differs(p.bias, 0.0), lambda x, p: multiply_bias(x, p.bias))
    _where(x, p, _differs(p.noise, 0.0), lambda x, p: add_noise(x, p.noise, p.noise_seed.tolist()))
    _where(x, p, _differs(p.boxes[..., 1] - p.boxes[..., 0], 0.0), lambda x, p: drop_boxes(x, p.boxes))


def _differs(values: Tensor, identity: float | npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(B,): the samples whose setting is not the identity."""
    different: npt.NDArray[np.bool_] = (values.numpy() != identity).reshape(len(values), -1).any(axis=1)
    return different


def _where(x: Tensor, p: Parameters, active: npt.NDArray[np.bool_], change: Change) -> None:
    """Change the active samples only: an inactive one keeps its bits whoever its neighbours are."""
    if active.all():
        change(x, p)
    elif active.any():
        rows = torch.from_numpy(np.flatnonzero(active))
        at = rows.to(x.device)
        part = x[at]
        change(part, p[rows])
        x[at] = part


def energy_bands(x: Tensor, gains: Tensor) -> None:
    """Scale each energy band of the plane (after Philipsen et al., IEEE TMI 34(9), 2015).

    b_0 = x, b_i = x blurred in the plane with sd 2^i voxels; band i = b_i - b_{i+1}; the residual b_K keeps
    its weight. With all gains 1 the sum is x, to the bit.

    Args:
        gains: (B, K), finest band first.
    """
    weights = torch.cat([gains, torch.ones(len(gains), 1)], dim=1).to(x)
    source = x.clone()
    x.mul_(_per_sample(weights[:, 0], x))
    for i in range(1, weights.shape[1]):
        smooth = source
        for axis in (-2, -1):
            matrix = gaussian(x.shape[axis], 2.0**i)
            smooth = along(smooth, [matrix] * len(x), x.ndim + axis)
        x.addcmul_(smooth, _per_sample(weights[:, i] - weights[:, i - 1], x))


def shift_histogram(x: Tensor, curve: Tensor, *, joint: bool = False) -> None:
    """Send intensities through a piecewise linear curve from each channel's minimum to its maximum (``joint``: of all).

    Args:
        curve: (B, P), the values at P evenly spaced points of 0..1.
    """
    low, span = _bounds(x, joint)
    steps = curve.shape[1] - 1
    slopes = ((curve[:, 1:] - curve[:, :-1]) * steps).to(x)
    x.sub_(low).div_(span + _TINY)
    y = x * _per_sample(slopes[:, 0], x) + _per_sample(curve[:, 0].to(x), x)
    for i in range(1, steps):
        bend = _per_sample(slopes[:, i] - slopes[:, i - 1], x)
        y.addcmul_((x - i / steps).clamp_(min=0.0), bend)
    torch.mul(y, span, out=x).add_(low)


def adjust_gamma(x: Tensor, gamma: Tensor, *, joint: bool = False) -> None:
    """x ** gamma between each channel's minimum and maximum (those of all where ``joint``), which stay.

    Args:
        gamma: (B,).
    """
    low, span = _bounds(x, joint)
    x.sub_(low).div_(span + _TINY)
    x.log2_().mul_(_per_sample(gamma.to(x), x)).exp2_()  # quicker than pow_ on a CPU
    x.mul_(span).add_(low)


def adjust_contrast(x: Tensor, contrast: Tensor, brightness: Tensor, *, joint: bool = False) -> None:
    """Multiply the distance to each channel's mean (that of all channels where ``joint``), then add.

    Args:
        contrast: (B,), factor. brightness: (B,), in the image's units.
    """
    factor = _per_sample(contrast.to(x), x)
    # One mean per sample: a reduction over a batch may sum in another order for another batch.
    means = [sample.flatten(0 if joint else 1).mean(-1) for sample in x]
    mean = torch.stack(means).view(len(x), -1, *(1,) * (x.ndim - 2))
    shift = mean * (1.0 - factor) + _per_sample(brightness.to(x), x)
    x.mul_(factor).add_(shift)


def multiply_bias(x: Tensor, coefficients: Tensor) -> None:
    """Multiply by exp of a polynomial on [-1, 1] per axis (Van Leemput et al., IEEE TMI 18(10), 1999).

    Args:
        coefficients: (B, degree + 1, ...), one axis per image axis.
    """
    field = coefficients.to(x).unsqueeze(1)
    degree = coefficients.shape[1] - 1
    for axis, n in enumerate(x.shape[2:], 2):
        basis: Matrix = legendre.legvander(np.linspace(-1.0, 1.0, n), degree).astype(np.float64)
        field = along(field, [basis] * len(x), axis)
    x.mul_(field.exp_())


def add_noise(x: Tensor, sd: Tensor, seeds: Sequence[int]) -> None:
    """Add Gaussian noise from each sample's own generator on x's device.

    Args:
        sd: (B,), in the image's units.
    """
    generator = torch.Generator(x.device)
    quantiles = normal_quantiles(x.device)
    for sample, width, seed in zip(x, sd.tolist(), seeds, strict=True):
        words = torch.empty(-(-sample.numel() // 4), dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=generator.manual_seed(seed))
        numbers = words.view(torch.int16)[: sample.numel()].to(torch.int32).add_(2**15)
        sample += (quantiles * width).index_select(0, numbers).view(sample.shape)


@cache
def normal_quantiles(device: torch.device) -> Tensor:
    """The standard normal distribution as 2^16 equally likely numbers, float32, once per device.

    Four of them come from one 64-bit word of the generator: less work than ``normal_``.
    """
    ranks = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(ranks).float().to(device)
    return quantiles


def drop_boxes(x: Tensor, boxes: Tensor) -> None:
    """Set boxes to 0 in every channel.

    Args:
        boxes: (B, holes, n, 2), first and last as fractions of the edges.
    """
    edges = torch.tensor(x.shape[2:])[:, None]
    for sample, corners in zip(x, (boxes * edges).round().long().tolist(), strict=True):
        for box in corners:
            sample[(slice(None), *(slice(first, last) for first, last in box))] = 0.0


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.ndim - 1))


def _bounds(x: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
    """Minimum and range of every channel, or of all together, ready to broadcast."""
    axes = tuple(range(1 if joint else 2, x.ndim))
    low = x.amin(axes, keepdim=True)
    return low, x.amax(axes, keepdim=True) - low
