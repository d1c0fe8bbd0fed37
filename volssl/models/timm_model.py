"""A model of timm as a backbone: image in, Features out."""

from __future__ import annotations

import difflib
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from volssl.errors import ConfigError
from volssl.models import TimmConfig
from volssl.models.convolution import replace_convolutions
from volssl.models.cost import Cost
from volssl.models.norm import BatchNorm
from volssl.types import Features

_MEASURED = 32  # models whose cost is remembered


class Timm(nn.Module):
    """What timm calls the features of a model: those before and after its own pooling, without its classifier.

    All that is random in training is set to never happen, since a method's hook may be called twice and must give
    the same. Batch norms are ours, with the weights and settings of timm's.

    Attributes: ``dims``, ``width`` (D, the channels of the features); ``first``, names of the weights that see the
    channels of the image; ``classifier``, what the names of those begin with that only timm's own model has.
    Weights: as timm draws them from torch's global generator, so whoever builds one forks and seeds it first.

    Raises:
        ConfigError: there is no such model, or none that the contract of a method holds for.
    """

    def __init__(self, config: TimmConfig, channels: int) -> None:
        super().__init__()
        self.net = _create(config, channels)
        self.config, self.dims, self.width = config, config.dims, int(self.net.num_features)
        self.first = tuple(f"net.{name}.weight" for name in _parts(self.net, "first_conv"))
        self.classifier = tuple(f"net.{name}." for name in _parts(self.net, "classifier"))
        _never_drop(self.net)
        _defer_norms(self.net)
        replace_convolutions(self.net)
        if keeping := [type(m).__name__ for m in self.net.modules() if _keeps_statistics(m)]:
            raise ConfigError(
                f"backbone.model: the {keeping[0]} of {self.config.model} moves by itself in training: use another"
            )

    @property
    def patch_embed(self) -> nn.Module:
        """Of a Transformer, the linear map of its patches."""
        embedding: nn.Module = getattr(self.net, "patch_embed", nn.Identity())
        if not isinstance(getattr(embedding, "proj", None), nn.Conv2d) or hasattr(embedding, "backbone"):
            raise AttributeError(f"{self.config.model} has no linear map of patches, or one behind a CNN")
        return embedding

    def forward(self, x: Tensor) -> Features:
        """(B, C, rows, columns) to the tokens (B, N, D) of the last stage, without class and register tokens, and
        what timm makes of them for a classifier (B, D).

        Raises:
            ConfigError: the model has no grid of features, or other channels after pooling than before.
        """
        out = self.net.forward_features(x)
        if isinstance(out, Tensor):
            tokens, grid = self._on_grid(out, tuple(x.shape[2:]))
            pooled = self.net.forward_head(out, pre_logits=True)
            shapes = (len(x), math.prod(grid), self.width), (len(x), self.width)
            if (tokens.shape, pooled.shape) == shapes:
                return Features(tokens, grid, pooled.to(torch.promote_types(pooled.dtype, torch.float32)))
        raise ConfigError(
            f"backbone.model: {self.config.model} has no grid of features as wide as the pooled ones: use another"
        )

    def maps(self, x: Tensor) -> list[Tensor]:
        """The tokens of ``forward`` where they lie, the only map: (B, D, rows', columns')."""
        features = self(x)
        return [features.tokens.transpose(1, 2).unflatten(2, features.grid)]

    def _on_grid(self, out: Tensor, size: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
        """timm's maps, (B, D, rows, columns) or (B, rows, columns, D), or its sequences (B, prefix + N, D)."""
        if out.ndim == 4:
            last = getattr(self.net, "output_fmt", "NCHW") == "NHWC" or out.shape[1] != self.width
            maps = out if last else out.movedim(1, -1)
            return maps.flatten(1, 2), tuple(maps.shape[1:3])
        patch = self.net.feature_info[-1]["reduction"]
        return out[:, getattr(self.net, "num_prefix_tokens", 0) :], tuple(-(-n // patch) for n in size)


class BatchNormAct(BatchNorm):
    """timm's batch norm with the activation inside: (B, C, *spatial) to the same shape."""

    def __init__(self, old: Any) -> None:
        super().__init__(old.num_features, old.eps, old.momentum, affine=old.affine)
        self.drop, self.act = old.drop, old.act

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


@lru_cache(_MEASURED)
def timm_cost(config: TimmConfig, channels: int, size: tuple[int, ...]) -> Cost:
    """The cost of ``config`` on one image, counted in a pass without numbers.

    Attention is counted as written out; fused, it keeps less.
    """
    network, kept = _without_numbers(config, channels), {}
    own = {_storage(x) for x in (*network.parameters(), *network.buffers())}

    def keep(x: Tensor) -> Tensor:
        kept[_storage(x)] = x
        return x

    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(keep, lambda x: x):
        features = network(torch.empty(1, channels, *size, device="meta"))
    return Cost(
        width=features.pooled.shape[1],
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        activations=sum(x.untyped_storage().nbytes() // 4 for key, x in kept.items() if key not in own),
        grid=features.grid,
    )


def timm_norm(config: TimmConfig) -> str:
    """What normalises: ``batch`` if anything does so over images, else ``instance``, ``group``, or ``layer``."""
    found = [type(module) for module in _without_numbers(config, 1).modules()]
    kinds = {"batch": _BatchNorm, "instance": nn.modules.instancenorm._InstanceNorm, "group": nn.GroupNorm}
    return next((kind for kind, norm in kinds.items() if any(issubclass(m, norm) for m in found)), "layer")


def timm_refusal(config: TimmConfig, size: tuple[int, ...]) -> str | None:
    """Why the model takes no images of ``size``, and which it takes; None if it does."""
    network = _without_numbers(config, 3)
    try:
        timm_cost(config, 3, size)
    except ConfigError:
        raise
    except Exception as error:  # every model has its own way to say so
        own = config.size or network.net.pretrained_cfg["input_size"][1:]
        return f"{list(size)} does not fit {config.model} ({_first_line(error)}): use {list(own)}, its own"
    return None


@lru_cache(_MEASURED)
def _without_numbers(config: TimmConfig, channels: int) -> Timm:
    with torch.device("meta"):
        return Timm(config, channels).eval()


def _create(config: TimmConfig, channels: int) -> Any:
    """timm's model with random weights, taking images of any size if it can."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the second
        reason = _first_line(error)
        raise ConfigError(f"backbone.name: timm cannot be imported ({reason}): pip install 'volssl[timm]'") from None
    if not timm.is_model(config.model):
        near = difflib.get_close_matches(config.model, timm.list_models(), 1)
        remedy = f"did you mean {near[0]}?" if near else "timm.list_models() names them"
        raise ConfigError(f"backbone.model: timm {timm.__version__} has no {config.model}: {remedy}")
    wanted = {} if config.size is None else {"img_size": config.size}
    for free in ({"dynamic_img_size": True}, {}):  # unknown to CNNs, which take any size as they are
        try:
            return timm.create_model(config.model, pretrained=False, num_classes=0, in_chans=channels, **wanted, **free)
        except Exception as error:  # every model has its own way to say so
            reason = _first_line(error)
    what = config.model if config.size is None else f"{config.model} for {list(config.size)}"
    remedy = "use another model" if config.size is None else "leave backbone.size out"
    raise ConfigError(f"backbone.model: timm cannot build {what} ({reason}): {remedy}")


def _parts(net: Any, kind: str) -> tuple[str, ...]:
    names = net.pretrained_cfg.get(kind) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _never_drop(net: nn.Module) -> None:
    """Dropout, stochastic depth, dropped patches and blocks, by the names that torch and timm give their rates."""
    for module in net.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for rate in ("drop_rate", "drop_prob"):
            if hasattr(module, rate):
                setattr(module, rate, 0.0)


def _defer_norms(net: nn.Module) -> None:
    for module in list(net.modules()):
        child: Any
        for name, child in module.named_children():
            if new := _like(child):
                new.weight, new.bias = child.weight, child.bias
                new.load_state_dict(child.state_dict())
                setattr(module, name, new)


def _like(old: Any) -> BatchNorm | None:
    """Ours with the settings of a batch norm of torch's or timm's."""
    if type(old) in (BatchNorm1d, BatchNorm2d, BatchNorm3d) and old.track_running_stats:
        return BatchNorm(old.num_features, old.eps, old.momentum, affine=old.affine)
    return BatchNormAct(old) if isinstance(old, _BatchNorm) and hasattr(old, "act") else None


def _keeps_statistics(module: nn.Module) -> bool:
    own = {name for name, _ in module.named_buffers(recurse=False)}
    return not isinstance(module, BatchNorm) and any(name.startswith("running_") for name in own)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _storage(x: Tensor) -> int:
    key: int = x.untyped_storage()._cdata
    return key
