"""Self-supervised and supervised training of one encoder at once (Ghesu et al. 2022, arXiv 2201.01283)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from volssl.losses.supervised import labelled_cross_entropy
from volssl.methods import HybridConfig
from volssl.methods.base import Method, half_cosine
from volssl.models.norm import defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class Classifiers(nn.ModuleList):
    """One linear classifier per label set that has classes: (B, D) to a list of (B, classes of the set)."""

    def __init__(self, width: int, classes: Sequence[int]) -> None:
        super().__init__(nn.Linear(width, count) for count in classes if count)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [classify(x) for classify in self]


class Hybrid(Method):
    """L = L_ssl + w(step) L_supervised on the same views, whatever the self-supervised method is.

    Every encoder of it gets a linear classifier per label set, on its global views; items without a label in a
    set take no part in that set's mean, which is over the labelled items of the whole effective batch. So every
    item's weight depends on how many others are labelled: the method is coupled.
    """

    def __init__(self, config: HybridConfig, encoders: Sequence[Backbone]) -> None:
        super().__init__()
        self.ssl = config.ssl.build(*encoders)
        self.classifiers = nn.ModuleDict(
            {
                name: Classifiers(encoder.width, config.classes)
                for name, encoder in zip(self.ssl.encoders, encoders, strict=True)
            }
        )
        self.sets = [i for i, count in enumerate(config.classes) if count]
        self.weight, self.smoothing = config.weight, config.smoothing
        self.coupled, self.collapses = config.coupled, self.ssl.collapses
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return self.ssl.encoders

    def encode(self, batch: Batch) -> Tensors:
        return self.ssl.encode(batch)

    def target(self, batch: Batch) -> Tensors:
        return {**self.ssl.target(batch), "labels": batch.labels}

    def features(self, z: Tensors) -> dict[str, list[Tensor]]:
        return self.ssl.features(z)

    def gauges(self, stats: Tensors) -> Tensors:
        return self.ssl.gauges(stats)

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        labels = t["labels"][:, self.sets].long()
        own = self.ssl.loss(z, {name: x for name, x in t.items() if name != "labels"}, at)
        logits = [self.classifiers[name](x) for name, views in self.features(z).items() for x in views]
        terms = [labelled_cross_entropy(logits=sets, labels=labels, smoothing=self.smoothing) for sets in logits]
        supervised = sum(terms[1:], terms[0]) / len(terms)
        metrics = {
            "ssl": own.total.detach(),
            "supervised": supervised.detach(),
            "labelled": (labels >= 0).any(dim=1).to(supervised).mean(),
            "accuracy": _accuracy(logits, labels).to(supervised),
        }
        total = own.total + half_cosine(self.weight, at) * supervised
        return Loss(total, metrics={**own.metrics, **metrics}, stats=own.stats)

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        self.ssl.after_step(stats, at)


@torch.no_grad()
def _accuracy(logits: list[list[Tensor]], labels: Tensor) -> Tensor:
    """Share of the known labels that are predicted, over all views; zero where none is known."""
    known = labels >= 0
    hits = [torch.stack([x.argmax(1) for x in sets], dim=1) == labels for sets in logits]
    return torch.stack([(hit & known).sum() for hit in hits]).sum() / (len(hits) * known.sum()).clamp_min(1)
