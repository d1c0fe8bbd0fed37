"""A step written out in NumPy: an encoder of one line, heads, and descent by differences instead of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.methods.conftest import rows
from volssl.engine import SGDConfig
from volssl.engine.distributed import Group
from volssl.engine.optim import build_optimizer
from volssl.engine.step import backward
from volssl.methods.base import Method
from volssl.types import Batch, Features, Loss, Progress

if TYPE_CHECKING:
    from volssl.models import Backbone

Array = NDArray[np.float64]
Arrays = dict[str, Array]
RATE = 0.1


class Mean(nn.Module):
    """An encoder short enough to be written out: one linear map of every pixel, and the mean."""

    def __init__(self, channels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Features:
        tokens = self.linear(x.flatten(2).transpose(1, 2))
        return Features(tokens, tuple(x.shape[2:]), tokens.mean(dim=1))


def around(build: Callable[..., Method], *widths: int) -> Method:
    """What ``build`` makes of ``Mean`` encoders of these widths, in float64, a teacher apart from its student."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = [cast("Backbone", Mean(width=width)) for width in widths or (4,)]
        method = build(*encoders).double()
        for name, parameter in method.named_parameters():
            if "teacher" in name.split("."):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return method


def images(*names: str, samples: int = 6, seed: int = 0, labels: Tensor | None = None) -> Batch:
    """Views of three channels: 4 x 6 where the name is a number, 2 x 3 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    views = {}
    for name in names:
        shape = (4, 6) if name.isdecimal() else (2, 3)
        colours = torch.randn(samples, 3, 1, 1, generator=generator, dtype=torch.float64)
        views[name] = colours + torch.randn(samples, 3, *shape, generator=generator, dtype=torch.float64)
    index = torch.arange(samples)
    return Batch(views, index, index, torch.full((samples, 1), -1) if labels is None else labels)


def step(method: Method, batch: Batch, at: Progress, chunk: int = 2) -> Loss:
    """A real step, in chunks: gradients, plain gradient descent with rate ``RATE``, ``after_step``."""
    optimizer = build_optimizer(SGDConfig(lr=RATE, momentum=0.0), method)
    chunks = [rows(batch, slice(i, i + chunk)) for i in range(0, len(batch), chunk)]
    loss = backward(method, chunks, at, group=Group())
    optimizer.step()
    method.after_step(loss.stats, at)
    return loss


def state(method: Method) -> Arrays:
    """Parameters and buffers, but for the statistics of the norms, which are the engine's and proven there."""
    tensors = method.state_dict().items()
    return {n: x.numpy().astype(np.float64) for n, x in tensors if "running" not in n and "num_batches" not in n}


def views_of(batch: Batch) -> Arrays:
    """The images, by view."""
    return {name: x.numpy() for name, x in batch.views.items()}


def descend(loss: Callable[[Arrays], float], state: Arrays, learns: Callable[[str], bool]) -> Arrays:
    """``state`` after one step of gradient descent of the names that learn, with central differences."""
    after = {name: x.copy() for name, x in state.items()}
    for name in filter(learns, state):
        for i in np.ndindex(state[name].shape):
            kept, sides = state[name][i], []
            for side in (1e-6, -1e-6):
                state[name][i] = kept + side
                sides.append(loss(state))
            state[name][i] = kept
            after[name][i] -= RATE * (sides[0] - sides[1]) / 2e-6
    return after


def distance(ours: Arrays, theirs: Arrays) -> float:
    """The largest difference of any number."""
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(x - theirs[name]).max()) for name, x in ours.items() if x.size)


def of_student(name: str) -> bool:
    return "teacher" not in name.split(".") and "running" not in name


def encode(p: Arrays, at: str, x: Array) -> Array:
    """``Mean``, whose parameters begin with ``at``."""
    out: Array = x.mean(axis=(2, 3)) @ p[f"{at}.linear.weight"].T + p[f"{at}.linear.bias"]
    return out


def standardise(x: Array) -> Array:
    """Batch normalisation without parameters: each column by its mean and biased variance."""
    out: Array = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    return out


def head(p: Arrays, at: str, x: Array) -> Array:
    """Linear, batch norm, ReLU, Linear; behind it another norm where the last Linear has no bias."""
    x = standardise(x @ p[f"{at}.0.weight"].T) * p[f"{at}.1.weight"] + p[f"{at}.1.bias"]
    x = np.maximum(x, 0) @ p[f"{at}.3.weight"].T
    return x + p[f"{at}.3.bias"] if f"{at}.3.bias" in p else standardise(x)


def unit(x: Array) -> Array:
    """Rows of length one."""
    out: Array = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return out


def momentum(first: float, last: float, at: Progress) -> float:
    """From ``first`` to ``last`` along half a cosine, as BYOL's section 3.3 writes it."""
    return last - (last - first) * (math.cos(math.pi * at.step / at.steps) + 1) / 2
