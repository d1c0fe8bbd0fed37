"""Agreement of two embeddings of the same items: BYOL's loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from volssl.losses.precision import full_precision


def cosine_agreement(*, online: Tensor, target: Tensor) -> Tensor:
    """mean over i of 2 - 2 cos(online_i, target_i): the squared distance of the normalised rows.

    BYOL (arXiv 2006.07733), equation 2, one direction. Lies in [0, 4]; 0 where all rows point the same way,
    which includes the collapsed solution. A row of zeros counts 2. No gradient is stopped here.

    Args:
        online, target: (B, D). Half precision is computed in float32.
    """
    with full_precision(online, target) as (online, target):
        cosine = (F.normalize(online, dim=1) * F.normalize(target, dim=1)).sum(1)
        return (2 - 2 * cosine).mean()
