"""What a study sweeps beside its table: strengths of a change of the images, and steps of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

from volssl.errors import DataError
from volssl.evaluation import FinetuneConfig, LinearConfig, StudyConfig
from volssl.evaluation.answers import Answers
from volssl.evaluation.contestants import Contestant
from volssl.evaluation.convergence import converge
from volssl.evaluation.encoder import random_encoder
from volssl.evaluation.findings import Curve, Saving
from volssl.evaluation.labelled import Budget
from volssl.evaluation.metrics import metrics_of
from volssl.evaluation.robustness import Strength, strengths
from volssl.evaluation.statistics import Estimate, estimate
from volssl.evaluation.target import Predicted

Swept = LinearConfig | FinetuneConfig


def robust(config: StudyConfig, answers: Answers, most: Budget) -> tuple[Curve, ...]:
    """The deciding metric of models that were fitted to clean images, on test images changed by each strength.

    Of linear probes and fine-tuned networks, as far as ``config.protocols`` has them, with the most labels and seed 0.
    """
    assert config.robustness is not None
    wanted = list(strengths(config.robustness))
    return tuple(
        curve
        for protocol in config.protocols
        if isinstance(protocol, LinearConfig | FinetuneConfig)
        for one in answers.data.everybody
        if one.build is not None or isinstance(protocol, LinearConfig)
        for curve in _curves(answers, one, protocol, most, wanted)
    )


def _curves(
    answers: Answers, one: Contestant, protocol: Swept, most: Budget, wanted: Sequence[Strength]
) -> Iterator[Curve]:
    predicted = answers.under(one, protocol, most, 0, wanted)
    scored = [(strength, _score(answers, each)) for strength, each in zip(wanted, predicted, strict=True)]
    for axis, group in groupby(scored, key=lambda pair: pair[0].axis):
        pairs = list(group)
        x, y = tuple(strength.value for strength, _ in pairs), tuple(value for _, value in pairs)
        yield Curve(answers.data.name, one.name, protocol.shown, axis, x, y)


def _score(answers: Answers, predicted: Predicted) -> Estimate:
    data = answers.data
    values = metrics_of(data.target.at(data.test), predicted, data.resamples.weight)[data.metric]
    return estimate(values[None])


def converged(config: StudyConfig, answers: Answers) -> tuple[tuple[Curve, ...], tuple[Saving, ...]]:
    """How much sooner each pre-trained encoder gets where one from scratch gets at best, on rows of the first part."""
    assert config.convergence is not None
    data = answers.data
    train = data.parts[0].train
    curves: list[Curve] = []
    savings = []
    for one in data.everybody:
        if one.build is None or one.drawn:
            continue
        answers.report(f"{data.name}: convergence of {one.name}")
        try:
            saving, both = converge(
                one.build(0),
                partial(random_encoder, one.card),
                data.source(one.card),
                data.rows[train],
                data.target.at(train),
                groups=data.table.patients[train],
                config=config.convergence,
                seeds=config.seeds,
                device=answers.device,
                data=data.name,
                name=one.name,
            )
        except ValueError as error:
            raise DataError("labels", f"convergence: {error}", f"sets.{data.name}") from error
        savings.append(saving)
        curves += both
    return tuple(curves), tuple(savings)
