"""Barlow Twins: its loss by hand behind a head that does nothing, what a silent encoder scores, a step in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.losses.test_decorrelation import slow_barlow_twins
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
from volssl.methods import BarlowTwinsConfig
from volssl.methods.barlow_twins import BarlowTwins
from volssl.types import Progress

AT = Progress(3, 10)


def build(**options: Any) -> BarlowTwins:
    method = around(BarlowTwinsConfig(projector=(5, 3), **options).build)
    assert isinstance(method, BarlowTwins)
    return method


@pytest.mark.parametrize("redundancy", [0.0, 0.5])
def test_loss_by_hand(redundancy: float) -> None:
    """With a head that does nothing: columns (1 -1 1 -1) and (1 1 -1 -1) in view 0, in view 1 the first and its
    negative. Correlations: 1 and -1 with the first, 0 and 0 with the second: C = (1 -1; 0 0), so the diagonal costs
    0 + 1 and the rest ``redundancy`` times 1."""
    method = build(redundancy=redundancy)
    method.projector = nn.Identity()
    one, two = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    z = {"0": torch.stack([one, two], 1).double(), "1": torch.stack([one, -one], 1).double()}
    assert method.loss(z, {}, AT).total.item() == pytest.approx(1 + redundancy, rel=1e-4)


def test_an_encoder_that_says_nothing_scores_the_collapsed_value() -> None:
    """Dimensions that do not vary correlate with nothing: 1 for each of 3."""
    method, batch = build(), images("0", "1")
    for parameter in method.encoder.parameters():
        parameter.data.zero_()
    assert method.loss(method.encode(batch), {}, AT).total.item() == pytest.approx(3)


def test_a_whole_step_is_that_of_the_equations() -> None:
    """Equation 1, redundancy 0.3, on the embeddings of the whole batch."""
    method, batch = build(redundancy=0.3), images("0", "1")
    before, x = state(method), views_of(batch)

    def slow(p: Arrays, rows: int = 6) -> float:
        z = [head(p, "projector", encode(p, "encoder", x[name]))[:rows] for name in ("0", "1")]
        return slow_barlow_twins(np.stack(z))

    expected = descend(slow, before, of_student)
    assert step(method, batch, AT).total.item() == pytest.approx(slow(before), rel=1e-12)
    assert distance(state(method), expected) < 1e-8
    # Negative control: the correlation over half of the batch is another step.
    assert distance(descend(lambda p: slow(p, 3), before, of_student), expected) > 1e-3
