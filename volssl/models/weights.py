"""Import of published weights: R3D-18 trained on Kinetics-400, as torchvision publishes it."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from volssl.errors import ConfigError
from volssl.models import ResNetConfig

if TYPE_CHECKING:
    from volssl.types import Tensors

_RENAMED = (  # torchvision's VideoResNet -> volssl's ResNet
    (re.compile(r"^stem\.([01])\.(.+)$"), r"stem.\1.\2"),
    (re.compile(r"^layer([1-4])\.(\d)\.conv([12])\.0\.(.+)$"), r"layers.<\1>.\2.conv\3.\4"),
    (re.compile(r"^layer([1-4])\.(\d)\.conv([12])\.1\.(.+)$"), r"layers.<\1>.\2.bn\3.\4"),
    (re.compile(r"^layer([1-4])\.(\d)\.downsample\.([01])\.(.+)$"), r"layers.<\1>.\2.downsample.\3.\4"),
)


@dataclass(frozen=True)
class ImportReport:
    """Which keys of the file were taken as they are, which were changed to fit, and which were left."""

    matched: tuple[str, ...]
    adapted: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        left = ", ".join(self.left) or "none"
        return f"{len(self.matched)} keys matched; adapted: {', '.join(self.adapted) or 'none'}; left: {left}"


def load_kinetics_r3d18(path: str | Path, channels: int) -> tuple[ResNetConfig, Tensors, ImportReport]:
    """torchvision's ``r3d_18`` state dict (.pth or .safetensors) for our R3D-18 on ``channels`` channels.

    With a channel count other than three, each input channel gets the summed weights of red, green and blue
    divided by the channel count: a grey image answers as it did when shown in all three. The file's pixels
    were scaled to 0..1, then to zero mean and unit variance per channel; the caller does the like.

    Raises:
        ConfigError: the file cannot be read, or any weight of R3D-18 is not in it.
    """
    config = ResNetConfig(dims=3, depth=18, stem="r3d", norm="batch")
    with torch.device("meta"):
        wanted = config.build(channels).state_dict()
    state: Tensors = {}
    matched: list[str] = []
    adapted: list[str] = []
    left: list[str] = []
    for key, value in _read(Path(path)).items():
        name = _our_name(key)
        fitted = value if name != "stem.0.weight" else _fit_channels(value, channels)
        if name not in wanted or fitted.shape != wanted[name].shape:
            left.append(key)
            continue
        state[name] = fitted
        (matched if fitted is value else adapted).append(key)
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise ConfigError(
            f"{path}: {len(missing)} of R3D-18's {len(wanted)} keys are not in this file, {missing[0]} first "
            f"(unused there: {', '.join(left[:3]) or 'none'}): give torchvision's r3d_18 state dict"
        )
    for key in wanted.keys() - state.keys():  # old files do not count batches
        state[key] = torch.zeros((), dtype=torch.long)
    return config, state, ImportReport(tuple(matched), tuple(adapted), tuple(left))


def _our_name(key: str) -> str:
    """torchvision counts layers from 1, we from 0."""
    for pattern, ours in _RENAMED:
        if pattern.match(key):
            return re.sub(r"<(\d)>", lambda m: str(int(m[1]) - 1), pattern.sub(ours, key))
    return ""


def _fit_channels(weight: Tensor, channels: int) -> Tensor:
    """(out, 3, ...) to (out, channels, ...) with the same answer to a grey image."""
    if weight.shape[1] == channels:
        return weight
    return (weight.sum(1, keepdim=True) / channels).repeat_interleave(channels, dim=1)


def _read(path: Path) -> Tensors:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: cannot be read as weights ({reason}): give a .pth or .safetensors") from error
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: holds a {type(state).__name__}, not a state dict: give torchvision's r3d_18")
    return {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
