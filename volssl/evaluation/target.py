"""What is asked of the rows of a data set, and what a model answers: the arrays that probes and metrics share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Groups = NDArray[np.generic]
Kind = Literal["classes", "labels", "number"]


@dataclass(frozen=True, slots=True)
class Target:
    """What each of N rows is.

    kind and values, an array or a list: ``classes`` (N,) int64 0..K-1, one class a row (binary where K is 2);
    ``labels`` (N, L) int64, 1 or 0 for each of L labels that may hold together, -1 where unknown; ``number`` (N,)
    float64.
    names: of the K classes, of the L labels, or of the number. ordered: whether the K classes are grades from low to
    high, of which some are farther apart than others.
    """

    kind: Kind
    values: NDArray[Any]
    names: tuple[str, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values))

    def __len__(self) -> int:
        return len(self.values)

    def at(self, rows: Ints) -> Target:
        """These rows alone; K stays what it is."""
        return replace(self, values=self.values[rows])

    @property
    def binary(self) -> bool:
        """Whether it is one of two classes."""
        return self.kind == "classes" and len(self.names) == 2


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model says of M rows.

    score: ranks rows, higher is more. ``classes``: (M,) logits of class 1 where K is 2, else (M, K) log-odds of each
    class against the rest; 0 (or the largest) is the balanced operating point, as of a model whose classes weigh
    alike. ``labels``: (M, L) logits, likewise. ``number``: (M,) what is predicted.
    probability: (M, K) or (M, L), at the prevalence of the training rows; None for a number.
    called: (M,) bool where K is 2, (M, L) bool for labels: ``score`` is at least a threshold that was chosen on scores
    of training rows by models that had not seen them; None otherwise.
    fold: (M,) which of several models scored a row; rows of different models are not ranked together. None: one did.
    """

    score: Floats
    probability: Floats | None = None
    called: NDArray[np.bool_] | None = None
    fold: Ints | None = None


def binary_probability(logit: Floats, share: float) -> Floats:
    """(M,) balanced logits to (M, 2) probabilities at a prevalence of ``share``: Bayes' shift by its log-odds."""
    p = 1 / (1 + np.exp(-np.clip(logit + np.log(share / (1 - share)), -500, 500)))
    return np.column_stack([1 - p, p])


def join(parts: list[tuple[Ints, Predicted]], n: int) -> Predicted:
    """One answer for ``n`` rows from those of folds, each with its rows: every row in one of them."""
    first = parts[0][1]

    def whole(name: str) -> NDArray[Any] | None:
        if getattr(first, name) is None:
            return None
        out = np.empty((n, *getattr(first, name).shape[1:]), getattr(first, name).dtype)
        for rows, part in parts:
            out[rows] = getattr(part, name)
        return out

    fold = np.zeros(n, dtype=np.int64)
    for i, (rows, _) in enumerate(parts):
        fold[rows] = i
    score = whole("score")
    assert score is not None
    return Predicted(score, whole("probability"), whole("called"), fold if len(parts) > 1 else None)
