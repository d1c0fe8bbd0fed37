"""Import of published weights into a backbone, with a report of every key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from volssl.errors import ConfigError
from volssl.models import BackboneConfig, ResNetConfig, TimmConfig, ViTConfig
from volssl.models.published import Published, of_timm, recognise
from volssl.models.timm_model import Timm
from volssl.models.vit import resample_positions
from volssl.models.weights_config import WeightsConfig

if TYPE_CHECKING:
    from volssl.types import Tensors

_FIRST = ("stem.0.weight", "patch_embed.proj.weight")  # what sees the channels of the image
_SHOWN = 12  # keys in a line for people; ``in_full`` has them all


@dataclass(frozen=True)
class ImportReport:
    """Which keys of the file were taken as they are, which were changed to fit, and which were left.

    notes: what else to know about these weights.
    """

    matched: tuple[str, ...]
    adapted: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        adapted, left = _some(self.adapted), _some(self.left)
        return "; ".join([f"{len(self.matched)} keys matched", f"adapted: {adapted}", f"left: {left}", *self.notes])

    def in_full(self) -> str:
        """Every key on a line of its own, under what was done with it."""
        groups = {"matched": self.matched, "adapted": self.adapted, "left": self.left, "notes": self.notes}
        lines = ([f"{name}: {len(group)}", *(f"  {one}" for one in group)] for name, group in groups.items())
        return "\n".join(line for group in lines for line in group)


def _some(keys: tuple[str, ...]) -> str:
    more = [f"and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
    return ", ".join([*keys[:_SHOWN], *more]) or "none"


def load_weights(network: nn.Module, backbone: BackboneConfig, channels: int) -> ImportReport | None:
    """Fill ``network``, which ``backbone`` built for ``channels`` channels, with the weights that it names.

    Returns what came from where, or None where ``backbone.weights`` names none.

    Raises:
        ConfigError: as ``published_state``.
    """
    if backbone.weights is None:
        return None
    state, report = published_state(backbone.weights, backbone, channels)
    network.load_state_dict(state)
    return report


def published_state(weights: WeightsConfig, backbone: BackboneConfig, channels: int) -> tuple[Tensors, ImportReport]:
    """A state dict for the network that ``backbone`` builds for ``channels`` channels, from a published file.

    The images must be scaled as those that the weights were trained on; that is not in the file.

    Raises:
        ConfigError: the file cannot be read, is of an unknown form, belongs to another backbone, lacks a weight
            or has one too many, holds NaN or infinity, or saw other channels and ``weights.channels`` does not say
            what to do.
    """
    with torch.device("meta"):
        network = backbone.build(channels)
    path, wanted, of = Path(weights.path), network.state_dict(), network if isinstance(network, Timm) else None
    first = of.first if of else _FIRST
    found = of_timm(path, of) if of and not path.is_dir() else recognise(path)
    if changes := _misfit(backbone, found.backbone, bool(weights.inflate)):
        raise ConfigError(f"{weights.path}: {_in_words(found.backbone)}, not this backbone: use {', '.join(changes)}")
    _check_names(weights.path, found, wanted)
    state: Tensors = {}
    for name, want in wanted.items():
        if name not in found.tensors:  # old files do not count batches
            state[name] = torch.zeros((), dtype=torch.long)
            continue
        if not found.tensors[name].isfinite().all():
            raise ConfigError(f"{weights.path}: {found.keys[name]} holds NaN or infinity: give weights that do not")
        state[name] = _fitted(name, found, want, weights, backbone, name in first)
        if state[name].shape != want.shape:
            shapes = f"{tuple(found.tensors[name].shape)}, not {tuple(want.shape)}"
            raise ConfigError(f"{weights.path}: {found.keys[name]} is {shapes}: these weights are of another network")
    same = {name: state[name] is tensor for name, tensor in found.tensors.items()}
    matched, adapted = (tuple(found.keys[n] for n in wanted if same.get(n) is kept) for kept in (True, False))
    return state, ImportReport(matched, adapted, found.left, _notes(backbone, found.backbone, weights))


def load_kinetics_r3d18(path: str | Path, channels: int) -> tuple[ResNetConfig, Tensors, ImportReport]:
    """torchvision's ``r3d_18``, trained on Kinetics-400, on ``channels`` channels treated alike.

    The file's pixels were scaled to 0..1, then to zero mean and unit variance per channel; the caller does the
    like.

    Raises:
        ConfigError: as ``published_state``.
    """
    config = ResNetConfig(dims=3, depth=18, stem="r3d", norm="batch")
    state, report = published_state(WeightsConfig(path=str(path), channels="sum"), config, channels)
    return config, state, report


def fit_channels(weight: Tensor, channels: int, how: Literal["sum", "repeat"]) -> Tensor:
    """(out, C, *kernel) to (out, channels, *kernel), as ``WeightsConfig.channels`` defines it.

    Raises:
        ValueError: ``repeat`` onto fewer channels than there are.
    """
    if how == "sum":
        return (weight.sum(1, keepdim=True) / channels).repeat_interleave(channels, dim=1)
    if channels < weight.shape[1]:
        raise ValueError(f"{weight.shape[1]} channels cannot be repeated onto {channels}")
    turn = torch.arange(channels) % weight.shape[1]
    used = torch.bincount(turn)[turn].to(weight).view(-1, *[1] * (weight.ndim - 2))
    return weight[:, turn] / used


def inflate(weight: Tensor, depth: int, how: Literal[True, "centre"]) -> Tensor:
    """(out, in, rows, columns) to (out, in, depth, rows, columns), as ``WeightsConfig.inflate`` defines it."""
    if how == "centre":
        inflated = weight.new_zeros(*weight.shape[:2], depth, *weight.shape[2:])
        inflated[:, :, depth // 2] = weight
        return inflated
    return (weight / depth).unsqueeze(2).repeat_interleave(depth, dim=2)


def _fitted(
    name: str, found: Published, want: Tensor, weights: WeightsConfig, backbone: BackboneConfig, sees_image: bool
) -> Tensor:
    value, how = found.tensors[name], weights.channels
    if name == "pos_embed" and isinstance(backbone, ViTConfig) and isinstance(found.backbone, ViTConfig):
        return _positions(value, found.backbone, backbone)
    if sees_image and value.shape[1] != want.shape[1]:
        has, wants = value.shape[1], want.shape[1]
        if how == "refuse" or (how == "repeat" and wants < has):
            saw = f"{weights.path}: these weights saw {has} channels, the images have {wants}"
            raise ConfigError(f"{saw}: say how they are to fit, weights: {{path: ..., channels: sum}}")
        value = fit_channels(value, wants, how)
    if value.ndim == 4 and want.ndim == 5 and weights.inflate:
        value = inflate(value, want.shape[2], weights.inflate)
    return value


def _positions(value: Tensor, of: ViTConfig, wanted: ViTConfig) -> Tensor:
    """(1, 1 + N, D) of one ViT's patches to those of another, whose grid may have slices besides."""
    learned, grid = of.grid(of.size), wanted.grid(wanted.size)
    if learned == grid:
        return value
    patches = resample_positions(value[:, 1:], learned, grid[-len(learned) :])
    slices = grid[0] if len(grid) > len(learned) else 1
    return torch.cat([value[:, :1], patches.repeat(1, slices, 1)], dim=1)


def _check_names(path: str, found: Published, wanted: Tensors) -> None:
    optional = "num_batches_tracked"
    missing = [name for name in wanted if name not in found.tensors and not name.endswith(optional)]
    if missing:
        raise ConfigError(f"{path}: {len(missing)} of {len(wanted)} weights are missing, {missing[0]} first")
    if odd := [key for name, key in found.keys.items() if name not in wanted]:
        raise ConfigError(f"{path}: {odd[0]} is part of another network: this backbone has no place for it")


def _misfit(asked: BackboneConfig, has: BackboneConfig, may_inflate: bool) -> list[str]:
    """What to write in ``backbone`` so that the weights fit, key by key; nothing if they do."""
    inflating = may_inflate and (asked.dims, has.dims) == (3, 2)
    asked_for, needed = _facts(asked), _facts(has)
    if inflating:
        needed["dims"] = 3
        if isinstance(asked, ViTConfig) and isinstance(has, ViTConfig):
            needed["patch"] = [asked.patch[0], *has.patch]
    changes = [f"{key}: {value}" for key, value in needed.items() if asked_for.get(key, "none") != value]
    if (asked.dims, has.dims) == (3, 2) and not inflating:
        changes.append("or weights: {path: ..., inflate: true}")
    return changes


def _notes(asked: BackboneConfig, has: BackboneConfig, weights: WeightsConfig) -> tuple[str, ...]:
    """Settings without effect; and weights fit with and without dilation, which no shape tells."""
    idle = bool(weights.inflate) and asked.dims == has.dims
    notes = (f"inflate does nothing to weights of a {has.dims}D network",) if idle else ()
    if not isinstance(asked, ResNetConfig) or not isinstance(has, ResNetConfig) or asked.dilated == has.dilated:
        return notes
    was, now = ("dilated", "strided") if has.dilated else ("strided", "dilated")
    remedy = f"for theirs use dilated: {str(has.dilated).lower()}"
    return (
        *notes,
        f"trained with its last two stages {was}; here they are {now}, so features are not the same: {remedy}",
    )


def _facts(config: BackboneConfig) -> dict[str, object]:
    """What of a configuration the weights decide."""
    if isinstance(config, ResNetConfig):
        return config.model_dump(include={"name", "dims", "depth", "stem", "norm", "width", "shortcut"})
    if isinstance(config, TimmConfig):
        size = "null" if config.size is None else list(config.size)
        return config.model_dump(include={"name", "model"}) | {"size": size}
    shape = {"patch": list(config.patch), "layer_scale": "null" if config.layer_scale is None else "1.0"}
    return config.model_dump(include={"name", "dims", "width", "depth", "heads", "mlp"}) | shape


def _in_words(config: BackboneConfig) -> str:
    if isinstance(config, ResNetConfig):
        return f"weights of a {config.dims}D ResNet-{config.depth}"
    return f"weights of timm's {config.model}" if isinstance(config, TimmConfig) else f"weights of a {config.dims}D ViT"
