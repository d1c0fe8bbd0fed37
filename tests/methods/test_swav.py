"""SwAV: prototypes of length one that rest at first, codes of the first two views, the queue, steps in NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.losses.test_assignment import slow_sinkhorn, slow_swapped_prediction
from tests.methods.plain import (
    Array,
    Arrays,
    around,
    descend,
    distance,
    encode,
    head,
    images,
    of_student,
    state,
    step,
    unit,
    views_of,
)
from volssl.engine import AdamWConfig, LARSConfig, OptimConfig, SGDConfig
from volssl.engine.distributed import Group
from volssl.engine.optim import build_optimizer
from volssl.engine.step import backward
from volssl.methods import SwAVConfig
from volssl.methods.swav import SwAV
from volssl.types import Batch, Loss, Progress

AT = Progress(3, 10)
OPTIMISERS: list[OptimConfig] = [
    AdamWConfig(lr=0.1, weight_decay=0.5),
    SGDConfig(lr=0.1, weight_decay=0.5),
    LARSConfig(lr=0.1, weight_decay=0.5, trust=1.0),
]


def build(**options: Any) -> SwAV:
    settings: dict[str, Any] = {"projector": (5, 3), "prototypes": 5, "queue": 0, "epsilon": 0.1, "temperature": 0.2}
    method = around(SwAVConfig(**(settings | options)).build)
    assert isinstance(method, SwAV)
    method.prototypes.normalise()  # they were drawn in float32
    return method


def run(method: SwAV, batch: Batch, at: Progress = AT) -> Loss:
    return method.loss(method.encode(batch), method.target(batch), at)


def optimise(method: SwAV, config: OptimConfig, steps: int) -> list[torch.Tensor]:
    """The prototypes before, and after each of some real steps."""
    optimizer, seen = build_optimizer(config, method), [method.prototypes.weight.detach().clone()]
    for i in range(steps):
        loss = backward(method, [images("0", "1", seed=i)], Progress(i, 10), group=Group())
        optimizer.step()
        method.after_step(loss.stats, Progress(i, 10))
        seen.append(method.prototypes.weight.detach().clone())
    return seen


# Prototypes


@pytest.mark.parametrize("config", OPTIMISERS, ids=lambda config: config.name)
def test_prototypes_have_length_one_after_each_step(config: OptimConfig) -> None:
    seen = optimise(build(), config, 3)
    for weight in seen:
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-14)
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(seen))


def test_negative_control_without_after_step_their_length_changes() -> None:
    method = build()
    method.after_step = lambda *_: None  # type: ignore[method-assign]
    weight = optimise(method, OPTIMISERS[0], 1)[-1]
    assert (weight.norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("config", OPTIMISERS, ids=lambda config: config.name)
def test_frozen_prototypes_stay_as_drawn_whatever_decays_and_then_move(config: OptimConfig) -> None:
    """``freeze: 2``: no gradient at steps 0 and 1, so neither the optimiser nor its weight decay moves them."""
    drawn, first, second, third = optimise(build(freeze=2), config, 3)
    torch.testing.assert_close(first, drawn, rtol=0, atol=1e-15)
    torch.testing.assert_close(second, drawn, rtol=0, atol=1e-15)
    assert (third - drawn).abs().max() > 1e-3


def test_negative_control_a_gradient_of_zero_would_let_them_decay() -> None:
    """What releases that set the gradient to zero do: before the length is mended, 0.1 * 0.5 is gone."""
    method = build(freeze=2)
    optimizer = build_optimizer(OPTIMISERS[0], method)
    torch.autograd.backward(run(method, images("0", "1"), Progress(0, 10)).total)
    assert method.prototypes.weight.grad is None
    method.prototypes.weight.grad = torch.zeros_like(method.prototypes.weight)
    optimizer.step()
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.full((5,), 0.95, dtype=torch.float64))


def test_everything_else_learns_while_they_rest() -> None:
    method = build(freeze=1)
    torch.autograd.backward(run(method, images("0", "1"), Progress(0, 10)).total)
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == (name == "prototypes.weight"), name


# Steps in NumPy


def slow_embeddings(p: Arrays, x: Arrays) -> Arrays:
    return {name: unit(head(p, "projector", encode(p, "encoder", view))) for name, view in x.items()}


def slow_codes(p: Arrays, x: Arrays, full: bool) -> Array:
    """Those of views 0 and 1, each beside its own queue under the prototypes of today."""
    z, codes = slow_embeddings(p, x), []
    for i, name in enumerate(("0", "1")):
        beside = np.concatenate([z[name], p["queue"][i]]) if full else z[name]
        codes.append(slow_sinkhorn(beside @ unit(p["prototypes.weight"]).T, 0.1, 3)[: len(z[name])])
    return np.stack(codes)


def slow_loss(p: Arrays, x: Arrays, codes: Array) -> float:
    z = slow_embeddings(p, x)
    scores = np.stack([z[name] @ unit(p["prototypes.weight"]).T for name in x])
    return slow_swapped_prediction(scores, codes, 0.2)


def slow_step(p: Arrays, x: Arrays, frozen: bool) -> Arrays:
    """Descent with the codes held fast, prototypes back to length one, the queue one batch further."""
    rows, full = p["queue"].shape[1], p["queued"] == p["queue"].shape[1]
    codes = slow_codes(p, x, bool(full))
    after = descend(
        lambda q: slow_loss(q, x, codes),
        p,
        lambda name: of_student(name) and "queue" not in name and not (frozen and "prototypes" in name),
    )
    z = slow_embeddings(p, x)
    after["prototypes.weight"] = unit(after["prototypes.weight"])
    after["queue"] = np.stack([np.concatenate([z[v], p["queue"][i]])[:rows] for i, v in enumerate(("0", "1"))])
    after["queued"] = np.minimum(p["queued"] + len(x["0"]), rows)
    return after


VIEWS = ("0", "1", "2", "local0", "local1")


def test_whole_steps_are_those_of_the_equations() -> None:
    """Three full-size views and two small ones. Step 0 with frozen prototypes; the queue of 9 has 6 rows after it,
    is full after step 1, and takes part in step 2."""
    method = build(queue=9, freeze=1)
    twin = state(method)
    for i, queued in enumerate((6, 9, 9)):
        batch = images(*VIEWS, seed=i)
        before, twin = twin, slow_step(twin, views_of(batch), frozen=i == 0)
        loss = step(method, batch, Progress(i, 10))
        assert distance(state(method), twin) < 1e-8
        assert twin["queued"] == queued
    codes = [slow_codes(before, views_of(batch), full) for full in (True, False)]
    losses = [slow_loss(before, views_of(batch), c) for c in codes]
    assert loss.total.item() == pytest.approx(losses[0], abs=1e-8)
    assert loss.total.item() != pytest.approx(losses[1], abs=1e-3)  # without the queue


@pytest.mark.parametrize("locals_", [0, 1, 4])
@pytest.mark.parametrize("globals_", [2, 3])
def test_any_number_of_views_of_other_sizes(globals_: int, locals_: int) -> None:
    names = [*map(str, range(globals_)), *(f"local{i}" for i in range(locals_))]
    method, batch = build(), images(*names)
    p, x = state(method), views_of(batch)
    loss = run(method, batch)
    assert loss.total.item() == pytest.approx(slow_loss(p, x, slow_codes(p, x, False)), rel=1e-12)
    assert set(loss.stats) == set()


# Codes


def test_codes_come_from_the_first_two_views_alone() -> None:
    """Another third view changes what is predicted from it, not what the first two predict of each other."""
    batch, other = images("0", "1", "2", "local0"), images("2", "local0", seed=1)
    changed = Batch(batch.views | other.views, batch.index, batch.seeds, batch.labels)
    method = build(queue=6)
    one, two = run(method, batch), run(method, changed)
    assert one.total.item() != pytest.approx(two.total.item(), rel=1e-3)
    assert torch.equal(one.metrics["prototypes_used"], two.metrics["prototypes_used"])
    assert one.stats.keys() == two.stats.keys() == {"0", "1"}
    # Negative control: another second view does change them.
    second = Batch(batch.views | images("1", seed=2).views, batch.index, batch.seeds, batch.labels)
    assert not torch.equal(run(method, second).metrics["prototypes_used"], one.metrics["prototypes_used"])


def test_the_prototypes_in_use_by_hand() -> None:
    """Prototypes on the three axes, a tiny epsilon and one iteration: of two samples, the first is nearer to axes 0
    and 1 and gets the code (1/2 1/2 0), the second (0 0 1). Shares 1/4, 1/4, 1/2: 1 / (1/16 + 1/16 + 1/4) = 8/3."""
    method = build(prototypes=3, epsilon=0.001, iterations=1)
    method.projector = nn.Identity()
    method.prototypes.weight.data = torch.eye(3, dtype=torch.float64)
    z = torch.tensor([[1.0, 1.0, 0.1], [0.1, 0.1, 1.0]], dtype=torch.float64)
    assert method.loss({"0": z, "1": z}, {}, AT).metrics["prototypes_used"].item() == pytest.approx(8 / 3)


# The queue


def put(method: SwAV, *rows: float) -> None:
    """One step's embeddings: ``rows`` in view 0, their tens in view 1."""
    column = torch.tensor(rows, dtype=torch.float64)[:, None].expand(-1, 3)
    method.after_step({"0": column, "1": 10 * column}, AT)


def test_the_queue_is_newest_first_and_per_view() -> None:
    """Room for 5. After (1 2): 1 2 0 0 0, two kept. After (3 4): 3 4 1 2 0. After (5 6): 5 6 3 4 1, full. A batch
    of 7 leaves its first 5."""
    method, seen = build(queue=5), []
    for batch in ((1, 2), (3, 4), (5, 6), range(11, 18)):
        put(method, *batch)
        assert torch.equal(method.queue[1], 10 * method.queue[0])
        seen.append((method.queue[0, :, 0].tolist(), int(method.queued)))
    assert seen == [
        ([1, 2, 0, 0, 0], 2),
        ([3, 4, 1, 2, 0], 4),
        ([5, 6, 3, 4, 1], 5),
        ([11, 12, 13, 14, 15], 5),
    ]


def test_the_queue_counts_once_it_is_full() -> None:
    method, plain, batch = build(queue=4), build(), images("0", "1")
    without = run(plain, batch).total
    put(method, 0.1, -0.2, 0.3)
    assert torch.equal(run(method, batch).total, without)
    put(method, -0.4)
    assert (run(method, batch).total - without).abs() > 1e-4


def test_the_queue_is_kept_from_its_first_step_on() -> None:
    method, batch = build(queue=6, queue_start=2), images("0", "1")
    for i, queued in enumerate((0, 0, 6)):
        loss = run(method, batch, Progress(i, 10))
        assert set(loss.stats) == (set() if i < 2 else {"0", "1"})
        method.after_step(loss.stats, Progress(i, 10))
        assert int(method.queued) == queued


def test_what_is_queued_are_unit_embeddings_and_not_their_scores() -> None:
    """So that they are scored with the prototypes of the day on which they are used."""
    method, batch = build(queue=6), images("0", "1")
    loss = run(method, batch)
    z = F.normalize(method.projector(method.encode(batch)["1"]), dim=1)
    assert torch.equal(loss.stats["1"], z)
    assert not loss.stats["1"].requires_grad
