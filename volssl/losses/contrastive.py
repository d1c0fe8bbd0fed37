"""Contrastive losses: NT-Xent (SimCLR) and InfoNCE (MoCo v3), each over the whole batch it is given."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from volssl.losses.precision import full_precision


def nt_xent(*, a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent between two views of B samples: Chen et al. 2020 (arXiv 2002.05709), equation 1.

    Each of the 2B embeddings must find its other view among the 2B - 1 others, by cosine similarity; the
    result is the mean over both directions. When all embeddings are one, it is log(2B - 1).

    a, b: (B, D), row i of both from sample i, of any norm. Returns a scalar. One 2B x 2B matrix is kept for
    the gradient.
    """
    with full_precision(a, b) as (a, b):
        # Dividing the unit vectors by sqrt(T) costs 2B x D; dividing the products costs another 2B x 2B.
        z = F.normalize(torch.cat([a, b]), dim=-1) / math.sqrt(temperature)
        similarity = (z @ z.T).fill_diagonal_(-torch.inf)
        positive = (z * z.roll(len(a), dims=0)).sum(dim=-1)
        return (similarity.logsumexp(dim=-1) - positive).mean()


def info_nce(*, query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries against keys: Chen et al. 2021 (MoCo v3, arXiv 2104.02057), ``ctr`` of algorithm 1.

    Query i must find key i among the B keys, by cosine similarity. As in the paper's pseudo-code the cross
    entropy is multiplied by 2T, so that the gradient's size does not depend on the temperature. One direction
    only: the paper adds the one with the views exchanged. When all embeddings are one, it is 2T log(B).

    query, key: (B, D), row i of both from sample i, of any norm. The gradient reaches the key if it has a
    graph; MoCo's keys come from the teacher and have none. Returns a scalar.
    """
    with full_precision(query, key) as (query, key):
        logits = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T / temperature
        return 2 * temperature * (logits.logsumexp(dim=-1) - logits.diagonal()).mean()
