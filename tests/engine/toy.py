"""A toy run: a method of a few numbers that has all that a checkpoint must hold, and its end, to be compared."""

from __future__ import annotations

import copy
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from volssl.engine import LARSConfig, LoopConfig, OptimConfig
from volssl.engine.checkpoint import load_latest
from volssl.engine.distributed import Group
from volssl.engine.loop import Evaluation, fit
from volssl.methods.base import Method
from volssl.models.norm import BatchNorm, defer_statistics
from volssl.types import Batch, Item, Loss, Progress

STEPS, BATCH, ITEMS = 10, 8, 20  # an epoch ends within a step


class Toy(Method):
    """A student follows its own slow average through a head; BatchNorm, a teacher and a coupled loss."""

    coupled = True
    ballast = 0  # numbers that make its checkpoint larger

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), BatchNorm(5))
        self.head = nn.Linear(5, 5)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.moved: list[Progress] = []
        self.register_buffer("weight", torch.zeros(self.ballast))
        defer_statistics(self)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"encoder": self.student}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"0": self.student(batch.views["0"])}

    @torch.no_grad()
    def target(self, batch: Batch) -> dict[str, Tensor]:
        return {"0": self.teacher(batch.views["1"])}

    def loss(self, z: dict[str, Tensor], t: dict[str, Tensor], at: Progress) -> Loss:
        total = F.mse_loss(self.head(z["0"] - z["0"].mean(0)), t["0"])
        return Loss(total, metrics={"fraction": torch.tensor(at.fraction)})

    @torch.no_grad()
    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        self.moved.append(at)
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 0.1)


class Toys:
    """Items of six numbers; ``bad`` of them are NaN; ``changed`` have other files than they had."""

    def __init__(self, bad: tuple[int, ...] = (), count: int = ITEMS, changed: tuple[int, ...] = ()) -> None:
        self.bad, self.ids = bad, tuple(f"toy-{i}" for i in range(count))
        self.fingerprints = tuple(f"{i}{' anew' * (i in changed)}" for i in range(count))
        self.parts, self.weights, self.label_sets = (count,), (1,), (count,)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        image = torch.randn(1, 6, generator=torch.Generator().manual_seed(i))
        return Item(image * float("nan") if i in self.bad else image, (1.0,), self.ids[i])


def jitter(images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    """Two views: the image and noise that is a function of the seed."""

    def noise(seed: int) -> Tensor:
        return torch.randn(2, *images.shape[1:], generator=torch.Generator().manual_seed(seed % 2**31))

    noises = torch.stack([noise(int(seed)) for seed in seeds])
    return {"0": images + 0.1 * noises[:, 0], "1": images + 0.1 * noises[:, 1]}


@dataclass
class Outcome:
    """What a run leaves behind."""

    method: Toy
    told: str


def run(
    folder: Path,
    *,
    optim: OptimConfig | None = None,
    source: Toys | None = None,
    evaluations: tuple[Evaluation, ...] = (),
    views: Callable[[Tensor, Tensor], dict[str, Tensor]] = jitter,
    group: Group | None = None,
    **loop: Any,
) -> Outcome:
    settings = {"steps": STEPS, "batch": BATCH, "chunk": 4, "save_every": 3} | loop
    method, console = Toy(), Console(file=io.StringIO(), width=80)
    assert isinstance(console.file, io.StringIO)
    fit(
        method=method,
        optim=optim or LARSConfig(lr=0.5, weight_decay=0.01, warmup=2, trust=0.1, clip=5.0),
        loop=LoopConfig(**settings),
        source=source or Toys(),
        views=views,
        seed=7,
        folder=folder,
        group=group or Group(),
        console=console,
        meta={"config": {"seed": 7}},
        max_bad=0.2,
        evaluations=evaluations,
    )
    return Outcome(method, console.file.getvalue())


def end(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The tensors of the last checkpoint and the metrics, without the one that a clock made."""
    found = load_latest(folder / "checkpoints")
    assert found is not None
    assert found.step == STEPS
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found.tensors, [{k: v for k, v in x.items() if k != "items_per_second"} for x in lines]


def identical(a: Path, b: Path) -> bool:
    """Whether two runs ended alike to the last bit: weights, teacher, buffers, optimiser and metrics."""
    (ours, lines), (theirs, others) = end(a), end(b)
    return ours.keys() == theirs.keys() and lines == others and all(torch.equal(ours[k], theirs[k]) for k in ours)


class CrashError(Exception):
    """Stands for anything that ends a process without a word."""


def crash_at(step: int) -> Evaluation:
    def crash(method: Method, done: int) -> dict[str, float]:  # noqa: ARG001
        if done == step:
            raise CrashError
        return {}

    return 1, crash


def signal_at(step: int, number: signal.Signals) -> Evaluation:
    def send(method: Method, done: int) -> dict[str, float]:  # noqa: ARG001
        if done == step:
            os.kill(os.getpid(), number)
        return {}

    return 1, send


def in_child(work: Callable[[], object]) -> int:
    """Start ``work`` in a forked process; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except SystemExit as stopped:
            os._exit(int(stopped.code or 0))
        except BaseException:
            os._exit(99)
        os._exit(0)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
