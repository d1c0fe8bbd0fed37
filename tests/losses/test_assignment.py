"""Assignment losses: by hand, against loops in NumPy, their laws, and chunks against the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from torch import Tensor

from volssl.losses.assignment import distillation, sinkhorn, swapped_prediction

Array = NDArray[np.float64]
VIEWS = ("first", "second", "small")


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_view(x: Tensor, count: int = 3) -> dict[str, Tensor]:
    return dict(zip(VIEWS[:count], x[:count], strict=True))


def slow_sinkhorn(scores: Array, epsilon: float, iterations: int) -> Array:
    """SwAV's listing in the exponential domain: scale every prototype to 1/K, then every sample to 1/B."""
    q = np.exp(scores / epsilon)
    samples, prototypes = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[:, k] /= q[:, k].sum() * prototypes
        for b in range(samples):
            q[b] /= q[b].sum() * samples
    return np.asarray(q * samples)


def slow_softmax(x: Array) -> Array:
    return np.asarray(np.exp(x) / np.exp(x).sum())


def slow_swapped_prediction(scores: Array, codes: Array, temperature: float) -> float:
    """SwAV's released rule: mean over coded views of the sum over the other views divided by V - 1."""
    views, samples, prototypes = scores.shape
    total = 0.0
    for coded in range(len(codes)):
        of_this_code = 0.0
        for other in range(views):
            if other == coded:
                continue
            for b in range(samples):
                p = slow_softmax(scores[other, b] / temperature)
                of_this_code -= sum(codes[coded, b, k] * math.log(p[k]) for k in range(prototypes)) / samples
        total += of_this_code / (views - 1)
    return total / len(codes)


def slow_distillation(student: Array, teacher: Array, centre: Array, hot: float, cold: float) -> float:
    """DINO's released rule: a plain mean over the terms of all pairs that are not one view."""
    terms = []
    for t in range(len(teacher)):
        for s in range(len(student)):
            if s == t:
                continue
            rows = [
                -sum(slow_softmax((teacher[t, b] - centre) / cold) * np.log(slow_softmax(student[s, b] / hot)))
                for b in range(student.shape[1])
            ]
            terms.append(np.mean(rows))
    return float(np.mean(terms))


# By hand


def test_sinkhorn_by_hand() -> None:
    """exp(scores / epsilon) = (1 1; 1 3) with epsilon 0.5: scores (0 0; 0 0.5 log 3), one iteration.

    Columns sum to 2 and 4: (1/2 1/4; 1/2 3/4). Rows then sum to 3/4 and 5/4: (2/3 1/3; 2/5 3/5).
    """
    scores = torch.tensor([[0.0, 0.0], [0.0, 0.5 * math.log(3)]], dtype=torch.float64)
    codes = sinkhorn(scores=scores, epsilon=0.5, iterations=1)
    expected = torch.tensor([[2 / 3, 1 / 3], [2 / 5, 3 / 5]], dtype=torch.float64)
    torch.testing.assert_close(codes, expected, rtol=0, atol=1e-15)


def test_swapped_prediction_by_hand() -> None:
    """One sample, two prototypes, T = 0.5. Scores u (0, 0), v (0.5 log 3, 0) predict (1/2 1/2), (3/4 1/4).

    Code of u (1, 0), predicted by v: -log(3/4). Code of v (1/2, 1/2), predicted by u: log 2. Mean of the two:
    (log(4/3) + log 2) / 2 = 0.49041.
    """
    scores = {"u": torch.zeros(1, 2), "v": torch.tensor([[0.5 * math.log(3), 0.0]])}
    codes = {"u": torch.tensor([[1.0, 0.0]]), "v": torch.tensor([[0.5, 0.5]])}
    loss = swapped_prediction(scores=scores, codes=codes, temperature=0.5).item()
    assert loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert loss == pytest.approx(0.49041, abs=1e-5)


def test_distillation_by_hand() -> None:
    """One sample, one teacher view u, one other student view v; T_s = 1, T_t = 0.5, centre (0.5, 0).

    Teacher (0.5 + 0.5 log 3, 0) - centre = (0.5 log 3, 0), over 0.5: (log 3, 0) -> (3/4, 1/4).
    Student (log 3, 0) -> (3/4, 1/4). Cross entropy: 3/4 log(4/3) + 1/4 log 4 = 0.56234, the entropy of
    (3/4, 1/4). The student's own view u is far off and does not count.
    """
    loss = distillation(
        student={"u": torch.tensor([[0.0, 90.0]]), "v": torch.tensor([[math.log(3), 0.0]])},
        teacher={"u": torch.tensor([[0.5 + 0.5 * math.log(3), 0.0]])},
        centre=torch.tensor([0.5, 0.0]),
        student_temperature=1.0,
        teacher_temperature=0.5,
    ).item()
    assert loss == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert loss == pytest.approx(0.56234, abs=1e-5)


# Against slow twins


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_sinkhorn_is_that_of_the_loops(epsilon: float, iterations: int) -> None:
    scores = numbers(0, 7, 4).tanh()
    codes = sinkhorn(scores=scores, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(codes, slow_sinkhorn(scores.numpy(), epsilon, iterations), rtol=1e-12)


def test_swapped_prediction_is_that_of_the_loops() -> None:
    scores = numbers(1, 3, 4, 5).tanh()
    codes = sinkhorn(scores=scores[:2].flatten(0, 1), epsilon=0.1, iterations=3).view(2, 4, 5)

    def slow(flat: Array) -> float:
        return slow_swapped_prediction(flat.reshape(scores.shape), codes.numpy(), 0.1)

    x = scores.clone().requires_grad_()
    loss = swapped_prediction(scores=by_view(x), codes=by_view(codes, 2), temperature=0.1)
    assert loss.item() == pytest.approx(slow(scores.numpy()), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, x)
    measured = approx_fprime(scores.flatten().numpy(), slow, epsilon=1e-7)
    np.testing.assert_allclose(gradient.flatten(), measured, atol=1e-5)


def test_distillation_is_that_of_the_loops() -> None:
    student, teacher, centre = numbers(2, 3, 4, 5), numbers(3, 2, 4, 5), numbers(4, 5)

    def slow(flat: Array) -> float:
        return slow_distillation(flat.reshape(student.shape), teacher.numpy(), centre.numpy(), 0.3, 0.2)

    x = student.clone().requires_grad_()
    loss = dino(by_view(x), by_view(teacher, 2), centre)
    assert loss.item() == pytest.approx(slow(student.numpy()), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, x)
    measured = approx_fprime(student.flatten().numpy(), slow, epsilon=1e-7)
    np.testing.assert_allclose(gradient.flatten(), measured, atol=1e-5)


def dino(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], centre: Tensor) -> Tensor:
    return distillation(
        student=student, teacher=teacher, centre=centre, student_temperature=0.3, teacher_temperature=0.2
    )


def test_gradcheck() -> None:
    x, codes = numbers(5, 3, 3, 4), numbers(6, 2, 3, 4).softmax(dim=-1)
    teacher, centre = numbers(7, 2, 3, 4), numbers(8, 4)
    assert torch.autograd.gradcheck(
        lambda x: swapped_prediction(scores=by_view(x), codes=by_view(codes, 2), temperature=0.3),
        x.requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda x: dino(by_view(x), by_view(teacher, 2), centre), x)


# Laws


def test_codes_use_every_prototype_equally_and_every_sample_once() -> None:
    scores = numbers(9, 12, 4)
    codes = sinkhorn(scores=scores, epsilon=0.5, iterations=200)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 3.0, dtype=torch.float64))
    popular = scores + torch.tensor([5.0, 0.0, 0.0, 0.0])  # an offset per prototype cannot buy more samples
    torch.testing.assert_close(sinkhorn(scores=popular, epsilon=0.5, iterations=200), codes)
    # Negative control: a softmax gives the popular prototype nearly everything.
    assert (popular / 0.5).softmax(dim=1).sum(dim=0)[0] > 11


def test_codes_do_not_depend_on_the_order_of_samples_or_prototypes() -> None:
    scores = numbers(10, 5, 4)
    rows, columns = torch.tensor([4, 1, 0, 3, 2]), torch.tensor([2, 0, 3, 1])
    codes = sinkhorn(scores=scores, epsilon=0.1, iterations=3)
    shuffled = sinkhorn(scores=scores[rows][:, columns], epsilon=0.1, iterations=3)
    torch.testing.assert_close(shuffled, codes[rows][:, columns])


def test_equal_scores_give_even_codes_and_the_collapsed_losses_are_log_k() -> None:
    same = torch.full((6, 4), 3.0)
    codes = sinkhorn(scores=same, epsilon=0.001, iterations=3)
    torch.testing.assert_close(codes, torch.full((6, 4), 0.25))
    views = {"u": same, "v": same}
    swapped = swapped_prediction(scores=views, codes={"u": codes}, temperature=0.01)
    assert swapped.item() == pytest.approx(math.log(4))
    assert dino(views, views, torch.zeros(4)).item() == pytest.approx(math.log(4))


def test_a_small_epsilon_assigns_and_does_not_overflow() -> None:
    """Cosines at epsilon 0.001 are exponents of 1000, which overflow in the exponential domain."""
    scores = torch.tensor([[-0.5, 1.0], [1.0, -1.0]])
    codes = sinkhorn(scores=scores, epsilon=0.001, iterations=3)
    torch.testing.assert_close(codes, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.warns(RuntimeWarning):
        assert not np.isfinite(slow_sinkhorn(scores.double().numpy(), 0.001, 3)).all()


def test_gradients_reach_the_student_and_never_a_target() -> None:
    scores, teacher = numbers(11, 3, 4, 5).requires_grad_(), numbers(12, 2, 4, 5).requires_grad_()
    assert not sinkhorn(scores=scores[0], epsilon=0.05, iterations=3).requires_grad
    codes = teacher.softmax(dim=-1)
    losses = [
        swapped_prediction(scores=by_view(scores), codes=by_view(codes, 2), temperature=0.1),
        dino(by_view(scores), by_view(teacher, 2), numbers(13, 5)),
    ]
    for loss in losses:
        student_gradient, teacher_gradient = torch.autograd.grad(loss, (scores, teacher), allow_unused=True)
        assert student_gradient.abs().sum() > 0
        assert teacher_gradient is None


def test_the_losses_do_not_depend_on_the_order_of_views_or_a_shift_of_the_logits() -> None:
    x, teacher, centre = numbers(14, 3, 4, 5), numbers(15, 2, 4, 5), numbers(16, 5)
    student = by_view(x)
    backwards = dict(reversed(student.items()))
    loss = dino(student, by_view(teacher, 2), centre)
    torch.testing.assert_close(dino(backwards, by_view(teacher, 2), centre), loss)
    torch.testing.assert_close(dino(by_view(x + 5), by_view(teacher, 2), centre), loss)
    torch.testing.assert_close(dino(student, by_view(teacher + centre, 2), centre + centre), loss)
    assert not torch.isclose(dino(student, by_view(teacher, 2), 0 * centre), loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_a_hundredth_and_autocast_does_not_reach_inside(dtype: torch.dtype) -> None:
    x = (1000 * numbers(17, 2, 3, 4)).to(dtype)
    views = by_view(x.requires_grad_(), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = {name: sinkhorn(scores=view, epsilon=0.01, iterations=3) for name, view in views.items()}
        losses = [
            swapped_prediction(scores=views, codes=codes, temperature=0.01),
            distillation(
                student=views,
                teacher=views,
                centre=torch.zeros(4, dtype=dtype),
                student_temperature=0.01,
                teacher_temperature=0.01,
            ),
        ]
    for loss in losses:
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_a_target_for_an_unknown_view_or_no_other_view_is_an_error() -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="not predicted: w"):
        swapped_prediction(scores={"u": x, "v": x}, codes={"w": x}, temperature=0.1)
    with pytest.raises(ValueError, match="at least two"):
        swapped_prediction(scores={"u": x}, codes={"u": x}, temperature=0.1)


# Composition


def weighted_mean(parts: list[tuple[int, Tensor]]) -> Tensor:
    return torch.stack([size * part for size, part in parts]).sum() / sum(size for size, _ in parts)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_given_the_codes_the_losses_of_uneven_chunks_average_to_the_whole(chunk: int) -> None:
    """Five samples in chunks of 1, 2 or 3, each weighted by its size: these losses may be accumulated."""
    x, teacher, centre = numbers(18, 3, 5, 4), numbers(19, 2, 5, 4), numbers(20, 4)
    codes = teacher.softmax(dim=-1)
    distilled, swapped = [], []
    for part, t, q in zip(
        torch.split(x, chunk, 1), torch.split(teacher, chunk, 1), torch.split(codes, chunk, 1), strict=True
    ):
        size = part.shape[1]
        distilled.append((size, dino(by_view(part), by_view(t, 2), centre)))
        loss = swapped_prediction(scores=by_view(part), codes=by_view(q, 2), temperature=0.1)
        swapped.append((size, loss))
    whole = dino(by_view(x), by_view(teacher, 2), centre)
    torch.testing.assert_close(weighted_mean(distilled), whole, rtol=0, atol=1e-12)
    whole = swapped_prediction(scores=by_view(x), codes=by_view(codes, 2), temperature=0.1)
    torch.testing.assert_close(weighted_mean(swapped), whole, rtol=0, atol=1e-12)
    if chunk > 1:  # Negative control: without the weights, the last and smaller chunk counts too much.
        unweighted = torch.stack([loss for _, loss in distilled]).mean()
        assert not torch.isclose(unweighted, dino(by_view(x), by_view(teacher, 2), centre), rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_codes_of_gathered_chunks_are_those_of_the_whole_and_codes_per_chunk_are_not(chunk: int) -> None:
    features, prototypes = numbers(21, 8, 6), numbers(22, 6, 3)
    whole = sinkhorn(scores=features @ prototypes, epsilon=0.5, iterations=3)
    gathered = torch.cat([part @ prototypes for part in torch.split(features, chunk)])
    torch.testing.assert_close(sinkhorn(scores=gathered, epsilon=0.5, iterations=3), whole, rtol=0, atol=1e-12)
    per_chunk = [sinkhorn(scores=p @ prototypes, epsilon=0.5, iterations=3) for p in torch.split(features, chunk)]
    assert (torch.cat(per_chunk) - whole).abs().max() > 0.1
