"""One resampling per view: crop, resize, flip, rotation, scale, tilt and resolution together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from volssl.views.axes import Matrix, along, gaussian, linear, low_resolution, product
from volssl.views.draw import Parameters

_STILL, _PLANAR, _GENERAL = 0, 1, 2


def resample(x: Tensor, p: Parameters, size: tuple[int, ...]) -> Tensor:
    """The geometry and resolution of each sample: x (B, C, *region) float32 to a new (B, C, *size).

    Trilinear (bilinear), with the edge voxel repeated beyond the region: no view shows a rim that its region
    does not have. An affine that does not mix the slices with the plane is one 2D ``grid_sample`` with the
    slices as channels and one matrix product through them, of the same weights as the 3D ``grid_sample`` that
    any other affine takes. Filters are matrix products along the axes; through the slices they cost no more.
    """
    x = x.contiguous()
    kinds = _kinds(p, tuple(x.shape[2:]), size)
    present = sorted(set(kinds.tolist()))
    if len(present) == 1:
        return _resample(x, p, size, present[0])
    out = x.new_empty((*x.shape[:2], *size))
    for kind in present:
        rows = torch.from_numpy(np.flatnonzero(kinds == kind))
        at = rows.to(x.device)
        out[at] = _resample(x[at], p[rows], size, kind)
    return out


def _kinds(p: Parameters, region: tuple[int, ...], size: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """(B,): what each sample needs, decided by its own parameters alone so that chunks do not matter."""
    matrix, centre = p.matrix.numpy(), p.centre.numpy()[:, -2:]
    still = (matrix[:, -2:, -2:] == np.eye(2)).all((1, 2)) & (centre == 0).all(1)
    still &= region[-2:] == size[-2:]
    mixes = matrix[:, 0, 1:].any(1) | matrix[:, 1:, 0].any(1)
    mixes &= len(size) == 3
    return np.where(mixes, _GENERAL, np.where(still, _STILL, _PLANAR))


def _resample(x: Tensor, p: Parameters, size: tuple[int, ...], kind: int) -> Tensor:
    region, source = tuple(x.shape[2:]), x
    before = [[gaussian(n, sigma) for sigma in row] for n, row in zip(region, p.smooth.T.tolist(), strict=True)]
    after = [
        [product(gaussian(n, sigma), low_resolution(n, factor)) for factor, sigma in zip(*rows, strict=True)]
        for n, *rows in zip(size, p.coarse.T.tolist(), p.blur.T.tolist(), strict=True)
    ]
    if kind != _GENERAL and len(size) == 3:
        windows = zip(p.centre[:, 0].tolist(), p.matrix[:, 0, 0].tolist(), strict=True)
        resize = [linear(region[0], size[0], centre, extent) for centre, extent in windows]
        after[0] = [product(*steps) for steps in zip(after[0], resize, before[0], strict=True)]
        before[0] = [None] * len(p)
        x, after[0] = _slices_read(x, after[0])
    for axis, matrices in enumerate(before, 2):
        x = along(x, matrices, axis)
    if kind == _GENERAL:
        x = _sample(x, p.matrix, p.centre, size)
    elif kind == _PLANAR:
        planes = _sample(x.flatten(1, -3), p.matrix[:, -2:, -2:], p.centre[:, -2:], size[-2:])
        x = planes.view(*x.shape[:-2], *size[-2:])
    for axis, matrices in enumerate(after, 2):
        x = along(x, matrices, axis)
    return x.clone() if x is source else x


def _slices_read(x: Tensor, matrices: list[Matrix | None]) -> tuple[Tensor, list[Matrix | None]]:
    """x and the matrices through its slices without the slices that no sample's matrix reads."""
    if any(matrix is None for matrix in matrices):
        return x, matrices
    given = [matrix for matrix in matrices if matrix is not None]
    read = np.flatnonzero(np.any([matrix.any(0) for matrix in given], axis=0))
    window = slice(int(read[0]), int(read[-1]) + 1)
    return x[:, :, window], [matrix[:, window] for matrix in given]


def _sample(x: Tensor, matrix: Tensor, centre: Tensor, size: tuple[int, ...]) -> Tensor:
    """``grid_sample`` of x (B, C, *region) at the affine's points: (B, C, *size)."""
    points = grid(matrix, centre, size, x.device)
    return F.grid_sample(x, points, mode="bilinear", padding_mode="border", align_corners=False)


def grid(matrix: Tensor, centre: Tensor, size: tuple[int, ...], device: torch.device) -> Tensor:
    """(B, *size, n) float32: where each voxel of the view lies in the region, last axis first for ``grid_sample``.

    As ``affine_grid(align_corners=False)``, but by broadcast sums and one coordinate after the other in memory,
    which takes a hundredth of the time in 3D and is what ``grid_sample`` reads fastest.

    Args:
        matrix: (B, n, n). centre: (B, n). On the CPU, axes in the order of the image's.
    """
    n = len(size)
    start, columns = centre.numpy()[:, ::-1, None], matrix.numpy()[:, ::-1, :, None]
    points: Tensor | None = None
    for axis, edge in enumerate(size):
        u = (2.0 * np.arange(edge) + 1.0) / edge - 1.0
        step = torch.from_numpy(start + columns[:, :, axis] * u).to(device, torch.float32)
        step = step.view(-1, n, *(edge if a == axis else 1 for a in range(n)))
        points, start = step if points is None else points + step, np.zeros(1)
    assert points is not None
    return points.movedim(1, -1)
