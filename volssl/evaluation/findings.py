"""What an evaluation found, as plain data: what ``results.json`` holds and what the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from volssl.evaluation.rules import PIXELS as PIXELS
from volssl.evaluation.rules import RANDOM as RANDOM
from volssl.evaluation.statistics import Estimate
from volssl.evaluation.target import Groups, Predicted, Target


@dataclass(frozen=True, slots=True)
class Score:
    """One encoder under one protocol at one label budget on one data set: means over seeds, with intervals.

    budget: as asked for, such as ``10 %`` or ``5 per class``. labels: training items used, the mean over folds and
    seeds. metrics: name to estimate; the first is the one that decides.
    """

    data: str
    encoder: str
    protocol: str
    budget: str
    labels: float
    seeds: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Difference:
    """``encoder - other`` in the deciding metric, on the same rows, subsets, seeds and resampled patients."""

    data: str
    encoder: str
    other: str
    protocol: str
    budget: str
    metric: str
    value: Estimate
    sentence: str


@dataclass(frozen=True, slots=True)
class Fusion:
    """What a fusion made of each encoder. weights: encoder to the share of attention it got, which sum to 1."""

    data: str
    name: str
    budget: str
    weights: Mapping[str, float]
    without: Mapping[str, float]  # encoder to the deciding metric's fall where its features are replaced by their mean


@dataclass(frozen=True, slots=True)
class Overlap:
    """What an encoder's pre-training and an evaluation's items share.

    kind: ``file`` (same bytes), ``image`` (same after preprocessing), ``patient`` or ``study`` (same keyed id).
    test, train: ids of evaluation items of that side, first ones; counts are of all.
    """

    data: str
    encoder: str
    kind: str
    test_count: int
    train_count: int
    test: tuple[str, ...]
    train: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was compared. compared: kinds that could be, by encoder. notes: why others could not, a line each."""

    compared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overlaps: tuple[Overlap, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """A score along one axis, for robustness (a strength) and convergence (steps).

    name: of the axis, such as ``rotation, degrees``; x: its values; estimates: of the deciding metric at each.
    """

    data: str
    encoder: str
    protocol: str
    name: str
    x: tuple[float, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class Saving:
    """Steps and seconds until a pre-trained model reaches the best validation score of one from scratch.

    steps, scratch_steps, seconds, scratch_seconds: means over the seeds that reached it. percent: 100 x (1 - ratio of
    steps) with its interval over seeds. reached: how many of ``seeds`` reached it at all.
    """

    data: str
    encoder: str
    metric: str
    best: Estimate
    steps: float
    scratch_steps: float
    seconds: float
    scratch_seconds: float
    percent: Estimate
    reached: int
    seeds: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Pictured:
    """What the report draws of one data set and one encoder: rows of the test side under the largest budget, seed 0.

    target, groups, predicted: of the M test rows, by protocol. features: (M, D). ids: what they are called.
    thumbnails: (M, rows, columns[, 3]) uint8 or None for a row that is not drawn. views: views of some items as the
    model sees them, (items, views, rows, columns[, 3]) uint8. outlines: of masks, and then there are no features and
    nothing predicted: (M, rows, columns, 3) uint8.
    """

    data: str
    encoder: str
    target: Target
    groups: Groups
    predicted: Mapping[str, Predicted]
    features: Any
    ids: tuple[str, ...]
    thumbnails: Any = None
    views: Any = None
    outlines: Any = None


@dataclass(frozen=True, slots=True)
class SetCard:
    """A data set in words and numbers, for the data card.

    counts: of classes or labels, or mean and sd of a number. tested: ``statistics.patients_tested``, where it is known.
    """

    name: str
    what: str
    items: int
    patients: int
    test: int
    kind: str
    metric: str
    counts: Mapping[str, float]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
    tested: float | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything one ``volssl evaluate`` found.

    config: as it was run, plain JSON. history: of the pre-training run of each encoder that has one beside it, lines of
    its ``metrics.jsonl``. notes: what a reader should know.
    """

    title: str
    config: Mapping[str, Any]
    sets: tuple[SetCard, ...]
    encoders: Mapping[str, Mapping[str, Any]]
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    fusions: tuple[Fusion, ...] = ()
    audit: Audit = Audit()
    robustness: tuple[Curve, ...] = ()
    convergence: tuple[Curve, ...] = ()
    savings: tuple[Saving, ...] = ()
    history: Mapping[str, tuple[Mapping[str, float], ...]] = field(default_factory=dict)
    pictured: tuple[Pictured, ...] = ()
    notes: tuple[str, ...] = ()
