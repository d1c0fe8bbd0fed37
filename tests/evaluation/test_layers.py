"""Layer-wise learning rates: every parameter once, and its rate that of its depth."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from volssl.evaluation.card import Card
from volssl.evaluation.encoder import random_encoder
from volssl.evaluation.finetune import Classifier
from volssl.evaluation.layers import decayed, stages
from volssl.models import ResNetConfig, ViTConfig

RESNET = {"stem.0.weight": 5, "layers.0.0.conv1.weight": 4, "layers.1.0.conv1.weight": 3, "layers.3.0.conv1.weight": 1}
VIT = {
    "cls_token": 4,
    "pos_embed": 4,
    "patch_embed.proj.weight": 4,
    "blocks.0.mlp.fc1.bias": 3,
    "blocks.2.norm1.weight": 1,
    "norm.weight": 1,
}


@pytest.mark.parametrize(
    ("config", "depths"),
    [
        (ResNetConfig(dims=2, depth=10, stem="small", width=4), RESNET),
        (ViTConfig(dims=2, patch=(4, 4), size=(8, 8), width=8, depth=3, heads=2), VIT),
    ],
)
def test_each_parameter_once_at_the_rate_of_its_depth(config: Any, depths: dict[str, int]) -> None:
    """lr * decay^depth, by hand: the head 0, a ResNet's last stage 1 and its stem 5; a ViT of three blocks: last 1
    (with the norm behind it), embedding 4."""
    network, head = config.build(1), nn.Linear(config.build(1).width, 2)
    groups = decayed(head, network, 0.1, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(map(id, [*head.parameters(), *network.parameters()]))
    named = dict(network.named_parameters())
    assert rate[id(head.weight)] == 0.1
    for name, depth in depths.items():
        assert rate[id(named[name])] == pytest.approx(0.1 * 0.5**depth), name
    torch.optim.AdamW(groups)  # which refuses a parameter that stands twice


def test_any_other_network_is_one_stage() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert [len(stage) for stage in stages(network)] == [4]


def test_timm_says_what_its_stages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own grouping is asked for, coarsely, and its numbers go from the stem up."""
    from volssl.models.timm_model import Timm

    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    asked = []

    def group_parameters(module: nn.Module, matcher: object, *, reverse: bool) -> dict[str, int]:
        assert module is net
        assert matcher == "coarse"
        assert reverse
        return {name: int(name[0] == "2") for name, _ in module.named_parameters()}

    def group_matcher(coarse: bool) -> str:
        asked.append(coarse)
        return "coarse" if coarse else "fine"

    net.group_matcher = group_matcher  # type: ignore[assignment]
    models = ModuleType("timm.models")
    models.group_parameters = group_parameters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.models", models)
    network = Timm.__new__(Timm)
    nn.Module.__init__(network)
    network.net = net
    found = stages(network)
    assert [[p is q for p, q in zip(stage, net[2].parameters(), strict=False)] for stage in found[1:]] == [[True, True]]
    assert len(found[0]) == 4
    assert asked == [True]


def test_timm_itself() -> None:
    """ResNet-18: a stem and four stages."""
    reason = "timm is not installed: pip install 'volssl[timm]'"
    pytest.importorskip("timm", reason=reason, exc_type=ImportError)
    from volssl.models import TimmConfig

    network = TimmConfig(model="resnet18").build(1)
    found = stages(network)
    assert len(found) == 5
    assert sum(map(len, found)) == len(list(network.parameters()))


def test_a_frozen_encoder_has_no_rates(card: Card) -> None:
    model = Classifier(random_encoder(card, 0), 3, frozen=True)
    groups = model.parameter_groups(0.1, 0.5)
    assert [p.shape for p in groups[0]["params"]] == [(3, 32), (3,)]
    assert len(groups) == 1
