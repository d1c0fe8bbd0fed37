"""Where published weights come from and how they are made to fit (torch-free)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from volssl.schema import Schema


class WeightsConfig(Schema):
    """Weights that a backbone starts from instead of chance.

    path: a file as published (.pth, .pth.tar, .ckpt, .safetensors) or the folder of an encoder trained here.

    channels: what to do where the weights saw C channels and the images have N. ``refuse`` says so and stops.
    ``sum``: each of the N gets the sum of the C divided by N, so no channel is told from another. ``repeat``:
    the C are used in turn, each divided by how often it is used, for N >= C. Either way an image that is the
    same in all channels answers as it did.

    inflate: how 2D weights become 3D (Carreira and Zisserman 2017, arXiv 1705.07750). true: a kernel is repeated
    along the slices and divided by their number. centre: it stands in the middle slice, with zeros beside it.
    Of a volume that is the same in all slices, a ResNet's features are the image's: everywhere with centre, and
    with true where no kernel reaches past the first or last slice. A ViT's positions are repeated along the slices.
    """

    path: str = Field(min_length=1)
    channels: Literal["refuse", "sum", "repeat"] = "refuse"
    inflate: bool | Literal["centre"] = False
