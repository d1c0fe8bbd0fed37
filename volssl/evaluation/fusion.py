"""Fusion of encoders by dynamic visual meta-embedding, on frozen features or end to end."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from volssl.evaluation import FusionConfig
from volssl.evaluation.dvme import DVME
from volssl.evaluation.encoder import Encoder
from volssl.evaluation.features import extract
from volssl.evaluation.finetune import feed, light_views
from volssl.evaluation.fitting import Best, Feed, Report, fit, generator_of, outputs_of
from volssl.evaluation.linear import finite
from volssl.evaluation.mrnet import Rows
from volssl.evaluation.objective import Objective, deciding, objective
from volssl.evaluation.splits import held_out
from volssl.evaluation.target import Floats, Groups, Ints, Predicted, Target
from volssl.models.norm import defer_statistics
from volssl.types import Source
from volssl.views.views import Views

Device = str | torch.device


@dataclass(frozen=True, slots=True)
class Fused:
    """What a fusion says of the test rows, and what it made of each encoder.

    weights: the share of the attention that each encoder's token receives, the mean over blocks, heads, queries and
    test rows; they sum to 1. without: by how much the deciding metric falls on the held-out training rows where an
    encoder's features are replaced by their training mean; NaN where none were held out. Attention is not importance:
    what a token holds also goes past the attention to the classifier, and what is attended to may be ignored. So both.
    """

    predicted: Predicted
    weights: Mapping[str, float]
    without: Mapping[str, float]


class Together(nn.Module):
    """Copies of encoders and their fusion: images of each encoder, by name, to (B, O)."""

    def __init__(self, encoders: Mapping[str, Encoder], dvme: DVME) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(copy.deepcopy(encoders[name]) for name in dvme.names)
        self.dvme = dvme
        defer_statistics(self.encoders, False)  # as in fine-tuning

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        outputs: Tensor = self.dvme({name: encoder(images[name]).pooled for name, encoder in self.named_encoders()})
        return outputs

    def named_encoders(self) -> Iterator[tuple[str, Encoder]]:
        """The copies, in order of names."""
        return zip(self.dvme.names, cast("Iterable[Encoder]", self.encoders), strict=True)


def concatenate(x: Mapping[str, Floats]) -> Floats:
    """(N, D of all) features side by side, in the order of names: what a fusion must beat, given to ``linear``.

    That standardises each of them on the training rows, so that no encoder weighs more for its units.
    """
    return np.concatenate([x[name] for name in sorted(x)], axis=1)


def fuse(
    train_x: Mapping[str, Floats],
    train: Target,
    test_x: Mapping[str, Floats],
    *,
    groups: Groups,
    config: FusionConfig,
    seed: int,
    device: Device = "cpu",
    report: Report | None = None,
) -> Fused:
    """Train a ``DVME`` on frozen features, and score the test rows with it.

    As in ``tune``, ``config.held`` of the training patients, stratified, say when to stop and where the thresholds are,
    and where too few can be spared all are learnt.

    Args:
        train_x: (N, D) of each encoder, D may differ. train: their N targets. test_x: (M, D). groups: (N,) patients.
        report: (steps done, at most).

    Raises:
        ValueError: features are not finite, or one class alone. RunError: the loss is not finite.
    """
    for x in (train_x, test_x):
        for one in x.values():
            finite(one)
    task = _task(train, groups, config, seed, device)
    dvme = task.network(_at(train_x, task.rows)).to(device)
    best = task.fit(dvme, _features(train_x, device), report)
    return task.fused(dvme, best, _at(train_x, task.held), test_x)


def fuse_end_to_end(
    encoders: Mapping[str, Encoder],
    sources: Mapping[str, Source],
    train_rows: Ints,
    target: Target,
    test_rows: Ints,
    *,
    groups: Groups,
    config: FusionConfig,
    seed: int,
    device: Device = "cpu",
    views: Mapping[str, Views] | None = None,
    report: Report | None = None,
) -> Fused:
    """As ``fuse``, with copies of the encoders that are trained, too, each on the same items in its own preprocessing.

    Features are standardised by what they are at the start. All learn at one rate.

    Args:
        sources: all items, for each encoder. train_rows: (N,) and test_rows: (M,) positions in them. target: of the N
        training rows. groups: (N,) patients. views: augmentation for each encoder; light where absent.

    Raises:
        ValueError, RunError: as ``fuse``.
    """
    views = views or {name: light_views(encoder.card.size).build() for name, encoder in encoders.items()}
    task = _task(target, groups, config, seed, device)
    dvme = task.network(_extracted(encoders, sources, train_rows[task.rows], config.batch, device))
    model = Together(encoders, dvme).to(device)
    feeds = {name: feed(sources[name], train_rows, views[name], device) for name in dvme.names}
    best = task.fit(model, lambda rows, seeds: {name: one(rows, seeds) for name, one in feeds.items()}, report)
    trained = dict(model.named_encoders())
    held, test = (
        _extracted(trained, sources, rows, config.batch, device) for rows in (train_rows[task.held], test_rows)
    )
    return task.fused(dvme, best, held, test)


@dataclass(frozen=True, slots=True)
class _Task:
    """What both ways to fuse do. rows, held: positions of the training rows to learn and to hold out."""

    target: Target
    rows: Ints
    held: Ints
    aim: Objective
    config: FusionConfig
    seed: int
    device: Device

    def network(self, features: Mapping[str, Floats]) -> DVME:
        """For encoders whose features of the rows to learn are these."""
        dvme = DVME({name: x.shape[1] for name, x in features.items()}, self.aim.outputs, self.config, self.seed)
        dvme.standardise(features)
        return dvme

    def fit(self, model: nn.Module, given: Feed, report: Report | None) -> Best:
        """Dropout draws from torch's own generator, which is seeded for it and put back."""
        generator, rates = generator_of(self.seed, 0), model.parameters()
        cuda = [torch.device(self.device)] if torch.device(self.device).type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(self.seed)
            return fit(
                model,
                given,
                self.target,
                self.rows,
                self.held,
                self.aim,
                parameters=rates,
                config=self.config,
                generator=generator,
                report=report,
            )

    def fused(self, dvme: DVME, best: Best, held: Mapping[str, Floats], test: Mapping[str, Floats]) -> Fused:
        """What it says of the test rows, from features of these and of the held-out ones."""
        cuts = self.aim.cuts(best.outputs, self.target.at(self.held))
        outputs = outputs_of(dvme, _features(test, self.device), _all(test), self.config.batch)
        without = {name: self._worth(dvme, held) - self._worth(dvme, held, name) for name in dvme.names}
        return Fused(self.aim.predicted(outputs, self.target, cuts), self._attention(dvme, test), without)

    def _worth(self, dvme: DVME, held: Mapping[str, Floats], blank: str = "") -> float:
        """The deciding metric on the held-out rows, the features of one encoder replaced by their training mean."""
        if not len(self.held):
            return float("nan")
        means = {
            name: np.tile(token.mean.cpu(), (len(self.held), 1)) for name, token in dvme.named_tokens() if name == blank
        }
        outputs = outputs_of(dvme, _features({**held, **means}, self.device), _all(held), self.config.batch)
        score = self.aim.predicted(outputs, self.target, np.zeros(self.aim.outputs)).score
        return deciding(self.target.at(self.held), score)

    def _attention(self, dvme: DVME, test: Mapping[str, Floats]) -> dict[str, float]:
        with torch.inference_mode():
            shares = dvme.eval().attend(_features(test, self.device)(_all(test), None))[1].double().mean(dim=0)
        return dict(zip(dvme.names, shares.tolist(), strict=True))


def _task(target: Target, groups: Groups, config: FusionConfig, seed: int, device: Device) -> _Task:
    rows, held = held_out(target, groups, config.held, seed)
    return _Task(target, rows, held, objective(target.at(rows)), config, seed, device)


def _features(x: Mapping[str, Floats], device: Device) -> Feed:
    """Rows of frozen features, which no seed changes."""
    tensors = {name: torch.as_tensor(one, dtype=torch.float32, device=device) for name, one in x.items()}
    return lambda rows, _seeds: {name: one[torch.as_tensor(rows, device=device)] for name, one in tensors.items()}


def _extracted(
    encoders: Mapping[str, Encoder], sources: Mapping[str, Source], rows: Ints, batch: int, device: Device
) -> dict[str, Floats]:
    return {
        name: extract(encoder, Rows(sources[name], rows), batch=batch, device=device).astype(np.float64)
        for name, encoder in encoders.items()
    }


def _at(x: Mapping[str, Floats], rows: Ints) -> dict[str, Floats]:
    return {name: one[rows] for name, one in x.items()}


def _all(x: Mapping[str, Floats]) -> Ints:
    return np.arange(len(next(iter(x.values()))))
