"""VICReg: its three terms by hand behind a head that does nothing, what a silent encoder scores, a step in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.losses.test_decorrelation import slow_covariance, slow_invariance, slow_variance
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
from volssl.methods import VICRegConfig
from volssl.methods.vicreg import VICReg
from volssl.types import Progress

AT = Progress(3, 10)


def build(**options: Any) -> VICReg:
    method = around(VICRegConfig(projector=(5, 3), **options).build)
    assert isinstance(method, VICReg)
    return method


def test_loss_by_hand() -> None:
    """With a head that does nothing, a = (0 0; 2 1), b = (0 1; 0 1). Invariance: squares 0, 1, 4, 0, mean 5/4.
    Variance of a: deviations sqrt(2 + 1e-4), past 1, and sqrt(1/2 + 1e-4); of b, constant, 1 - 0.01 twice; both
    added. Covariance: 1 of a, 0 of b. Weights 2, 3, 5."""
    method = build(invariance=2.0, variance=3.0, covariance=5.0)
    method.projector = nn.Identity()
    z = {"0": torch.tensor([[0.0, 0.0], [2.0, 1.0]]), "1": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    loss = method.loss(z, {}, AT)
    spread = (1 - math.sqrt(0.5 + 1e-4)) / 2 + 0.99
    assert loss.total.item() == pytest.approx(2 * 5 / 4 + 3 * spread + 5 * 1)
    terms = {name: x.item() for name, x in loss.metrics.items()}
    assert terms == pytest.approx({"invariance": 5 / 4, "variance": spread, "covariance": 1.0})


def test_an_encoder_that_says_nothing_scores_the_collapsed_value() -> None:
    """With the paper's 25, 25, 1 and embeddings that are one: no distance, no covariance, 25 (0.99 + 0.99)."""
    method, batch = build(), images("0", "1")
    for parameter in method.encoder.parameters():
        parameter.data.zero_()
    assert method.loss(method.encode(batch), {}, AT).total.item() == pytest.approx(49.5)


def test_a_whole_step_is_that_of_the_equations() -> None:
    """Equation 6 with weights so that every term has its part in the step."""
    method, batch = build(invariance=1.0, variance=2.0, covariance=3.0), images("0", "1")
    before, x = state(method), views_of(batch)

    def slow(p: Arrays, covariance: float = 3.0) -> float:
        z = np.stack([head(p, "projector", encode(p, "encoder", x[name])) for name in ("0", "1")])
        return slow_invariance(z) + 2 * slow_variance(z) + covariance * slow_covariance(z)

    expected = descend(slow, before, of_student)
    assert step(method, batch, AT).total.item() == pytest.approx(slow(before), rel=1e-12)
    assert distance(state(method), expected) < 1e-8
    # Negative control: without the covariance it is another step.
    assert distance(descend(lambda p: slow(p, 0.0), before, of_student), expected) > 1e-3
