"""Heads: the layers of a perceptron and its shape, prototypes by hand and frozen."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import nn

from volssl.models.heads import MLP, Prototypes
from volssl.models.norm import BatchNorm


@pytest.mark.parametrize(
    ("norm", "layers"),
    [
        ("batch", [nn.Linear, BatchNorm, nn.ReLU, nn.Linear]),
        ("layer", [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]),
        ("none", [nn.Linear, nn.ReLU, nn.Linear]),
    ],
)
def test_layers_of_byol_s_head(norm: Literal["batch", "layer", "none"], layers: list[type[nn.Module]]) -> None:
    """A bias behind the first Linear would be undone by a norm; the last Linear has one."""
    head = MLP(6, 5, 4, norm=norm)
    assert [type(m) for m in head] == layers
    first, last = head[0], head[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert (first.bias is None) == (norm != "none")
    assert last.bias is not None
    assert head(torch.ones(3, 6)).shape == (3, 4)


def test_as_many_layers_as_there_are_widths() -> None:
    widths = [(m.in_features, m.out_features) for m in MLP(6, 5, 4, 3) if isinstance(m, nn.Linear)]
    assert widths == [(6, 5), (5, 4), (4, 3)]
    assert [type(m) for m in MLP(6, 4)] == [nn.Linear]


def test_gelu_in_the_place_of_relu() -> None:
    """Behind weights of 1: gelu(-1) = -(1 - erf(1 / sqrt 2)) / 2 = -0.15866, where ReLU gives 0."""
    for gelu, layer, expected in (
        (True, nn.GELU, -(1 - math.erf(1 / math.sqrt(2))) / 2),
        (False, nn.ReLU, 0.0),
    ):
        head = MLP(1, 1, 1, norm="none", gelu=gelu)
        assert [type(m) for m in head] == [nn.Linear, layer, nn.Linear]
        for name, parameter in head.named_parameters():
            nn.init.constant_(parameter, float("weight" in name))
        assert head(torch.tensor([[-1.0]])).item() == pytest.approx(expected)


def test_a_closing_norm_standardises_what_comes_out_and_has_nothing_to_learn() -> None:
    """MoCo v3: each output has mean 0 and variance 1 over the batch; the last Linear needs no bias before it."""
    head = MLP(6, 5, 4, closing=True).double()
    assert [type(m) for m in head] == [nn.Linear, BatchNorm, nn.ReLU, nn.Linear, BatchNorm]
    assert {name for name, _ in head.named_parameters()} == {"0.weight", "1.weight", "1.bias", "3.weight"}
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = head(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(4, dtype=torch.float64), rtol=0, atol=0.01)
    open_end = MLP(6, 5, 4).double()(x)
    assert open_end.mean(0).abs().max() > 0.01  # Negative control.


# Prototypes


def prototypes() -> Prototypes:
    """(3, 4) and (0, -2), of lengths 5 and 2."""
    found = Prototypes(2, 2).double()
    found.weight.data = torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.float64)
    return found


def test_scores_by_hand() -> None:
    """(1, 0) against (3, 4) / 5 and (0, -1): 3/5 and 0. (5, 5): 7 / (5 sqrt 2) and -1 / sqrt 2. A row of zeros: 0."""
    z = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 0.0]], dtype=torch.float64)
    expected = [[0.6, 0.0], [7 / (5 * 2**0.5), -1 / 2**0.5], [0.0, 0.0]]
    torch.testing.assert_close(prototypes()(z), torch.tensor(expected, dtype=torch.float64))
    assert prototypes()(1e-3 * z)[1].tolist() == pytest.approx(expected[1])


def test_normalise_by_hand_and_what_it_does_not_change() -> None:
    scores, z = prototypes(), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    before = scores(z)
    scores.normalise()
    torch.testing.assert_close(scores.weight.data, torch.tensor([[0.6, 0.8], [0.0, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(scores(z), before, rtol=0, atol=1e-15)
    assert scores.weight.requires_grad


def test_they_are_drawn_with_length_one() -> None:
    lengths = Prototypes(7, 5).weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5))


def test_a_gradient_turns_a_prototype_and_does_not_stretch_it() -> None:
    scores = prototypes()
    scores(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).sum().backward()
    assert scores.weight.grad is not None
    along = (scores.weight.grad * scores.weight).sum(1)
    torch.testing.assert_close(along, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)
    assert (scores.weight.grad.abs().sum(1) > 0.01).all()


def test_frozen_ones_score_the_same_and_let_the_gradient_through() -> None:
    scores, z = prototypes(), torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    frozen = scores(z, frozen=True)
    assert torch.equal(frozen, scores(z))
    frozen.square().sum().backward()
    assert scores.weight.grad is None
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
