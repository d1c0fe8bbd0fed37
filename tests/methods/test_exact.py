"""No method's step depends on how the batch was cut: chunks and ranks against one plain pass, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.methods.conftest import GEOMETRIES, Kind, batch_of, build, fitting, methods, rows
from volssl.engine.distributed import Group
from volssl.engine.step import backward
from volssl.methods import MethodConfig
from volssl.methods.base import Method
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.types import Tensors

Ranks = Callable[..., list[Any]]
SAMPLES, STEPS, RATE = 8, 2, 0.05
NAMES = tuple(methods(GEOMETRIES["2D"]))


@dataclass(frozen=True)
class Deaf(Group):
    """A rank that hears only itself before the loss: what a data-parallel wrapper does."""

    def gather(self, tensors: Tensors) -> tuple[Tensors, slice]:
        return Group().gather(tensors)


def _config(name: str) -> tuple[MethodConfig, Kind]:
    config = methods(GEOMETRIES["2D"])[name]
    return config, "CNN" if fitting(config, GEOMETRIES["2D"], "CNN") else "ViT"


def make(name: str) -> tuple[Method, list[Batch]]:
    """The method, and other images and labels at every step."""
    config, kind = _config(name)
    geometry = GEOMETRIES["2D"]
    whole = batch_of(config, geometry, SAMPLES * STEPS)
    return build(config, geometry, kind), [rows(whole, slice(i, None, STEPS)) for i in range(STEPS)]


def train(name: str, step: Callable[[Method, Batch, Progress], Loss]) -> Tensors:
    """Two steps of gradient descent: the last gradient and all that is left behind, queue and centre included."""
    method, batches = make(name)
    found: Tensors = {}
    for i, batch in enumerate(batches):
        method.zero_grad()
        at = Progress(3 + i, 10)
        loss = step(method, batch, at)
        found = {f"gradient of {n}": p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        found["total"] = loss.total.detach()
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter.sub_(RATE * parameter.grad)
        method.after_step(loss.stats, at)
    return found | {n: x.clone() for n, x in method.state_dict().items()}


def one_pass(method: Method, batch: Batch, at: Progress) -> Loss:
    """The slow twin, without the machinery of the step."""
    loss = method.loss(method.encode(batch), method.target(batch), at)
    torch.autograd.backward(loss.total)
    return loss


def in_chunks(group: Group, size: int) -> Callable[[Method, Batch, Progress], Loss]:
    """Our step on this rank's share of the batch."""

    def step(method: Method, batch: Batch, at: Progress) -> Loss:
        share = SAMPLES // group.world
        own = range(group.rank * share, (group.rank + 1) * share)
        chunks = [rows(batch, slice(i, min(i + size, own.stop))) for i in range(own.start, own.stop, size)]
        return backward(method, chunks, at, group=group)

    return step


def worst(ours: Tensors, theirs: Tensors, *, of: str = "") -> float:
    """The largest absolute difference of any number, or of those in tensors whose names begin with ``of``."""
    assert ours.keys() == theirs.keys()
    names = [name for name, x in ours.items() if x.numel() and name.startswith(of)]
    return max(float((ours[name] - theirs[name]).abs().max()) for name in names)


def differences(group: Group, name: str, deaf: bool = False) -> dict[int, float]:
    """By chunk size, against one plain pass on this rank alone; of the gradients only, where the ranks are deaf."""
    share = SAMPLES // group.world
    heard = Deaf(group.rank, group.world, group.local_rank, group.device, group.patient) if deaf else group
    truth = train(name, one_pass)
    sizes = sorted({size for size in (1, 2, 4, share) if size <= share})
    return {size: worst(train(name, in_chunks(heard, size)), truth, of="gradient" * deaf) for size in sizes}


@pytest.mark.parametrize("name", NAMES)
def test_chunks_give_what_one_pass_gives(name: str) -> None:
    found = differences(Group(), name)
    assert sorted(found) == [1, 2, 4, 8]
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_give_what_one_pass_gives(two_ranks: Ranks, name: str) -> None:
    for found in two_ranks(differences, name):
        assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("name", NAMES)
def test_four_ranks_give_what_one_pass_gives(four_ranks: Ranks, name: str) -> None:
    for found in four_ranks(differences, name):
        assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("name", [name for name in NAMES if _config(name)[0].coupled])
def test_negative_control_plain_accumulation_is_not_it(name: str) -> None:
    def plain(method: Method, batch: Batch, at: Progress) -> Loss:
        losses = [one_pass(method, rows(batch, slice(i, i + 4)), at) for i in (0, 4)]
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.grad /= 2
        return losses[0]

    assert worst(train(name, plain), train(name, one_pass), of="gradient") > 1e-6


@pytest.mark.parametrize("name", [name for name in NAMES if _config(name)[0].coupled])
def test_negative_control_ranks_that_do_not_gather_are_not_it(two_ranks: Ranks, name: str) -> None:
    for found in two_ranks(differences, name, True):
        assert min(found.values()) > 1e-6, found


def test_the_queue_is_used_and_moves_once_per_step() -> None:
    """Six rows a view, eight samples: full after the first step, and the second step's codes see it."""
    method, batches = make("swav")
    empty = method.state_dict()["queued"].item()
    loss = one_pass(method, batches[0], Progress(3, 10))
    assert (empty, method.state_dict()["queued"].item()) == (0, 0)
    method.after_step(loss.stats, Progress(3, 10))
    assert method.state_dict()["queued"].item() == 6
    used = one_pass(method, batches[1], Progress(4, 10)).total.item()
    method.state_dict()["queued"].zero_()
    assert abs(used - one_pass(method, batches[1], Progress(4, 10)).total.item()) > 1e-6
