"""Masked autoencoder (He et al. 2022, arXiv 2111.06377): draw the patches that were hidden from the encoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from volssl.losses.reconstruction import patch_error
from volssl.methods import MAEConfig
from volssl.methods.base import Method, global_views
from volssl.models.decoder import Decoder, patchify, select
from volssl.models.norm import defer_statistics
from volssl.models.vit import ViT
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class MAE(Method):
    """The mean squared error of the hidden patches, in 2D and 3D; tubes as in VideoMAE (arXiv 2203.12602).

    Which patches are hidden is a function of the item's seed and the view. The decoder works per item and belongs
    to ``encode``; what is drawn is compared in ``loss``. Embeddings that are all alike would draw all images alike.
    """

    collapses = False

    def __init__(self, config: MAEConfig, encoder: Backbone) -> None:
        super().__init__()
        assert isinstance(encoder, ViT), "the configuration is refused before: MAEConfig.fits"
        self.encoder = encoder
        channels = encoder.patch_embed.proj.in_channels
        self.decoder = Decoder(encoder.config, channels, width=config.width, depth=config.depth, heads=config.heads)
        self.config = config
        self.coupled = config.coupled
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def encode(self, batch: Batch) -> Tensors:
        drawn: Tensors = {}
        features: Tensors = {}
        for name, view in global_views(batch.views).items():
            grid = self.encoder.config.grid(tuple(view.shape[2:]))
            keep, hidden = self._masks(batch.seeds, int(name), grid)
            seen = self.encoder(view, keep)
            features[name] = seen.pooled
            drawn[f"drawn {name}"] = self.decoder(seen, keep, hidden, grid).flatten(1)
        return features | drawn

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensors:
        pixels: Tensors = {}
        for name, view in global_views(batch.views).items():
            _, hidden = self._masks(batch.seeds, int(name), self.encoder.config.grid(tuple(view.shape[2:])))
            pixels[f"drawn {name}"] = select(patchify(view, self.encoder.config.patch), hidden).flatten(1)
        return pixels

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        shape = (len(next(iter(t.values()))), -1, self.decoder.predict.out_features)
        terms = [
            patch_error(drawn=z[name].view(shape), pixels=pixels.view(shape), normalise=self.config.normalise)
            for name, pixels in t.items()
        ]
        return Loss(sum(terms[1:], terms[0]) / len(terms))

    def _masks(self, seeds: Tensor, view: int, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """keep (B, M) and hidden (B, N - M): indices into the flattened grid, each in rising order."""
        places = math.prod(grid[1:]) if self.config.tube else math.prod(grid)
        kept = min(max(round(places * (1 - self.config.mask)), 1), places - 1)
        keys = [np.array([seed, view], dtype=np.uint64) for seed in seeds.tolist()]
        # Raw words, as for the order of the items: their stream stays the same for ever. From another place of it
        # than the view's own draws, or what is hidden would follow from the crop.
        counter = np.array([0, 0, 0, 1], dtype=np.uint64)
        streams = (np.random.Philox(key=key, counter=counter) for key in keys)
        orders = [np.argsort(stream.random_raw(places), kind="stable") for stream in streams]
        order = torch.from_numpy(np.stack(orders)).to(seeds.device)
        keep, hidden = order[:, :kept], order[:, kept:]
        if self.config.tube:
            first = places * torch.arange(grid[0], device=seeds.device)
            keep, hidden = ((first[:, None] + x[:, None]).flatten(1) for x in (keep, hidden))
        return keep.sort(dim=1).values, hidden.sort(dim=1).values
