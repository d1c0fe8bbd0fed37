"""Encoders x data sets x protocols x label budgets x seeds: a study, from its configuration to what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volssl.errors import ConfigError
from volssl.evaluation import FusionConfig, MasksConfig, ProtocolConfig, StudyConfig, VoxelsConfig
from volssl.evaluation.answers import Answers, fits
from volssl.evaluation.contestants import Contestant, contestants, floor_of, prepared_alike
from volssl.evaluation.encoder import Encoder
from volssl.evaluation.findings import (
    Audit,
    Curve,
    Difference,
    Findings,
    Fusion,
    Pictured,
    Saving,
    Score,
)
from volssl.evaluation.foresight import check_table
from volssl.evaluation.labelled import Budget, LabelledSet, open_set
from volssl.evaluation.leakage import audit
from volssl.evaluation.ledger import Ledger
from volssl.evaluation.metrics import metrics_of
from volssl.evaluation.rules import CONCATENATION, DVME, full_tuning, fusion_faults, percent, probing
from volssl.evaluation.shown import Origin, pictured
from volssl.evaluation.statistics import estimate, in_words
from volssl.evaluation.sweeps import converged, robust
from volssl.evaluation.target import Floats
from volssl.evaluation.voxels import dice_metrics

Progress = Callable[[int, int, str], None]  # (cells done, cells in all, what is being done)
METRIC_WORDS = {"auroc": "AUROC", "r2": "R²", "dice": "Dice"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One contestant under one protocol at one budget: labels used, and metric -> (seeds, R + 1) over resamples."""

    labels: float
    values: Mapping[str, Floats]


Cells = dict[tuple[str, str, str], Cell]  # by protocol, budget, contestant


@dataclass(frozen=True, slots=True)
class Found:
    """What was found on one set."""

    data: LabelledSet
    cells: Cells
    fusions: tuple[Fusion, ...]
    audits: tuple[Audit, ...]
    robustness: tuple[Curve, ...]
    convergence: tuple[Curve, ...]
    savings: tuple[Saving, ...]
    pictured: tuple[Pictured, ...]


def run_study(
    config: StudyConfig,
    given: Mapping[str, Encoder],
    *,
    title: str,
    seed: int = 0,
    ledger: Path | None = None,
    device: str | torch.device = "cpu",
    origin: Callable[[Contestant], Origin] = lambda _one: Origin(),
    progress: Progress = lambda _done, _all, _line: None,
) -> Findings:
    """Evaluate the encoders ``given`` in memory and those that ``config`` names.

    All sets are opened before anything is worked out, so that what is wrong with the last is told at once.

    Args:
        seed: of folds and cross-validation, which all seeds of the study share. ledger: a folder where answers are
            kept, so that a study that was stopped goes on. origin: what is known of where an encoder came from.

    Raises:
        DataError, ConfigError: an encoder, a table, an image or a side of a split cannot be used; in one line.
    """
    for told in fusion_faults(config, given):
        raise ConfigError(told)
    counted = _Counted(progress)
    named = [(f"sets.{name}", one) for name, one in config.sets.items()]
    everybody = [contestants(one, config.encoders, given, config.floors, where) for where, one in named]
    for where, one in named:
        check_table(one, where)
    opened = [
        open_set(name, one, config, them, seed, counted.say)
        for (name, one), them in zip(config.sets.items(), everybody, strict=True)
    ]
    counted.total = sum(_cells(config, data) for data in opened)
    kept = Ledger(ledger)
    found = [_on_set(config, data, Answers(data, kept, seed, device, counted.say), origin, counted) for data in opened]
    return _findings(config, title, found, origin)


class _Counted:
    """Progress in cells."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.done, self.total = progress, 0, 0

    def say(self, line: str) -> None:
        self.progress(self.done, self.total, line)

    def tick(self) -> None:
        self.done += 1
        self.progress(self.done, self.total, "")


def _cells(config: StudyConfig, data: LabelledSet) -> int:
    masks = isinstance(data.config.target, MasksConfig)
    pairs = sum(fits(protocol, one, masks) for protocol in config.protocols for one in data.everybody)
    return (pairs + 2 * len(_fused_here(config, data))) * len(budgets(config)) * config.seeds


def budgets(config: StudyConfig) -> dict[str, Budget]:
    """By the name of each, from few labels to many; counts per class first."""
    counts = {f"{count} per class": count for count in sorted(config.per_class)}
    return {**counts, **{percent(share): share for share in sorted(config.fractions)}}


def _on_set(
    config: StudyConfig,
    data: LabelledSet,
    answers: Answers,
    origin: Callable[[Contestant], Origin],
    counted: _Counted,
) -> Found:
    cells: Cells = {}
    masks = isinstance(data.config.target, MasksConfig)
    for protocol in config.protocols:
        for one in data.everybody:
            if not fits(protocol, one, masks):
                continue
            for name, budget in budgets(config).items():
                values = []
                for seed in range(config.seeds):
                    counted.say(f"{data.name}: {protocol.shown}, {one.name}, {name} of the labels, seed {seed}")
                    values.append(_measured(answers, one, protocol, budget, seed))
                    counted.tick()
                cells[protocol.shown, name, one.name] = _cell(data, budget, config.seeds, values)
    fusions = tuple(_fuse(config, data, answers, cells, counted))
    most = list(budgets(config).values())[-1]
    robustness = robust(config, answers, most) if config.robustness and not masks else ()
    convergence, savings = converged(config, answers) if config.convergence and not masks else ((), ())
    shown = pictured(config, answers, origin, budgets(config)) if config.report else ()
    checked = tuple(_audits(data, origin))
    return Found(data, cells, fusions, checked, robustness, convergence, savings, shown)


def _audits(data: LabelledSet, origin: Callable[[Contestant], Origin]) -> Iterator[Audit]:
    """Of each encoder that was trained."""
    train = np.setdiff1d(np.concatenate([part.train for part in data.parts]), data.test)
    for one in data.everybody:
        if (known := origin(one).known) is not None:
            identity = data.identity(one.card)
            found = audit(data.name, one.name, known, identity, test=data.rows[data.test], train=data.rows[train])
            if known.items is not None and not prepared_alike(one.card, known.card):
                what = "are not prepared as in its pre-training, so that copies of an image may have been missed"
                found = replace(found, notes=(*found.notes, f"{data.name}: items for {one.name} {what}"))
            yield found


def _measured(
    answers: Answers, one: Contestant, protocol: ProtocolConfig, budget: Budget, seed: int
) -> dict[str, Floats]:
    data = answers.data
    if isinstance(protocol, VoxelsConfig):
        dice = answers.dice(one, protocol, budget, seed)
        return dice_metrics(dice, data.resamples.weight, data.classes)
    predicted = answers.predicted(one, protocol, budget, seed)
    return metrics_of(data.target.at(data.test), predicted, data.resamples.weight)


def _cell(data: LabelledSet, budget: Budget, seeds: int, values: Sequence[Mapping[str, Floats]]) -> Cell:
    """A metric that a seed lacks, because its answers do not allow it, is left out."""
    used = [len(data.chosen(i, budget, seed)) for i in range(len(data.parts)) for seed in range(seeds)]
    shared = [metric for metric in values[0] if all(metric in one for one in values)]
    return Cell(float(np.mean(used)), {metric: np.stack([one[metric] for one in values]) for metric in shared})


def _fused_here(config: StudyConfig, data: LabelledSet) -> list[tuple[str, str, FusionConfig, dict[str, Contestant]]]:
    """Each fusion's name, that of the concatenation beside it, and whom it fuses; none of masks.

    The concatenation is a linear probe of frozen features, which its name says where it stands among the fine-tuned.
    """
    if isinstance(data.config.target, MasksConfig):
        return []
    by_name = {one.name: one for one in data.everybody if one.build and not one.floor}
    several = len(config.fusion) > 1
    found = []
    for i, fusion in enumerate(config.fusion, start=1):
        chosen = {name: one for name, one in by_name.items() if not fusion.encoders or name in fusion.encoders}
        if len(chosen) > 1:
            number = f" {i}" if several else ""
            frozen = ", frozen" if fusion.end_to_end else ""
            found.append((f"{DVME}{number}", f"{CONCATENATION}{number}{frozen}", fusion, chosen))
    return found


def _fuse(
    config: StudyConfig, data: LabelledSet, answers: Answers, cells: Cells, counted: _Counted
) -> Iterator[Fusion]:
    weight, target = data.resamples.weight, data.target.at(data.test)
    for fused, beside, fusion, several in _fused_here(config, data):
        for name, budget in budgets(config).items():
            values: dict[str, list[dict[str, Floats]]] = {fused: [], beside: []}
            shares, losses = [], []
            for seed in range(config.seeds):
                counted.say(f"{data.name}: {fused}, {name} of the labels, seed {seed}")
                predicted, weights, without = answers.fused(several, fusion, budget, seed)
                values[fused].append(metrics_of(target, predicted, weight))
                counted.tick()
                values[beside].append(metrics_of(target, answers.concatenated(several, budget, seed), weight))
                counted.tick()
                shares.append(weights)
                losses.append(without)
            panel = full_tuning(config.protocols) if fusion.end_to_end else probing(config.protocols)
            assert panel is not None
            for one, each in values.items():
                cells[panel.shown, name, one] = _cell(data, budget, config.seeds, each)
            mean = [
                {one: float(np.mean([entry[one] for entry in every])) for one in several} for every in (shares, losses)
            ]
            yield Fusion(data.name, fused, name, mean[0], mean[1])


def _findings(
    config: StudyConfig, title: str, found: Sequence[Found], origin: Callable[[Contestant], Origin]
) -> Findings:
    named = {one.name: one for each in found for one in each.data.everybody if one.build and not one.floor}
    audits = [audit for one in found for audit in one.audits]
    return Findings(
        title=title,
        config=config.model_dump(mode="json"),
        sets=tuple(one.data.card() for one in found),
        encoders={name: _described(one) for name, one in named.items()},
        scores=tuple(score for one in found for score in _scores(one, config)),
        differences=tuple(difference for one in found for difference in _differences(one)),
        fusions=tuple(fusion for one in found for fusion in one.fusions),
        audit=Audit(
            {
                f"{one.data.name}: {name}": kinds
                for one in found
                for a in one.audits
                for name, kinds in a.compared.items()
            },
            tuple(overlap for each in audits for overlap in each.overlaps),
            tuple(dict.fromkeys(note for each in audits for note in each.notes)),
        ),
        robustness=tuple(curve for one in found for curve in one.robustness),
        convergence=tuple(curve for one in found for curve in one.convergence),
        savings=tuple(saving for one in found for saving in one.savings),
        history={name: lines for name, one in named.items() if (lines := origin(one).history)},
        pictured=tuple(one for each in found for one in each.pictured),
    )


def _described(one: Contestant) -> dict[str, Any]:
    """The card, without what is long or empty."""
    card = one.card.model_dump(mode="json", exclude={"format", "data"}, exclude_none=True)
    return {**card, "data": one.card.data.name}


def _scores(found: Found, config: StudyConfig) -> Iterator[Score]:
    for (protocol, budget, name), cell in found.cells.items():
        metrics = {metric: estimate(values) for metric, values in cell.values.items()}
        yield Score(found.data.name, name, protocol, budget, cell.labels, config.seeds, metrics)


def _differences(found: Found) -> Iterator[Difference]:
    """Each contestant and its random encoder, raw pixels, and every other; a fusion and what it fuses among them."""
    metric, tested = found.data.metric, found.data.card().tested
    floors = [one for one in found.data.everybody if one.floor]
    for protocol, budget in dict.fromkeys(key[:2] for key in found.cells):
        here = {name: cell for (p, b, name), cell in found.cells.items() if (p, b) == (protocol, budget)}
        names = [name for name in here if name not in {one.name for one in floors}]
        pairs = [(name, floor) for name in names for floor in _floors_of(name, found.data, floors)]
        pairs += [(later, earlier) for earlier, later in combinations(names, 2)]
        for name, other in pairs:
            if name in here and other in here:
                gain = estimate(here[name].values[metric] - here[other].values[metric])
                words = in_words(gain, name, other, METRIC_WORDS.get(metric, metric), tested)
                yield Difference(found.data.name, name, other, protocol, budget, metric, gain, words)


def _floors_of(name: str, data: LabelledSet, floors: Sequence[Contestant]) -> list[str]:
    """The random encoder of its own shape where there are several; of a fusion, every one."""
    one = next((one for one in data.everybody if one.name == name), None)
    own = floor_of(one, data.everybody) if one else None
    return [floor.name for floor in floors if own is None or floor.build is None or floor.name == own]
