"""Weights under timm's names, into the models of a stand-in with timm's interface."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tests.models import timm_stand_in
from volssl.data import StackConfig
from volssl.errors import ConfigError
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import load_encoder, save_encoder
from volssl.models import TimmConfig, timm_model
from volssl.models.timm_model import Timm
from volssl.models.weights import ImportReport, load_weights
from volssl.models.weights_config import WeightsConfig


@pytest.fixture(autouse=True)
def timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "timm", timm_stand_in.stand_in())
    yield
    timm_model._without_numbers.cache_clear()


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def published(model: str, path: Path, channels: int = 3) -> nn.Module:
    """timm's own model with its classifier, and its state dict in a file."""
    net = timm_stand_in.create_model(model, pretrained=False, num_classes=5, in_chans=channels)
    torch.save(net.state_dict(), path)
    return net


def filled(
    model: str, path: Path, channels: int, how: Literal["refuse", "sum"] = "refuse"
) -> tuple[Timm, ImportReport]:
    config = TimmConfig(model=model, weights=WeightsConfig(path=str(path), channels=how))
    network = config.build(channels).eval()
    report = load_weights(network, config, channels)
    assert report is not None
    return network, report


@pytest.mark.parametrize(("model", "left"), [("cnn", 2), ("vit", 4)])
def test_weights_under_timm_s_names(model: str, left: int, tmp_path: Path) -> None:
    theirs = published(model, tmp_path / "weights.pth").eval()
    ours, report = filled(model, tmp_path / "weights.pth", 3)
    assert (len(report.matched), report.adapted, len(report.left)) == (len(ours.state_dict()), (), left)
    x = images(2, 3, 16, 16)
    torch.testing.assert_close(theirs.get_submodule("fc" if model == "cnn" else "head")(ours(x).pooled), theirs(x))
    twin, again = filled(model, tmp_path / "weights.pth", 1, "sum")
    assert again.adapted == ("conv_stem.weight" if model == "cnn" else "patch_embed.proj.weight",)
    torch.testing.assert_close(twin(x[:, :1]).pooled, ours(x[:, :1].expand(-1, 3, -1, -1)).pooled)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    published("cnn", tmp_path / "cnn.pth")
    with pytest.raises(ConfigError, match=r"these weights saw 3 channels, the images have 1: say how"):
        filled("cnn", tmp_path / "cnn.pth", 1)
    with pytest.raises(ConfigError, match=r"weights are missing, net.prefix first$"):
        filled("vit", tmp_path / "cnn.pth", 3)
    state = torch.load(tmp_path / "cnn.pth")
    torch.save(state | {"conv3.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(ConfigError, match=r"conv3.weight is part of another network"):
        filled("cnn", tmp_path / "more.pth", 3)


def test_an_encoder_that_was_trained_here(tmp_path: Path) -> None:
    """Its card builds it again; another model is told which one it is."""
    config, folder, size = TimmConfig(model="cnn"), tmp_path / "encoder", (16, 16)
    network = config.build(3).eval()
    about = {"region": size, "size": size, "data": StackConfig(root=""), "method": "simclr", "step": 1, "seed": 0}
    save_encoder(folder, network, Card.model_validate({"backbone": config, "channels": 3} | about))
    ours, report = filled("cnn", folder, 3)
    assert len(report.matched) == len(ours.state_dict())
    x = images(2, 3, *size)
    for again in (ours, load_encoder(folder).network):
        assert torch.equal(again(x).pooled, network(x).pooled)
    with pytest.raises(ConfigError, match=r"weights of timm's cnn, not this backbone: use model: cnn$"):
        filled("vit", folder, 3)
