"""Features of single voxels: what all maps of an encoder say there (a hypercolumn)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from volssl.evaluation.encoder import Encoder
from volssl.evaluation.maps import evaluating
from volssl.evaluation.target import Floats, Ints
from volssl.types import Source
from volssl.views.views import whole

Maps = Callable[[Tensor], list[Tensor]]
SCALES = (1.0, 2.0, 4.0, 8.0)  # voxels
KEPT = 2**30  # bytes of maps that are kept; those of other items are made again each time


def encoder_maps(encoder: Encoder) -> Maps:
    """(B, C, *region) to the maps of all stages, (B, D_s, *grid_s) each, of the whole item as the encoder sees it.

    They are computed in evaluation mode where the encoder is, which is left as it was.
    """

    def maps(images: Tensor) -> list[Tensor]:
        network = cast(Any, encoder.network)
        with evaluating(encoder), torch.inference_mode():
            found: list[Tensor] = network.maps(whole(images.to(next(network.parameters()).device), encoder.card.size))
        return found

    return maps


def pixel_maps(images: Tensor) -> list[Tensor]:
    """(B, C, *region) and its Gaussian-smoothed copies at ``SCALES``: the floor under every encoder."""
    space = tuple(range(2, images.ndim))
    blurred = [gaussian_filter(images.numpy(), scale, axes=space, mode="nearest") for scale in SCALES]
    return [images, *map(torch.from_numpy, blurred)]


class Hypercolumns:
    """The D features of each voxel of each item: all its maps side by side, D = sum of D_s, linearly interpolated.

    Hariharan et al. 2015 (arXiv 1411.5752). The maps cover the item from border to border, whatever their grid
    (``align_corners=False``). They are made once, and kept up to ``KEPT`` bytes; columns are made where they are asked
    for, since those of all voxels are many times larger.

    Args:
        maps: one image (1, C, *region) to its maps, the same kind for each. source: the items.
    """

    def __init__(self, maps: Maps, source: Source) -> None:
        self._make, self._source = maps, source
        self._kept: dict[int, list[Tensor]] = {}
        self._bytes = 0

    def maps(self, i: int) -> list[Tensor]:
        """Of the i-th item: (D_s, *grid_s) float32 each."""
        if i in self._kept:
            return self._kept[i]
        made = [one[0].float() for one in self._make(self._source[i].image[None])]
        size = sum(one.nbytes for one in made)
        if self._bytes + size <= KEPT:
            self._kept[i], self._bytes = made, self._bytes + size
        return made

    def at(self, i: int, voxels: Ints, region: tuple[int, ...]) -> Floats:
        """(P, D): the columns of some voxels (P,) of the i-th item, as indices into its flattened region."""
        places = np.stack(np.unravel_index(voxels, region), axis=1)
        unit = torch.from_numpy((2 * places[:, ::-1] + 1) / np.array(region[::-1]) - 1).float()  # last axis first
        columns = []
        for one in self.maps(i):
            points = unit.to(one.device).reshape(1, -1, *(1,) * (len(region) - 1), len(region))
            sampled = F.grid_sample(one[None], points, padding_mode="border", align_corners=False)
            columns.append(sampled.flatten(2)[0].T.cpu().numpy())
        return np.concatenate(columns, axis=1).astype(np.float64)

    def project(self, i: int, weights: Floats, region: tuple[int, ...]) -> Tensor:
        """(K, *region) float32: K linear maps of every voxel's column; weights (K, D).

        They are taken on the maps, before interpolation, with which they commute: no column is ever made.
        """
        found, start = torch.zeros(len(weights), *region), 0
        by_grid: dict[tuple[int, ...], Tensor] = {}
        for one in self.maps(i):
            rows = torch.from_numpy(weights[:, start : start + len(one)]).to(one)
            part, grid = torch.tensordot(rows, one, dims=1), tuple(one.shape[1:])
            by_grid[grid] = by_grid[grid] + part if grid in by_grid else part
            start += len(one)
        for grid, part in by_grid.items():
            for old, new in zip(grid, region, strict=True):
                part = torch.tensordot(part, _stretch(old, new).to(part), dims=([1], [0]))  # axis 1 becomes the last
            found += part.cpu()
        return found


@lru_cache(64)
def _stretch(old: int, new: int) -> Tensor:
    """(old, new): the weights of linear interpolation along one axis."""
    return F.interpolate(torch.eye(old)[None], size=new, mode="linear", align_corners=False)[0]
