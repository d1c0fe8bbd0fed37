"""Items changed by a known strength: what a model that was fitted to clean images makes of turned or noisy ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from volssl.data.image_config import Coloured
from volssl.data.slide_config import SlideConfig
from volssl.evaluation import RobustnessConfig
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import Encoder
from volssl.evaluation.features import extract
from volssl.types import Item, Source
from volssl.views import ViewsConfig
from volssl.views.views import Views


@dataclass(frozen=True, slots=True)
class Strength:
    """A change of images. what: a key of ``CHANGES``. axis: its name with the unit. identity: it changes nothing."""

    what: str
    axis: str
    value: float
    identity: bool


CHANGES = {  # by field of RobustnessConfig: setting of ViewsConfig, axis of a curve, strength that changes nothing
    "rotation": ("rotate", "rotation, degrees", 0.0),
    "scale": ("scale", "scale, magnification", 1.0),
    "intensity": ("gamma", "intensity, gamma", 1.0),
    "noise": ("noise", "noise, sd", 0.0),
    "blur": ("blur", "blur, sd in voxels", 0.0),
}


def strengths(config: RobustnessConfig) -> Iterator[Strength]:
    """Every strength asked for, change by change."""
    for what, (_, axis, identity) in CHANGES.items():
        for value in getattr(config, what):
            yield Strength(what, axis, value, value == identity)


def perturbed(size: tuple[int, ...], what: str, strength: float, *, joint: bool = False) -> Views:
    """What makes the whole view (``"0"``) changed by exactly this strength; at the identity it is the clean view.

    Args:
        size: of the view. what: a key of ``CHANGES``. Rotation (clockwise) and scale are in the plane, about its
        middle, with the edge repeated beyond the image. Intensity is an exponent between the least and the greatest
        value, of each channel or of all (``joint``). Noise is in the units of the image. Blur is in the plane.

    Raises:
        ValueError: a strength that no view can have, such as a magnification of 0.
    """
    changed = {CHANGES[what][0]: (strength, strength), "joint": joint}
    return Views(ViewsConfig.model_validate({"size": size, "count": 1, **changed}))


class Perturbed:
    """A source whose items are another's, changed: images (C, *size) that encoders and raw pixels take as they are.

    Noise is a function of ``seed`` and of the item's position, whoever looks at it.
    """

    def __init__(self, source: Source, views: Views, seed: int) -> None:
        self.source, self.views, self.seed = source, views, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Item:
        item = self.source[i]
        drawn = int(np.random.SeedSequence([self.seed, i]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return replace(item, image=self.views(item.image[None], torch.tensor([drawn]))["0"][0])


def features_under(
    encoder: Encoder,
    source: Source,
    what: str,
    strength: float,
    *,
    seed: int,
    batch: int = 8,
    device: str | torch.device = "cpu",
) -> NDArray[np.float32]:
    """(N, D) as ``features.extract``, of the items changed by this strength; see ``perturbed``."""
    views = perturbed(encoder.card.size, what, strength, joint=coloured(encoder.card))
    return extract(encoder, Perturbed(source, views, seed), batch=batch, device=device)


def coloured(card: Card) -> bool:
    """Whether the channels are red, green and blue, of which a change of intensity keeps the hue."""
    data = card.preprocessing
    return isinstance(data, SlideConfig) or (isinstance(data, Coloured) and data.colour == "rgb")
