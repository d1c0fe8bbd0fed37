"""MoCo v3: keys without a gradient, the factor 2T, a patch embedding that rests, a step in NumPy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.losses.test_contrastive import slow_info_nce
from tests.methods.plain import (
    Array,
    Arrays,
    around,
    descend,
    distance,
    encode,
    head,
    images,
    momentum,
    of_student,
    state,
    step,
    views_of,
)
from volssl.engine import AdamWConfig
from volssl.engine.distributed import Group
from volssl.engine.optim import build_optimizer
from volssl.engine.step import backward
from volssl.methods import MoCoV3Config
from volssl.methods.mocov3 import MoCoV3
from volssl.models import BackboneConfig, ResNetConfig, ViTConfig
from volssl.types import Batch, Progress

AT = Progress(3, 10)
VIT = ViTConfig(dims=2, patch=(2, 2), size=(4, 6), width=8, depth=1, heads=2)
RESNET = ResNetConfig(dims=2, depth=10, stem="small", width=4)


def config(**options: Any) -> MoCoV3Config:
    settings: dict[str, Any] = {"projector": (5, 3), "predictor": (5, 3), "temperature": 0.3, "momentum": (0.9, 1.0)}
    return MoCoV3Config(**(settings | options))


def build(**options: Any) -> MoCoV3:
    method = around(config(**options).build)
    assert isinstance(method, MoCoV3)
    return method


def on(backbone: BackboneConfig, **options: Any) -> MoCoV3:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MoCoV3(config(**options), backbone.build(3)).double()


def loss_of(method: MoCoV3, batch: Batch) -> float:
    return method.loss(method.encode(batch), method.target(batch), AT).total.item()


# The loss


@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_loss_by_hand(temperature: float) -> None:
    """With heads that do nothing, queries and keys on the axes: logits 1/T for the positive and 0 for the negative,
    so each row is log(1 + e^(-1/T)), times 2T, in both directions. At T = 0.5: 2 log(1 + e^-2) = 0.25386."""
    method = build(temperature=temperature)
    method.student.projector = method.teacher.projector = method.predictor = nn.Identity()  # type: ignore[assignment]
    eye = dict.fromkeys(("0", "1"), torch.eye(2, dtype=torch.float64))
    expected = 4 * temperature * math.log(1 + math.exp(-1 / temperature))
    assert method.loss(eye, eye, AT).total.item() == pytest.approx(expected)
    assert 2 * math.log(1 + math.exp(-2)) == pytest.approx(0.25386, abs=1e-5)


def test_networks_that_say_nothing_score_the_collapsed_value_times_2t() -> None:
    """All embeddings one: 2T log(6) in each direction, T = 0.3."""
    method, batch = build(), images("0", "1")
    for branch in (method.student, method.teacher):
        for parameter in branch.encoder.parameters():
            parameter.data.zero_()
    assert loss_of(method, batch) == pytest.approx(2 * 2 * 0.3 * math.log(6))


def slow_branch(p: Arrays, branch: str, x: Array) -> Array:
    return head(p, f"{branch}.projector", encode(p, f"{branch}.encoder", x))


def test_a_whole_step_is_that_of_the_equations() -> None:
    """Algorithm 1: q = predictor(student(x)) finds k = teacher(x') among the keys of the whole batch, both ways;
    every head ends in a batch norm without parameters; then the teacher follows the moved student."""
    method, batch = build(), images("0", "1")
    before, x = state(method), views_of(batch)
    assert not any(name.endswith("3.bias") for name in before)
    key = {name: slow_branch(before, "teacher", view) for name, view in x.items()}

    def slow(p: Arrays, rows: int = 6) -> float:
        q = {name: head(p, "predictor", slow_branch(p, "student", view)) for name, view in x.items()}
        return sum(slow_info_nce(q[a][:rows], key[b][:rows], 0.3) for a, b in (("0", "1"), ("1", "0")))

    expected, m = descend(slow, before, of_student), momentum(0.9, 1.0, AT)
    for name in [name for name in before if not of_student(name)]:
        expected[name] = m * before[name] + (1 - m) * expected[name.replace("teacher", "student")]
    loss = step(method, batch, AT)
    assert loss.total.item() == pytest.approx(slow(before), rel=1e-12)
    assert loss.metrics["momentum"].item() == pytest.approx(m)
    assert distance(state(method), expected) < 1e-8
    assert slow(before, 3) != pytest.approx(slow(before), rel=1e-2)  # Negative control: the keys of half the batch.


def test_swapping_the_views_changes_nothing() -> None:
    method, batch = build(), images("0", "1")
    swapped = Batch({"0": batch.views["1"], "1": batch.views["0"]}, batch.index, batch.seeds, batch.labels)
    assert loss_of(method, swapped) == pytest.approx(loss_of(method, batch), rel=1e-12)


def test_keys_carry_no_gradient() -> None:
    """Not through the teacher, and not to what it was given."""
    method, batch = build(), images("0", "1")
    z, t = method.encode(batch), method.target(batch)
    assert not any(x.requires_grad for x in t.values())
    t = {name: x.requires_grad_() for name, x in t.items()}
    for parameter in method.teacher.parameters():
        parameter.requires_grad_()
    torch.autograd.backward(method.loss(z, t, AT).total)
    assert all(x.grad is None for x in (*t.values(), *method.teacher.parameters()))
    assert all(x.grad is not None for x in (*method.student.parameters(), *method.predictor.parameters()))


# The patch embedding


def test_the_patch_embedding_of_a_transformer_rests_and_that_of_the_teacher_with_it() -> None:
    method = on(VIT)
    optimizer = build_optimizer(AdamWConfig(lr=0.1, weight_decay=0.5), method)
    drawn = {name: x.clone() for name, x in method.state_dict().items()}
    for i in range(2):
        loss = backward(method, [images("0", "1", seed=i)], Progress(i, 10), group=Group())
        optimizer.step()
        method.after_step(loss.stats, Progress(i, 10))
    still = {name for name, x in method.state_dict().items() if torch.equal(x, drawn[name])}
    assert {name for name in still if "encoder" in name} == {
        f"{branch}.encoder.patch_embed.proj.{name}" for branch in ("student", "teacher") for name in ("weight", "bias")
    }


def test_it_moves_where_that_is_asked_and_a_cnn_has_none() -> None:
    for method in (on(VIT, freeze_patches=False), on(RESNET), on(RESNET, freeze_patches=False)):
        assert all(p.requires_grad for p in method.student.parameters())
        assert not any(p.requires_grad for p in method.teacher.parameters())


def test_heads_of_different_width_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError, match=r"use predictor: \[4096, 128\]"):
        MoCoV3Config(projector=(4096, 4096, 128), predictor=(4096, 256))
