"""A linear probe of single voxels: what frozen features are worth for segmentation, as Dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from volssl.evaluation.hypercolumns import Hypercolumns
from volssl.evaluation.linear import finite
from volssl.evaluation.logistic import fit_path, principal_axes
from volssl.evaluation.ranking import ratio
from volssl.evaluation.target import Floats, Groups, Ints

PENALTIES = (1e-1, 1e-2, 1e-3)  # of squared weights, in units of the mean loss; strongest first
TEMPERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the classes' log-prevalences
ALONE = (1e-2, 0.5)  # where one patient leaves nobody to choose them by
ROUGH, EXACT = 1e-2, 1e-4  # tolerance of the solver: to choose, and to answer


@dataclass(frozen=True, slots=True)
class Samples:
    """Some voxels of training volumes: their columns x (N, D), classes y (N,), how many voxels of its class and volume
    each ``stands`` for (N,), and whose they are (N,)."""

    x: Floats
    y: Ints
    stands: Floats
    patients: Groups

    def at(self, rows: Ints) -> Samples:
        """These alone."""
        return Samples(self.x[rows], self.y[rows], self.stands[rows], self.patients[rows])


@dataclass(frozen=True, slots=True)
class VoxelModel:
    """Logits of the classes 0 (none) to K: weights (K + 1, D) of a column, and bias (K + 1,), -inf of an unseen one.

    penalty, temper: which of ``PENALTIES`` and ``TEMPERS`` were chosen.
    """

    weights: Floats
    bias: Floats
    penalty: float
    temper: float


def segmentation_dice(
    columns: Hypercolumns,
    masks: Sequence[Tensor],
    train: Ints,
    test: Ints,
    *,
    patients: Groups,
    classes: int,
    voxels: int,
    seed: int,
) -> Floats:
    """(M, K): the Dice of each class 1..K in each test volume, by a probe of the training volumes; see ``fit_voxels``.

    Args:
        columns, masks, patients: of all N volumes; masks (*region) int64, 0..K. train, test: positions of some (M).
    """
    model = fit_voxels(columns, masks, train, patients=patients, classes=classes, voxels=voxels, seed=seed)
    return np.stack([dice(segment(columns, model, i, masks[i].shape), masks[i], classes) for i in test.tolist()])


def fit_voxels(
    columns: Hypercolumns,
    masks: Sequence[Tensor],
    train: Ints,
    *,
    patients: Groups,
    classes: int,
    voxels: int,
    seed: int,
) -> VoxelModel:
    """Multinomial logistic regression of standardised columns on ``voxels`` voxels of each training volume.

    The same number of each class is drawn, as far as there are; which ones depends on the seed and the volume alone, so
    that they are the same for every encoder and label budget. The logits of classes that weigh alike are then moved by
    ``temper`` times the log-prevalence in the training masks (Menon et al. 2021, arXiv 2007.07314): 1 is Bayes' rule,
    which calls small structures too rarely for the best Dice, 0 too often. Penalty and temper are those of the best
    Dice when each half of the training patients is segmented by the other half's probe, estimated from the same voxels.

    A class that no training mask holds is never called.

    Raises:
        ValueError: columns are not finite.
    """
    samples = _sample(columns, masks, train, patients, voxels, seed)
    with threadpool_limits(1, user_api="blas"):  # more threads are slower here, and move bits
        penalty, temper = _chosen(samples, classes, seed)
        weights, bias = _fit(samples, [penalty], classes, EXACT)
    return VoxelModel(weights[0], bias[0] + temper * _log_prevalence(samples, classes), penalty, temper)


def segment(columns: Hypercolumns, model: VoxelModel, i: int, region: tuple[int, ...]) -> Tensor:
    """(*region) int64: the class called at each voxel of the i-th volume."""
    logits = columns.project(i, model.weights, region)
    bias = torch.from_numpy(model.bias).to(logits)
    called, best = torch.zeros(region, dtype=torch.int64), logits[0] + bias[0]
    for k in range(1, len(logits)):  # argmax along the first axis takes ten times as long
        better = logits[k] + bias[k] > best
        called[better], best = k, torch.where(better, logits[k] + bias[k], best)
    return called


def dice(called: Tensor, truth: Tensor, classes: int) -> Floats:
    """(K,): 2 |A and B| / (|A| + |B|) of each class 1..K (Dice 1945); 0 where one side is empty, NaN where both are.

    Args:
        called, truth: int64 of one shape, 0..K.
    """
    pairs = torch.bincount((truth * (classes + 1) + called).flatten(), minlength=(classes + 1) ** 2)
    return _dice(pairs.numpy().reshape(classes + 1, classes + 1))


def dice_metrics(dice: Floats, weight: Floats, classes: Sequence[str]) -> dict[str, Floats]:
    """The mean Dice of each class over the volumes in which it is somewhere, and the mean over classes.

    Args:
        dice: (M, K), NaN where a class is in neither mask. weight: (R, M), how often resample r holds a volume.
        classes: K names.

    Returns:
        ``dice`` and ``dice NAME`` -> (R,); NaN where no volume with weight has the class.
    """
    known = np.isfinite(dice)
    means = ratio(weight @ np.where(known, dice, 0), weight @ known)
    found = np.isfinite(means)
    whole = ratio(np.where(found, means, 0).sum(axis=1), found.sum(axis=1))
    return {"dice": whole, **{f"dice {name}": means[:, k] for k, name in enumerate(classes)}}


def draw(mask: Ints, count: int, rng: np.random.Generator) -> Ints:
    """At most ``count`` of the voxels (P,), as many of each class; what a small class lacks is left to larger ones."""
    names, sizes = np.unique(mask, return_counts=True)
    drawn, left = [], count
    for place, k in enumerate(np.argsort(sizes, kind="stable")):
        share = min(int(sizes[k]), left // (len(names) - place))
        drawn.append(rng.choice(np.flatnonzero(mask == names[k]), share, replace=False))
        left -= share
    return np.sort(np.concatenate(drawn))


def _sample(
    columns: Hypercolumns, masks: Sequence[Tensor], train: Ints, patients: Groups, voxels: int, seed: int
) -> Samples:
    x, y, stands, whose = [], [], [], []
    for i in train.tolist():
        mask = masks[i].flatten().numpy()
        at = draw(mask, voxels, np.random.default_rng([seed, i]))
        x.append(columns.at(i, at, tuple(masks[i].shape)))
        y.append(mask[at])
        stands.append((np.bincount(mask) / np.maximum(np.bincount(mask[at], minlength=mask.max() + 1), 1))[mask[at]])
        whose.append(np.repeat(patients[i], len(at)))
    return Samples(finite(np.concatenate(x)), *(np.concatenate(part) for part in (y, stands, whose)))


def _chosen(samples: Samples, classes: int, seed: int) -> tuple[float, float]:
    """The penalty and temper of the best Dice on the other half of the patients; of equals the first."""
    names, member = np.unique(samples.patients, return_inverse=True)
    if len(names) == 1:
        return ALONE
    half = (np.random.default_rng(seed).permutation(len(names)) % 2)[member]
    score = np.zeros((len(PENALTIES), len(TEMPERS)))
    for side in (0, 1):
        fitted, held = (samples.at(np.flatnonzero(half == part)) for part in (side, 1 - side))
        weights, bias = _fit(fitted, PENALTIES, classes, ROUGH)
        logits, prior = weights @ held.x.T + bias[..., None], _log_prevalence(fitted, classes)
        for (s, t), temper in np.ndenumerate(np.broadcast_to(TEMPERS, score.shape)):
            called = (logits[s] + temper * prior[:, None]).argmax(axis=0)
            score[s, t] += _estimated_dice(called, held, classes)
    s, t = np.unravel_index(score.argmax(), score.shape)
    return PENALTIES[s], TEMPERS[t]


def _fit(samples: Samples, penalties: Sequence[float], classes: int, tolerance: float) -> tuple[Floats, Floats]:
    """(S, K + 1, D) and (S, K + 1): weights of plain columns at each penalty, and biases."""
    seen, y = np.unique(samples.y, return_inverse=True)
    width = samples.x.shape[1]
    weights = np.zeros((len(penalties), classes + 1, width))
    bias = np.full((len(penalties), classes + 1), -np.inf)
    bias[:, seen] = 0
    if len(seen) == 1:
        return weights, bias
    x, origin, units = principal_axes(samples.x, np.zeros((1, width)), np.eye(width))
    path = fit_path(x, y, [1 / (penalty * len(y)) for penalty in penalties], tolerance)
    weights[:, seen] = path[..., :-1] @ (units - origin).T  # the way to the axes is affine
    bias[:, seen] = path[..., -1] + path[..., :-1] @ origin[0]
    return weights, bias


def _log_prevalence(samples: Samples, classes: int) -> Floats:
    """(K + 1,): of each class among all voxels of the volumes; 0 of an unseen one, which is out in any case."""
    size = np.bincount(samples.y, weights=samples.stands, minlength=classes + 1)
    return np.log(np.where(size > 0, size / size.sum(), 1))


def _estimated_dice(called: Ints, held: Samples, classes: int) -> float:
    """The mean Dice over classes of all held-out volumes together, each sample for the voxels it stands for."""
    pairs = np.bincount(held.y * (classes + 1) + called, weights=held.stands, minlength=(classes + 1) ** 2)
    each = _dice(pairs.reshape(classes + 1, classes + 1))
    known = each[np.isfinite(each)]
    return float(known.mean()) if len(known) else 0.0


def _dice(pairs: NDArray[Any]) -> Floats:
    """(K,) from (K + 1, K + 1) voxels by truth and what they are called."""
    return ratio(2.0 * pairs.diagonal(), pairs.sum(axis=0, dtype=np.float64) + pairs.sum(axis=1))[1:]
