"""The loop: batches, early stop by rows that are not learnt, and what it says when the loss is no number."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from volssl.errors import RunError
from volssl.evaluation import FinetuneConfig
from volssl.evaluation.fitting import batches, fit, generator_of, outputs_of
from volssl.evaluation.objective import objective
from volssl.evaluation.target import Ints, Target

Y = Target("classes", (np.arange(12) % 2).astype(np.int64), ("no", "yes"))
X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
ROWS, HELD = np.arange(8), np.arange(8, 12)


class Told:
    """The loss of each look at held-out rows (in float64) as told, and of each step as it is."""

    outputs = 1

    def __init__(self, told: Iterator[float]) -> None:
        self.told, self.real = told, objective(Y)

    def loss(self, outputs: Tensor, target: Target) -> Tensor:
        if outputs.dtype == torch.float64:
            assert len(target) == 4
            return torch.tensor(next(self.told))
        return self.real.loss(outputs, target)


def features(rows: Ints, _seeds: Tensor | None) -> Tensor:
    return X[torch.as_tensor(rows)]


def run(told: list[float], steps: int, held: Ints = HELD, **changes: Any) -> tuple[Any, nn.Linear, list[float]]:
    model, left = nn.Linear(3, 1), iter(told)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    config = FinetuneConfig(steps=steps, batch=4, lr=0.1, **changes)
    aim: Any = Told(left)
    best = fit(
        model, features, Y, ROWS, held, aim, parameters=model.parameters(), config=config, generator=generator_of(0)
    )
    return best, model, list(left)


def test_every_pass_deals_every_item_once_in_a_new_order() -> None:
    """BYOLMed3D defect: items from a global counter, so shuffling did nothing. 10 items, batch 4: 4 + 3 + 3."""
    order = batches(10, 4, torch.Generator().manual_seed(0))
    passes = [[part.tolist() for part in islice(order, 3)] for _ in range(2)]
    assert [len(part) for part in passes[0]] == [4, 3, 3]
    flat = [[i for part in one for i in part] for one in passes]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(10))
    assert flat[0] != flat[1] != list(range(10))


def test_positives_do_not_stand_in_one_block() -> None:
    """BYOLMed3D defect: the oversampled positives came as one block at the end. Here no item comes twice.

    8 positives of 32, batch 4: in 50 passes the mean position of the positives is 15.5 (sd of the mean 0.4).
    """
    order = batches(32, 4, torch.Generator().manual_seed(0))
    places = []
    for _ in range(50):
        dealt = torch.cat(list(islice(order, 8)))
        places += [int((dealt == positive).nonzero()) for positive in range(8)]
    assert np.mean(places) == pytest.approx(15.5, abs=1.5)


@pytest.mark.parametrize(("n", "size"), [(2, 8), (3, 2), (9, 8), (5, 2)])
def test_no_batch_of_one(n: int, size: int) -> None:
    """One item has no batch statistics: a rest of one joins the others."""
    dealt = 0
    for part in batches(n, size, torch.Generator().manual_seed(0)):
        assert len(part) >= 2
        dealt += len(part)
        if dealt == n:
            break


def test_early_stop_keeps_the_best_look() -> None:
    """20 steps, a look every second. Losses 3 1 2 2 2 2: the second look is kept (step 4), after four more it stops."""
    best, model, left = run([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 9.0], 20)
    assert (best.step, best.loss, left) == (4, 1.0, [9.0])
    assert np.array_equal(outputs_of(model, features, HELD, 2), best.outputs)


def test_it_goes_to_the_end_while_it_gains() -> None:
    """21 steps, a look every third and at the last: 7 looks; the last, at step 21, is the best."""
    best, _, left = run([7.0, 6, 5, 4, 3, 2, 1, 99], 21)
    assert (best.step, left) == (21, [99])


def test_without_held_out_rows_the_last_step_is_kept() -> None:
    """The same weights as those of a run whose last look is its best: nothing else differs."""
    best, model, left = run([1.0], 10, held=np.arange(0))
    _, other, _ = run([10.0 - look for look in range(10)], 10)
    assert (best.step, best.outputs.shape, left) == (10, (0, 1), [1.0])
    assert torch.equal(model.weight, other.weight)
    assert not torch.equal(model.weight, torch.zeros(1, 3))


def test_the_rate_falls_to_zero_by_half_a_cosine() -> None:
    """Without weight decay the second half of 10 steps moves less than the first, and the last by almost nothing."""
    seen: list[Tensor] = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(self.weight.detach().clone())
            return super().forward(x)

    model = Watched(3, 1)
    config = FinetuneConfig(steps=10, batch=8, lr=0.1, weight_decay=0)
    aim = objective(Y)
    fit(
        model, features, Y, ROWS, HELD[:0], aim, parameters=model.parameters(), config=config, generator=generator_of(0)
    )
    seen.append(model.weight.detach())
    moved = [float((b - a).abs().max()) for a, b in pairwise(seen)]
    assert moved[0] == pytest.approx(0.1, rel=1e-3)  # Adam's first step is its rate
    assert moved[-1] < 0.1 * moved[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_look_that_is_no_number_says_so_in_a_line(bad: float) -> None:
    with pytest.raises(RunError, match=r"loss is (nan|inf) at step 2 .* lower its lr, which is 0.1") as caught:
        run([bad], 20)
    assert "\n" not in str(caught.value)


def test_a_step_that_is_no_number_says_so_in_a_line() -> None:
    def broken(rows: Ints, _seeds: Tensor | None) -> Tensor:
        return torch.full((len(rows), 3), torch.nan)

    model, config = nn.Linear(3, 1), FinetuneConfig(steps=5)
    with pytest.raises(RunError, match=r"loss is nan at step 1 .* look for such values in the images"):
        fit(
            model,
            broken,
            Y,
            ROWS,
            HELD,
            objective(Y),
            parameters=model.parameters(),
            config=config,
            generator=generator_of(0),
        )


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    model, config = nn.Linear(3, 1), FinetuneConfig(steps=3)
    aim, rates = objective(Y), model.parameters()
    fit(
        model,
        features,
        Y,
        ROWS,
        HELD[:0],
        aim,
        parameters=rates,
        config=config,
        generator=generator_of(0),
        report=lambda a, b: told.append((a, b)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
