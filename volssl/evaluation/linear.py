"""A linear probe: logistic regression whose regularisation is chosen by cross-validation on training data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from volssl.evaluation.splits import Groups, folds
from volssl.evaluation.statistics import Floats, Ints, auc

STRENGTHS = tuple(10.0**e for e in range(-5, 2))  # of C, strongest regularisation first
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Probe:
    """scores (M,) of the test rows and oof_scores (N,) of the training rows, as logits.

    An out-of-fold score comes from a model fitted without that row. c: the inverse regularisation chosen.
    """

    scores: Floats
    oof_scores: Floats
    c: float


def linear_probe(train_x: Floats, train_y: Ints, test_x: Floats, *, groups: Groups, seed: int) -> Probe:
    """Standardise on the training rows, fit by L-BFGS, choose C by the mean AUC over five stratified folds.

    Standardisation is part of what is cross-validated. Classes are weighted inversely to their frequency, so
    that a logit of 0 is the balanced operating point whatever the share of tears. A tie in AUC goes to the
    stronger regularisation. The same function combines planes: its rows are then the planes' out-of-fold
    scores.

    Args:
        train_x: (N, D). train_y: (N,) 0 or 1. test_x: (M, D). groups: (N,) patients, never on both sides of a
        fold.

    Raises:
        ValueError: a class has fewer than two patients.
    """
    parts = folds(train_y, groups, FOLDS, seed)
    held_out = {c: _out_of_fold(c, train_x, train_y, parts) for c in STRENGTHS}
    best = max(STRENGTHS, key=lambda c: _mean_auc(train_y, held_out[c], parts))
    model = _model(best).fit(train_x, train_y)
    return Probe(model.decision_function(test_x), held_out[best], best)


def _model(c: float) -> Pipeline:
    logistic = LogisticRegression(C=c, solver="lbfgs", class_weight="balanced", max_iter=5000)
    return make_pipeline(StandardScaler(), logistic)


def _out_of_fold(c: float, x: Floats, y: Ints, parts: list[tuple[Ints, Ints]]) -> Floats:
    scores: Floats = cross_val_predict(_model(c), x, y, cv=parts, method="decision_function")
    return scores


def _mean_auc(y: Ints, scores: Floats, parts: list[tuple[Ints, Ints]]) -> float:
    areas = [auc(y[held], scores[held], np.ones((1, len(held))))[0] for _, held in parts]
    known = [float(area) for area in areas if np.isfinite(area)]  # a fold of one class has none
    return float(np.mean(known)) if known else 0.5
