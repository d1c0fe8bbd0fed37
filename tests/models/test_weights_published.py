"""Published weights: features through our module equal those of the architecture they were trained in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests.models.architectures import ResNet, SwAV, VideoResNet, ViT, as_trained
from volssl.errors import ConfigError
from volssl.models import ResNetConfig, ViTConfig
from volssl.models.weights import load_weights, published_state
from volssl.models.weights_config import WeightsConfig

State = dict[str, Tensor]


def resnet(depth: int, dims: int = 2, width: int = 8) -> ResNetConfig:
    return ResNetConfig.model_validate({"dims": dims, "depth": depth, "stem": "imagenet", "width": width})


def linear(name: str, inputs: int, outputs: int) -> State:
    return {f"{name}.weight": torch.ones(outputs, inputs), f"{name}.bias": torch.ones(outputs)}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def torchvision(state: State) -> object:
    return state | linear("fc", 64, 1000)


def medicalnet(state: State) -> object:
    return {"state_dict": under("module.", state)}


def ciga(state: State) -> object:
    head = linear("fc.1", 64, 64) | linear("fc.3", 64, 128)
    return {"epoch": 999, "state_dict": under("model.resnet.", state | head)}


def swav(state: State) -> object:
    return under("module.", state)


def dino(state: State) -> object:
    return state


def dino_full(state: State, of_teacher: str = "module.") -> object:
    """The teacher is wrapped like the student where there is batch norm, else not."""
    head = linear("head.mlp.0", 64, 2048)
    student = {name: torch.zeros_like(value) for name, value in state.items()}
    return {
        "student": under("module.backbone.", student) | under("module.", head),
        "teacher": under(of_teacher + "backbone.", state) | under(of_teacher, head),
        "epoch": 100,
        "dino_loss": {"center": torch.zeros(1, 64)},
    }


def dino_full_vit(state: State) -> object:
    return dino_full(state, of_teacher="")


def of_medicalnet(depth: int) -> Any:
    """Its network, and the backbone that is the same: 18 and 34 have shortcuts without weights."""
    shortcut: Literal["A", "B"] = "A" if depth in (18, 34) else "B"
    config = resnet(depth, dims=3).model_copy(update={"dilated": True, "shortcut": shortcut})
    return lambda: ResNet(depth, 8, dims=3, channels=1, dilated=True, shortcut=shortcut), medicalnet, config, 0


SMALL_VIT = ViTConfig(dims=2, patch=(8, 8), size=(32, 32), width=128, depth=2, heads=2)
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[State], object], ResNetConfig | ViTConfig, int]] = {
    "torchvision 18": (lambda: ResNet(18, 8), torchvision, resnet(18), 2),
    "torchvision 34": (lambda: ResNet(34, 8), torchvision, resnet(34), 2),
    "torchvision 50": (lambda: ResNet(50, 8), torchvision, resnet(50), 2),
    "torchvision 101": (lambda: ResNet(101, 8), torchvision, resnet(101), 2),
    **{f"MedicalNet {depth}": of_medicalnet(depth) for depth in (10, 18, 34, 50, 101)},
    "Ciga 18": (lambda: ResNet(18, 8), ciga, resnet(18), 4),
    "SwAV 50": (lambda: SwAV(8), swav, resnet(50), 10),
    "DINO 50": (lambda: ResNet(50, 8), dino, resnet(50), 0),
    "DINO 50, full": (lambda: ResNet(50, 8), dino_full, resnet(50), 4),
    "DINO ViT": (lambda: ViT(32, 8, 128, 2), dino, SMALL_VIT, 0),
    "DINO ViT, full": (lambda: ViT(32, 8, 128, 2), dino_full_vit, SMALL_VIT, 4),
}


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_same(theirs: nn.Module, ours: nn.Module, x: Tensor, tolerance: float) -> None:
    with torch.no_grad():
        expected, found = theirs(x), ours.eval()(x)
    if isinstance(theirs, ViT):
        tokens, pooled = expected[:, 1:], expected[:, 0]
    else:
        tokens, pooled = expected.flatten(2).transpose(1, 2), expected.flatten(2).mean(2)
    assert tokens.std() > 0.01
    torch.testing.assert_close(found.tokens, tokens, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.pooled, pooled, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_features_are_those_of_the_architecture(case: Any, tmp_path: Path) -> None:
    """In float64, to 1e-10; every key is matched or left; moving one weight is noticed (negative control)."""
    build, wrapped, config, left = case
    theirs, file = as_trained(build().double()), tmp_path / "weights"
    torch.save(wrapped(theirs.state_dict()), file)
    channels = 1 if config.dims == 3 else 3
    ours = config.build(channels).double()
    report = load_weights(ours, config.model_copy(update={"weights": WeightsConfig(path=str(file))}), channels)
    assert report is not None
    assert len(report.matched) == len(ours.state_dict())
    assert report.adapted == ()
    assert len(report.left) == left, report.left
    x = images(2, channels, *[32 if isinstance(config, ViTConfig) or config.dims == 3 else 64] * config.dims)
    assert_same(theirs, ours, x, 1e-10)
    next(ours.parameters()).data.flatten()[0] += 0.1
    with pytest.raises(AssertionError):
        assert_same(theirs, ours, x, 1e-10)


FULL: dict[str, tuple[Callable[[], nn.Module], ResNetConfig | ViTConfig]] = {
    "ResNet-18": (lambda: ResNet(18, 64), resnet(18, width=64)),
    "ResNet-50": (lambda: ResNet(50, 64), resnet(50, width=64)),
    "ViT-S/16": (lambda: ViT(224, 16, 384, 12), ViTConfig(dims=2, patch=(16, 16), size=(224, 224))),
}


@pytest.mark.parametrize(("build", "config"), FULL.values(), ids=FULL)
def test_full_width_in_single_precision(
    build: Callable[[], nn.Module], config: ResNetConfig | ViTConfig, tmp_path: Path
) -> None:
    theirs = as_trained(build())
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = config.build(3)
    state, _ = published_state(WeightsConfig(path=str(tmp_path / "weights.pth")), config, 3)
    ours.load_state_dict(state)
    size = config.size if isinstance(config, ViTConfig) else (64, 64)
    assert_same(theirs, ours, images(1, 3, *size).float(), 1e-5)


@pytest.mark.parametrize(
    ("build", "keys", "parameters"),
    [
        (lambda: ResNet(18, 64), 122, 11_689_512),
        (lambda: ResNet(34, 64), 218, 21_797_672),
        (lambda: ResNet(50, 64), 320, 25_557_032),
        (lambda: ResNet(101, 64), 626, 44_549_160),
        (VideoResNet, 122, 33_371_472),
        (lambda: ViT(224, 16, 384, 12), 150, 21_665_664),
    ],
)
def test_what_is_written_out_has_the_published_size(build: Callable[[], nn.Module], keys: int, parameters: int) -> None:
    """torchvision's and DINO's numbers; torchvision's count the classifier of 1000 classes, which has two keys."""
    with torch.device("meta"):
        net = build()
        if isinstance(net, ResNet):
            net.fc = nn.Linear(net.width, 1000)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == keys


@pytest.mark.parametrize(
    ("depth", "shortcut", "millions"),
    [(10, "B", 14.36), (18, "A", 32.99), (34, "A", 63.31), (50, "B", 46.21), (101, "B", 85.31)],
)
def test_what_is_written_out_has_the_size_of_medicalnet(depth: int, shortcut: str, millions: float) -> None:
    """Its README counts running statistics too, and not the segmentation head."""
    with torch.device("meta"):
        net = ResNet(depth, 64, dims=3, channels=1, dilated=True, shortcut=shortcut)
    assert round(sum(v.numel() for v in net.state_dict().values()) / 1e6, 2) == millions


def test_a_strided_network_takes_medicalnet_and_says_that_it_was_dilated(tmp_path: Path) -> None:
    """Its own network keeps the grid of stage 2 in stages 3 and 4: 4 x 4 x 4 of 32 voxels, where ours has 1."""
    theirs = as_trained(ResNet(10, 8, dims=3, channels=1, dilated=True).double())
    torch.save({"state_dict": under("module.", theirs.state_dict())}, tmp_path / "resnet_10.pth")
    state, report = published_state(WeightsConfig(path=str(tmp_path / "resnet_10.pth")), resnet(10, dims=3), 1)
    ours = resnet(10, dims=3).build(1).double().eval()
    ours.load_state_dict(state)
    x = images(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert theirs(x).shape[2:] == (4, 4, 4)
        assert ours(x).grid == (1, 1, 1)
    assert str(report).endswith("here they are strided, so features are not the same: for theirs use dilated: true")


def test_a_dilated_network_says_that_torchvision_s_was_strided(tmp_path: Path) -> None:
    torch.save(ResNet(18, 8).state_dict(), tmp_path / "resnet18.pth")
    config = resnet(18).model_copy(update={"dilated": True})
    _, report = published_state(WeightsConfig(path=str(tmp_path / "resnet18.pth")), config, 3)
    assert str(report).endswith("here they are dilated, so features are not the same: for theirs use dilated: false")


def test_medicalnet_18_wants_shortcuts_without_weights(tmp_path: Path) -> None:
    torch.save(ResNet(18, 8, dims=3, channels=1, shortcut="A").state_dict(), tmp_path / "resnet_18.pth")
    with pytest.raises(ConfigError, match=r"weights of a 3D ResNet-18, not this backbone: use shortcut: A$"):
        published_state(WeightsConfig(path=str(tmp_path / "resnet_18.pth")), resnet(18, dims=3), 1)
