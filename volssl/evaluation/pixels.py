"""Raw pixels as features: the floor under every encoder, random ones included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from volssl.types import Source
from volssl.views.views import whole

MOST = 4096  # numbers of an item; more would be slower and, with few labels, no better


def raw_pixels(
    source: Source, size: tuple[int, ...], report: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """(N, D): each item as an encoder of images of ``size`` sees it, flattened; averaged down to ``MOST`` numbers."""
    rows = []
    for i in range(len(source)):
        rows.append(_flattened(whole(source[i].image[None], size)).numpy())
        if report:
            report(i + 1, len(source))
    return np.stack(rows)


def _flattened(image: Tensor) -> Tensor:
    """(1, C, *size) to (D,)."""
    size = image.shape[2:]
    shrink = (image.numel() / MOST) ** (1 / len(size))
    if shrink <= 1:
        return image.flatten()
    pool = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    kept: Tensor = pool(image, tuple(max(1, int(n / shrink)) for n in size))  # type: ignore[arg-type]
    return kept.flatten()
