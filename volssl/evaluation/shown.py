"""What the report draws: thumbnails, views as the model saw them, and answers of the largest label budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from volssl.evaluation import MasksConfig, StudyConfig, VoxelsConfig
from volssl.evaluation.answers import Answers, fits
from volssl.evaluation.contestants import Contestant
from volssl.evaluation.findings import Pictured
from volssl.evaluation.labelled import Budget
from volssl.evaluation.leakage import Known
from volssl.evaluation.outlines import outlined
from volssl.names import shown_id
from volssl.types import Source
from volssl.views import ViewsConfig

EDGE = 96  # of a thumbnail, at most
ITEMS, VIEWS = 4, 4  # whose views are shown, and how many of each


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of where an encoder came from: the views that it was trained on, the log, and what it has seen."""

    views: ViewsConfig | None = None
    history: tuple[Mapping[str, float], ...] = ()
    known: Known | None = None


def pictured(
    config: StudyConfig,
    answers: Answers,
    origin: Callable[[Contestant], Origin],
    budgets: Mapping[str, Budget],
) -> tuple[Pictured, ...]:
    """Of each contestant, the answers of seed 0 with most labels, and pictures of the test rows; of masks, of one."""
    data = answers.data
    most = list(budgets.values())[-1]
    if isinstance(data.config.target, MasksConfig):
        probes = [protocol for protocol in config.protocols if isinstance(protocol, VoxelsConfig)]
        first = next((one for one in data.everybody if one.build and not one.floor), None)
        return (outlined(answers, first, probes[0], most),) if first and probes else ()
    found = []
    thumbnails: dict[int, NDArray[np.uint8]] = {}  # of each source, made once
    for one in data.everybody:
        source, rows = data.source(one.card), data.rows[data.test]
        if id(source) not in thumbnails:
            thumbnails[id(source)] = np.stack([thumbnail(source[int(i)].image) for i in rows])
        views = origin(one).views
        found.append(
            Pictured(
                data=data.name,
                encoder=one.name,
                target=data.target.at(data.test),
                groups=data.table.patients[data.test],
                predicted={
                    protocol.shown: answers.predicted(one, protocol, most, 0)  # type: ignore[arg-type]
                    for protocol in config.protocols
                    if fits(protocol, one, masks=False)
                },
                features=answers.features(one, 0)[data.test],
                ids=tuple(shown_id(source.ids[int(i)]) for i in rows),
                thumbnails=thumbnails[id(source)],
                views=None if views is None else seen(source, rows[:: max(1, len(rows) // ITEMS)][:ITEMS], views),
            )
        )
    return tuple(found)


def thumbnail(image: Tensor) -> NDArray[np.uint8]:
    """(C, *spatial) to (rows, columns) or (rows, columns, 3) bytes: of a volume, the slice in the middle."""
    plane = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    plane = plane if len(plane) == 3 else plane[:1]
    low, high = (0.0, 1.0) if len(plane) == 3 else (float(plane.min()), float(plane.max()))
    scaled = ((plane - low) / (high - low or 1.0)).clamp(0, 1)
    shrink = EDGE / max(plane.shape[1:])
    if shrink < 1:
        scaled = F.interpolate(scaled[None], scale_factor=shrink, mode="area")[0]
    pixels: NDArray[np.uint8] = (255 * scaled).round().byte().movedim(0, -1).numpy()
    return pixels if pixels.shape[-1] == 3 else pixels[..., 0]


def seen(source: Source, rows: NDArray[Any], views: ViewsConfig) -> NDArray[np.uint8]:
    """(items, views, rows, columns[, 3]): the global views of some items, from seeds of their own."""
    images = torch.stack([source[int(i)].image for i in rows])
    made = views.build()(images, torch.arange(len(rows)))
    chosen = [made[str(i)] for i in range(min(views.count, VIEWS))]
    return np.stack([np.stack([thumbnail(view[i]) for view in chosen]) for i in range(len(rows))])
