"""A linear probe: logistic regression whose regularisation is chosen by cross-validation on training data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from volssl.evaluation.splits import folds
from volssl.evaluation.statistics import one_vs_rest_auc
from volssl.evaluation.target import Floats, Groups, Ints

STRENGTHS = tuple(10.0**e for e in range(-5, 2))  # of C, strongest regularisation first
FOLDS = 5


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
        ValueError: a class is missing or has fewer than two patients.
    """
    classes = np.unique(train_y)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(f"the training rows hold the classes {classes.tolist()}: number them 0 to {len(classes) - 1}")
    parts = folds(train_y, groups, FOLDS, seed)
    with threadpool_limits(1, user_api="blas"):
        held_out = {c: _out_of_fold(c, train_x, train_y, parts) for c in STRENGTHS}
        best = max(STRENGTHS, key=lambda c: _mean_auc(train_y, held_out[c], parts))
        model = _model(best).fit(train_x, train_y)
        return Probe(_log_odds(model.decision_function(test_x)), held_out[best], best)


def _model(c: float) -> Pipeline:
    logistic = LogisticRegression(C=c, solver="lbfgs", class_weight="balanced", max_iter=5000)
    return make_pipeline(StandardScaler(), logistic)


def _out_of_fold(c: float, x: Floats, y: Ints, parts: list[tuple[Ints, Ints]]) -> Floats:
    return _log_odds(cross_val_predict(_model(c), x, y, cv=parts, method="decision_function"))


def _log_odds(logits: Floats) -> Floats:
    """(N, K) logits of a softmax as log p / (1 - p) of each class, exact where p rounds to 1; (N,) as they are.

    A column of softmax logits alone does not rank rows: the same number may be added to all K of a row.
    """
    if logits.ndim == 1:
        return logits
    rest = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    odds: Floats = logits - np.column_stack(rest)
    return odds


def _mean_auc(y: Ints, scores: Floats, parts: list[tuple[Ints, Ints]]) -> float:
    areas = [one_vs_rest_auc(y[held], scores[held], np.ones((1, len(held)))) for _, held in parts]
    known = [float(a[np.isfinite(a)].mean()) for a in areas if np.isfinite(a).any()]  # a fold of one class has none
    return float(np.mean(known)) if known else 0.5
