"""Views of a batch: parameters from seeds, then one resampling and the intensities, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from volssl.types import Tensors

from volssl.views import ViewsConfig
from volssl.views.draw import Parameters, draw
from volssl.views.geometry import resample
from volssl.views.intensity import apply_intensity


class Views:
    """What makes the views of a configuration. Without state: a seed is a view, on any chunk and any rank."""

    def __init__(self, config: ViewsConfig) -> None:
        self.config = config
        self.recipes = config.recipes()

    def __call__(self, images: Tensor, seeds: Tensor, dtype: torch.dtype = torch.float32) -> Tensors:
        """Every view by its name (``0``, ``1``, ..., ``local0``, ...), made on the device of the images.

        Args:
            images: (B, C, *region), any type, converted once. seeds: (B,) int64. dtype: of the views.

        Returns:
            name -> (B, C, *size).
        """
        keys, region = seeds.tolist(), tuple(images.shape[2:])
        recipes = list(self.recipes.items())
        drawn = [draw(recipe, keys, number, region) for number, (_, recipe) in enumerate(recipes)]
        views: Tensors = {
            name: images.new_empty((*images.shape[:2], *recipe.size), dtype=dtype) for name, recipe in recipes
        }
        for part in _parts(images):
            source = images[part].float()
            for (name, recipe), parameters in zip(recipes, drawn, strict=True):
                views[name][part] = apply(source, parameters[part], recipe.size, joint=recipe.joint)
        return views


def apply(images: Tensor, parameters: Parameters, size: tuple[int, ...], *, joint: bool = False) -> Tensor:
    """Do what was drawn: images (B, C, *region) float32 to new (B, C, *size). Without gradient."""
    with torch.no_grad():
        view = resample(images, parameters, size)
        apply_intensity(view, parameters, joint=joint)
    return view


def whole(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """The plain view for evaluation: the whole region resampled to ``size``, (B, C, *size) float32.

    A view whose every setting is its identity; a copy, to the bit, where ``size`` is the region.
    """
    plain = ViewsConfig(size=size, count=1)
    return Views(plain)(images, torch.zeros(len(images), dtype=torch.int64))["0"]


def _parts(images: Tensor) -> list[slice]:
    """On a CPU one sample after another, which stays in the cache and cannot tell its chunk; else all."""
    step = 1 if images.device.type == "cpu" else len(images)
    return [slice(i, i + step) for i in range(0, len(images), step)]
