"""Balanced logistic regression at many strengths, quickly: on principal axes, each fit starting from the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.preprocessing import StandardScaler

from volssl.evaluation.target import Floats, Ints

NOTHING = 1e-12  # share of the largest variance below which an axis is rounding


def principal_axes(train: Floats, *others: Floats) -> list[Floats]:
    """Standardised features turned onto the principal axes of the training rows: each (N, D) to (N, R).

    R is at most D and N. A linear model whose weights' squares are penalised weighs no direction in which the training
    rows do not differ, and does not see a rotation: on these axes it is the same model, and small where D is large.
    A constant column stays 0.

    Args:
        train: (N, D). others: (M, D) each, which learn nothing.
    """
    scale = StandardScaler().fit(train)
    z = scale.transform(train)
    wide = z.shape[1] > len(z)
    variance, axes = eigh(z @ z.T if wide else z.T @ z, driver="evd")
    kept = variance > NOTHING * variance[-1]
    axes = axes[:, kept] / np.sqrt(variance[kept]) if wide else axes[:, kept]

    def turned(rows: Floats) -> Floats:
        on: Floats = (rows @ z.T if wide else rows) @ axes
        return on

    return [turned(z), *(turned(scale.transform(rows)) for rows in others)]


def fit_path(x: Floats, y: Ints, strengths: Sequence[float], tolerance: float) -> Floats:
    """(S, K, R + 1): weights of each class, the intercept last, at each of S inverse strengths C.

    Minimises ``sum_i N / (K N_k) * cross-entropy_i + |W|^2 / 2C`` over the classes' softmax, as scikit-learn's
    ``LogisticRegression(class_weight="balanced")``. With two classes its C belongs to the difference of their weights,
    of which each carries half: the penalty here is twice as strong and the model is the same.

    The columns are first scaled by the curvature that each has where the last fit ended: on principal axes that is
    nearly Newton's step, whatever the spectrum of the features.

    Args:
        x: (N, R), columns orthogonal. y: (N,) 0..K-1, each of them. strengths: best from small to large C. tolerance:
        of each scaled gradient, as a share of the square root of N.
    """
    counts = np.bincount(y)
    weight, right = (len(y) / (len(counts) * counts))[y], np.eye(len(counts))[:, y]
    x = np.column_stack([x, np.ones(len(x))])
    columns, squares = np.ascontiguousarray(x.T), x**2
    theta, path = np.zeros((len(counts), x.shape[1])), []
    for c in strengths:
        penalty = np.full(x.shape[1], (2 if len(counts) == 2 else 1) / c)
        penalty[-1] = 0
        p = softmax(theta @ columns, axis=0)
        step = 1 / np.sqrt(penalty + (weight * p * (1 - p)) @ squares)
        objective = _objective(x, columns, right, weight, step, penalty)
        limits = {"gtol": tolerance * np.sqrt(len(x)), "ftol": 0, "maxiter": 5000}
        found = minimize(objective, (theta / step).ravel(), jac=True, method="L-BFGS-B", options=limits)
        theta = found.x.reshape(theta.shape) * step
        path.append(theta)
    return np.stack(path)


def _objective(
    x: Floats, columns: Floats, right: Floats, weight: Floats, step: Floats, penalty: Floats
) -> Callable[[Floats], tuple[float, Floats]]:
    """The loss and its gradient in weights divided by ``step``; classes come first, so that sums run along memory."""
    shrink = penalty * step**2

    def objective(flat: Floats) -> tuple[float, Floats]:
        v = flat.reshape(step.shape)
        logits = (v * step) @ columns
        logits -= logits.max(axis=0)
        p = np.exp(logits)
        total = p.sum(axis=0)
        loss = weight @ (np.log(total) - (logits * right).sum(axis=0))
        p /= total
        p -= right
        p *= weight
        pulled = shrink * v
        return float(loss + (pulled * v).sum() / 2), ((p @ x) * step + pulled).ravel()

    return objective


def log_odds(logits: Floats) -> Floats:
    """(..., K) logits of a softmax as log p / (1 - p) of each class, exact where p rounds to 1; of class 1 for K = 2.

    A column of softmax logits alone does not rank rows: the same number may be added to all K of a row.
    """
    if logits.shape[-1] == 2:
        return logits[..., 1] - logits[..., 0]
    rest = [logsumexp(np.delete(logits, k, axis=-1), axis=-1) for k in range(logits.shape[-1])]
    odds: Floats = logits - np.stack(rest, axis=-1)
    return odds
