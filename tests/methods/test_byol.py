"""BYOL: its loss on heads that do nothing, its teacher, and the schedule of its momentum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from volssl.methods import BYOLConfig
from volssl.methods.base import half_cosine as momentum
from volssl.methods.byol import BYOL
from volssl.models import ResNetConfig
from volssl.types import Batch, Progress


def build(**options: Any) -> BYOL:
    config = BYOLConfig(projector=(16, 8), predictor=(16, 8), **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BYOL(config, ResNetConfig(dims=2, depth=10, stem="small", width=4).build(1)).double()


def images(samples: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, samples, 1, 32, 32, generator=generator, dtype=torch.float64)
    index = torch.arange(samples)
    return Batch({"0": views[0], "1": views[1]}, index, index, index)


def test_loss_by_hand() -> None:
    """With heads that do nothing: view 0 (1, 0) against the teacher's view 1 (0, 2): cos 0, 2. View 1 (1, 1)
    against the teacher's view 0 (1, 0): cos 1 / sqrt(2), 2 - sqrt(2). The paper's sum: 4 - sqrt(2) = 2.5858."""
    method = build()
    method.student.projector = method.teacher.projector = method.predictor = nn.Identity()  # type: ignore[assignment]
    z = {"0": torch.tensor([[1.0, 0.0]]), "1": torch.tensor([[1.0, 1.0]])}
    t = {"0": torch.tensor([[1.0, 0.0]]), "1": torch.tensor([[0.0, 2.0]])}
    assert method.loss(z, t, Progress(0, 1)).total.item() == pytest.approx(4 - 2**0.5)


def test_swapping_the_views_changes_nothing() -> None:
    method, batch = build(), images()
    swapped = Batch({"0": batch.views["1"], "1": batch.views["0"]}, batch.index, batch.seeds, batch.labels)
    losses = [method.loss(method.encode(b), method.target(b), Progress(0, 1)).total for b in (batch, swapped)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)


def test_momentum_by_hand() -> None:
    """0.9 at first; half way 1 - 0.1 (0 + 1) / 2 = 0.95; 1 at the end. A quarter: cos(pi/4) = 0.70711,
    1 - 0.1 * 1.70711 / 2 = 0.91464."""
    values = [momentum((0.9, 1.0), Progress(k, 8)) for k in (0, 2, 4, 8)]
    assert values == pytest.approx([0.9, 0.914645, 0.95, 1.0], abs=1e-6)
    assert [momentum((0.99, 0.99), Progress(k, 8)) for k in (0, 4)] == pytest.approx([0.99, 0.99])


def test_momentum_reaches_its_end_in_optimiser_steps() -> None:
    """Defect 1 of BYOLMed3D: K counts micro-batches and k counts updates, so that 64-step accumulation stops at
    1/64 of the schedule, m = 0.99601; here the last of 10,000 steps is within 1e-9 of 1."""
    assert momentum((0.996, 1.0), Progress(9_999, 10_000)) == pytest.approx(1.0, abs=1e-9)
    assert momentum((0.996, 1.0), Progress(10_000, 64 * 10_000)) < 0.99601


def test_momentum_is_not_constant() -> None:
    """Defect 3 of BYOLMed3D (December 2022): ``1 // accumulation`` is 0, so k never grows."""
    values = [momentum((0.996, 1.0), Progress(k, 100)) for k in range(100)]
    assert values == sorted(set(values))


def test_the_teacher_follows_once_with_its_statistics() -> None:
    """At m = 0.95, from 1 towards 3: 0.95 * 1 + 0.05 * 3 = 1.1, parameters and running statistics alike; the
    number of steps that the statistics have seen is copied."""
    method = build(momentum=(0.9, 1.0))
    for name, tensor in method.state_dict().items():
        tensor.fill_(1 if name.startswith("teacher") else 3)
    method.after_step({}, Progress(4, 8))
    for name, tensor in method.teacher.state_dict().items():
        expected = 1.1 if tensor.is_floating_point() else 3.0
        torch.testing.assert_close(tensor, torch.full_like(tensor, expected), msg=name)
    assert all((x == 3).all() for x in method.student.state_dict().values())


def test_at_momentum_1_the_teacher_rests_and_at_0_it_is_the_student() -> None:
    method = build(momentum=(0.0, 1.0))
    for parameter in method.student.parameters():
        parameter.data += 1
    before = {n: x.clone() for n, x in method.teacher.state_dict().items()}
    method.after_step({}, Progress(8, 8))
    assert all(torch.equal(x, before[n]) for n, x in method.teacher.state_dict().items())
    method.after_step({}, Progress(0, 8))
    theirs = method.student.state_dict()
    assert all(torch.equal(x, theirs[n]) for n, x in method.teacher.state_dict().items())


def test_the_heads_see_the_whole_batch() -> None:
    """Defect 4 of BYOLMed3D: batch norm over micro-batches of one clip. Here a batch of one cannot even be
    normalised in a head, whatever the chunk; what the heads get is what ``loss`` is given."""
    method, batch = build(), images(1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        method.loss(method.encode(batch), method.target(batch), Progress(0, 1))


def test_the_teacher_normalises_with_the_group_at_hand() -> None:
    """As the student does: running statistics that are far off do not matter in training."""
    method, batch = build(), images()
    before = method.target(batch)
    for name, tensor in method.teacher.named_buffers():
        if name.endswith("running_mean"):
            tensor.fill_(100)
    assert all(torch.equal(x, before[n]) for n, x in method.target(batch).items())


def test_heads_of_different_width_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError, match=r"use predictor: \[4096, 128\]"):
        BYOLConfig(projector=(4096, 128), predictor=(4096, 256))
