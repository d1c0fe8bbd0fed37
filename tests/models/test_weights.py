"""Import of Kinetics weights: torchvision's R3D-18 written out here, the same features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from volssl.errors import ConfigError
from volssl.models.weights import load_kinetics_r3d18


def conv(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv3d(c_in, c_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm3d(c_out)]


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*conv(c_in, c_out, stride), nn.ReLU())
        self.conv2 = nn.Sequential(*conv(c_out, c_out))
        self.downsample = None
        if stride > 1:
            project = nn.Conv3d(c_in, c_out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm3d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + skip)


class VideoResNet(nn.Module):
    """R3D-18 as in Tran et al. 2018 (arXiv 1711.11248), with the names of torchvision's state dict."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm3d(64), nn.ReLU())
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.fc = nn.Linear(512, 400)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return x.mean((2, 3, 4))


@pytest.fixture(scope="module")
def theirs() -> VideoResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VideoResNet().eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):  # as after training: nothing at its initial value
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    return net


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_same_features(theirs: VideoResNet, tmp_path: Path, kind: str, channels: int) -> None:
    """A grey clip in one channel, or repeated in two, answers as it does repeated in three."""
    file = tmp_path / f"r3d_18.{kind}"
    save = torch.save if kind == "pth" else save_file
    save(theirs.state_dict(), file)
    config, state, report = load_kinetics_r3d18(file, channels)
    ours = config.build(channels)
    ours.load_state_dict(state)
    grey = torch.randn(2, 1, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(grey.repeat(1, 3, 1, 1, 1))
        found = ours.eval()(grey.repeat(1, channels, 1, 1, 1)).pooled
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
    assert report.adapted == (() if channels == 3 else ("stem.0.weight",))
    assert set(report.left) == {"fc.weight", "fc.bias"}
    assert len(report.matched) + len(report.adapted) == len(state) == 120


def test_old_files_do_not_count_batches(theirs: VideoResNet, tmp_path: Path) -> None:
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "r3d_18.pth")
    config, ours, _ = load_kinetics_r3d18(tmp_path / "r3d_18.pth", 1)
    config.build(1).load_state_dict(ours)


def test_a_file_that_matches_nothing_is_refused(theirs: VideoResNet, tmp_path: Path) -> None:
    """Defect 5 of BYOLMed3D: strict=False loads nothing of a wrapped state dict and says nothing."""
    file = tmp_path / "weights.pth"
    torch.save({"model_state_dict": theirs.state_dict()}, file)
    with pytest.raises(ConfigError, match="100 of R3D-18's 120 keys are not in this file"):
        load_kinetics_r3d18(file, 1)
    torch.save({k: v for k, v in theirs.state_dict().items() if not k.startswith("layer4.1.conv2")}, file)
    with pytest.raises(ConfigError, match=r"layers\.3\.1\.conv2\.weight"):
        load_kinetics_r3d18(file, 1)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02c__builtin__\nexec\n."])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as weights") as caught:
        load_kinetics_r3d18(tmp_path / name, 1)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_kinetics_r3d18(tmp_path / "none.pth", 1)
