"""Cross entropy with missing labels: by hand, against loops in NumPy, its laws, and chunks against the whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from torch import Tensor

from volssl.losses.supervised import labelled_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.float64]
CLASSES = (3, 2)
# Six items, two sets: labelled in the one, the other, both or neither.
LABELS = torch.tensor([[2, -1], [-1, 1], [-1, -1], [0, -1], [1, 0], [-1, -1]])


def numbers(seed: int = 0, samples: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, count, generator=generator, dtype=torch.float64) for count in CLASSES]


def slow_cross_entropy(logits: Sequence[Array], labels: Array, smoothing: float = 0.0) -> float:
    """The mean of -sum_k q(k) log p(k) over every known label, q as in section 7 of arXiv 1512.00567."""
    terms: list[float] = []
    for scores, column in zip(logits, labels.T, strict=True):
        count = scores.shape[1]
        for row, label in zip(scores, column, strict=True):
            if label >= 0:
                p = np.exp(row) / np.exp(row).sum()
                q = [(1 - smoothing) * (k == label) + smoothing / count for k in range(count)]
                terms.append(-sum(q[k] * math.log(p[k]) for k in range(count)))
    return sum(terms) / len(terms)


# By hand


def test_by_hand() -> None:
    """Logits (0, log 3) give 1/4 and 3/4. Label 0: log 4; label 1: log(4/3); the third has none. A second set of
    three classes with logits 0 has one label: log 3. Mean of the three: (log 4 + log(4/3) + log 3) / 3 = log(16) / 3.
    """
    two = torch.tensor([[0.0, math.log(3)]] * 3, dtype=torch.float64)
    labels = torch.tensor([[0, -1], [1, -1], [-1, 2]])
    loss = labelled_cross_entropy(logits=[two, torch.zeros(3, 3, dtype=torch.float64)], labels=labels)
    assert loss.item() == pytest.approx(math.log(16) / 3)


def test_smoothing_by_hand() -> None:
    """s = 0.2, two classes with 1/4 and 3/4, label 1: 0.9 log(4/3) + 0.1 log 4."""
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    loss = labelled_cross_entropy(logits=[logits], labels=torch.tensor([[1]]), smoothing=0.2)
    assert loss.item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))


# Against a slow twin


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradient_are_those_of_the_loops(smoothing: float) -> None:
    logits = [x.requires_grad_() for x in numbers()]
    loss = labelled_cross_entropy(logits=logits, labels=LABELS, smoothing=smoothing)

    def slow(flat: Array) -> float:
        parts = flat[:18].reshape(6, 3), flat[18:].reshape(6, 2)
        return slow_cross_entropy(parts, LABELS.numpy(), smoothing)

    flat = torch.cat([x.detach().flatten() for x in logits]).numpy()
    assert loss.item() == pytest.approx(slow(flat), rel=1e-12)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, logits)])
    np.testing.assert_allclose(gradient, approx_fprime(flat, slow, epsilon=1e-7), atol=1e-5)
    # Negative control: the mean over the items, labelled or not, is another.
    assert loss.item() * 5 / 6 != pytest.approx(slow(flat), rel=1e-2)


def test_gradcheck() -> None:
    one, two = (x.requires_grad_() for x in numbers(1))
    assert torch.autograd.gradcheck(lambda a, b: labelled_cross_entropy(logits=[a, b], labels=LABELS), (one, two))


# Laws


def test_equal_logits_score_the_mean_of_log_k() -> None:
    """A collapsed encoder: three labels of three classes, two of two: (3 log 3 + 2 log 2) / 5,
    whatever the smoothing."""
    logits = [torch.full((6, count), 7.0, dtype=torch.float64) for count in CLASSES]
    expected = (3 * math.log(3) + 2 * math.log(2)) / 5
    for smoothing in (0.0, 0.3):
        loss = labelled_cross_entropy(logits=logits, labels=LABELS, smoothing=smoothing)
        assert loss.item() == pytest.approx(expected)


def test_items_without_a_label_in_a_set_change_nothing_and_get_no_gradient_there() -> None:
    logits, other = numbers(2), numbers(3)
    unknown = LABELS < 0
    for column, (x, y) in enumerate(zip(logits, other, strict=True)):
        y[~unknown[:, column]] = x[~unknown[:, column]]
    a, b = ([x.clone().requires_grad_() for x in sets] for sets in (logits, other))
    first, second = (labelled_cross_entropy(logits=x, labels=LABELS) for x in (a, b))
    assert first.item() == second.item()
    for column, gradient in enumerate(torch.autograd.grad(first, a)):
        assert torch.equal(gradient.abs().sum(1) == 0, unknown[:, column])
    # Negative control: a labelled item does change it.
    a[1].data[1] += torch.tensor([1.0, 0.0])
    assert labelled_cross_entropy(logits=a, labels=LABELS).item() != pytest.approx(first.item(), rel=1e-3)


def test_no_label_at_all_is_zero_with_a_gradient_of_zero() -> None:
    logits = [x.requires_grad_() for x in numbers()]
    loss = labelled_cross_entropy(logits=logits, labels=torch.full_like(LABELS, -1), smoothing=0.1)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, logits):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_order_and_a_shift_of_the_logits_do_not_matter_but_the_label_does() -> None:
    logits, order = numbers(4), torch.tensor([5, 3, 1, 0, 2, 4])
    loss = labelled_cross_entropy(logits=logits, labels=LABELS).item()
    assert labelled_cross_entropy(logits=[x + 9 for x in logits], labels=LABELS).item() == pytest.approx(loss)
    shuffled = labelled_cross_entropy(logits=[x[order] for x in logits], labels=LABELS[order])
    assert shuffled.item() == pytest.approx(loss)
    exchanged = labelled_cross_entropy(logits=logits[::-1], labels=LABELS.flip(1))
    assert exchanged.item() == pytest.approx(loss)
    assert labelled_cross_entropy(logits=logits, labels=LABELS[order]).item() != pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_in_half_precision_and_autocast_does_not_reach_inside(dtype: torch.dtype, autocast: bool) -> None:
    logits = [(1000 * x).to(dtype).requires_grad_() for x in numbers(5)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = labelled_cross_entropy(logits=logits, labels=LABELS)
    assert loss.dtype == torch.float32
    assert loss.item() == labelled_cross_entropy(logits=[x.float() for x in logits], labels=LABELS).item()
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, logits))


# Composition


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunks_weighed_by_their_labels_are_the_whole_and_weighed_by_their_items_are_not(chunk: int) -> None:
    """Why a method with this loss is coupled: what an item weighs depends on how many others are labelled."""
    logits, parts = numbers(6), []
    for i in range(0, 6, chunk):
        rows = slice(i, i + chunk)
        loss = labelled_cross_entropy(logits=[x[rows] for x in logits], labels=LABELS[rows]).item()
        parts.append((loss, int((LABELS[rows] >= 0).sum()), len(LABELS[rows])))
    whole = labelled_cross_entropy(logits=logits, labels=LABELS).item()
    assert sum(loss * labels for loss, labels, _ in parts) / 5 == pytest.approx(whole, rel=1e-12)
    assert sum(loss * items for loss, _, items in parts) / 6 != pytest.approx(whole, rel=1e-2)
