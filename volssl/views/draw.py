"""Draw first: what a view does to each sample, as plain tensors, from its seed and the view's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volssl.views import BANDS, HOLES, ViewsConfig

Array = npt.NDArray[np.float64]

CURVE_POINTS = 5  # of the intensity curve, its fixed ends included
DEGREE = 3  # of the bias field, in all axes together
_UNIFORMS = 528  # per sample and view; fewer are used
_SEED_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Parameters:
    """One view of B samples with n axes, on the CPU: what depends on it is decided without a device.

    matrix (B, n, n), centre (B, n): the view's voxel at u in [-1, 1]^n shows the region at centre + matrix u,
    both in fractions of half the edge, axes in the order of the image's.
    smooth (B, n): sd, in voxels of the region, of the filter before down-sampling.
    coarse (B, n): factor by which the view's voxels grow. blur (B, n): sd in voxels of the view.
    bands (B, K): gains, finest first. curve (B, 5): values of the intensity curve at 0, 1/4, ..., 1.
    gamma, contrast, brightness (B,). bias (B, 4, ...): Legendre coefficients of the field's logarithm, one
    axis of 4 per image axis. noise (B,): sd. noise_seed (B,) int64.
    boxes (B, holes, n, 2): first and last as fractions of the view's edges; empty where equal.
    stain, stain_shift (B, 2): factor on hematoxylin and eosin, and what is added as optical density.
    saturation (B,): factor, 0 being grey. hue (B,): turn as a fraction of the circle.
    """

    matrix: Tensor
    centre: Tensor
    smooth: Tensor
    coarse: Tensor
    blur: Tensor
    bands: Tensor
    curve: Tensor
    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    bias: Tensor
    noise: Tensor
    noise_seed: Tensor
    boxes: Tensor
    stain: Tensor
    stain_shift: Tensor
    saturation: Tensor
    hue: Tensor

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: slice | Tensor) -> Parameters:
        """The parameters of some of the samples."""
        return Parameters(*(getattr(self, f.name)[rows] for f in fields(self)))


class _Uniforms:
    """Numbers in [0, 1), (B,) at a time, in an order that no setting changes.

    Each sample has its own Philox stream (Salmon et al. 2011), keyed by (seed, view): what it gets depends on
    nothing else, and turning one operation on leaves what the others draw as it was.
    """

    def __init__(self, seeds: Sequence[int], view: int) -> None:
        keys = [np.array([seed & _SEED_BITS, view], dtype=np.uint64) for seed in seeds]
        streams = (np.random.Generator(np.random.Philox(key=key)) for key in keys)
        self.numbers = np.stack([stream.random(_UNIFORMS) for stream in streams])
        self.at = 0

    def take(self, *shape: int) -> Array:
        """(B, *shape)."""
        count = prod(shape)
        part = self.numbers[:, self.at : self.at + count]
        self.at += count
        return part.reshape(-1, *shape)

    def happens(self, chance: float) -> npt.NDArray[np.bool_]:
        """(B,): true with this probability."""
        return self.take() < chance

    def even(self, bounds: tuple[float, float], chance: float = 1.0) -> Array:
        """(B,): evenly within the bounds with this probability, else 0."""
        low, high = bounds
        return np.where(self.happens(chance), low + (high - low) * self.take(), 0.0)

    def factor(self, bounds: tuple[float, float], chance: float = 1.0) -> Array:
        """(B,): evenly within the bounds in the logarithm with this probability, else 1."""
        low, high = bounds
        return np.where(self.happens(chance), low * (high / low) ** self.take(), 1.0)


def draw(config: ViewsConfig, seeds: Sequence[int], view: int, region: tuple[int, ...]) -> Parameters:
    """The parameters of view number ``view`` of samples with these seeds, cut from regions of this shape.

    ``config`` is the view's own recipe (``ViewsConfig.recipes``).
    """
    u, n, p = _Uniforms(seeds, view), config.dims, config.p
    matrix, centre = _geometry(config, u, region)
    coarse, blur = _resolution(config, u)
    on = u.happens(p.bands)
    gains = config.bands[0] * (config.bands[1] / config.bands[0]) ** u.take(BANDS)[:, : config.band_count]
    intensity = {
        "bands": np.where(on[:, None], gains, 1.0),
        "curve": _curve(u.even(config.histogram, p.histogram), u.take(CURVE_POINTS - 2)),
        "gamma": u.factor(config.gamma, p.gamma),
        "contrast": u.factor(config.contrast, p.contrast),
        "brightness": u.even(config.brightness, p.brightness),
        "bias": _bias(u.even(config.bias, p.bias), u.take(*(DEGREE + 1,) * 3), n),
        "noise": u.even(config.noise, p.noise),
    }
    noise_seed, boxes = u.take() * 2.0**53, _boxes(config, u)
    intensity |= _colour(config, u)
    smooth = _smoothing(matrix, region, config.size) if config.antialias else np.zeros_like(centre)
    return Parameters(
        matrix=torch.from_numpy(matrix),
        centre=torch.from_numpy(centre),
        smooth=torch.from_numpy(smooth),
        coarse=torch.from_numpy(coarse),
        blur=torch.from_numpy(blur),
        noise_seed=torch.from_numpy(noise_seed.astype(np.int64)),
        boxes=torch.from_numpy(boxes),
        **{name: torch.from_numpy(values).float() for name, values in intensity.items()},
    )


def _geometry(config: ViewsConfig, u: _Uniforms, region: tuple[int, ...]) -> tuple[Array, Array]:
    """matrix (B, n, n) and centre (B, n): crop, aspect, scale and flip, then tilt, then rotation."""
    n, p = config.dims, config.p
    shape = (1, *region)[-3:]
    area, aspect = u.even(config.crop), u.factor(config.aspect)
    slices = np.clip(np.rint(u.even(config.slices) * shape[0]), 1, shape[0])
    first = np.floor(u.take() * (shape[0] - slices + 1))
    rows, columns = np.minimum(np.sqrt(area / aspect), 1.0), np.minimum(np.sqrt(area * aspect), 1.0)
    kept = np.stack([slices / shape[0], rows, columns], axis=1)
    free = (1.0 - kept[:, 1:]) * (2.0 * u.take(2) - 1.0)
    middle = (2.0 * first + slices) / shape[0] - 1.0
    flips = np.where(u.take(3) < p.flip, -1.0, 1.0)
    flips[:, [axis for axis in range(3) if axis - 3 + n not in config.flip]] = 1.0
    turn, tilt = np.deg2rad(u.even(config.rotate, p.rotate)), np.deg2rad(u.even(config.tilt, p.tilt))
    rotation = _turn(turn) @ _tilt(tilt, 2.0 * np.pi * u.take())
    kept[:, 1:] /= u.factor(config.scale, p.scale)[:, None]
    edges = np.array(shape) * np.array((1.0, *(config.voxel or (1.0,) * n))[-3:])
    matrix = rotation * (kept * flips)[:, None, :] * (edges[None, :] / edges[:, None])
    return matrix[:, -n:, -n:].copy(), np.column_stack([middle, free])[:, -n:].copy()


def _turn(angle: Array) -> Array:
    """(B, 3, 3): rotation from rows towards columns, about the axis of the slices."""
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.zeros((len(angle), 3, 3))
    rotation[:, 0, 0], rotation[:, 1, 1], rotation[:, 2, 2] = 1.0, c, c
    rotation[:, 1, 2], rotation[:, 2, 1] = -s, s
    return rotation


def _tilt(angle: Array, direction: Array) -> Array:
    """(B, 3, 3): rotation about the in-plane axis in this direction (Rodrigues' formula)."""
    a, b = np.cos(direction), np.sin(direction)
    zero = np.zeros_like(a)
    axis = np.stack([zero, a, b], axis=1)
    cross = np.stack([zero, -b, a, b, zero, zero, -a, zero, zero], axis=1).reshape(-1, 3, 3)
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    rotation: Array = c * np.eye(3) + s * cross + (1.0 - c) * axis[:, :, None] * axis[:, None, :]
    return rotation


def _smoothing(matrix: Array, region: tuple[int, ...], size: tuple[int, ...]) -> Array:
    """(B, n): sd (f - 1) / 2 of the filter before down-sampling an axis by f (as scikit-image's ``resize``).

    0 below 0.3, where even the nearest neighbours would weigh under half a percent.
    """
    step = matrix * (np.array(region)[:, None] / np.array(size)[None, :])
    sigma = (np.sqrt((step**2).sum(axis=2)) - 1.0) / 2.0
    smooth: Array = np.where(sigma > 0.3, sigma, 0.0)
    return smooth


def _resolution(config: ViewsConfig, u: _Uniforms) -> tuple[Array, Array]:
    """coarse (B, n) and blur (B, n); one coin for the plane and through it."""
    n, p = config.dims, config.p
    plain, sharp = ~u.happens(p.coarse), ~u.happens(p.blur)
    thick, coarse = u.factor(config.thick), u.factor(config.coarse)
    through, within = u.even(config.blur_slices), u.even(config.blur)
    factors, sigmas = np.column_stack([thick, coarse, coarse]), np.column_stack([through, within, within])
    factors[plain], sigmas[sharp] = 1.0, 0.0
    return factors[:, -n:].copy(), sigmas[:, -n:].copy()


def _curve(strength: Array, numbers: Array) -> Array:
    """(B, 5): evenly spaced points, the inner ones moved by up to half a spacing: the curve never falls."""
    points = np.linspace(0.0, 1.0, CURVE_POINTS)
    moved = np.tile(points, (len(strength), 1))
    moved[:, 1:-1] += strength[:, None] * (numbers - 0.5) / (CURVE_POINTS - 1)
    return moved


def _bias(strength: Array, numbers: Array, n: int) -> Array:
    """(B, 4, ...): coefficients of total degree 1 to 3, each even in [-strength, strength]."""
    degree = np.indices(numbers.shape[1:]).sum(axis=0)
    wanted = (degree >= 1) & (degree <= DEGREE)
    coefficients: Array = np.where(wanted, strength[:, None, None, None] * (2.0 * numbers - 1.0), 0.0)
    return coefficients[:, 0].copy() if n == 2 else coefficients


def _boxes(config: ViewsConfig, u: _Uniforms) -> Array:
    """(B, holes, n, 2)."""
    on = u.happens(config.p.dropout)
    low, high = config.dropout
    numbers = u.take(HOLES, 3, 2)[:, : config.holes, -config.dims :]
    edge = np.where(on[:, None, None], low + (high - low) * numbers[..., 0], 0.0)
    first = (1.0 - edge) * numbers[..., 1]
    return np.stack([first, first + edge], axis=-1)


def _colour(config: ViewsConfig, u: _Uniforms) -> dict[str, Array]:
    """One coin for the amounts of both stains; grey is a saturation of 0."""
    p, stained = config.p, u.happens(config.p.stain)[:, None]
    (least, most), (low, high) = config.stain, config.stain_shift
    factors, shifts = least * (most / least) ** u.take(2), low + (high - low) * u.take(2)
    saturation, hue = u.factor(config.saturation, p.saturation), u.even(config.hue, p.hue)
    return {
        "stain": np.where(stained, factors, 1.0),
        "stain_shift": np.where(stained, shifts, 0.0),
        "saturation": np.where(u.happens(p.grey), 0.0, saturation),
        "hue": hue,
    }
