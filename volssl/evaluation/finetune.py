"""Fine-tuning of the whole network with a linear head; every training item gets a held-out score."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from volssl.evaluation.encoder import Encoder
from volssl.evaluation.splits import folds
from volssl.evaluation.target import Floats, Groups, Ints
from volssl.models.norm import defer_statistics
from volssl.types import Source
from volssl.views import ViewsConfig
from volssl.views.views import Views

LOOKS = 10  # at the held-out exams, evenly over the steps
PATIENCE = 4  # looks without an improvement, then it stops


@dataclass(frozen=True, slots=True)
class Recipe:
    """steps: optimiser steps at most. lr: AdamW's peak rate, a half cosine to 0. batch: exams per step."""

    folds: int
    steps: int
    lr: float
    batch: int
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class Tuned:
    """scores (M,) of the test items: mean logit of the folds' networks. oof_scores (N,) of the training ones.

    stopped: at which step each fold's kept network stood.
    """

    scores: Floats
    oof_scores: Floats
    stopped: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Best:
    loss: float
    step: int
    logits: Floats
    state: dict[str, Tensor]


class Classifier(nn.Module):
    """A copy of an encoder and a linear head that starts at zero, so that no draw is needed: logits (B,)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        defer_statistics(self.encoder, False)  # a method's encoder moves its statistics by hand, this loop does not
        self.head = nn.Linear(encoder.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, *region) or (B, C, *size) to (B,)."""
        logits: Tensor = self.head(self.encoder(images).pooled).squeeze(1)
        return logits


def finetune(
    encoder: Encoder,
    train: Source,
    y: Ints,
    test: Source,
    *,
    groups: Groups,
    recipe: Recipe,
    seed: int,
    device: str | torch.device = "cpu",
) -> Tuned:
    """Train one network per fold on the others' exams, and score the fold and the test items with it.

    Of ten looks at the held-out fold, the one with the lowest loss is kept, which makes the fold's scores
    slightly optimistic. They serve for the threshold and the combination of planes, never for a test number.
    Which items, batches and augmentations are seen depends on ``seed`` alone, not on the encoder.

    Args:
        train: N items; y: (N,) 0 or 1. test: M items. groups: (N,) patients, never on both sides of a fold.

    Raises:
        ValueError: a class has fewer than two patients.
    """
    views = light_views(encoder.card.size).build()
    oof, scores, stopped = np.zeros(len(y)), np.zeros(len(test)), []
    parts = folds(y, groups, recipe.folds, seed)
    for fold, (fit, held) in enumerate(parts):
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, fold]).generate_state(1)[0]))
        model = Classifier(encoder).to(device)
        best = _fit(model, train, y, fit, held, views=views, recipe=recipe, generator=generator, device=device)
        model.load_state_dict(best.state)
        oof[held] = best.logits
        scores += predict(model, test, np.arange(len(test)), recipe.batch, device) / len(parts)
        stopped.append(best.step)
    return Tuned(scores, oof, tuple(stopped))


def light_views(size: tuple[int, ...]) -> ViewsConfig:
    """Augmentation that leaves a ligament recognisable: crops of 80 % and more, 10 degrees, little noise."""
    return ViewsConfig(size=size, count=1, crop=(0.8, 1.0), rotate=(-10.0, 10.0), gamma=(0.9, 1.1), noise=(0.0, 0.02))


def positive_weight(y: Ints) -> float:
    """n_negative / n_positive, so that both classes weigh the same in the loss."""
    return float((y == 0).sum() / (y == 1).sum())


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions 0..n-1 for ever: each pass a new permutation in even parts of about ``size``, at least 2."""
    parts = max(1, min(math.ceil(n / size), n // 2))
    while True:
        yield from torch.randperm(n, generator=generator).tensor_split(parts)


def predict(model: nn.Module, source: Source, rows: Ints, batch: int, device: str | torch.device) -> Floats:
    """Logits of the rows' whole views, (len(rows),), in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        parts = [model(_images(source, rows[i : i + batch]).to(device)) for i in range(0, len(rows), batch)]
    return torch.cat(parts).double().cpu().numpy()


def _fit(
    model: Classifier,
    train: Source,
    y: Ints,
    fit: Ints,
    held: Ints,
    *,
    views: Views,
    recipe: Recipe,
    generator: torch.Generator,
    device: str | torch.device,
) -> _Best:
    optimiser = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    weight = torch.tensor(positive_weight(y[fit]), device=device)
    order, every = batches(len(fit), recipe.batch, generator), math.ceil(recipe.steps / LOOKS)
    best, since = _Best(math.inf, 0, np.zeros(len(held)), {}), 0
    for step in range(1, recipe.steps + 1):
        rows = fit[next(order).numpy()]
        seeds = torch.randint(2**62, (len(rows),), generator=generator)
        images = views(_images(train, rows).to(device), seeds)["0"]
        target = torch.as_tensor(y[rows], dtype=torch.float32, device=device)
        model.train()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(F.binary_cross_entropy_with_logits(model(images), target, pos_weight=weight))
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == recipe.steps:
            logits = predict(model, train, held, recipe.batch, device)
            loss, since = _loss(y[held], logits, float(weight)), since + 1
            if loss < best.loss:
                best, since = _Best(loss, step, logits, copy.deepcopy(model.state_dict())), 0
            if since == PATIENCE:
                break
    return best


def _loss(y: Ints, logits: Floats, weight: float) -> float:
    """The training loss in float64."""
    return float(np.mean(np.where(y == 1, weight * np.logaddexp(0, -logits), np.logaddexp(0, logits))))


def _images(source: Source, rows: Ints) -> Tensor:
    return torch.stack([source[int(i)].image for i in rows])
