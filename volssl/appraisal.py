"""Evaluations put to work: those that a run asks for, at steps and at its end, and those that a command names."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from volssl import config as configuration
from volssl.config import Run
from volssl.data.cache_file import make_folder
from volssl.data.seen import SeenItems, run_key
from volssl.engine import metrics
from volssl.engine.lock import lock
from volssl.engine.loop import Evaluation
from volssl.errors import ConfigError, RunError, UserError
from volssl.evaluation import ACLTearConfig, EvaluateConfig, StudyConfig
from volssl.evaluation.acl_tear import run_acl_tear
from volssl.evaluation.card import Card
from volssl.evaluation.cohort import check_acl_tear
from volssl.evaluation.contestants import PUBLISHED, Contestant
from volssl.evaluation.encoder import Encoder, save_encoder
from volssl.evaluation.findings import Findings
from volssl.evaluation.foresight import check_study
from volssl.evaluation.leakage import Known, known_of
from volssl.evaluation.report import write
from volssl.evaluation.shown import Origin
from volssl.evaluation.study import run_study
from volssl.evaluation.tables import show
from volssl.methods.base import Method
from volssl.names import private, use
from volssl.progress import progress
from volssl.regular import read_regular
from volssl.whole import replace_file

Wanted = ACLTearConfig | StudyConfig
CELLS, BEST = "cells", "best"
CHOSEN = (
    "best/ is the encoder of the step that scored highest on these very test rows: its score here is too good. Choose "
    "on a validation split (test: [val]), and report what it is worth on rows that chose nothing."
)
LINES = 400  # of a training log that a report draws
EVALUATIONS = ("evaluate", "acl_tear")
Cards = Callable[[Method, int], dict[str, Card]]
Seen = Callable[[], SeenItems]


def evaluate(config: EvaluateConfig, device: str, console: Console) -> Findings:
    """``volssl evaluate``: work everything out, or go on with it, and write results and report to ``config.output``.

    Raises:
        UserError: the output belongs to something else, or what the configuration names cannot be evaluated.
    """
    out = _claim(Path(config.output))
    with lock(out, (CELLS,)):
        use(run_key(out))
        replace_file(
            out / configuration.FILE,
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        )
        with progress(console, "evaluating", transient_lines=True) as report:
            found = run_study(
                config,
                {},
                title=config.title,
                seed=config.seed,
                ledger=out / CELLS,
                device=device,
                origin=origin_of,
                progress=report,
            )
        _tell(found, out, console, html=config.report)
    return found


def folders(run: Run) -> list[str]:
    """What the results of each evaluation lie in: its name, numbered from the second of a name on."""
    names = [one.name for one in run.evaluate]
    count = [names[:i].count(name) for i, name in enumerate(names)]
    return [name if n == 0 else f"{name}-{n + 1}" for name, n in zip(names, count, strict=True)]


def wanted(run: Run) -> list[tuple[Wanted, Path]]:
    """Every evaluation and the folder of its results."""
    return [(_with_data(w, run), Path(run.output) / f) for w, f in zip(run.evaluate, folders(run), strict=True)]


def check(run: Run) -> None:
    """Refuse what could not be evaluated, while training or at the end.

    Raises:
        DataError, ConfigError: as ``check_acl_tear`` and ``check_study``.
    """
    for i, (one, _) in enumerate(wanted(run)):
        if isinstance(one, ACLTearConfig):
            check_acl_tear(one, one.data or "", channels=run.data.channels, dims=run.data.dims)
        else:
            check_study(one, run.encoder_names, run.data.dims, f"evaluate.{i}")


def during(run: Run, cards: Cards, seen: Seen, console: Console) -> list[Evaluation]:
    """What runs every so many steps: its scores go into the metrics, its tables into a folder per step."""

    def at(one: Wanted, out: Path) -> Callable[[Method, int], dict[str, float]]:
        def look(method: Method, step: int) -> dict[str, float]:
            found = _look(method, cards(method, step), run, one, out / f"step-{step}", seen, console)
            return {f"{out.name}.{what}": value for what, value in found.items()}

        return look

    return [(one.every, at(one, out)) for one, out in wanted(run) if one.every]


def at_end(method: Method, cards: Mapping[str, Card], run: Run, seen: Seen, console: Console) -> None:
    """Everything that the run asks for, of its last step."""
    for one, out in wanted(run):
        _look(method, cards, run, one, out, seen, console)


def in_memory(method: Method, cards: Mapping[str, Card]) -> dict[str, Encoder]:
    """What the method keeps: ``pre-trained``, or its own names where there are several."""
    alone = len(cards) == 1
    return {
        "pre-trained" if alone else name: Encoder(network, cards[name]) for name, network in method.encoders.items()
    }


def _look(
    method: Method, cards: Mapping[str, Card], run: Run, one: Wanted, out: Path, seen: Seen, console: Console
) -> dict[str, float]:
    encoders = in_memory(method, cards)
    device = next(next(iter(encoders.values())).parameters()).device
    if isinstance(one, ACLTearConfig):
        results = run_acl_tear(encoders, one, out, console=console, device=device)
        rows = results.combined()
        found = {(row.encoder, f"{row.protocol}.{row.fraction:g}"): row.metrics["auc"].value for row in rows}
    else:
        found = _study(encoders, one, run, out, seen, device, console)
    if one.best:
        own = [value for (name, _), value in found.items() if name in encoders]
        _keep_best(method, cards, Path(run.output), sum(own) / len(own), _asked(one), seen, console)
    return {f"{what}.{name}": value for (name, what), value in found.items()}


def _asked(one: Wanted) -> str:
    """What names the evaluation that chooses: scores of two are not compared."""
    aside = {"report", "cache", "workers", "every", "best"}
    return hashlib.sha256(one.model_dump_json(exclude=aside).encode()).hexdigest()[:16]


def _study(
    encoders: Mapping[str, Encoder],
    one: StudyConfig,
    run: Run,
    out: Path,
    seen: Seen,
    device: torch.device,
    console: Console,
) -> dict[tuple[str, str], float]:
    """The deciding metric by encoder and by ``set.protocol.budget``."""
    folder = Path(run.output)
    history, key = _history(folder / metrics.NAME), run_key(folder)

    def origin(who: Contestant) -> Origin:
        if who.name not in encoders:
            return origin_of(who)
        return Origin(run.views, history, Known(who.card, seen(), key))

    with progress(console, "evaluating", transient_lines=True) as report:
        found = run_study(
            one,
            encoders,
            title=Path(run.output).resolve().name,
            seed=run.seed,
            device=device,
            origin=origin,
            progress=report,
        )
    if one.best:
        found = replace(found, notes=(*found.notes, CHOSEN))
    _tell(found, out, console, html=one.report)
    return {
        (score.encoder, f"{score.data}.{score.protocol}.{_short(score.budget)}"): next(
            iter(score.metrics.values())
        ).value
        for score in found.scores
    }


def _short(budget: str) -> str:
    share, percent, _ = budget.partition(" %")
    return f"{float(share) / 100:g}" if percent else budget.replace(" ", "_")


def _tell(found: Findings, out: Path, console: Console, *, html: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write(found, out, html=html)
    show(found, console)
    console.print(f"written to {out}", markup=False)


def _keep_best(
    method: Method, cards: Mapping[str, Card], folder: Path, score: float, asked: str, seen: Seen, console: Console
) -> None:
    """Put the encoders into ``best/`` where this is the best score so far of this evaluation, here or before."""
    step = next(iter(cards.values())).step
    record = folder / f"{BEST}.json"
    known = _best_so_far(record)
    if known.get("evaluation", asked) == asked and known.get("score", -math.inf) >= score:
        return
    for place, name in places(folder / BEST, cards).items():
        save_encoder(place, method.encoders[name], cards[name], seen())
    replace_file(record, json.dumps({"step": step, "score": score, "evaluation": asked}) + "\n")
    console.print(f"step {step}: the best so far ({score:.3f}), kept in {folder / BEST}", markup=False)


def _best_so_far(record: Path) -> dict[str, Any]:
    try:
        known = json.loads(read_regular(record)) if record.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise RunError(f"{record}: cannot be read: {reason}: move it away, and the next score is the best") from None
    return known if isinstance(known, dict) else {}


def places(folder: Path, cards: Mapping[str, Card]) -> dict[Path, str]:
    """Where each encoder of a method is kept: in the folder, or in one of its own there where there are several."""
    return {folder if len(cards) == 1 else folder / name: name for name in cards}


@cache
def _known(encoder: Path) -> Known:
    return known_of(encoder)


def origin_of(one: Contestant) -> Origin:
    """What the folder of an encoder, and that of the run which it lies in, say of its training.

    Of published weights it is known that they were trained, and not on what.
    """
    if one.folder is None:
        trained = one.card.method == PUBLISHED and not one.floor
        return Origin(known=Known(one.card)) if trained else Origin()
    known, run = _known(one.folder), run_folder(one.folder)
    if run is None:
        return Origin(known=known)
    try:
        views = configuration.load(run / configuration.FILE).views
    except UserError:  # of another version: the report does without them
        views = None
    return Origin(views, _history(run / metrics.NAME), known)


def run_folder(encoder: Path) -> Path | None:
    """The folder of the run that left this encoder: around ``encoder/``, or around the folder of several."""
    here = encoder.resolve()
    return next(
        (folder for folder in (here.parent, here.parent.parent) if (folder / configuration.FILE).is_file()), None
    )


def _history(path: Path) -> tuple[dict[str, float], ...]:
    """Lines of the log, evenly thinned but for those with scores, of numbers alone."""
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for i, text in enumerate(lines):
        if i % max(1, len(lines) // LINES) and not any(f'"{name}' in text for name in EVALUATIONS):
            continue
        found.append(metrics.numbers(text))
    return tuple(filter(None, found))  # but what a kill cut short


def _with_data(one: Wanted, run: Run) -> Wanted:
    """The evaluation with its data, cache and workers named: the run's own where it names none."""
    own = {"cache": run.data.cache, "workers": run.loop.workers}
    one = one.model_copy(update={key: value for key, value in own.items() if key not in one.model_fields_set})
    if isinstance(one, StudyConfig) or one.data is not None:
        return one
    root = Path(run.data.root)
    cohort = next((p for p in (root, *root.parents) if (p / "train").is_dir() and (p / "valid").is_dir()), None)
    if cohort is None:
        raise ConfigError(f"evaluate.data: {root} is not inside a folder with train and valid: name one")
    return one.model_copy(update={"data": str(cohort)})


def _claim(out: Path) -> Path:
    """The folder, if it is new, empty, or of an evaluation before."""
    try:
        return _claimed(out)
    except OSError as error:
        raise ConfigError(f"output: {out} cannot be made ({error.strerror}): give another folder") from None


def _claimed(out: Path) -> Path:
    if os.path.exists(out) and not out.is_dir():
        raise ConfigError(f"output: {out} is a file: give a folder")
    make_folder(out, "output")
    held = sorted(p.name for p in out.iterdir() if p.name != "lock")
    if held and (not (out / configuration.FILE).is_file() or (out / "checkpoints").exists()):
        raise ConfigError(f"output: {out} holds {private(held[0])} and no evaluation: give a new or empty folder")
    return out
