"""CASS (Singh, Sizikova, Cirrone 2022, arXiv 2206.04170): two architectures agree on the same view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from volssl.losses.agreement import cosine_agreement
from volssl.methods import CASSConfig
from volssl.methods.base import Method, global_views, pooled
from volssl.models.norm import BatchNorm, defer_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone
    from volssl.types import Tensors


class CASS(Method):
    """2 - 2 cos between the logits of two encoders, in both directions at once: no teacher, no stopped gradient.

    One optimiser moves both, with fresh gradients at every step (the released loop never cleared them). Which of
    the two is a CNN and which a Transformer is known to nobody here.
    """

    def __init__(self, config: CASSConfig, encoders: Sequence[Backbone]) -> None:
        super().__init__()
        names = _names(encoders)
        self.networks = nn.ModuleDict(dict(zip(names, encoders, strict=True)))
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(encoder.width, config.logits), *_closing(config))
                for name, encoder in zip(names, encoders, strict=True)
            }
        )
        self.coupled = config.coupled
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return dict(self.networks.items())

    def encode(self, batch: Batch) -> Tensors:
        views = global_views(batch.views)
        return {f"{name}/{v}": x for name, net in self.networks.items() for v, x in pooled(net, views).items()}

    def features(self, z: Tensors) -> dict[str, list[Tensor]]:
        return {name: [x for key, x in z.items() if key.startswith(f"{name}/")] for name in self.networks}

    def loss(self, z: Tensors, t: Tensors, at: Progress) -> Loss:
        one, other = ([self.heads[name](x) for x in parts] for name, parts in self.features(z).items())
        pairs = [cosine_agreement(online=a, target=b) for a, b in zip(one, other, strict=True)]
        return Loss(sum(pairs[1:], pairs[0]) / len(pairs))


def _names(encoders: Sequence[Backbone]) -> list[str]:
    """What the encoders are called where they are kept: their kinds, numbered if they are the same."""
    kinds = [type(encoder).__name__.lower() for encoder in encoders]
    return kinds if len(set(kinds)) == len(kinds) else [f"{kind}-{i + 1}" for i, kind in enumerate(kinds)]


def _closing(config: CASSConfig) -> list[nn.Module]:
    return [BatchNorm(config.logits, affine=False)] if config.norm == "batch" else []
