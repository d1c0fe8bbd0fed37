"""What a network is trained for: the loss of each kind of target, and what its outputs then say of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, logit
from torch import Tensor
from torch.nn import functional as F

from volssl.evaluation.logistic import log_odds
from volssl.evaluation.metrics import METRICS, metrics_of
from volssl.evaluation.prevalence import of_classes
from volssl.evaluation.statistics import youden
from volssl.evaluation.target import Floats, Ints, Kind, Predicted, Target, binary_probability


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss in which all classes weigh alike, and the two sides of each label.

    outputs: O, how many a network gives: one for two classes (the logit of the second) and for a number, else one per
    class or label. weight: (K,) of classes, ``N / (K N_k)``; (2, L) of the absent and the present side of labels,
    ``N / (2 N_side)`` of those known, and likewise (2, 1) of two classes. 0 where there is none of it, and for a
    label of which one side alone is known: its logit stays 0. centre, scale: by which a number is standardised.
    """

    kind: Kind
    outputs: int
    weight: Floats
    centre: float = 0.0
    scale: float = 1.0

    @property
    def _softmax(self) -> bool:
        return self.kind == "classes" and self.outputs > 1

    def loss(self, outputs: Tensor, target: Target) -> Tensor:
        """Mean over the rows (and labels) of cross-entropy, of binary cross-entropy or of squares: a scalar.

        Args:
            outputs: (B, O). target: of the B rows.
        """
        if self.kind == "number":
            return F.mse_loss(outputs[:, 0], outputs.new_tensor((target.values - self.centre) / self.scale))
        weight = outputs.new_tensor(self.weight)
        if self._softmax:
            y = torch.as_tensor(target.values, device=outputs.device)
            return (weight[y] * F.cross_entropy(outputs, y, reduction="none")).mean()
        sides = torch.as_tensor(_sides(target), device=outputs.device)
        each = F.binary_cross_entropy_with_logits(outputs, (sides == 1).to(outputs.dtype), reduction="none")
        weights = torch.where(sides == 1, weight[1], torch.where(sides == 0, weight[0], 0))
        return (weights * each).mean()

    def predicted(self, outputs: Floats, train: Target, cuts: Floats) -> Predicted:
        """What outputs of a network say of M rows.

        A network of balanced classes is put at the prevalence of the training rows by Bayes' rule: the logarithm of
        each class's share, or a label's log-odds, is added to the logits.

        Args:
            outputs: (M, O). train: the training rows, for their prevalence. cuts: as ``cuts`` found them.
        """
        if self.kind == "number":
            return Predicted(outputs[:, 0] * self.scale + self.centre)
        if self._softmax:
            return of_classes(log_odds(outputs), train, None)
        sides = _sides(train)
        share = (sides == 1).sum(0) / np.maximum((sides >= 0).sum(0), 1)
        called = (outputs >= cuts) & (self.weight > 0).all(axis=0)  # what one side alone is known of is never called
        if train.binary:
            return Predicted(outputs[:, 0], binary_probability(outputs[:, 0], float(share[0])), called[:, 0])
        return Predicted(outputs, expit(outputs + logit(share)), called)

    def cuts(self, outputs: Floats, held: Target) -> Floats:
        """(O,) thresholds by Youden's index on rows that were not learnt; 0, the balanced point, where a side lacks.

        Args:
            outputs: (H, O). held: those H rows, which may be none.
        """
        found = np.zeros(self.outputs)
        if self.kind == "number" or self._softmax:
            return found
        for i, (side, score) in enumerate(zip(_sides(held).T, outputs.T, strict=True)):
            if (side == 0).any() and (side == 1).any():
                found[i] = youden(side[side >= 0], score[side >= 0])
        return found


def objective(target: Target) -> Objective:
    """What these training rows ask of a network.

    Raises:
        ValueError: they hold one class alone.
    """
    if target.kind == "number":
        sd = float(target.values.std())
        return Objective("number", 1, np.ones(0), float(target.values.mean()), sd if sd > 0 else 1.0)
    if target.kind == "classes" and len(np.unique(target.values)) < 2:
        raise ValueError("the training rows hold one class alone")
    if target.kind == "classes" and not target.binary:
        counts = np.bincount(target.values, minlength=len(target.names))
        return Objective("classes", len(counts), _balanced(counts))
    counts = np.stack([(_sides(target) == side).sum(0) for side in (0, 1)])
    return Objective(target.kind, counts.shape[1], _balanced(counts) * (counts > 0).all(0))


def deciding(target: Target, score: Floats) -> float:
    """The first of ``METRICS``, NaN where these rows cannot tell: a class or a side of every label is missing."""
    if target.kind == "labels" and not any({0, 1} <= set(column) for column in target.values.T):
        return float("nan")
    found = metrics_of(target, Predicted(score), np.ones((1, len(target))))
    return float(found[METRICS[target.kind][0]][0])


def _balanced(counts: Ints) -> Floats:
    """N / (K N_k) along the first axis."""
    weight: Floats = np.divide(counts.sum(0), len(counts) * counts, out=np.zeros(counts.shape), where=counts > 0)
    return weight


def _sides(target: Target) -> Ints:
    """(N, L) labels, 1, 0 or -1 where unknown; two classes are one label."""
    return target.values[:, None] if target.values.ndim == 1 else target.values
