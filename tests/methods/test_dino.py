"""DINO: centre and temperatures, what the teacher sees, the last layer that rests at first, a step in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import Tensor, nn

from tests.losses.test_assignment import slow_distillation
from tests.methods.conftest import rows
from tests.methods.plain import (
    Array,
    Arrays,
    around,
    descend,
    distance,
    encode,
    images,
    momentum,
    of_student,
    state,
    step,
    unit,
    views_of,
)
from volssl.engine import AdamWConfig
from volssl.engine.distributed import Group
from volssl.engine.optim import build_optimizer
from volssl.engine.step import backward
from volssl.methods import DINOConfig
from volssl.methods.dino import DINO, warm_up
from volssl.types import Batch, Loss, Progress

AT = Progress(3, 10)
VIEWS = ("0", "1", "local0", "local1")


def build(**options: Any) -> DINO:
    settings: dict[str, Any] = {"projector": (5, 3), "prototypes": 5, "temperature": 0.3, "momentum": (0.9, 1.0)}
    settings |= {"teacher_temperature": (0.1, 0.2), "teacher_warmup": 4}
    method = around(DINOConfig(**(settings | options)).build)
    assert isinstance(method, DINO)
    method.centre.copy_(torch.linspace(-0.3, 0.4, len(method.centre)))
    return method


def run(method: DINO, batch: Batch, at: Progress = AT) -> Loss:
    return method.loss(method.encode(batch), method.target(batch), at)


# What varies over the steps


def test_temperature_of_the_teacher_by_hand() -> None:
    """From 0.04 to 0.07 over 30 steps: a thousandth each, then constant; without a warm-up the last from the first
    step on. The length of the run plays no part."""
    values = [warm_up((0.04, 0.07), 30, Progress(k, 1000)) for k in (0, 1, 15, 30, 999)]
    assert values == pytest.approx([0.04, 0.041, 0.055, 0.07, 0.07])
    assert warm_up((0.04, 0.07), 0, Progress(0, 1000)) == 0.07
    assert warm_up((0.04, 0.07), 30, Progress(15, 31)) == pytest.approx(0.055)


def test_the_loss_is_sharpened_with_the_temperature_of_its_step() -> None:
    method, batch = build(), images(*VIEWS)
    losses = [run(method, batch, Progress(k, 10)) for k in (0, 2, 4, 9)]
    assert [loss.metrics["teacher_temperature"].item() for loss in losses] == pytest.approx([0.1, 0.15, 0.2, 0.2])
    totals = [loss.total.item() for loss in losses]
    assert totals[2] == totals[3]
    assert len({round(total, 6) for total in totals}) == 3


def test_the_centre_by_hand() -> None:
    """m = 0.9, centre (1, 2), teacher's mean (3, -8): 0.9 * 1 + 0.1 * 3 = 1.2 and 1.8 - 0.8 = 1."""
    method = build(prototypes=2, centre_momentum=0.9)
    method.centre.copy_(torch.tensor([1.0, 2.0]))
    method.after_step({"centre": torch.tensor([3.0, -8.0])}, AT)
    torch.testing.assert_close(method.centre, torch.tensor([1.2, 1.0], dtype=torch.float64))


def test_what_moves_the_centre_is_the_mean_over_global_views_and_samples() -> None:
    method, batch = build(), images(*VIEWS)
    scores = [method.teacher.projector(method.teacher.encoder(batch.views[name]).pooled) for name in ("0", "1")]
    found = run(method, batch).stats["centre"]
    torch.testing.assert_close(found, torch.cat(scores).mean(0), rtol=0, atol=1e-14)
    assert not found.requires_grad


def test_prototypes_used_are_those_of_the_whole_batch() -> None:
    """One item at a time would use few each: what is logged is of the mean of what the teacher says."""
    batch = images(*VIEWS)
    whole, halves = build(), build()
    found = [
        backward(method, chunks, AT, group=Group()).metrics["prototypes_used"]
        for method, chunks in ((whole, [batch]), (halves, [rows(batch, slice(i, i + 1)) for i in range(len(batch))]))
    ]
    scores = [whole.teacher.projector(whole.teacher.encoder(batch.views[name]).pooled) for name in ("0", "1")]
    shares = ((torch.cat(scores) - whole.centre) / warm_up((0.1, 0.2), 4, AT)).softmax(1).mean(0)
    assert found[0].item() == pytest.approx(1 / shares.square().sum().item())
    assert found[1].item() == pytest.approx(found[0].item())


def test_the_centre_in_the_loss_is_that_of_the_steps_before() -> None:
    """A shift of all the teacher's scores tells, until the centre has followed it."""
    method, batch, shift = build(), images(*VIEWS), torch.linspace(-1, 1, 5)
    method.teacher.projector = nn.Identity()
    z, t = method.encode(batch), {name: batch.views[name][:, 0, 0, :5] for name in ("0", "1")}
    shifted = {name: scores + shift for name, scores in t.items()}
    before, moved = (method.loss(z, scores, AT).total.item() for scores in (t, shifted))
    method.centre.add_(shift)
    assert moved != pytest.approx(before, rel=1e-3)
    assert method.loss(z, shifted, AT).total.item() == pytest.approx(before, rel=1e-12)


# Who sees what


@pytest.mark.parametrize("locals_", [0, 1, 4])
def test_the_teacher_sees_the_global_views_and_the_student_all(locals_: int) -> None:
    method, batch = build(), images("0", "1", *(f"local{i}" for i in range(locals_)))
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for name, branch in (("student", method.student), ("teacher", method.teacher)):
        branch.encoder.register_forward_pre_hook(noting(seen[name]))
    assert set(method.encode(batch)) == set(batch.views)
    assert set(method.target(batch)) == {"0", "1"}
    assert seen == {"student": [(4, 6)] * 2 + [(2, 3)] * locals_, "teacher": [(4, 6)] * 2}


def noting(sizes: list[tuple[int, ...]]) -> Callable[[nn.Module, tuple[Tensor]], None]:
    return lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:]))


# A step in NumPy


def slow_scores(p: Arrays, branch: str, x: Array) -> Array:
    """Linear, GELU, Linear to the bottleneck; cosines with the prototypes (weight normalisation at length one)."""
    at = f"{branch}.projector"
    x = encode(p, f"{branch}.encoder", x) @ p[f"{at}.perceptron.0.weight"].T + p[f"{at}.perceptron.0.bias"]
    x = x * (1 + erf(x / math.sqrt(2))) / 2
    x = x @ p[f"{at}.perceptron.2.weight"].T + p[f"{at}.perceptron.2.bias"]
    return unit(x) @ unit(p[f"{at}.prototypes.weight"]).T


@pytest.mark.parametrize("frozen", [False, True])
def test_a_whole_step_is_that_of_the_equations(frozen: bool) -> None:
    """Algorithm 1 with two small views, at step 3 of 10: the teacher's temperature is 0.1 + 0.1 * 3 / 4."""
    method, batch = build(freeze=4 if frozen else 3), images(*VIEWS)
    before, x = state(method), views_of(batch)
    teacher = np.stack([slow_scores(before, "teacher", x[name]) for name in ("0", "1")])

    def slow(p: Arrays) -> float:
        student = np.stack([slow_scores(p, "student", view) for view in x.values()])
        return slow_distillation(student, teacher, before["centre"], 0.3, 0.175)

    def learns(name: str) -> bool:
        return of_student(name) and name != "centre" and not (frozen and "prototypes" in name)

    expected, m = descend(slow, before, learns), momentum(0.9, 1.0, AT)
    for name in [name for name in before if not of_student(name)]:
        expected[name] = m * before[name] + (1 - m) * expected[name.replace("teacher", "student")]
    expected["centre"] = 0.9 * before["centre"] + 0.1 * teacher.mean(axis=(0, 1))
    loss = step(method, batch, AT)
    assert loss.total.item() == pytest.approx(slow(before), rel=1e-12)
    assert distance(state(method), expected) < 1e-8
    # Negative control: without the centre, or with every view against its own label as well, it is another loss.
    student = np.stack([slow_scores(before, "student", view) for view in x.values()])
    others = [(student, 0 * before["centre"]), (np.concatenate([student, student[:2]]), before["centre"])]
    for scores, centre in others:
        assert abs(loss.total.item() - slow_distillation(scores, teacher, centre, 0.3, 0.175)) > 1e-3


def test_a_network_that_says_nothing_scores_log_k() -> None:
    """All scores zero and no centre: even labels, even predictions, log 5."""
    method = build()
    for branch in (method.student, method.teacher):
        for parameter in branch.projector.perceptron.parameters():  # type: ignore[union-attr]
            parameter.data.zero_()
    method.centre.zero_()
    assert run(method, images(*VIEWS)).total.item() == pytest.approx(math.log(5))


# The last layer


def test_the_last_layer_rests_at_first_whatever_decays_and_then_moves() -> None:
    method = build(freeze=2)
    optimizer = build_optimizer(AdamWConfig(lr=0.1, weight_decay=0.5), method)
    name = "student.projector.prototypes.weight"
    weight = dict(method.named_parameters())[name]
    drawn = weight.detach().clone()
    for i in range(3):
        loss = backward(method, [images(*VIEWS, seed=i)], Progress(i, 10), group=Group())
        without = {n for n, p in method.named_parameters() if p.grad is None and of_student(n)}
        assert without == ({name} if i < 2 else set())
        optimizer.step()
        method.after_step(loss.stats, Progress(i, 10))
        assert torch.equal(weight, drawn) == (i < 2)
