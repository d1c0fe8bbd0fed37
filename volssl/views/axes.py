"""Matrices that act along one axis (resize, blur, low resolution), and their product with a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Matrix = npt.NDArray[np.float64]

BAND_ROWS = 32  # rows of a banded matrix at a time: measured best of 16 to 64 on a CPU; a GPU wants few launches
TRUNCATE = 4.0  # standard deviations at which a Gaussian ends, as in scipy.ndimage


def linear(source: int, target: int, centre: float = 0.0, extent: float = 1.0) -> Matrix | None:
    """(target, source): linear interpolation of the window ``centre`` +- ``extent``; none if it copies.

    In fractions of half the edge, as ``grid_sample(align_corners=False, padding_mode="border")``; a negative
    extent turns the axis round. A window of ``target`` whole voxels is copied exactly.
    """
    if (source, centre, extent) == (target, 0.0, 1.0):
        return None
    u = (2.0 * np.arange(target) + 1.0) / target - 1.0
    position = np.round((centre + extent * u + 1.0) * source / 2.0 - 0.5, 9).clip(0, source - 1)
    lower = np.floor(position).astype(np.int64)
    weight = position - lower
    return _pick(lower, 1.0 - weight, source) + _pick(np.minimum(lower + 1, source - 1), weight, source)


def gaussian(length: int, sigma: float) -> Matrix | None:
    """(length, length): Gaussian of sd ``sigma`` voxels, the edge repeated beyond it; none if sigma is 0.

    As ``scipy.ndimage.gaussian_filter1d(mode="nearest")``: sampled, cut at 4 sd, of sum 1.
    """
    if sigma == 0.0:
        return None
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    margin = np.zeros(length - 1)
    line = np.concatenate([margin, weights / weights.sum(), margin])
    step = line.itemsize
    band = np.lib.stride_tricks.as_strided(line[length - 1 :], (length, length + 2 * radius), (-step, step))
    matrix = band[:, radius : radius + length].copy()
    matrix[:, 0] += band[:, :radius].sum(axis=1)
    matrix[:, -1] += band[:, radius + length :].sum(axis=1)
    return matrix


def low_resolution(length: int, factor: float) -> Matrix | None:
    """(length, length): average over ``factor`` voxels and interpolate back; none if that changes nothing.

    The factor is rounded so that a whole number of them fills the axis.
    """
    count = max(1, round(length / factor))
    if count == length:
        return None
    edges = np.arange(count + 1) * (length / count)
    voxels = np.arange(length)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    average = overlap.clip(0) * (count / length)
    return product(linear(count, length), average)


def product(*matrices: Matrix | None) -> Matrix | None:
    """The matrix that applies the last given first; none, the identity, where all are."""
    result = None
    for matrix in matrices:
        if matrix is not None:
            result = matrix if result is None else result @ matrix
    return result


def along(x: Tensor, matrices: Sequence[Matrix | None], axis: int) -> Tensor:
    """Apply each sample's matrix along one axis of x (B, C, *spatial); none leaves the sample as it is.

    One matrix product per sample, always of the same shape: a batched product may sum in another order for
    another batch, and a sample's view must not depend on its neighbours.
    """
    lengths = {m.shape[0] for m in matrices if m is not None}
    if not lengths:
        return x
    out = x.new_empty((*x.shape[:axis], *lengths, *x.shape[axis + 1 :]))
    for sample, matrix, result in zip(x, matrices, out, strict=True):
        if matrix is None:
            result.copy_(sample)
        else:
            _multiply(matrix, sample, axis - 1, result)
    return out


def _multiply(matrix: Matrix, x: Tensor, axis: int, out: Tensor) -> None:
    """out = matrix applied along one axis of x, some rows at a time: of a band they read few columns."""
    length, source = matrix.shape
    rows = BAND_ROWS if x.device.type == "cpu" else length
    weights = torch.from_numpy(matrix).to(x)
    x = x.reshape(-1, source) if axis == x.ndim - 1 else x.flatten(0, axis - 1).flatten(2)
    out = out.view(-1, length) if x.ndim == 2 else out.view(len(x), length, -1)
    firsts = range(0, length, rows)
    read = np.logical_or.reduceat(matrix != 0, firsts, axis=0)
    starts, stops = read.argmax(1).tolist(), (source - read[:, ::-1].argmax(1)).tolist()
    for first, start, stop in zip(firsts, starts, stops, strict=True):
        last = min(first + rows, length)
        part = weights[first:last, start:stop]
        if x.ndim == 2:
            torch.mm(x[:, start:stop], part.T, out=out[:, first:last])
        else:
            torch.bmm(part.expand(len(x), *part.shape), x[:, start:stop], out=out[:, first:last])


def _pick(columns: npt.NDArray[np.int64], weights: Matrix, source: int) -> Matrix:
    """(rows, source): each row has one weight, in the column that it reads."""
    matrix = np.zeros((len(columns), source))
    matrix[np.arange(len(columns)), columns] = weights
    return matrix
