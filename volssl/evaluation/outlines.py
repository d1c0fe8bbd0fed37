"""Pictures of segmentations: a slice of a test volume with the outline of its mask and of what the probe calls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from volssl.evaluation import VoxelsConfig
from volssl.evaluation.answers import Answers
from volssl.evaluation.contestants import Contestant
from volssl.evaluation.findings import Pictured
from volssl.evaluation.hypercolumns import Hypercolumns, encoder_maps
from volssl.evaluation.labelled import Budget
from volssl.evaluation.mrnet import Rows
from volssl.evaluation.target import Ints
from volssl.evaluation.voxels import dice, fit_voxels, segment
from volssl.names import shown_id

ITEMS = 6  # of one encoder
EDGE = 144  # pixels at most
TRUE, CALLED = (64, 160, 255), (255, 150, 32)  # a solid line, and a dashed one
DASH = 3  # pixels


def outlined(answers: Answers, one: Contestant, protocol: VoxelsConfig, most: Budget) -> Pictured:
    """Some test volumes of the first part, segmented by the probe of seed 0 with the most labels, fitted anew."""
    data, part = answers.data, answers.data.parts[0]
    assert one.build is not None
    answers.report(f"{data.name}: outlines of {one.name}")
    source, masks = data.source(one.card), data.masks_of(one.card)
    columns = Hypercolumns(encoder_maps(one.build(0)), Rows(source, data.rows))
    model = fit_voxels(
        columns,
        masks,
        data.chosen(0, most, 0),
        patients=data.table.patients,
        classes=len(data.classes),
        voxels=protocol.voxels,
        seed=0,
    )
    shown = part.test[np.unique(np.linspace(0, len(part.test) - 1, ITEMS).round().astype(int))]
    ids, images = [], []
    for i in shown.tolist():
        called, row = segment(columns, model, i, masks[i].shape), int(data.rows[i])
        each = dice(called, masks[i], len(data.classes))
        score = f"{np.nanmean(each):.2f}" if np.isfinite(each).any() else "-"
        ids.append(f"{shown_id(source.ids[row])}, Dice {score}")
        images.append(picture(source[row].image, masks[i], called))
    return Pictured(
        data=data.name,
        encoder=one.name,
        target=data.target.at(shown),
        groups=data.table.patients[shown],
        predicted={},
        features=None,
        ids=tuple(ids),
        outlines=np.stack(images),
    )


def picture(image: Tensor, truth: Tensor, called: Tensor) -> NDArray[np.uint8]:
    """(rows, columns, 3): the slice that holds most of the mask, its outlines blue, those of what was called dashed.

    Args:
        image: (C, *region), of which the first channel is shown. truth, called: (*region) int64, 0 for none.
    """
    at = int((truth > 0).flatten(1).sum(1).argmax()) if (truth > 0).any() else len(truth) // 2
    grey = image[0, at].double().numpy()
    low, high = float(grey.min()), float(grey.max())
    times = max(1, EDGE // max(grey.shape))
    enlarged = np.kron((grey - low) / (high - low or 1.0), np.ones((times, times)))
    pixels = np.repeat((255 * enlarged).round().astype(np.uint8)[..., None], 3, axis=2)
    true, ours = (border(np.kron(side[at].numpy(), np.ones((times, times), np.int64))) for side in (truth, called))
    rows, columns = np.indices(true.shape)
    pixels[true] = TRUE
    pixels[ours & ((rows + columns) // DASH % 2 == 0)] = CALLED
    return pixels


def border(labels: Ints) -> NDArray[np.bool_]:
    """(rows, columns): pixels of a class that have a neighbour, above, below or beside them, of another."""
    padded = np.pad(labels, 1)
    others = [np.roll(padded, shift, axis)[1:-1, 1:-1] for axis in (0, 1) for shift in (1, -1)]
    found: NDArray[np.bool_] = (labels > 0) & np.any([other != labels for other in others], axis=0)
    return found
