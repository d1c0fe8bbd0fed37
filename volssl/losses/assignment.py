"""Losses between soft assignments: Sinkhorn codes and swapped prediction (SwAV), distillation (DINO)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from volssl.losses.precision import full_precision


def sinkhorn(*, scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes that use every prototype equally: Caron et al. 2020 (SwAV, arXiv 2006.09882), equations 3 to 5.

    Alternately normalises columns and rows of exp(scores / epsilon), in the log domain, so that no epsilon
    overflows or empties a column. Every row sums to one; the columns sum to B / K, the better the more
    iterations. The codes depend on all rows given: give it the whole batch, and the queue if there is one.

    scores: (B, K), samples x prototypes. Returns (B, K), without a graph: a code is a target.
    """
    with full_precision(scores.detach()) as (scores,):
        log_codes = scores / epsilon
        for _ in range(iterations):
            log_codes = log_codes.log_softmax(dim=0).log_softmax(dim=1)
        return log_codes.exp()


def swapped_prediction(*, scores: Mapping[str, Tensor], codes: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Each view predicts the codes of the others: Caron et al. 2020 (SwAV, arXiv 2006.09882), equation 2.

    The cross entropy of softmax(scores / temperature) against the codes, averaged over the samples and over
    all ordered pairs of a view with a code and a different view, every pair with the same weight. For the
    codes of two full-size views and V views in all, that is the released code's 1/2 and 1/(V - 1).

    scores: view -> (B, K); codes: some of the views -> (B, K), no gradient flows into them. Returns a scalar.
    """
    with full_precision(*scores.values()) as logits:
        return _cross_entropy_between_views(
            targets={view: code.detach() for view, code in codes.items()},
            log_predictions={
                view: (x / temperature).log_softmax(dim=-1) for view, x in zip(scores, logits, strict=True)
            },
        )


def distillation(
    *,
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """The student matches the teacher across views: Caron et al. 2021 (DINO, arXiv 2104.14294), algorithm 1.

    The cross entropy of softmax(student / student_temperature) against the centred and sharpened
    softmax((teacher - centre) / teacher_temperature), averaged over the samples and over all ordered pairs of
    a teacher view and a different student view. The loss of a batch is the mean over its samples, and a
    sample's part depends on no other sample: what does, the centre, comes as data.

    student: view -> (B, K); teacher: some of the views -> (B, K), no gradient flows into it; centre: (K,).
    Returns a scalar.
    """
    with full_precision(centre, *teacher.values(), *student.values()) as (c, *rest):
        targets = dict(zip(teacher, rest[: len(teacher)], strict=True))
        logits = dict(zip(student, rest[len(teacher) :], strict=True))
        return _cross_entropy_between_views(
            targets={view: ((x - c) / teacher_temperature).softmax(dim=-1).detach() for view, x in targets.items()},
            log_predictions={view: (x / student_temperature).log_softmax(dim=-1) for view, x in logits.items()},
        )


def _cross_entropy_between_views(*, targets: Mapping[str, Tensor], log_predictions: Mapping[str, Tensor]) -> Tensor:
    """Mean over samples and over all ordered pairs of a target's view and a different predicted view."""
    unknown = targets.keys() - log_predictions.keys()
    if unknown:  # it would be compared with every view, its own under another name among them
        raise ValueError(f"targets for views that are not predicted: {', '.join(sorted(unknown))}")
    pairs = [(target, other) for target in targets for other in log_predictions if other != target]
    if not pairs:
        raise ValueError("a view is compared with other views: at least two are needed")
    return torch.stack(
        [-(targets[target] * log_predictions[other]).sum(dim=-1).mean() for target, other in pairs]
    ).mean()
