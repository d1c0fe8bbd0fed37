"""The one loop by which evaluations train a network: balanced batches, early stop, never a test row."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from volssl.errors import RunError
from volssl.evaluation import FinetuneConfig, FusionConfig
from volssl.evaluation.objective import Objective
from volssl.evaluation.target import Floats, Ints, Target

LOOKS = 10  # at the held-out rows, evenly over the steps
PATIENCE = 4  # looks without an improvement, then it stops

Feed: TypeAlias = Callable[[Ints, Tensor | None], Any]
"""What a network is given of some rows: augmented by these seeds (B,), or as they are where there are none."""

Report: TypeAlias = Callable[[int, int], None]
"""Is told the steps done, and how many there may be."""


@dataclass(frozen=True, slots=True)
class Best:
    """The look that was kept. step: when it was. outputs: (H, O) of the held-out rows then."""

    step: int
    loss: float
    outputs: Floats


def generator_of(*seeds: int) -> torch.Generator:
    """A stream of its own for each tuple of numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))


def zero_head(width: int, outputs: int) -> nn.Linear:
    """(B, width) to (B, outputs), 0 at first: it needs no draw, and every network starts with the same answer."""
    with torch.device("meta"):  # draws no weights
        head = nn.Linear(width, outputs)
    head.to_empty(device="cpu")
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions 0..n-1 for ever: each pass a new permutation in even parts of about ``size``, at least 2."""
    parts = max(1, min(math.ceil(n / size), n // 2))
    while True:
        yield from torch.randperm(n, generator=generator).tensor_split(parts)


def optimise(
    model: nn.Module,
    feed: Feed,
    target: Target,
    rows: Ints,
    aim: Objective,
    *,
    optimiser: torch.optim.Optimizer,
    schedule: LRScheduler,
    batch: int,
    generator: torch.Generator,
) -> Iterator[int]:
    """Train on ``rows`` for ever; each turn is one optimiser step and gives its number, from 1.

    Which rows and augmentations a step sees depends on ``generator`` alone, not on the network.

    Args:
        target: of all rows that ``feed`` knows, ``rows`` are positions among them.

    Raises:
        RunError: the loss is not finite.
    """
    order = batches(len(rows), batch, generator)
    for step in count(1):
        chosen = rows[next(order).numpy()]
        seeds = torch.randint(2**62, (len(chosen),), generator=generator)
        model.train()
        optimiser.zero_grad(set_to_none=True)
        loss = aim.loss(model(feed(chosen, seeds)), target.at(chosen))
        _check(loss.item(), step, optimiser)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        yield step


def fit(
    model: nn.Module,
    feed: Feed,
    target: Target,
    rows: Ints,
    held: Ints,
    aim: Objective,
    *,
    parameters: Any,
    config: FinetuneConfig | FusionConfig,
    generator: torch.Generator,
    report: Report | None = None,
) -> Best:
    """Train by AdamW, whose rate falls to 0 by half a cosine, and leave the model as it was at its best look.

    Of ten looks at the held-out rows that with the lowest loss is kept; after four without a gain it stops. Without
    held-out rows it goes to the end, and the last step is kept.

    Args:
        rows, held: positions of the rows to learn and to look at. parameters: what AdamW takes: parameters, or groups
        of them with rates of their own.

    Raises:
        RunError: a loss is not finite.
    """
    optimiser = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    training = optimise(
        model, feed, target, rows, aim, optimiser=optimiser, schedule=schedule, batch=config.batch, generator=generator
    )
    every = math.ceil(config.steps / LOOKS)
    best, state, since = Best(config.steps, math.inf, np.zeros((0, aim.outputs))), None, 0
    for step in training:
        if report:
            report(step, config.steps)
        if len(held) and (step % every == 0 or step == config.steps):
            outputs = outputs_of(model, feed, held, config.batch)
            loss, since = float(aim.loss(torch.from_numpy(outputs), target.at(held))), since + 1
            _check(loss, step, optimiser)
            if loss < best.loss:
                best, state, since = Best(step, loss, outputs), copy.deepcopy(model.state_dict()), 0
        if step == config.steps or since == PATIENCE:
            break
    if state is not None:
        model.load_state_dict(state)
    return best


def outputs_of(model: nn.Module, feed: Feed, rows: Ints, batch: int) -> Floats:
    """(len(rows), O) outputs in evaluation mode, nothing augmented."""
    model.eval()
    with torch.inference_mode():
        parts = [model(feed(rows[i : i + batch], None)) for i in range(0, len(rows), batch)]
    return torch.cat(parts).double().cpu().numpy()


def _check(loss: float, step: int, optimiser: torch.optim.Optimizer) -> None:
    if not math.isfinite(loss):
        rate = max(group.get("initial_lr", group["lr"]) for group in optimiser.param_groups)
        what = f"the loss is {loss} at step {step} of an evaluation's training"
        raise RunError(f"{what}: lower its lr, which is {rate:g}, or look for such values in the images")
