"""Small labelled sets of pictures whose answer is planted, with tables, and an encoder for them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from volssl.data.image_config import ImageConfig
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import build_network, save_encoder
from volssl.models import ResNetConfig

SIZE = (16, 16)


def pictures(folder: Path, y: Iterable[float], *, strength: float = 60.0, seed: int = 0) -> list[str]:
    """One PNG for each number: noise, and in its middle a square brighter by ``strength`` times the number."""
    rng, names = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for i, value in enumerate(y):
        pixels = rng.integers(40, 100, size=(20, 20)).astype(float)
        pixels[6:14, 6:14] += strength * value
        names.append(f"{i:03}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / names[-1])
    return names


def table(path: Path, columns: Mapping[str, Iterable[object]]) -> Path:
    """A CSV of these columns."""
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def encoder(folder: Path, *, width: int = 4, seed: int = 0) -> Path:
    """A saved random encoder of grey pictures, called trained: good enough for a bright square."""
    card = Card(
        backbone=ResNetConfig(dims=2, depth=10, stem="small", norm="batch", width=width),
        channels=1,
        region=SIZE,
        size=SIZE,
        data=ImageConfig(root="", cache=""),
        method="simclr",
        step=10,
        seed=seed,
    )
    with torch.random.fork_rng(devices=[]):
        save_encoder(folder, build_network(card, seed), card)
    return folder
