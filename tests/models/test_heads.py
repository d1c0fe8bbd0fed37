"""The head's layers and its shape."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from volssl.models.heads import MLP
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
