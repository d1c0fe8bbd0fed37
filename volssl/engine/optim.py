"""Optimisers from their configuration: LARS written here, AdamW and SGD from torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, assert_never, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from volssl.engine import AdamWConfig, LARSConfig, SGDConfig
from volssl.engine.schedule import weight_decay
from volssl.errors import RunError
from volssl.types import Progress

if TYPE_CHECKING:
    from volssl.engine import OptimConfig
    from volssl.types import Tensors


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888, algorithm 1) as BYOL uses it.

    For each parameter w with gradient g: u = g + weight_decay * w; where the group adapts,
    u is multiplied by trust * |w| / |u| (by 1 where either norm is 0); v = momentum * v + u; w = w - lr * v.
    As in BYOL's code and in torch's SGD, the learning rate multiplies the momentum, not each summand of it.

    Args:
        params: groups that may override ``weight_decay`` and ``adapt`` (whether the trust ratio is applied).
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        trust: float,
        weight_decay: float = 0.0,
        adapt: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "trust": trust,
            "weight_decay": weight_decay,
            "adapt": adapt,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; no value is read back from the device."""
        if closure is not None:
            raise ValueError("LARS takes no closure")
        for group in self.param_groups:
            if weights := [w for w in group["params"] if w.grad is not None]:
                self._step(group, weights)
        return None

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        gradients = [w.grad for w in weights if w.grad is not None]
        updates = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            torch._foreach_mul_(updates, trust_ratios(weights, updates, group["trust"]))
        for w in weights:
            if not self.state[w]:
                self.state[w]["momentum"] = torch.zeros_like(w)
        velocities = [self.state[w]["momentum"] for w in weights]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, updates)
        torch._foreach_add_(weights, velocities, alpha=-group["lr"])


def trust_ratios(weights: list[Tensor], updates: list[Tensor], trust: float) -> list[Tensor]:
    """trust * |w| / |u| for each pair, 1 where either norm is 0; scalars on the device of the weights."""
    w = torch.stack(torch._foreach_norm(weights))
    u = torch.stack(torch._foreach_norm(updates))
    return list(torch.where((w > 0) & (u > 0), trust * w / u, 1.0).unbind())


def build_optimizer(config: OptimConfig, method: nn.Module) -> Optimizer:
    """The optimiser of every parameter of ``method`` that requires a gradient.

    Its groups have the peak of the learning rate and the first weight decay; ``set_learning_rate`` and
    ``set_weight_decay`` set those of a step.
    """
    # Never fused=True: on a CPU it is silently wrong where gradient and weight differ in layout (torch 2.13).
    groups = parameter_groups(config, method)
    match config:
        case LARSConfig():
            return LARS(groups, lr=config.lr, momentum=config.momentum, trust=config.trust)
        case AdamWConfig():
            return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, foreach=True)
        case SGDConfig():
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, foreach=True)
        case _:
            assert_never(config)


def parameter_groups(config: OptimConfig, method: nn.Module) -> list[dict[str, Any]]:
    """Named parameters in two groups: decayed, and (one-dimensional, where the switch is on) left alone."""
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    plain = {name for name, p in named if config.exclude_norm_and_bias and p.ndim <= 1}
    decayed: dict[str, Any] = {
        "params": [(name, p) for name, p in named if name not in plain],
        "weight_decay": weight_decay(config, Progress(0, 1)),
        "decays": True,
    }
    excluded: dict[str, Any] = {
        "params": [(name, p) for name, p in named if name in plain],
        "weight_decay": 0.0,
        "decays": False,
    }
    if isinstance(config, LARSConfig):
        excluded["adapt"] = False
    return [group for group in (decayed, excluded) if group["params"]]


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """The learning rate of the next step, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def set_weight_decay(optimizer: Optimizer, decay: float) -> None:
    """The weight decay of the next step, in the group that decays."""
    for group in optimizer.param_groups:
        if group["decays"]:
            group["weight_decay"] = decay


def gradient_norm(module: nn.Module) -> Tensor:
    """The 2-norm of the whole gradient, a scalar; not finite exactly if the gradient or its norm is not."""
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


@torch.no_grad()
def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are; one value is read back from the device."""
    held = [x for x in tensors if x.is_floating_point() and x.numel()]
    return not held or bool(torch.stack(torch._foreach_norm(held, float("inf"))).isfinite().all())


def clip_gradients(optimizer: Optimizer, norm: Tensor, largest: float) -> None:
    """Scale the whole gradient, whose norm is ``norm``, down to ``largest``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)


def optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """The state that a checkpoint keeps, as ``<parameter>.<key>``; all else is configuration."""
    return {
        f"{name}.{key}": value
        for name, p in _named(optimizer).items()
        for key, value in optimizer.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(optimizer: Optimizer, tensors: Tensors) -> None:
    """Put back what ``optimizer_tensors`` gave, on the devices and in the layouts of the parameters.

    Raises:
        RunError: a tensor belongs to no parameter of the optimiser or has another shape.
    """
    named = _named(optimizer)
    order = {name: i for i, name in enumerate(named)}  # how torch's state_dict counts parameters
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, _, key = name.rpartition(".")
        if parameter not in named or value.shape not in (torch.Size(), named[parameter].shape):
            raise RunError(f"optimiser state {name} in the checkpoint fits no parameter of this method")
        if value.shape == named[parameter].shape:  # keeps channels_last, which the file does not know
            value = torch.empty_like(named[parameter], dtype=value.dtype).copy_(value)
        state.setdefault(order[parameter], {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _named(optimizer: Optimizer) -> dict[str, Tensor]:
    groups = optimizer.param_groups
    return {name: p for g in groups for name, p in zip(g["param_names"], g["params"], strict=True)}
