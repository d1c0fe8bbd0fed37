"""How many steps pre-training saves: until it is where a network from scratch is at best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

from volssl.errors import DataError
from volssl.evaluation import ConvergenceConfig
from volssl.evaluation.encoder import Encoder
from volssl.evaluation.findings import RANDOM, Curve, Saving
from volssl.evaluation.finetune import Classifier, feed, light_views
from volssl.evaluation.fitting import Report, generator_of, optimise, outputs_of
from volssl.evaluation.metrics import METRICS, RANGE
from volssl.evaluation.objective import deciding, objective
from volssl.evaluation.splits import held_out
from volssl.evaluation.statistics import Estimate
from volssl.evaluation.target import Floats, Groups, Ints, Target
from volssl.types import Source

WARMUP = 0.05  # of the steps, over which the rate rises evenly


@dataclass(frozen=True, slots=True)
class Track:
    """A fine-tuning run as it was looked at: (L,) scores of the validation rows, and seconds trained until then."""

    scores: Floats
    seconds: Floats


@dataclass(frozen=True, slots=True)
class Reached:
    """At which look a run from scratch had its best score, and at which the pre-trained one was first as good.

    scratch: 0 where it never rose above its start, and nothing can be saved. pretrained: None where it never was.
    """

    best: float
    scratch: int
    pretrained: int | None


def converge(
    encoder: Encoder,
    scratch: Callable[[int], Encoder],
    source: Source,
    train_rows: Ints,
    target: Target,
    *,
    groups: Groups,
    config: ConvergenceConfig,
    seeds: int,
    data: str,
    name: str,
    device: str | torch.device = "cpu",
    report: Report | None = None,
) -> tuple[Saving, tuple[Curve, Curve]]:
    """Fine-tune a pre-trained encoder and one from scratch alike, and see when each gets there.

    For each seed both learn the same batches of the same rows by AdamW, at a rate that stays where a short warm-up has
    brought it (one that falls to 0 would tie the best score to the last step), and are looked at as often, from step 0
    on. The score is the deciding metric on ``config.held`` of the patients, its mean over the last ``config.smooth``
    looks. See ``summarise`` for what is saved.

    Args:
        scratch: the encoder of a seed. source: all items. train_rows: (N,) positions in it. target: of the N rows.
        groups: (N,) patients. seeds: how many. data, name: what the set and the encoder are called. report: (runs done,
        in all).

    Returns:
        The saving, and the averaged scores over steps, pre-trained and from scratch, with intervals over seeds.

    Raises:
        DataError: the validation rows hold one class alone. ValueError: the others do. RunError: a loss is not finite.
    """
    steps = look_steps(config.steps, config.looks)
    tracks: list[list[Track]] = [[], []]
    for seed in range(seeds):
        for side, one in enumerate((encoder, scratch(seed))):
            tracks[side].append(_track(one, source, train_rows, target, groups, config, steps, seed, device))
            if report:
                report(2 * seed + side + 1, 2 * seeds)
    scores = [np.stack([trailing_mean(track.scores, config.smooth) for track in side]) for side in tracks]
    seconds = [np.stack([track.seconds for track in side]) for side in tracks]
    within = RANGE[target.kind]
    saving = summarise(scores, seconds, steps, data=data, name=name, metric=METRICS[target.kind][0], within=within)
    curves = [
        _curve(data, one, steps, each, within) for one, each in zip((name, f"{RANDOM} {name}"), scores, strict=True)
    ]
    return saving, (curves[0], curves[1])


def look_steps(steps: int, looks: int) -> Ints:
    """(L,) after how many steps it is looked at: evenly from 0 to the last; fewer looks where there are fewer steps."""
    return np.unique(np.linspace(0, steps, looks).round().astype(np.int64))


def trailing_mean(scores: Floats, over: int) -> Floats:
    """(L,) each look's mean with those before it, ``over`` in all; the first ones have fewer."""
    return np.array([scores[max(0, i + 1 - over) : i + 1].mean() for i in range(len(scores))])


def reach(pretrained: Floats, scratch: Floats) -> Reached:
    """When each is there, for the (L,) averaged scores of one seed: the first look at or above, not between looks."""
    best = float(scratch.max())
    above = np.flatnonzero(pretrained >= best)
    return Reached(best, int(scratch.argmax()), int(above[0]) if len(above) else None)


def saving_of(pretrained: Floats, scratch: Floats, steps: Ints) -> float:
    """1 - steps until the pre-trained run is as good as the other ever gets / steps until that one is.

    The measure behind "converges so many percent faster", as we define it: Ghesu et al. 2022 (arXiv 2201.01283) name
    percentages. Negative where pre-training takes longer; NaN where it never gets there, or the other learns nothing.

    Args:
        pretrained, scratch: (L,) averaged scores of the looks after ``steps`` (L,).
    """
    found = reach(pretrained, scratch)
    if found.pretrained is None or not found.scratch:
        return math.nan
    return 1 - float(steps[found.pretrained]) / float(steps[found.scratch])


def summarise(
    scores: list[Floats],
    seconds: list[Floats],
    steps: Ints,
    *,
    data: str,
    name: str,
    metric: str,
    within: tuple[float, float],
) -> Saving:
    """The saving over seeds, from (seeds, L) averaged scores and seconds of the pre-trained runs, then of the others.

    Percent, steps and seconds are means over the seeds in which there is a saving: one that never gets there saves an
    unknown amount, less than nothing perhaps, and is counted and said but not made up. So where ``reached`` is below
    ``seeds``, they flatter. Intervals are Student's, over seeds, NaN of one seed; a saving ends at 100 %, and a
    score's at the ends of its range, ``within``.
    """
    found = [reach(*pair) for pair in zip(*scores, strict=True)]
    there = [(i, x.pretrained, x.scratch) for i, x in enumerate(found) if x.pretrained is not None and x.scratch]
    saved = np.array([100 * saving_of(scores[0][seed], scores[1][seed], steps) for seed, _, _ in there])
    percent = _over_seeds(saved, (-math.inf, 100.0))
    return Saving(
        data=data,
        encoder=name,
        metric=metric,
        best=_over_seeds(np.array([one.best for one in found]), within),
        steps=_mean([steps[look] for _, look, _ in there]),
        scratch_steps=_mean([steps[look] for _, _, look in there]),
        seconds=_mean([seconds[0][seed, look] for seed, look, _ in there]),
        scratch_seconds=_mean([seconds[1][seed, look] for seed, _, look in there]),
        percent=percent,
        reached=len(there),
        seeds=len(found),
        sentence=in_words(found, percent, name, metric, int(steps[-1])),
    )


def in_words(found: list[Reached], percent: Estimate, name: str, metric: str, steps: int) -> str:
    """A plain sentence on the saving, and on every seed that it leaves out."""
    goal, seeds = f"the best {metric} from scratch", len(found)
    idle = sum(one.scratch == 0 for one in found)
    missed = sum(one.scratch > 0 and one.pretrained is None for one in found)
    if idle + missed == seeds:
        said = f"{name} saves nothing that could be measured"
    elif math.isnan(percent.low):
        said = f"{name} reaches {goal} in {_fewer(percent.value)} steps (one seed, so no interval)"
    elif percent.low <= 0 <= percent.high:
        said = f"{name} reaches {goal} in as many steps, within noise: {_fewer(percent.value)} ({_interval(percent)})"
    else:
        said = f"{name} reaches {goal} in {_fewer(percent.value)} steps ({_interval(percent)})"
    said += f"; not reached within {steps} steps in {missed} of {seeds} seeds" if missed else ""
    return said + (f"; from scratch nothing was learnt in {idle} of {seeds} seeds" if idle else "")


def _fewer(percent: float) -> str:
    return f"{abs(percent):.0f} % {'fewer' if percent >= 0 else 'more'}"


def _interval(percent: Estimate) -> str:
    """In percent more where that is what is said of it."""
    ends = (percent.low, percent.high) if percent.value >= 0 else (-percent.high, -percent.low)
    return f"95 % interval {ends[0]:.0f} to {ends[1]:.0f} %"


def _track(
    encoder: Encoder,
    source: Source,
    train_rows: Ints,
    target: Target,
    groups: Groups,
    config: ConvergenceConfig,
    steps: Ints,
    seed: int,
    device: str | torch.device,
) -> Track:
    rows, held = held_out(target, groups, config.held, seed)
    aim, known = objective(target.at(rows)), target.at(held)

    def score(outputs: Floats) -> float:
        return deciding(known, aim.predicted(outputs, target, np.zeros(aim.outputs)).score) if len(held) else math.nan

    if math.isnan(score(np.zeros((len(held), aim.outputs)))):
        raise DataError("labels", f"convergence: {len(held)} validation rows are too few to score: give more patients")
    model = Classifier(encoder, aim.outputs).to(device)
    images = feed(source, train_rows, light_views(encoder.card.size).build(), device)
    optimiser = torch.optim.AdamW(model.parameters(), config.lr)
    rise, generator = max(1, round(WARMUP * config.steps)), generator_of(seed, 0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: min(1.0, (done + 1) / rise))
    training = optimise(
        model,
        images,
        target,
        rows,
        aim,
        optimiser=optimiser,
        schedule=schedule,
        batch=config.batch,
        generator=generator,
    )
    scores, seconds, spent = [], [], 0.0
    for more in np.diff(steps, prepend=0).tolist():
        spent += _seconds(training, more, device)
        scores.append(score(outputs_of(model, images, held, config.batch)))
        seconds.append(spent)
    return Track(np.array(scores), np.array(seconds))


def _seconds(training: Iterator[int], steps: int, device: str | torch.device) -> float:
    """How long so many steps take, images read and augmented included."""
    start = time.perf_counter()
    for _ in range(steps):
        next(training)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _over_seeds(values: Floats, within: tuple[float, float]) -> Estimate:
    """Mean, its 95 % interval by Student's t as far as it is ``within`` a range, and standard deviation."""
    if len(values) < 2:
        return Estimate(_mean(values), math.nan, math.nan)
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = float(stdtrit(len(values) - 1, 0.975)) * sd / math.sqrt(len(values))
    return Estimate(mean, max(mean - half, within[0]), min(mean + half, within[1]), sd)


def _mean(values: Sequence[float] | Floats) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _curve(data: str, name: str, steps: Ints, scores: Floats, within: tuple[float, float]) -> Curve:
    each = tuple(_over_seeds(look, within) for look in scores.T)
    return Curve(data, name, "finetune", "steps", tuple(steps.astype(float).tolist()), each)
