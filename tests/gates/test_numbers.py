"""A NaN in data, loss, gradient, weights or state: caught in the step that makes it, and in no checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine.toy import STEPS, Toy, Toys, identical, jitter, run
from tests.gates.record import record
from volssl.engine import saver as saver_module
from volssl.engine import trainer as trainer_module
from volssl.engine.checkpoint import list_checkpoints, read
from volssl.engine.schedule import learning_rate
from volssl.errors import RunError
from volssl.types import Loss, Progress

Patch = pytest.MonkeyPatch


def in_data(patch: Patch, step: int) -> None:
    """The images of that step have one."""
    at = [0]

    def views(images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        at[0] += 1
        return jitter(images * (float("nan") if at[0] == 2 * step else 1.0), seeds)  # two chunks a step, held

    patch.setattr("tests.gates.test_numbers.VIEWS", views)


def in_loss(patch: Patch, step: int, value: float = float("inf")) -> None:
    real = Toy.loss

    def loss(self: Toy, z: dict[str, Tensor], t: dict[str, Tensor], at: Progress) -> Loss:
        found = real(self, z, t, at)
        return Loss(found.total * value) if at.step + 1 == step else found

    patch.setattr(Toy, "loss", loss)


def in_gradient(patch: Patch, step: int) -> None:
    """The gradient of the root of zero is infinite, and zero times that is no number; the loss is as it was."""
    real = Toy.loss

    def loss(self: Toy, z: dict[str, Tensor], t: dict[str, Tensor], at: Progress) -> Loss:
        found = real(self, z, t, at)
        return Loss(found.total + (0 * found.total).sqrt()) if at.step + 1 == step else found

    patch.setattr(Toy, "loss", loss)


def in_weights(patch: Patch, step: int) -> None:
    """A step of infinite length."""
    patch.setattr(
        trainer_module,
        "learning_rate",
        lambda optim, at: float("inf") if at.step + 1 == step else learning_rate(optim, at),
    )


def in_state(patch: Patch, step: int) -> None:
    """A buffer that no gradient passes through."""
    real = Toy.after_step

    def after_step(self: Toy, stats: dict[str, Tensor], at: Progress) -> None:
        real(self, stats, at)
        if at.step + 1 == step:
            self.head.register_buffer("centre", torch.full((2,), float("nan")))

    patch.setattr(Toy, "after_step", after_step)


VIEWS = jitter
SPOILS: dict[str, Callable[[Patch, int], None]] = {
    "data": in_data,
    "loss": in_loss,
    "gradient": in_gradient,
    "weights": in_weights,
    "state": in_state,
}


def spoiled(folder: Path, kind: str, step: int, save_every: int = 1) -> str:
    """What a run says that is spoiled in a step; empty where it says nothing."""
    with pytest.MonkeyPatch.context() as patch:
        SPOILS[kind](patch, step)
        try:
            run(folder, views=lambda images, seeds: VIEWS(images, seeds), save_every=save_every, keep=STEPS)
        except RunError as problem:
            return str(problem) if problem.exit_code == 2 else ""
    return ""


def poisoned(folder: Path) -> list[str]:
    """Checkpoints that hold something that is not finite."""
    return [
        path.name
        for path in list_checkpoints(folder / "checkpoints")
        if not all(x.isfinite().all() for x in read(path).tensors.values() if x.is_floating_point())
    ]


@pytest.mark.parametrize("kind", SPOILS)
def test_it_is_caught_in_its_step_and_the_run_goes_on_from_before(tmp_path: Path, kind: str) -> None:
    run(tmp_path / "whole", save_every=1, keep=STEPS)
    caught, steps = 0, range(1, STEPS + 1)
    for step in steps:
        rarely = tmp_path / f"{step}-rarely"  # saved at the end alone, so that no save is what looks
        assert f"step {step}: " in spoiled(rarely, kind, step, STEPS)
        assert not list_checkpoints(rarely / "checkpoints")
        folder = tmp_path / f"{step}"
        said = spoiled(folder, kind, step)
        last = [int(path.stem[5:]) for path in list_checkpoints(folder / "checkpoints")][-1:]
        caught += f"step {step}: " in said and "\n" not in said and "toy-" in said and last == [step - 1][: step - 1]
        assert not poisoned(folder)
        run(folder, save_every=1, keep=STEPS)
        assert identical(tmp_path / "whole", folder)
    record(f"not finite: {kind}", f"{caught}/{len(steps)} caught in their step, none saved", "all, in one step")
    assert caught == len(steps)


@pytest.mark.parametrize("kind", ["weights", "state"])
def test_a_run_that_does_not_look_saves_it(tmp_path: Path, monkeypatch: Patch, kind: str) -> None:
    """Negative control."""
    monkeypatch.setattr(trainer_module, "finite", lambda _: True)
    monkeypatch.setattr(saver_module, "_require_finite", lambda *_: None)
    spoiled(tmp_path, kind, 4)
    assert poisoned(tmp_path)


def test_an_item_that_is_not_finite_is_the_one_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Look at toy-11; if"):
        run(tmp_path, source=Toys(bad=(11,)))
