"""Cross entropy where most labels are missing and items belong to different label sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from volssl.losses.precision import full_precision

UNKNOWN = -1


def labelled_cross_entropy(*, logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over every known label of -log softmax(logits)[label]; zero, with a graph, where none is known.

    With ``smoothing`` s and K classes the label counts 1 - s + s / K and every other class s / K (Szegedy et al.
    2016, arXiv 1512.00567, section 7). All label sets share one mean, so a set weighs as many labels as it has.

    logits: per label set (B, K of the set); labels: (B, S) int64, -1 where unknown. Returns a scalar.
    """
    with full_precision(*logits) as scores:
        known = (labels != UNKNOWN).sum().clamp_min(1)
        sums = [
            F.cross_entropy(x, column, ignore_index=UNKNOWN, reduction="sum", label_smoothing=smoothing)
            for x, column in zip(scores, labels.unbind(1), strict=True)
        ]
        return sum(sums[1:], sums[0]) / known
