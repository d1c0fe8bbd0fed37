"""Fine-tuning: the whole network, or its head alone, for classes, labels or a number."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from volssl.evaluation import FinetuneConfig
from volssl.evaluation.encoder import Encoder
from volssl.evaluation.fitting import Feed, Report, fit, generator_of, outputs_of, zero_head
from volssl.evaluation.layers import decayed
from volssl.evaluation.objective import objective
from volssl.evaluation.splits import folds, held_out
from volssl.evaluation.target import Floats, Groups, Ints, Predicted, Target
from volssl.models.norm import defer_statistics
from volssl.types import Source
from volssl.views import ViewsConfig
from volssl.views.views import Views

TEARS = ("none", "torn")


@dataclass(frozen=True, slots=True)
class Tuned:
    """scores (M,) of the test items: mean logit of the folds' networks. oof_scores (N,) of the training ones.

    stopped: at which step each fold's kept network stood.
    """

    scores: Floats
    oof_scores: Floats
    stopped: tuple[int, ...]


class Classifier(nn.Module):
    """A copy of an encoder and a linear head that starts at zero.

    Args:
        outputs: O of the head. frozen: the encoder stays in evaluation mode and gets no gradient.
    """

    def __init__(self, encoder: Encoder, outputs: int = 1, *, frozen: bool = False) -> None:
        super().__init__()
        self.encoder, self.frozen = copy.deepcopy(encoder), frozen
        self.encoder.requires_grad_(not frozen)
        defer_statistics(self.encoder, False)  # a method's encoder moves its statistics by hand, this loop does not
        self.head = zero_head(encoder.width, outputs)

    def train(self, mode: bool = True) -> Self:
        """As any module; of a frozen encoder, the head alone."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, *region) or (B, C, *size) to (B, O)."""
        outputs: Tensor = self.head(self.encoder(images).pooled)
        return outputs

    def parameter_groups(self, lr: float, decay: float) -> list[dict[str, Any]]:
        """What is trained, for an optimiser: rates fall by ``decay`` from the head to the stem."""
        if self.frozen:
            return [{"params": list(self.head.parameters()), "lr": lr}]
        return decayed(self.head, self.encoder.network, lr, decay)


def tune(
    encoder: Encoder,
    source: Source,
    train_rows: Ints,
    target: Target,
    test_rows: Ints,
    *,
    groups: Groups,
    config: FinetuneConfig,
    seed: int,
    device: str | torch.device = "cpu",
    views: Views | None = None,
    report: Report | None = None,
) -> Predicted:
    """Train a copy of the encoder with a linear head on the training rows, and score the test rows with it.

    ``config.held`` of the training patients, stratified, say when to stop (see ``fit``) and where the thresholds are;
    both make nothing of the test rows. Where they are too few to spare one of each class, all are learnt to the last
    step and the thresholds are the balanced point. With ``layers: head`` the encoder gives the same features to the
    same view, and the head still sees a new view at each step, unlike a linear probe. What is seen depends on ``seed``
    alone, not on the encoder.

    Args:
        source: all items. train_rows: (N,) and test_rows: (M,) positions in it. target: of the N training rows, so that
        no answer of a test row can be seen. groups: (N,) patients. views: augmentation; light where absent.
        report: (steps done, at most).

    Raises:
        ValueError: one class alone. RunError: the loss is not finite.
    """
    rows, held = held_out(target, groups, config.held, seed)
    aim = objective(target.at(rows))
    model = Classifier(encoder, aim.outputs, frozen=config.layers == "head").to(device)
    views = views or light_views(encoder.card.size).build()
    best = fit(
        model,
        feed(source, train_rows, views, device),
        target,
        rows,
        held,
        aim,
        parameters=model.parameter_groups(config.lr, config.layer_decay),
        config=config,
        generator=generator_of(seed, 0),
        report=report,
    )
    test = outputs_of(model, feed(source, test_rows, views, device), np.arange(len(test_rows)), config.batch)
    return aim.predicted(test, target, aim.cuts(best.outputs, target.at(held)))


def finetune(
    encoder: Encoder,
    train: Source,
    y: Ints,
    test: Source,
    *,
    groups: Groups,
    most: int,
    config: FinetuneConfig,
    seed: int,
    device: str | torch.device = "cpu",
) -> Tuned:
    """Train one network per fold on the others' exams, and score the fold and the test items with it.

    Of ten looks at the held-out fold, the one with the lowest loss is kept, which makes the fold's scores
    slightly optimistic. They serve for the threshold and the combination of planes, never for a test number.
    Which items, batches and augmentations are seen depends on ``seed`` alone, not on the encoder.

    Args:
        train: N items; y: (N,) 0 or 1. test: M items. groups: (N,) patients, never on both sides of a fold.
        most: folds at most. config: ``held`` is not used, a fold is.

    Raises:
        ValueError: a class has fewer than two patients. RunError: the loss is not finite.
    """
    views, target = light_views(encoder.card.size).build(), Target("classes", y, TEARS)
    learnt, tested = (feed(one, np.arange(len(one)), views, device) for one in (train, test))
    oof, scores, stopped = np.zeros(len(y)), np.zeros(len(test)), []
    parts = folds(y, groups, most, seed)
    for fold, (rows, held) in enumerate(parts):
        aim = objective(target.at(rows))
        model = Classifier(encoder, frozen=config.layers == "head").to(device)
        rates, generator = model.parameter_groups(config.lr, config.layer_decay), generator_of(seed, fold)
        best = fit(model, learnt, target, rows, held, aim, parameters=rates, config=config, generator=generator)
        oof[held] = best.outputs[:, 0]
        scores += outputs_of(model, tested, np.arange(len(test)), config.batch)[:, 0] / len(parts)
        stopped.append(best.step)
    return Tuned(scores, oof, tuple(stopped))


def light_views(size: tuple[int, ...]) -> ViewsConfig:
    """Augmentation that leaves a ligament recognisable: crops of 80 % and more, 10 degrees, little noise."""
    return ViewsConfig(size=size, count=1, crop=(0.8, 1.0), rotate=(-10.0, 10.0), gamma=(0.9, 1.1), noise=(0.0, 0.02))


def feed(source: Source, rows: Ints, views: Views, device: str | torch.device) -> Feed:
    """Images of some rows of a source, by their position among ``rows``: as views where there are seeds."""

    def images(chosen: Ints, seeds: Tensor | None) -> Tensor:
        whole = torch.stack([source[int(rows[i])].image for i in chosen]).to(device)
        return whole if seeds is None else views(whole, seeds)["0"]

    return images
