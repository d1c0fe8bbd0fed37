"""The loop: items in, moved weights out, so that a killed run goes on as if it had not been."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from volssl.data.loader import Loader
from volssl.data.quarantine import Quarantine
from volssl.engine.chunks import Views
from volssl.engine.distributed import Group
from volssl.engine.log import Log
from volssl.engine.optim import build_optimizer
from volssl.engine.saver import FixedSource, Saver, environment, identity, require_one_source
from volssl.engine.stop import Stop, until_stopped
from volssl.engine.trainer import Trainer
from volssl.methods.base import Method
from volssl.types import Progress
from volssl.whole import FULL

if TYPE_CHECKING:
    from volssl.engine import LoopConfig, OptimConfig

# (every so many steps, what to do with the method and the number of steps done)
Evaluation = tuple[int, Callable[[Method, int], dict[str, float]]]


def fit(
    *,
    method: Method,
    optim: OptimConfig,
    loop: LoopConfig,
    source: FixedSource,
    views: Views,
    seed: int,
    folder: Path,
    group: Group,
    console: Console,
    meta: Mapping[str, Any],
    max_bad: float,
    evaluations: Sequence[Evaluation] = (),
) -> None:
    """Train ``method`` to ``loop.steps``, from the newest checkpoint in ``folder`` if there is one.

    Leaves ``method`` trained on the device of ``group``, and ``checkpoints/`` and ``metrics.jsonl`` in
    ``folder``, which all ranks must see and for which the caller holds ``volssl.engine.lock.lock``.

    Args:
        meta: plain JSON for every checkpoint, such as the resolved configuration.
        max_bad: share of the items that may be left out because they crash loader processes or hang them.
        evaluations: run on rank 0 when the number of steps done is a multiple of ``every``, though not after
            the last step: what is due at the end is the caller's.

    Raises:
        RunError: no checkpoint can be used, or it was made of other data; something is not finite; the last
            save failed.
        SystemExit: 143 after SIGTERM or SIGUSR1, 130 after Ctrl-C; the step is finished and saved.
    """
    method.to(group.device).train()
    group.broadcast(method)
    trainer = Trainer(method, build_optimizer(optim, method), optim, loop, source, views, group)
    found = identity(source)
    quarantine = Quarantine(source, max_bad=max_bad, folder=folder, rank=group.rank)  # before any rank adds to it
    require_one_source(found, group)
    meta = {**meta, "data": found, "environment": environment(group)}
    saver = Saver(folder / "checkpoints", trainer, meta)
    said, done = saver.resume()
    if loop.compile:
        _compile(method)
    place = folder if group.rank == 0 else None
    with Stop() as stop, _repeatable_convolutions():
        log = Log(
            place,
            console=console,
            done=done - bool(saver.pending),
            steps=loop.steps,
            batch=loop.batch,
            board=loop.tensorboard,
            collapses=method.collapses,
        )
        with log:
            log.say(*said, *quarantine.told())
            feed = _feed(trainer, quarantine, done, seed, log)
            done = _go_on(trainer, saver, evaluations, log, stop, feed)
            if stop.agreed(group):
                log.say(f"stopped after step {done} of {loop.steps}: the same command goes on from here")
                raise SystemExit(stop.code)


def _feed(trainer: Trainer, quarantine: Quarantine, done: int, seed: int, log: Log) -> Loader:
    """The samples of this rank in the steps that are left."""
    loop, group = trainer.loop, trainer.group
    return Loader(
        trainer.source,
        batch=loop.batch,
        seed=seed,
        start=done,
        stop=loop.steps,
        rank=group.rank,
        world=group.world,
        workers=loop.workers,
        timeout=loop.timeout,
        pin=group.device.type == "cuda",
        quarantine=quarantine,
        tell=log.alert,
    )


def _go_on(
    trainer: Trainer, saver: Saver, evaluations: Sequence[Evaluation], log: Log, stop: Stop, feed: Loader
) -> int:
    """The steps that are left or until stopped, saved as often as asked for and at the end; the steps done."""
    loop, done = trainer.loop, saver.saved
    if saver.pending:
        _tell(trainer, saver, evaluations, log, stop, done, saver.pending)
    for step, samples in enumerate(until_stopped(feed, stop, trainer.group), start=done):
        values = trainer.step(samples, Progress(step, loop.steps))
        done = step + 1
        _tell(trainer, saver, evaluations, log, stop, done, values)
        if done % loop.save_every == 0 and done < loop.steps:
            log.say(*saver.try_to_save(done, log))
    saver.save(done, log)
    return done


def _tell(
    trainer: Trainer,
    saver: Saver,
    evaluations: Sequence[Evaluation],
    log: Log,
    stop: Stop,
    done: int,
    values: Mapping[str, Tensor | float],
) -> None:
    """Record a step and what the evaluations that are due after it find, now or, broken off, when the run goes on."""
    found = _evaluate(trainer, evaluations, done, log, stop)
    if found is None:
        saver.pending = {name: float(x) for name, x in values.items()}
        return
    saver.pending = {}
    if found or done % trainer.loop.log_every == 0 or done == trainer.loop.steps:
        log.record(done, {name: float(x) for name, x in values.items()} | found)


def _compile(method: Method) -> None:
    """Compile the encoders, those of a teacher too, which are of the same class. No name in the state changes."""
    kinds = {type(encoder) for encoder in method.encoders.values()}
    for module in method.modules():
        if type(module) in kinds:
            module.compile()


@contextmanager
def _repeatable_convolutions() -> Iterator[None]:
    """No convolution of cuDNN's that adds up in an order of its own, or that is chosen by a race against the clock.

    Otherwise a resumed run on CUDA would not be bit for bit the run it goes on with. Only cuDNN is asked:
    ``torch.use_deterministic_algorithms`` would refuse whatever has no such kernel at all, at any step.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _evaluate(
    trainer: Trainer, evaluations: Sequence[Evaluation], done: int, log: Log, stop: Stop
) -> dict[str, float] | None:
    """What the evaluations that are due say, on rank 0; the others wait. None where a signal came before the end."""
    due = [run for every, run in evaluations if done % every == 0 and done < trainer.loop.steps]
    if not due:
        return {}
    if stop.agreed(trainer.group):
        return None
    found: dict[str, float] | None = None
    with trainer.group.together(), stop.breaking_off():
        scores = [_scores(run, trainer.method, done, log) for run in due if trainer.group.rank == 0]
        found = {name: value for some in scores for name, value in some.items()}
    trainer.method.train()
    return found


def _scores(run: Callable[[Method, int], dict[str, float]], method: Method, done: int, log: Log) -> dict[str, float]:
    """Of one evaluation; none where the disk is full, which the next may not find so any more."""
    try:
        with log.paused():
            return run(method, done)
    except OSError as problem:
        if problem.errno not in FULL:
            raise
        log.say(f"step {done}: not evaluated: {os.strerror(problem.errno)}; make room")
        return {}
