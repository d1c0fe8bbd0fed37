"""SimCLR: its loss behind a head that does nothing, a whole step in NumPy, and what a silent encoder scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.losses.test_contrastive import slow_nt_xent
from tests.methods.plain import (
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
    views_of,
)
from volssl.methods import SimCLRConfig
from volssl.methods.base import Method
from volssl.methods.simclr import SimCLR
from volssl.types import Batch, Progress

AT = Progress(3, 10)


def build(temperature: float = 0.3) -> Method:
    return around(SimCLRConfig(projector=(5, 3), temperature=temperature).build)


def loss_of(method: Method, batch: Batch) -> float:
    return method.loss(method.encode(batch), method.target(batch), AT).total.item()


def test_loss_by_hand() -> None:
    """With a head that does nothing, view 0 (1, 0), (0, 1) and the same again as view 1, T = 0.5: the positive has
    logit 2, the two negatives 0, so every term is log(1 + 2 / e^2) = 0.2395."""
    method = build(0.5)
    assert isinstance(method, SimCLR)
    method.projector = nn.Identity()
    loss = method.loss({"0": torch.eye(2), "1": torch.eye(2)}, {}, AT).total.item()
    assert loss == pytest.approx(math.log(1 + 2 / math.e**2))
    assert loss == pytest.approx(0.2395, abs=1e-4)


def test_a_whole_step_is_that_of_the_equations() -> None:
    """Algorithm 1: encode, project, equation 1 over all 2B embeddings, one step of descent on everything."""
    method, batch = build(), images("0", "1")
    before, x = state(method), views_of(batch)

    def slow(p: Arrays, negatives: int = 6) -> float:
        a, b = (head(p, "projector", encode(p, "encoder", x[name]))[:negatives] for name in ("0", "1"))
        return slow_nt_xent(a, b, 0.3)

    expected = descend(slow, before, of_student)
    loss = step(method, batch, AT)
    assert loss.total.item() == pytest.approx(slow(before), rel=1e-12)
    assert distance(state(method), expected) < 1e-8
    # Negative control: the same with the negatives of half of the batch is another step.
    assert distance(state(method), descend(lambda p: slow(p, 3), before, of_student)) > 1e-3


def test_an_encoder_that_says_nothing_scores_the_collapsed_value() -> None:
    """All 2B = 12 embeddings one: log(11)."""
    method, batch = build(), images("0", "1")
    for parameter in method.encoders["encoder"].parameters():
        parameter.data.zero_()
    assert loss_of(method, batch) == pytest.approx(math.log(11))


def test_swapping_the_views_changes_nothing() -> None:
    method, batch = build(), images("0", "1")
    swapped = Batch({"0": batch.views["1"], "1": batch.views["0"]}, batch.index, batch.seeds, batch.labels)
    assert loss_of(method, swapped) == pytest.approx(loss_of(method, batch), rel=1e-12)


def test_the_temperature_is_the_one_that_was_asked_for() -> None:
    batch = images("0", "1")
    assert loss_of(build(0.3), batch) != pytest.approx(loss_of(build(0.6), batch), rel=1e-2)
