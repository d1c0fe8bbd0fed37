"""A linear probe: a linear model whose regularisation is chosen by cross-validation on training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from volssl.evaluation.logistic import fit_path, log_odds, principal_axes
from volssl.evaluation.prevalence import by_label, of_classes, shares
from volssl.evaluation.ranking import one_vs_rest_auc
from volssl.evaluation.splits import folds, folds_of
from volssl.evaluation.target import Floats, Groups, Ints, Predicted, Target

STRENGTHS = tuple(10.0**e for e in range(-5, 2))  # of C, strongest regularisation first
PENALTIES = tuple(10.0**e for e in range(1, -8, -1))  # of ridge regression, as shares of the features' sum of squares
FOLDS = 5
ROUGH, EXACT = 1e-4, 1e-7  # tolerance of the solver: to choose a strength, which ranks rows alone, and to answer


@dataclass(frozen=True, slots=True)
class Probe:
    """scores (M,) of the test rows and oof_scores (N,) of the training rows, as logits of class 1.

    With K > 2 classes they are (M, K) and (N, K): the log-odds of each class against the rest, which is what a
    logit is for two. An out-of-fold score comes from a model fitted without that row's patient. c: the inverse
    regularisation chosen.
    """

    scores: Floats
    oof_scores: Floats
    c: float


def linear(train_x: Floats, train: Target, test_x: Floats, *, groups: Groups, seed: int) -> Predicted:
    """A probe of any kind of target; see ``linear_probe`` for classes.

    labels: a probe of its own, with a strength of its own, for each label on the training rows where it is known; one
    with fewer than two patients on a side cannot be learnt and gets a score of 0. number: ridge regression of
    standardised features, its penalty that of the least squared error over five folds by patient.

    Args:
        train_x: (N, D). train: their N targets. test_x: (M, D). groups: (N,) patients of the training rows, never on
        both sides of a fold.

    Raises:
        ValueError: features are not finite; a class has fewer than two patients; a number has too few for folds.
    """
    train_x, test_x, groups = finite(train_x), finite(test_x), np.asarray(groups)
    if train.kind == "number":
        return Predicted(_ridge(train_x, train, test_x, groups=groups, seed=seed))
    if train.kind == "labels":

        def one(known: Ints, sides: Target) -> tuple[Floats, Floats]:
            probe = linear_probe(train_x[known], sides.values, test_x, groups=groups[known], seed=seed)
            return probe.scores, probe.oof_scores

        return by_label(train, groups, len(test_x), one)
    shares(train)
    probe = linear_probe(train_x, train.values, test_x, groups=groups, seed=seed)
    return of_classes(probe.scores, train, probe.oof_scores)


def linear_probe(train_x: Floats, train_y: Ints, test_x: Floats, *, groups: Groups, seed: int) -> Probe:
    """Standardise on the training rows, fit by L-BFGS, choose C by the mean AUC over five stratified folds.

    Two classes are fitted as logistic, more as multinomial logistic regression (one softmax over all); their
    AUC is the mean over classes of one against the rest. Standardisation is part of what is cross-validated.
    Classes are weighted inversely to their frequency, so that a logit of 0 is the balanced operating point
    whatever the share of tears. A tie in AUC goes to the stronger regularisation. The same function combines
    planes: its rows are then the planes' out-of-fold scores.

    The solver has one BLAS thread, so that the number of cores moves no bit; several were slower, twentyfold
    for 4,708 rows of 128 features on two cores.

    Args:
        train_x: (N, D). train_y: (N,) 0..K-1, each of them. test_x: (M, D). groups: (N,) patients, never on
        both sides of a fold.

    Raises:
        ValueError: features are not finite; a class is missing or has fewer than two patients.
    """
    classes = np.unique(train_y)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(f"the training rows hold the classes {classes.tolist()}: number them 0 to {len(classes) - 1}")
    train_x, test_x = finite(train_x), finite(test_x)
    parts = folds(train_y, groups, FOLDS, seed)
    with threadpool_limits(1, user_api="blas"):
        turned = [principal_axes(train_x[fitted], train_x[held]) for fitted, held in parts]

        def held_out(strengths: Sequence[float], tolerance: float) -> Floats:
            scores = [
                _scores(x, train_y[fitted], held_x, strengths, tolerance)
                for (x, held_x), (fitted, _) in zip(turned, parts, strict=True)
            ]
            return _in_place(scores, [held for _, held in parts])

        areas = [_mean_auc(train_y, scores, parts) for scores in held_out(STRENGTHS, ROUGH)]
        best = STRENGTHS[int(np.argmax(areas))]
        x, new_x = principal_axes(train_x, test_x)
        return Probe(_scores(x, train_y, new_x, [best], EXACT)[0], held_out([best], EXACT)[0], best)


def finite(x: Floats) -> Floats:
    """Features as float64, in which probes compute.

    Raises:
        ValueError: one is NaN or infinite.
    """
    if not np.isfinite(x).all():
        raise ValueError("features must be finite: look for NaN or infinity in the images or the encoder's weights")
    return np.asarray(x, dtype=np.float64)


def _scores(x: Floats, y: Ints, new_x: Floats, strengths: Sequence[float], tolerance: float) -> Floats:
    """(S, M) or (S, M, K) at each strength."""
    theta = fit_path(x, y, strengths, tolerance)
    return log_odds((theta[:, :, :-1] @ new_x.T + theta[:, :, -1:]).swapaxes(1, 2))


def _in_place(scores: list[Floats], rows: list[Ints]) -> Floats:
    """(S, N[, K]) of all rows from those of each fold: every row is held out once."""
    whole: Floats = np.concatenate(scores, axis=1)[:, np.argsort(np.concatenate(rows))]
    return whole


def _mean_auc(y: Ints, scores: Floats, parts: list[tuple[Ints, Ints]]) -> float:
    areas = [one_vs_rest_auc(y[held], scores[held], np.ones((1, len(held)))) for _, held in parts]
    known = [float(a[np.isfinite(a)].mean()) for a in areas if np.isfinite(a).any()]  # a fold of one class has none
    return float(np.mean(known)) if known else 0.5


def _ridge(train_x: Floats, train: Target, test_x: Floats, *, groups: Groups, seed: int) -> Floats:
    """(M,) predictions at the penalty of the least squared error out of fold; a tie goes to the largest."""
    parts = folds_of(train, groups, FOLDS, seed)
    y = train.values
    with threadpool_limits(1, user_api="blas"):
        errors = np.zeros(len(PENALTIES))
        for fitted, held in parts:
            x, held_x = principal_axes(train_x[fitted], train_x[held])
            errors += ((_regressed(x, y[fitted], held_x, PENALTIES) - y[held]) ** 2).sum(axis=1)
        best = PENALTIES[int(np.argmin(errors))]
        x, new_x = principal_axes(train_x, test_x)
        predicted: Floats = _regressed(x, y, new_x, [best])[0]
    return predicted


def _regressed(x: Floats, y: Floats, new_x: Floats, penalties: Sequence[float]) -> Floats:
    """(S, M): on orthogonal columns, each weight is ``x_j y / (x_j x_j + penalty)`` (Hoerl and Kennard 1970)."""
    squares, mean = (x**2).sum(axis=0), y.mean()
    penalty = np.array(penalties)[:, None] * squares.sum()
    predicted: Floats = (x.T @ (y - mean)) / (squares + penalty) @ new_x.T + mean
    return predicted
