"""BYOL's loss: by hand, against loops, its laws, and chunks against the whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from volssl.losses.agreement import cosine_agreement


def embeddings(seed: int = 0, batch: int = 8, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    return a, b


def slow_twin(online: Tensor, target: Tensor) -> float:
    """Equation 2 as it is written: the squared distance of the normalised vectors."""
    total = 0.0
    for p, q in zip(online.tolist(), target.tolist(), strict=True):
        length_p, length_q = (math.sqrt(sum(x * x for x in v)) for v in (p, q))
        total += sum((x / length_p - y / length_q) ** 2 for x, y in zip(p, q, strict=True))
    return total / len(online)


def test_by_hand() -> None:
    """Rows (3, 4) and (1, 0): cos 3/5, 2 - 6/5 = 0.8. Rows (0, 2) and (0, -1): cos -1, 4. Mean 2.4."""
    online = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assert cosine_agreement(online=online, target=target).item() == pytest.approx(2.4)


def test_against_the_slow_twin() -> None:
    a, b = embeddings()
    assert cosine_agreement(online=a, target=b).item() == pytest.approx(slow_twin(a, b), abs=1e-14)


def test_laws() -> None:
    """Symmetric, blind to length, 0 for equal rows and so for the collapsed solution, 4 for opposite ones."""
    a, b = embeddings()
    loss = cosine_agreement(online=a, target=b)
    torch.testing.assert_close(cosine_agreement(online=b, target=a), loss)
    torch.testing.assert_close(cosine_agreement(online=3 * a, target=b / 7), loss)
    assert cosine_agreement(online=a, target=a).item() == pytest.approx(0, abs=1e-14)
    assert cosine_agreement(online=a, target=-a).item() == pytest.approx(4)
    assert cosine_agreement(online=torch.ones(4, 3), target=torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-6)


def test_gradient() -> None:
    a, b = embeddings()
    assert torch.autograd.gradcheck(lambda x: cosine_agreement(online=x, target=b), a.requires_grad_())


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20, 1e20])
def test_finite_for_identical_and_extreme_rows(value: float) -> None:
    x = torch.full((4, 3), value, requires_grad=True)
    loss = cosine_agreement(online=x, target=torch.ones(4, 3))
    torch.autograd.backward(loss)
    assert x.grad is not None
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    a, b = (x.bfloat16() for x in embeddings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cosine_agreement(online=a, target=b)
    torch.testing.assert_close(loss, cosine_agreement(online=a.float(), target=b.float()), rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_chunks_average_to_the_whole(size: int) -> None:
    a, b = embeddings()
    parts = [
        cosine_agreement(online=x, target=y) for x, y in zip(torch.split(a, size), torch.split(b, size), strict=True)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), cosine_agreement(online=a, target=b), rtol=0, atol=1e-14)
