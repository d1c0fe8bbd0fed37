"""Weights made to fit: another number of channels, three dimensions for two, other sizes of a ViT."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests.models.architectures import ResNet, ViT, as_trained
from volssl.errors import ConfigError
from volssl.models import ResNetConfig, ViTConfig
from volssl.models.weights import ImportReport, fit_channels, inflate, published_state
from volssl.models.weights_config import WeightsConfig
from volssl.types import Features

Backbone = ResNetConfig | ViTConfig
FLAT = ResNetConfig(dims=2, depth=10, stem="imagenet", width=4)
DEEP = FLAT.model_copy(update={"dims": 3})
PLANE = ViTConfig(dims=2, patch=(8, 8), size=(32, 32), width=64, depth=2, heads=1)
STACK = ViTConfig(dims=3, patch=(4, 8, 8), size=(4, 32, 32), width=64, depth=2, heads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A ResNet-10 and a ViT on three channels, and MedicalNet's on one."""
    folder = tmp_path_factory.mktemp("weights")
    nets = {"resnet": ResNet(10, 4), "vit": ViT(32, 8, 64, 2), "medicalnet": ResNet(10, 4, dims=3, channels=1)}
    for name, net in nets.items():
        torch.save(as_trained(net.double()).state_dict(), folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in nets}


def filled(backbone: Backbone, images_have: int, path: str, **how: Any) -> tuple[nn.Module, ImportReport]:
    state, report = published_state(WeightsConfig(path=path, **how), backbone, images_have)
    network = backbone.build(images_have).double().eval()
    network.load_state_dict(state)
    return network, report


def answer(network: nn.Module, x: Tensor) -> Features:
    with torch.no_grad():
        features: Features = network(x)
    return features


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert expected.std() > 0.01


# Channels


@pytest.mark.parametrize(
    ("name", "backbone", "saw", "channels", "how"),
    [
        ("resnet", FLAT, 3, 1, "sum"),
        ("resnet", FLAT, 3, 2, "sum"),
        ("resnet", FLAT, 3, 4, "sum"),
        ("resnet", FLAT, 3, 4, "repeat"),
        ("resnet", FLAT, 3, 6, "repeat"),
        ("vit", PLANE, 3, 1, "sum"),
        ("vit", PLANE, 3, 5, "repeat"),
        ("medicalnet", DEEP, 1, 3, "sum"),
        ("medicalnet", DEEP, 1, 4, "repeat"),
    ],
)
def test_a_grey_image_answers_as_it_did(
    files: dict[str, str], name: str, backbone: Backbone, saw: int, channels: int, how: str
) -> None:
    grey = images(2, 1, *[32] * backbone.dims)
    repeated = [1] * backbone.dims
    before, report = filled(backbone, saw, files[name])
    assert report.adapted == ()
    after, report = filled(backbone, channels, files[name], channels=how)
    expected = answer(before, grey.repeat(1, saw, *repeated))
    assert_equal(answer(after, grey.repeat(1, channels, *repeated)).tokens, expected.tokens)
    assert report.adapted == ("patch_embed.proj.weight" if name == "vit" else "conv1.weight",)


def test_channels_by_hand() -> None:
    """(1, 3, 1): weights 6, 9, 30. Sum onto 5: 45 / 5 = 9 each. In turn: 6 9 30 6 9, each by its count: 3 4.5 30."""
    weight = torch.tensor([6.0, 9.0, 30.0]).reshape(1, 3, 1)
    assert fit_channels(weight, 5, "sum").flatten().tolist() == [9, 9, 9, 9, 9]
    assert fit_channels(weight, 5, "repeat").flatten().tolist() == [3, 4.5, 30, 3, 4.5]
    with pytest.raises(ValueError, match="3 channels cannot be repeated onto 2"):
        fit_channels(weight, 2, "repeat")


@pytest.mark.parametrize(("channels", "how"), [(1, "refuse"), (4, "refuse"), (2, "repeat")])
def test_other_channels_are_refused_unless_told(files: dict[str, str], channels: int, how: str) -> None:
    with pytest.raises(ConfigError) as refused:
        filled(FLAT, channels, files["resnet"], channels=how)
    assert str(refused.value) == (
        f"{files['resnet']}: these weights saw 3 channels, the images have {channels}: "
        f"say how they are to fit, weights: {{path: ..., channels: sum}}"
    )


# Three dimensions


def test_inflation_by_hand() -> None:
    """One weight, 6. Onto 3 slices: 2 2 2, which sums to 6. In the centre: 0 6 0; of 4 slices, the third."""
    weight = torch.full((1, 1, 1, 1), 6.0)
    assert inflate(weight, 3, True).flatten().tolist() == [2, 2, 2]
    assert inflate(weight, 3, "centre").flatten().tolist() == [0, 6, 0]
    assert inflate(weight, 4, "centre").flatten().tolist() == [0, 0, 6, 0]


def test_centre_answers_slice_by_slice(files: dict[str, str]) -> None:
    """A volume that is one image again and again: each of the 2 slices of the last stage is that of the image."""
    image = images(2, 3, 64, 64)
    expected = answer(filled(FLAT, 3, files["resnet"])[0], image)
    network, report = filled(DEEP, 3, files["resnet"], inflate="centre")
    found = answer(network, image[:, :, None].repeat(1, 1, 64, 1, 1))
    assert found.grid == (2, 2, 2)
    assert_equal(found.tokens, expected.tokens.repeat(1, 2, 1))
    assert len(report.adapted) == 1 + 4 * 2 + 3  # every convolution


def test_inflated_answers_as_the_image_away_from_the_ends(files: dict[str, str]) -> None:
    """The field of ResNet-10 is 195 slices: of 416 the middle one of 13 is free of padding, the first is not."""
    image = images(1, 3, 32, 32)
    expected = answer(filled(FLAT, 3, files["resnet"])[0], image).tokens[:, 0]
    network, _ = filled(DEEP, 3, files["resnet"], inflate=True)
    found = answer(network, image[:, :, None].repeat(1, 1, 416, 1, 1))
    assert found.grid == (13, 1, 1)
    assert_equal(found.tokens[:, 6], expected)
    assert (found.tokens[:, 0] - expected).abs().max() > 0.01


@pytest.mark.parametrize("how", [True, "centre"])
def test_an_inflated_vit(files: dict[str, str], how: Literal[True, "centre"]) -> None:
    """A stack one patch deep answers as its image; in one twice as deep, the positions are those of the image twice."""
    image = images(2, 3, 32, 32)
    expected = answer(filled(PLANE, 3, files["vit"])[0], image)
    network, _ = filled(STACK, 3, files["vit"], inflate=how)
    found = answer(network, image[:, :, None].repeat(1, 1, 4, 1, 1))
    assert_equal(found.tokens, expected.tokens)
    assert_equal(found.pooled, expected.pooled)
    deeper = STACK.model_copy(update={"size": (8, 32, 32)})
    state = filled(deeper, 3, files["vit"], inflate=how)[0].state_dict()["pos_embed"]
    assert state.shape == (1, 1 + 2 * 16, 64)
    assert torch.equal(state[:, 1:17], state[:, 17:])


def test_inflation_and_channels_together(files: dict[str, str]) -> None:
    network, _ = filled(DEEP, 1, files["resnet"], inflate="centre", channels="sum")
    image = images(1, 1, 32, 32)
    expected = answer(filled(FLAT, 3, files["resnet"])[0], image.repeat(1, 3, 1, 1))
    assert_equal(answer(network, image[:, :, None].repeat(1, 1, 32, 1, 1)).pooled, expected.pooled)


# Sizes of a ViT


@pytest.mark.parametrize("size", [(48, 16), (32, 32), (64, 64)])
def test_positions_of_another_size(files: dict[str, str], size: tuple[int, int]) -> None:
    """Positions stored at a size answer as those of 32 x 32 interpolated to it."""
    x = images(2, 3, *size)
    expected = answer(filled(PLANE, 3, files["vit"])[0], x)
    network, report = filled(PLANE.model_copy(update={"size": size}), 3, files["vit"])
    assert_equal(answer(network, x).tokens, expected.tokens)
    assert report.adapted == (() if size == (32, 32) else ("pos_embed",))
