"""Contrastive losses: by hand, against loops in NumPy, their laws, and chunks against the whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from torch import Tensor

from volssl.losses.contrastive import info_nce, nt_xent

Array = NDArray[np.float64]


def embeddings(seed: int, batch: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, width, generator=generator, dtype=torch.float64)


def cosine(x: Array, y: Array) -> float:
    return float(sum(x * y) / math.sqrt(sum(x * x) * sum(y * y)))


def slow_nt_xent(a: Array, b: Array, temperature: float) -> float:
    """Equation 1 of SimCLR, word for word: l(i, j), summed over both directions, divided by 2B."""
    z, batch = [*a, *b], len(a)
    total = 0.0
    for i in range(2 * batch):
        j = (i + batch) % (2 * batch)
        others = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * batch) if k != i)
        total -= math.log(math.exp(cosine(z[i], z[j]) / temperature) / others)
    return total / (2 * batch)


def slow_info_nce(query: Array, key: Array, temperature: float) -> float:
    """MoCo v3's ctr: 2T times the cross entropy of row i against class i."""
    total = 0.0
    for i in range(len(query)):
        exponentials = [math.exp(cosine(query[i], k) / temperature) for k in key]
        total -= math.log(exponentials[i] / sum(exponentials))
    return 2 * temperature * total / len(query)


def fast_nt_xent(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    return nt_xent(a=x, b=y, temperature=temperature)


def fast_info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    return info_nce(query=x, key=y, temperature=temperature)


Fast = Callable[[Tensor, Tensor, float], Tensor]
Slow = Callable[[Array, Array, float], float]
TWINS: dict[Fast, Slow] = {fast_nt_xent: slow_nt_xent, fast_info_nce: slow_info_nce}
BOTH = pytest.mark.parametrize("fast", TWINS)


# By hand


def test_nt_xent_by_hand() -> None:
    """Two samples on the axes, both views equal: a = b = (1, 0), (0, 1); T = 1.

    Every anchor has its positive at cosine 1 and two negatives at cosine 0, so each of the four terms is
    -log(e / (e + 1 + 1)) = log(1 + 2/e) = 0.55144.
    """
    eye = torch.eye(2, dtype=torch.float64)
    assert nt_xent(a=eye, b=eye, temperature=1.0).item() == pytest.approx(math.log(1 + 2 / math.e))
    assert math.log(1 + 2 / math.e) == pytest.approx(0.55144, abs=1e-5)


def test_info_nce_by_hand() -> None:
    """q = k = (1, 0), (0, 1); T = 0.5: logits (2, 0), (0, 2), so each row is log(1 + e^-2), times 2T = 1.

    With the keys exchanged the positive has logit 0 and each row is log(1 + e^2) = 2 + log(1 + e^-2).
    """
    eye = torch.eye(2, dtype=torch.float64)
    right = math.log(1 + math.exp(-2))
    assert info_nce(query=eye, key=eye, temperature=0.5).item() == pytest.approx(right)
    assert info_nce(query=eye, key=eye.flip(0), temperature=0.5).item() == pytest.approx(2 + right)


# Against a slow twin


@BOTH
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_value_and_gradient_are_those_of_the_loops(fast: Fast, temperature: float) -> None:
    x, y, slow = embeddings(0).requires_grad_(), embeddings(0), TWINS[fast]
    loss = fast(x[0], x[1], temperature)
    assert loss.item() == pytest.approx(slow(y[0].numpy(), y[1].numpy(), temperature), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, x)

    def slow_from(flat: Array) -> float:
        a, b = flat.reshape(y.shape)
        return slow(a, b, temperature)

    measured = approx_fprime(y.flatten().numpy(), slow_from, epsilon=1e-7)
    np.testing.assert_allclose(gradient.flatten().numpy(), measured, atol=1e-5)


@BOTH
def test_gradcheck(fast: Fast) -> None:
    x = embeddings(1, batch=4, width=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fast(x[0], x[1], 0.2), x)


# Laws


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("batch", [2, 7])
def test_the_collapsed_values(batch: int, temperature: float) -> None:
    """All embeddings one: NT-Xent log(2B - 1), InfoNCE 2T log(B)."""
    same = torch.ones(batch, 3, dtype=torch.float64)
    assert nt_xent(a=same, b=same, temperature=temperature).item() == pytest.approx(math.log(2 * batch - 1))
    expected = 2 * temperature * math.log(batch)
    assert info_nce(query=same, key=same, temperature=temperature).item() == pytest.approx(expected)


def test_nt_xent_does_not_know_which_view_is_which() -> None:
    a, b = embeddings(2)
    assert nt_xent(a=a, b=b, temperature=0.3).item() == pytest.approx(
        nt_xent(a=b, b=a, temperature=0.3).item(), rel=1e-14
    )
    one_way, other_way = (fast_info_nce(x, y, 0.3).item() for x, y in ((a, b), (b, a)))
    assert one_way != pytest.approx(other_way, rel=1e-3)  # InfoNCE has a direction


@BOTH
def test_scale_rotation_and_order_do_not_matter_but_pairing_does(fast: Fast) -> None:
    a, b = embeddings(3)
    rotation, _ = torch.linalg.qr(embeddings(4, batch=5)[0])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = fast(a, b, 0.3).item()
    assert fast(7 * a, 0.1 * b, 0.3).item() == pytest.approx(loss, rel=1e-12)
    assert fast(a @ rotation, b @ rotation, 0.3).item() == pytest.approx(loss, rel=1e-12)
    assert fast(a[order], b[order], 0.3).item() == pytest.approx(loss, rel=1e-12)
    assert fast(a[order], b, 0.3).item() != pytest.approx(loss, rel=1e-3)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_at_a_hundredth_for_identical_opposite_and_zero_embeddings(fast: Fast, dtype: torch.dtype) -> None:
    same = torch.ones(4, 3, dtype=dtype)
    for a, b in ((same, same), (same, -same), (same, 0 * same)):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        loss = fast(a, b, 0.01)
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        for gradient in torch.autograd.grad(loss.double(), (a, b)):
            assert not gradient.isnan().any()


@BOTH
def test_autocast_does_not_reach_inside(fast: Fast) -> None:
    a, b = embeddings(5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ b.T).dtype == torch.bfloat16
        inside = fast(a, b, 0.05)
    assert inside.item() == fast(a, b, 0.05).item()


# Composition


def encode(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight).tanh()


def gradient_of(loss: Tensor, weight: Tensor) -> Tensor:
    return torch.autograd.grad(loss, weight)[0]


@BOTH
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_gathered_chunks_have_the_gradient_of_the_whole_and_averaged_chunks_do_not(fast: Fast, chunk: int) -> None:
    """The step's way: loss on the gathered embeddings, then each chunk with its share of the gradient."""
    x, y = embeddings(6, batch=8)
    weight = embeddings(7, batch=5)[0].requires_grad_()
    whole = gradient_of(fast(encode(x, weight), encode(y, weight), 0.2), weight)

    parts = list(zip(torch.split(x, chunk), torch.split(y, chunk), strict=True))
    gathered = [torch.cat([encode(p[view], weight) for p in parts]).detach().requires_grad_() for view in (0, 1)]
    cached = torch.autograd.grad(fast(gathered[0], gathered[1], 0.2), gathered)
    chunked = torch.zeros_like(whole)
    for i, part in enumerate(parts):
        for view in (0, 1):
            share = cached[view][i * chunk : (i + 1) * chunk]
            chunked += gradient_of((encode(part[view], weight) * share).sum(), weight)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-12)

    separate = [gradient_of(fast(encode(p, weight), encode(q, weight), 0.2), weight) for p, q in parts]
    assert not torch.allclose(torch.stack(separate).mean(dim=0), whole, rtol=0.1)
