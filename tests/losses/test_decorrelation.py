"""Decorrelation losses: by hand, against loops in NumPy, their laws, and chunks against the whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from torch import Tensor

from volssl.losses.decorrelation import barlow_twins, covariance, invariance, variance

Array = NDArray[np.float64]


def embeddings(seed: int, batch: int = 6, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, width, generator=generator, dtype=torch.float64)


def slow_invariance(x: Array) -> float:
    a, b = x
    return sum(float(p - q) ** 2 for p, q in zip(a.flat, b.flat, strict=True)) / float(a.size)


def slow_covariance_matrix(z: Array) -> Array:
    """Equation 3 of VICReg: sum over samples of the outer products of the centred rows, over n - 1."""
    centred = [row - z.mean(axis=0) for row in z]
    return np.asarray(sum(np.outer(row, row) for row in centred) / (len(z) - 1))


def slow_variance(x: Array) -> float:
    """Both views, as VICReg adds them; a target that some dimensions reach and others do not."""
    total = 0.0
    for z in x:
        for j in range(z.shape[1]):
            deviation = math.sqrt(slow_covariance_matrix(z)[j, j] + 1e-4)
            total += max(0.0, 1.0 - deviation) / z.shape[1]
    return total


def slow_covariance(x: Array) -> float:
    total = 0.0
    for z in x:
        c = slow_covariance_matrix(z)
        total += sum(c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j) / len(c)
    return total


def slow_barlow_twins(x: Array) -> float:
    """Equation 1 of Barlow Twins on embeddings that were centred, with the correlation of equation 2."""
    a, b = (z - z.mean(axis=0) for z in x)
    width, total = a.shape[1], 0.0
    for i in range(width):
        for j in range(width):
            scale = math.sqrt((np.mean(a[:, i] ** 2) + 1e-5) * (np.mean(b[:, j] ** 2) + 1e-5))
            c = float(np.mean(a[:, i] * b[:, j])) / scale
            total += (1 - c) ** 2 if i == j else 0.3 * c**2
    return total


def both_variances(x: Tensor) -> Tensor:
    return variance(z=x[0]) + variance(z=x[1])


def both_covariances(x: Tensor) -> Tensor:
    return covariance(z=x[0]) + covariance(z=x[1])


def fast_invariance(x: Tensor) -> Tensor:
    return invariance(a=x[0], b=x[1])


def fast_barlow_twins(x: Tensor) -> Tensor:
    return barlow_twins(a=x[0], b=x[1], redundancy=0.3)


Fast = Callable[[Tensor], Tensor]
TWINS: dict[str, tuple[Fast, Callable[[Array], float]]] = {
    "invariance": (fast_invariance, slow_invariance),
    "variance": (both_variances, slow_variance),
    "covariance": (both_covariances, slow_covariance),
    "barlow_twins": (fast_barlow_twins, slow_barlow_twins),
}
ALL = pytest.mark.parametrize("name", TWINS)


# By hand


def test_vicreg_by_hand() -> None:
    """a = (0 0; 2 1), b = (0 1; 0 1): B = D = 2.

    Invariance: squares 0, 1, 4, 0, mean 5/4.
    Variance of a, epsilon 0: unbiased variances 2 and 1/2, the first deviation is over 1, the second
    sqrt(1/2) short of it: (0 + 1 - sqrt(1/2)) / 2. Variance of b, which is constant: 1 for both.
    Covariance of a: centred (-1 -1/2; 1 1/2), off-diagonal 2 (1/2) / 1 = 1, twice its square over D: 1.
    """
    a = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    b = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert invariance(a=a, b=b).item() == pytest.approx(5 / 4)
    assert variance(z=a, epsilon=0.0).item() == pytest.approx((1 - math.sqrt(1 / 2)) / 2)
    assert variance(z=b, epsilon=0.0).item() == pytest.approx(1.0)
    assert covariance(z=a).item() == pytest.approx(1.0)
    assert covariance(z=b).item() == 0.0


def test_barlow_twins_by_hand() -> None:
    """a = (0 0; 2 1), b = (5 1; 3 0); epsilon 0. Standardised: a (-1 -1; 1 1), b (1 1; -1 -1).

    Every correlation is (-1 - 1) / 2 = -1: on the diagonal 2 (1 + 1)^2 = 8, off it 2 (1)^2 = 2, at 0.25: 8.5.
    """
    a = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    b = torch.tensor([[5.0, 1.0], [3.0, 0.0]])
    assert barlow_twins(a=a, b=b, redundancy=0.25, epsilon=0.0).item() == pytest.approx(8.5)


# Against a slow twin


@ALL
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_are_those_of_the_loops(name: str, seed: int) -> None:
    fast, slow = TWINS[name]
    x, y = embeddings(seed).requires_grad_(), embeddings(seed)
    loss = fast(x)
    assert loss.item() == pytest.approx(slow(y.numpy()), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, x)
    measured = approx_fprime(y.flatten().numpy(), lambda flat: slow(flat.reshape(y.shape)), epsilon=1e-7)
    np.testing.assert_allclose(gradient.flatten(), measured, atol=1e-5)


@ALL
def test_gradcheck(name: str) -> None:
    assert torch.autograd.gradcheck(TWINS[name][0], embeddings(2).requires_grad_())


# Laws


def test_the_collapsed_values() -> None:
    """All embeddings one: invariance 0, variance 1 - sqrt(epsilon), covariance 0, Barlow Twins D."""
    same = torch.full((5, 7), 3.0, requires_grad=True)
    assert invariance(a=same, b=same).item() == 0.0
    assert variance(z=same).item() == pytest.approx(1 - 0.01)
    assert covariance(z=same).item() == 0.0
    assert barlow_twins(a=same, b=same, redundancy=0.005).item() == pytest.approx(7.0)
    total = variance(z=same) + covariance(z=same) + barlow_twins(a=same, b=same, redundancy=0.005)
    (gradient,) = torch.autograd.grad(total, same)
    assert gradient.isfinite().all()
    # Negative control: without epsilon the square root has no slope to give.
    (gradient,) = torch.autograd.grad(variance(z=same, epsilon=0.0), same)
    assert not gradient.isfinite().all()


def test_apart_and_spread_costs_nothing() -> None:
    """A Hadamard matrix without its constant column: uncorrelated dimensions of variance 1 (unbiased 4/3)."""
    z = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])
    assert variance(z=z).item() == 0.0
    assert covariance(z=z).item() == 0.0
    assert barlow_twins(a=z, b=z, redundancy=1.0, epsilon=0.0).item() == pytest.approx(0.0, abs=1e-12)
    assert variance(z=z / 2).item() == pytest.approx(1 - math.sqrt(1 / 3 + 1e-4))
    tied = z[:, [0, 0, 1]]
    assert covariance(z=tied).item() == pytest.approx(2 * (4 / 3) ** 2 / 3)
    assert barlow_twins(a=tied, b=tied, redundancy=1.0, epsilon=0.0).item() == pytest.approx(2.0)


def test_symmetries() -> None:
    x = embeddings(3)
    order, offset, scale = (
        torch.tensor([3, 0, 5, 1, 4, 2]),
        embeddings(4, batch=1),
        embeddings(5, batch=1).abs(),
    )
    for fast, _ in TWINS.values():
        torch.testing.assert_close(fast(x.flip(0)), fast(x))  # the views exchanged
        torch.testing.assert_close(fast(x[:, order]), fast(x))
    for fast in (both_variances, both_covariances, fast_barlow_twins):
        torch.testing.assert_close(fast(x + offset), fast(x))
    torch.testing.assert_close(fast_barlow_twins(x * scale), fast_barlow_twins(x), rtol=1e-3, atol=0)
    torch.testing.assert_close(both_covariances(3 * x), 81 * both_covariances(x))
    # Negative control: the pairing of the views matters where they are compared.
    for fast in (fast_invariance, fast_barlow_twins):
        assert not torch.isclose(fast(torch.stack([x[0], x[1, order]])), fast(x), rtol=1e-3)


@ALL
def test_half_precision_is_computed_in_float32_and_autocast_does_not_reach_inside(name: str) -> None:
    fast, _ = TWINS[name]
    x = embeddings(6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fast(x)
    assert inside.dtype == torch.float32
    assert inside.item() == fast(x.float()).item()
    assert fast(x.double()).dtype == torch.float64


@ALL
@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_finite_for_tiny_and_huge_embeddings(name: str, size: float) -> None:
    x = (size * embeddings(7)).float().requires_grad_()
    loss = TWINS[name][0](x)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


# Composition


def encode(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight).tanh()


def gradient_of(loss: Tensor, weight: Tensor) -> Tensor:
    return torch.autograd.grad(loss, weight)[0]


@ALL
@pytest.mark.parametrize("chunk", [2, 4])
def test_gathered_chunks_have_the_gradient_of_the_whole(name: str, chunk: int) -> None:
    """The step's way: loss on the gathered embeddings, then each chunk with its share of the gradient.

    Negative control: the mean over chunks has another gradient, but for the invariance, which is separable.
    """
    fast, _ = TWINS[name]
    x = embeddings(8, batch=8)
    weight = embeddings(9, batch=4)[0].requires_grad_()
    whole = gradient_of(fast(encode(x, weight)), weight)

    parts = torch.split(x, chunk, dim=1)
    gathered = torch.cat([encode(part, weight) for part in parts], dim=1).detach().requires_grad_()
    (cached,) = torch.autograd.grad(fast(gathered), gathered)
    chunked = [
        gradient_of((encode(part, weight) * share).sum(), weight)
        for part, share in zip(parts, torch.split(cached, chunk, dim=1), strict=True)
    ]
    torch.testing.assert_close(torch.stack(chunked).sum(dim=0), whole, rtol=0, atol=1e-12)

    averaged = torch.stack([gradient_of(fast(encode(part, weight)), weight) for part in parts]).mean(dim=0)
    assert torch.allclose(averaged, whole, rtol=1e-3) == (name == "invariance")
