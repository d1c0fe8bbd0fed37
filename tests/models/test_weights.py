"""Import of weights: what fits is filled and reported, what does not is refused in one line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.models.architectures import ResNet, VideoResNet, ViT, as_trained
from volssl.data import StackConfig
from volssl.errors import ConfigError
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import save_encoder
from volssl.models import ResNetConfig, ViTConfig
from volssl.models.weights import load_kinetics_r3d18, load_weights, published_state
from volssl.models.weights_config import WeightsConfig

Backbone = ResNetConfig | ViTConfig
PLANE = ResNetConfig(dims=2, depth=10, stem="imagenet", width=4)
VIT = ViTConfig(dims=2, patch=(8, 8), size=(16, 16), width=128, depth=1, heads=2)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return as_trained(VideoResNet())


def imported(state: object, backbone: Backbone, folder: Path, channels: int = 3, **how: Any) -> Any:
    torch.save(state, folder / "weights.pth")
    return published_state(WeightsConfig(path=str(folder / "weights.pth"), **how), backbone, channels)


def refusal(state: object, backbone: Backbone, folder: Path, **how: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        imported(state, backbone, folder, **how)
    message = str(refused.value).removeprefix(f"{folder / 'weights.pth'}: ")
    assert "\n" not in message
    return message


# Kinetics


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_kinetics(theirs: nn.Module, tmp_path: Path, channels: int) -> None:
    """A grey clip in one channel, or repeated in two, answers as it does repeated in three."""
    torch.save(theirs.state_dict(), tmp_path / "r3d_18.pth")
    config, state, report = load_kinetics_r3d18(tmp_path / "r3d_18.pth", channels)
    ours = config.build(channels)
    ours.load_state_dict(state)
    grey = torch.randn(2, 1, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(grey.repeat(1, 3, 1, 1, 1)).mean((2, 3, 4))
        found = ours.eval()(grey.repeat(1, channels, 1, 1, 1)).pooled
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
    assert report.adapted == (() if channels == 3 else ("stem.0.weight",))
    assert set(report.left) == {"fc.weight", "fc.bias"}
    assert len(report.matched) + len(report.adapted) == len(state) == 120


def test_kinetics_from_another_file(tmp_path: Path) -> None:
    torch.save(ResNet(10, 4).state_dict(), tmp_path / "r3d_18.pth")
    with pytest.raises(ConfigError, match="weights of a 2D ResNet-10, not this backbone: use dims: 2, depth: 10"):
        load_kinetics_r3d18(tmp_path / "r3d_18.pth", 1)


# What is in the file


def test_the_report_names_every_key(tmp_path: Path) -> None:
    state = ResNet(10, 4).state_dict()
    heads = {"fc.weight": torch.ones(5, 32), "fc.bias": torch.ones(5)}
    _, report = imported(state | heads, PLANE, tmp_path)
    assert {*report.matched, *report.left} == {*state, *heads}
    assert str(report) == f"{len(state)} keys matched; adapted: none; left: fc.weight, fc.bias"
    many = {f"head.{i}": torch.ones(1) for i in range(15)}
    _, report = imported(state | many, PLANE, tmp_path)
    assert len(report.left) == 15
    assert str(report).endswith("head.10, head.11, and 3 more")


def test_the_report_in_full_has_every_key_and_what_has_no_effect(tmp_path: Path) -> None:
    state = ResNet(10, 4).state_dict()
    many = {f"head.{i}": torch.ones(1) for i in range(15)}
    _, report = imported(state | many, PLANE, tmp_path, inflate=True)
    lines = report.in_full().splitlines()
    assert {line.strip() for line in lines if line.startswith("  ")} == {*state, *many, *report.notes}
    assert [line for line in lines if not line.startswith("  ")] == [
        f"matched: {len(state)}",
        "adapted: 0",
        "left: 15",
        "notes: 1",
    ]
    assert str(report).endswith("; inflate does nothing to weights of a 2D network")


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, wrong: float) -> None:
    state = ResNet(10, 4).state_dict()
    state["layer2.0.bn1.running_var"][1] = wrong
    assert refusal(state, PLANE, tmp_path) == (
        "layer2.0.bn1.running_var holds NaN or infinity: give weights that do not"
    )


def test_old_files_do_not_count_batches(tmp_path: Path) -> None:
    state = {k: v for k, v in ResNet(10, 4).state_dict().items() if not k.endswith("num_batches_tracked")}
    found, _ = imported(state, PLANE, tmp_path)
    PLANE.build(3).load_state_dict(found)


def test_nothing_known_is_refused(tmp_path: Path) -> None:
    """Defect 5 of BYOLMed3D: strict=False loads nothing of a wrapped state dict and says nothing."""
    wrapped = {"model_state_dict": ResNet(10, 4).state_dict()}
    assert refusal(wrapped, PLANE, tmp_path).startswith("no backbone known here has such keys (model_state_dict)")
    other = {"features.0.weight": torch.ones(1), "features.1.weight": torch.ones(1)}
    assert "(features.0.weight, features.1.weight)" in refusal(other, PLANE, tmp_path)
    assert "(none)" in refusal({}, PLANE, tmp_path)


def test_a_weight_too_few_or_too_many_is_named(tmp_path: Path) -> None:
    state = ResNet(10, 4).state_dict()
    few = {k: v for k, v in state.items() if not k.startswith("layer4.0.conv2")}
    assert refusal(few, PLANE, tmp_path) == "1 of 72 weights are missing, layers.3.0.conv2.weight first"
    many = state | {"layer1.0.se.fc1.weight": torch.ones(1)}
    assert refusal(many, PLANE, tmp_path).startswith("layer1.0.se.fc1.weight is part of another network")
    twice = state | {f"module.{k}": v for k, v in state.items()}
    assert refusal(twice, PLANE, tmp_path) == "holds several networks: give the state dict of one"
    tokens = ViT(16, 8, 128, 1).state_dict() | {"register_tokens": torch.ones(1, 4, 128)}
    assert refusal(tokens, VIT, tmp_path).startswith("register_tokens is part of another network")


def test_another_shape_is_named(tmp_path: Path) -> None:
    """A wide ResNet has torchvision's names and first convolution, and twice the channels inside."""
    state = ResNet(10, 4).state_dict() | {"layer2.0.conv1.weight": torch.ones(16, 4, 3, 3)}
    assert refusal(state, PLANE, tmp_path) == (
        "layer2.0.conv1.weight is (16, 4, 3, 3), not (8, 4, 3, 3): these weights are of another network"
    )
    assert (
        refusal(ResNet(10, 2).state_dict(), PLANE, tmp_path)
        == "its weights have the names of a network and not its shapes"
    )
    uneven = ViT(16, 8, 128, 1).state_dict() | {"pos_embed": torch.ones(1, 1 + 5, 128)}
    assert refusal(uneven, VIT, tmp_path).startswith("a ViT, but not one of DINO's")


def test_depths_and_strides_that_are_not_known(tmp_path: Path) -> None:
    state = ResNet(10, 4).state_dict()
    deeper = state | {k.replace("layer1.0", "layer1.1"): v for k, v in state.items() if k.startswith("layer1")}
    assert refusal(deeper, PLANE, tmp_path).startswith("a ResNet of (2, 1, 1, 1) blocks with a kernel of (7, 7) first")
    kinetics = ResNet(10, 4, dims=3, channels=3).state_dict()
    assert "on several channels is not MedicalNet's" in refusal(kinetics, PLANE, tmp_path)


# The backbone it belongs to

RESNET = {"dims": 2, "depth": 10, "stem": "imagenet", "width": 4}


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ({"depth": 50, "stem": "small"}, "use depth: 10, stem: imagenet"),
        ({"norm": "group"}, "use norm: batch"),
        ({"width": 64}, "use width: 4"),
        ({"dims": 3}, "use dims: 2, or weights: {path: ..., inflate: true}"),
    ],
)
def test_a_resnet_that_does_not_fit_is_told_what_does(asked: dict[str, Any], remedy: str, tmp_path: Path) -> None:
    message = refusal(ResNet(10, 4).state_dict(), ResNetConfig.model_validate(RESNET | asked), tmp_path)
    assert message == f"weights of a 2D ResNet-10, not this backbone: {remedy}"


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ({"heads": 4}, "use heads: 2"),
        ({"patch": (4, 4)}, "use patch: [8, 8]"),
        ({"depth": 12, "mlp": 2, "layer_scale": 0.1}, "use depth: 1, mlp: 4, layer_scale: null"),
        (
            {"dims": 3, "patch": (2, 4, 4), "size": (4, 8, 8)},
            "use dims: 2, patch: [8, 8], or weights: {path: ..., inflate: true}",
        ),
    ],
)
def test_a_vit_that_does_not_fit_is_told_what_does(asked: dict[str, Any], remedy: str, tmp_path: Path) -> None:
    message = refusal(ViT(16, 8, 128, 1).state_dict(), ViTConfig.model_validate(VIT.model_dump() | asked), tmp_path)
    assert message == f"weights of a 2D ViT, not this backbone: {remedy}"


def test_inflated_patches_must_fit_in_the_plane(tmp_path: Path) -> None:
    asked = ViTConfig.model_validate(VIT.model_dump() | {"dims": 3, "patch": (2, 4, 4), "size": (4, 8, 8)})
    assert refusal(ViT(16, 8, 128, 1).state_dict(), asked, tmp_path, inflate=True).endswith("use patch: [2, 8, 8]")


def test_the_other_kind_of_network_is_told_in_full(tmp_path: Path) -> None:
    assert refusal(ViT(16, 8, 128, 1).state_dict(), PLANE, tmp_path).endswith(
        "use name: vit, width: 128, depth: 1, heads: 2, mlp: 4, patch: [8, 8], layer_scale: null"
    )
    assert refusal(ResNet(10, 4).state_dict(), VIT, tmp_path).endswith(
        "use name: resnet, depth: 10, stem: imagenet, norm: batch, width: 4, shortcut: B"
    )


def test_layer_scale_comes_in(tmp_path: Path) -> None:
    scales = {f"blocks.0.ls{i}.gamma": torch.full((128,), 0.1 * i) for i in (1, 2)}
    state = ViT(16, 8, 128, 1).state_dict() | scales
    assert refusal(state, VIT, tmp_path).endswith("use layer_scale: 1.0")
    found, _ = imported(state, VIT.model_copy(update={"layer_scale": 1e-5}), tmp_path)
    assert torch.equal(found["blocks.0.ls2.gamma"], scales["blocks.0.ls2.gamma"])


# An encoder trained here


def saved(folder: Path, backbone: Backbone) -> dict[str, Tensor]:
    network = as_trained(backbone.build(1))
    size = (16,) * backbone.dims
    card = Card(
        backbone=backbone, channels=1, region=size, size=size, data=StackConfig(root=""), method="byol", step=1, seed=0
    )
    save_encoder(folder, network, card)
    return network.state_dict()


@pytest.mark.parametrize(
    "backbone",
    [
        PLANE.model_copy(update={"stem": "small", "norm": "group"}),
        VIT.model_copy(update={"heads": 4, "size": (16, 24)}),
    ],
    ids=["ResNet", "ViT"],
)
def test_an_encoder_comes_in_as_its_card_says(backbone: Backbone, tmp_path: Path) -> None:
    expected = saved(tmp_path / "encoder", backbone)
    asked = backbone.model_copy(update={"weights": WeightsConfig(path=str(tmp_path / "encoder"))})
    network = asked.build(1)
    report = load_weights(network, asked, 1)
    assert report is not None
    assert len(report.matched) == len(expected)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    with pytest.raises(ConfigError, match="weights of a 2D"):
        load_weights(network, asked.model_copy(update={"width": 256}), 1)


def test_a_folder_that_is_no_whole_encoder(tmp_path: Path) -> None:
    saved(tmp_path / "encoder", PLANE)
    weights = WeightsConfig(path=str(tmp_path / "encoder"))
    content = (tmp_path / "encoder" / "model.safetensors").read_bytes()
    (tmp_path / "encoder" / "model.safetensors").write_bytes(content[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="SHA-256 is not the card's"):
        published_state(weights, PLANE, 1)
    card = json.loads((tmp_path / "encoder" / "card.json").read_text())
    for damaged in ("{", "[]", json.dumps(card | {"backbone": {"name": "unet"}})):
        (tmp_path / "encoder" / "card.json").write_text(damaged)
        with pytest.raises(
            ConfigError, match=r"holds no encoder \(card.json, model.safetensors\): give the folder of one"
        ):
            published_state(weights, PLANE, 1)


# The configuration


def test_building_reads_no_file() -> None:
    config = PLANE.model_copy(update={"weights": WeightsConfig(path="nowhere.pth")})
    config.build(1)
    assert config.cost(1, (64, 64)) == PLANE.cost(1, (64, 64))
    assert load_weights(PLANE.build(1), PLANE, 1) is None


def test_what_is_configured_is_checked_without_torch() -> None:
    code = (
        "import sys; from volssl.models import ResNetConfig; "
        "c = ResNetConfig.model_validate({'weights': {'path': 'a.pth', 'channels': 'sum', 'inflate': True}}); "
        "assert c.weights.inflate is True; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    for wrong in ({}, {"path": ""}, {"path": "a", "channels": "mean"}, {"path": "a", "inflate": 1}):
        with pytest.raises(ValidationError):
            WeightsConfig.model_validate(wrong)
