"""The collapse gauges: by hand, against loops, and what they say of healthy and collapsed embeddings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from volssl.losses.collapse import effective_rank, prototypes_used, spread


def noise(batch: int, width: int) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_spread(z: Tensor) -> float:
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in z.tolist()]
    deviations = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / len(column)))
    return sum(deviations) / len(deviations) * math.sqrt(len(deviations))


def slow_rank(z: Tensor) -> float:
    """Singular values as the roots of the eigenvalues of z z^T."""
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(z.numpy() @ z.numpy().T), 0))
    shares = [v / values.sum() for v in values]
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def test_spread_by_hand() -> None:
    """(2, 0) and (0, 3) normalise to (1, 0) and (0, 1): deviation 1/2 in both dimensions, times sqrt(2)."""
    assert spread(z=torch.tensor([[2.0, 0.0], [0.0, 3.0]])).item() == pytest.approx(math.sqrt(2) / 2)


def test_rank_by_hand() -> None:
    """diag(3, 1): shares 3/4 and 1/4, entropy log(4) - 3/4 log(3), so 4 / 3^(3/4) = 1.7548."""
    assert effective_rank(z=torch.tensor([[3.0, 0.0], [0.0, 1.0]])).item() == pytest.approx(4 / 3**0.75)


def test_against_the_slow_twins() -> None:
    z = noise(6, 9)
    assert spread(z=z).item() == pytest.approx(slow_spread(z), abs=1e-12)
    assert effective_rank(z=z).item() == pytest.approx(slow_rank(z), abs=1e-10)


def test_isotropic_embeddings_are_healthy() -> None:
    z = noise(4096, 16)
    assert spread(z=z).item() == pytest.approx(1, abs=0.01)
    assert effective_rank(z=z).item() == pytest.approx(16, abs=0.1)


def test_collapse_is_seen_even_under_a_little_noise() -> None:
    """A constant with noise of a thousandth: MONAI's EmbeddingCollapseMetric calls it healthy."""
    z = torch.ones(64, 16, dtype=torch.float64) + 1e-3 * noise(64, 16)
    assert spread(z=z) < 0.002
    assert effective_rank(z=z) < 1.1
    assert spread(z=torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-6)
    assert effective_rank(z=torch.ones(4, 3)).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("z", [torch.zeros(4, 3), torch.full((4, 3), 1e-20), torch.ones(1, 3)])
def test_degenerate_embeddings_are_collapsed_not_nan(z: Tensor) -> None:
    assert spread(z=z).item() == pytest.approx(0, abs=1e-6)
    assert effective_rank(z=z).item() == pytest.approx(1, abs=1e-4)


def test_laws() -> None:
    """Neither depends on scale or on the order of samples; a rotation leaves the rank."""
    z = noise(12, 5)
    rotation, _ = torch.linalg.qr(noise(5, 5))
    for gauge in (spread, effective_rank):
        torch.testing.assert_close(gauge(z=7 * z.flip(0)), gauge(z=z))
    torch.testing.assert_close(effective_rank(z=z @ rotation), effective_rank(z=z))


def test_gradients() -> None:
    """Gauges, but differentiable ones."""
    z = noise(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spread(z=x), z)
    assert torch.autograd.gradcheck(lambda x: effective_rank(z=x), z)


def test_half_precision_is_computed_in_float32() -> None:
    z = noise(8, 4).bfloat16()
    assert spread(z=z).dtype == effective_rank(z=z).dtype == torch.float32


def test_prototypes_used_by_hand() -> None:
    """Shares 2 : 1 : 1 are 1/2, 1/4, 1/4: 1 / (4/16 + 1/16 + 1/16) = 16/6. Equal shares of K count K, one alone 1."""
    assert prototypes_used(shares=torch.tensor([2.0, 1.0, 1.0, 0.0])).item() == pytest.approx(16 / 6)
    assert prototypes_used(shares=torch.full((64,), 0.3)).item() == pytest.approx(64)
    assert prototypes_used(shares=torch.tensor([0.0, 5.0, 0.0])).item() == 1
