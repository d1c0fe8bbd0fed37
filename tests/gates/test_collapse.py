"""Collapse: forced in three ways it is told within 50 steps, and healthy runs are never accused of it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tests.gates.record import record
from tests.gates.sizes import size
from volssl.engine import AdamWConfig, LoopConfig
from volssl.engine.distributed import Group
from volssl.engine.log import Collapse
from volssl.engine.loop import fit
from volssl.losses.agreement import cosine_agreement
from volssl.methods import BYOLConfig, DINOConfig, SimCLRConfig
from volssl.methods.base import Method
from volssl.methods.byol import BYOL
from volssl.methods.dino import DINO
from volssl.models import ResNetConfig
from volssl.models.resnet import ResNet
from volssl.types import Features, Item, Loss, Progress
from volssl.views import ViewsConfig

STEPS, SEEDS = 50, size(3, 20)


class Shapes:
    """Forty-eight pictures of a bright box on noise: where it lies and how large it is differs."""

    ids = [f"shape-{i}" for i in range(48)]  # noqa: RUF012
    fingerprints = ids
    parts = weights = label_sets = (48,)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        generator = torch.Generator().manual_seed(i)
        image = 0.1 * torch.rand(1, 24, 24, generator=generator)
        y, x, h, w = (int(n) for n in torch.randint(2, 12, (4,), generator=generator))
        image[:, y : y + h, x : x + w] += 0.3 + 0.6 * float(torch.rand(1, generator=generator))
        return Item(image, (1.0, 1.0), self.ids[i])


def encoder(seed: int) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNetConfig(dims=2, depth=10, stem="small", width=8, norm="group").build(1)


def built(method: BYOLConfig | DINOConfig | SimCLRConfig, seed: int) -> Method:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method.build(encoder(seed))


class Constant(nn.Module):
    """An encoder that says the same of everything."""

    width = 64

    def __init__(self) -> None:
        super().__init__()
        self.said = nn.Parameter(torch.linspace(-1, 1, self.width))

    def forward(self, x: Tensor) -> Features:
        pooled = self.said.expand(len(x), -1)
        return Features(pooled[:, None], (1,) * (x.dim() - 2), pooled)


class NoStop(BYOL):
    """No predictor, and the gradient goes through both sides."""

    def loss(self, z: dict[str, Tensor], t: dict[str, Tensor], at: Progress) -> Loss:  # noqa: ARG002
        sides = {name: self.student.projector(z[name]) for name in ("0", "1")}
        return Loss(cosine_agreement(online=sides["0"], target=sides["1"]))


class Uncentred(DINO):
    """The teacher's scores are neither centred nor those of a slow average."""

    def after_step(self, stats: dict[str, Tensor], at: Progress) -> None:
        super().after_step(stats, at)
        self.centre.zero_()


BYOLS = BYOLConfig(projector=(64, 32), predictor=(64, 32), momentum=(0.9, 1.0))
DINOS = DINOConfig(projector=(64, 32), prototypes=64, momentum=(0.9, 1.0))
SIMCLRS = SimCLRConfig(projector=(64, 32))


def train(folder: Path, method: Method, seed: int, lr: float) -> str:
    """What fifty steps of sixteen pictures say."""
    console = Console(file=io.StringIO(), width=200)
    assert isinstance(console.file, io.StringIO)
    fit(
        method=method,
        optim=AdamWConfig(lr=lr, weight_decay=0.01, warmup=10),
        loop=LoopConfig(steps=STEPS, batch=16, chunk=16, save_every=STEPS),
        source=Shapes(),
        views=ViewsConfig(size=(16, 16), crop=(0.6, 1.0), noise=(0.0, 0.05)).build(),
        seed=seed,
        folder=folder,
        group=Group(),
        console=console,
        meta={},
        max_bad=0.01,
    )
    return console.file.getvalue()


def constant(seed: int) -> Method:
    del seed
    return BYOL(BYOLS, Constant())  # type: ignore[arg-type]


def no_stop(seed: int) -> Method:
    method = NoStop(BYOLS, encoder(seed))
    method.student.projector = method.teacher.projector = nn.Identity()
    return method


def uncentred(seed: int) -> Method:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Uncentred(DINOS, encoder(seed))


# Healthy runs have the rate 1e-3, at which fifty steps are too few: unless its gradient is stopped, 140 will do.
FORCED: dict[str, tuple[Callable[[int], Method], float]] = {
    "constant encoder": (constant, 1e-3),
    "no stop-gradient, no predictor": (no_stop, 1e-2),
    "no centering": (uncentred, 5e-3),
}
SOUND = ((BYOLS, 1e-2), (DINOS, 5e-3))


def told_at(said: str) -> int | None:
    """The step at which a collapse is told."""
    found = re.search(r"step (\d+): the (?:embeddings|prototypes) collapse", said)
    return int(found[1]) if found else None


def test_three_forced_collapses_are_told(tmp_path: Path) -> None:
    """Each with several seeds."""
    good, steps = 0, []
    for name, (build, lr) in FORCED.items():
        told = [told_at(train(tmp_path / f"{name}-{seed}", build(seed), seed, lr)) for seed in range(size(1, 5))]
        found = [step for step in told if step is not None]
        good += len(found) == len(told)
        steps.append(f"{name} by step {max(found, default=0)}")
    record("forced collapses", f"{good}/3 told with every seed: {', '.join(steps)}", "3/3 within 50 steps")
    assert good == 3


def alarms(folder: Path) -> int:
    """How many healthy runs, of three methods in turn, are said to collapse."""
    methods = (BYOLS, DINOS, SIMCLRS)
    runs = (train(folder / f"{seed}", built(methods[seed % 3], seed), seed, 1e-3) for seed in range(SEEDS))
    return sum("collapse" in said for said in runs)


def test_healthy_runs_are_not(tmp_path: Path) -> None:
    count = alarms(tmp_path)
    record("collapse in healthy runs", f"{count}/{SEEDS} false alarms", f"0/{SEEDS}")
    assert count == 0


def test_it_is_the_sabotage_that_is_told_not_the_rate(tmp_path: Path) -> None:
    """The sound methods at the rates of the forced collapses. One seed of five is too fast for BYOL, too."""
    seeds = range(size(2, 5))
    runs = [(config, lr, seed) for config, lr in SOUND for seed in seeds]
    told = [
        told_at(train(tmp_path / f"{i}", built(config, seed), seed, lr)) for i, (config, lr, seed) in enumerate(runs)
    ]
    count = sum(step is not None for step in told)
    record("sound methods at the rates of the forced collapses", f"{count}/{len(runs)} told", "few")
    assert count <= len(runs) // 10


def test_deaf_and_jumpy_ears_do_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative controls: one that hears nothing, and one that wants all of the space to be used."""
    build, lr = FORCED["no stop-gradient, no predictor"]
    with monkeypatch.context() as patch:
        patch.setattr(Collapse, "_collapsed", lambda *_: False)
        assert told_at(train(tmp_path / "deaf", build(0), 0, lr)) is None
    monkeypatch.setattr(Collapse, "_collapsed", lambda _, spread, rank: spread < 0.5 or rank < 13)
    assert told_at(train(tmp_path / "jumpy", built(SIMCLRS, 0), 0, 1e-3)) is not None
