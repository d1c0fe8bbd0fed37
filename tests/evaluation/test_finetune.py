"""Fine-tuning: batches, class weight, seeds, and that no exam is scored by a network that saw it."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from volssl.evaluation.card import Card
from volssl.evaluation.encoder import Encoder, random_encoder
from volssl.evaluation.finetune import Classifier, Recipe, batches, finetune, positive_weight
from volssl.evaluation.splits import folds
from volssl.evaluation.statistics import auc
from volssl.evaluation.target import Floats, Ints
from volssl.types import Item

Y = (np.arange(24) % 3 == 0).astype(np.int64)
RECIPE = Recipe(folds=2, steps=30, lr=3e-3, batch=4)


class Boxes:
    """Noise with a box in the middle, brighter where the label is 1; ``read`` remembers which were asked for."""

    def __init__(self, y: Ints, seed: int) -> None:
        self.y, self.seed, self.read = y, seed, list[int]()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Item:
        self.read.append(i)
        image = torch.rand(1, 8, 24, 24, generator=torch.Generator().manual_seed(1000 * self.seed + i))
        image[:, 2:6, 6:18, 6:18] += 0.8 * float(self.y[i])
        return Item(image, (1.0, 1.0, 1.0), str(i))


@pytest.fixture
def encoder(card: Card) -> Encoder:
    return random_encoder(card, 0)


def test_class_weight_is_not_inverted() -> None:
    """BYOLMed3D defect: n_pos/n_neg. 8 tears and 16 without: a tear weighs 16/8 = 2, not 1/2."""
    assert positive_weight(Y) == 2.0


def test_every_pass_deals_every_item_once_in_a_new_order() -> None:
    """BYOLMed3D defect: items from a global counter, so shuffling did nothing. 10 items, batch 4: 4 + 3 + 3."""
    order = batches(10, 4, torch.Generator().manual_seed(0))
    passes = [[part.tolist() for part in islice(order, 3)] for _ in range(2)]
    assert [len(part) for part in passes[0]] == [4, 3, 3]
    flat = [[i for part in one for i in part] for one in passes]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(10))
    assert flat[0] != flat[1] != list(range(10))


def test_positives_do_not_stand_in_one_block() -> None:
    """BYOLMed3D defect: the oversampled positives came as one block at the end. Here no item comes twice.

    8 positives of 32, batch 4: in 50 passes the mean position of the positives is 15.5 (sd of the mean 0.4).
    """
    order = batches(32, 4, torch.Generator().manual_seed(0))
    places = []
    for _ in range(50):
        dealt = torch.cat(list(islice(order, 8)))
        places += [int((dealt == positive).nonzero()) for positive in range(8)]
    assert np.mean(places) == pytest.approx(15.5, abs=1.5)


@pytest.mark.parametrize(("n", "size"), [(2, 8), (3, 2), (9, 8), (5, 2)])
def test_no_batch_of_one(n: int, size: int) -> None:
    """One item has no batch statistics: a rest of one joins the others."""
    dealt = 0
    for part in batches(n, size, torch.Generator().manual_seed(0)):
        assert len(part) >= 2
        dealt += len(part)
        if dealt == n:
            break


def test_learns_and_leaves_the_encoder_alone(encoder: Encoder) -> None:
    """A bright box is found in test items; the given encoder keeps its weights, buffers and mode."""
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    train, test = Boxes(Y, 0), Boxes(Y, 1)
    tuned = finetune(encoder, train, Y, test, groups=np.arange(24), recipe=RECIPE, seed=0)
    assert auc(Y, tuned.scores, np.ones((1, 24)))[0] > 0.9
    assert auc(Y, tuned.oof_scores, np.ones((1, 24)))[0] > 0.7
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert not encoder.training
    assert all(1 <= step <= RECIPE.steps for step in tuned.stopped)


def test_the_seed_is_all(encoder: Encoder) -> None:
    """Same seed, same scores whatever the global generator; another seed, others."""
    short = Recipe(folds=2, steps=3, lr=1e-3, batch=4)

    def scores(seed: int, noise: int) -> list[float]:
        torch.manual_seed(noise)
        tuned = finetune(encoder, Boxes(Y, 0), Y, Boxes(Y[:4], 1), groups=np.arange(24), recipe=short, seed=seed)
        return [float(score) for score in tuned.scores]

    assert scores(0, 1) == scores(0, 2)
    assert scores(0, 1) != scores(1, 1)


def test_two_encoders_see_the_same_items_in_the_same_order(card: Card) -> None:
    """So that a difference between encoders is paired."""
    read = []
    for seed in (0, 1):
        train = Boxes(Y, 0)
        short = Recipe(folds=2, steps=3, lr=1e-3, batch=4)
        finetune(random_encoder(card, seed), train, Y, Boxes(Y[:2], 1), groups=np.arange(24), recipe=short, seed=5)
        read.append(train.read)
    assert read[0] == read[1]


def test_no_item_is_scored_by_a_network_that_learnt_it(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by the networks themselves: what is read for a step and what for a look are never the same items."""
    train = Boxes(Y, 0)
    learnt: set[int] = set()
    looked: list[int] = []

    def loss(y: Ints, logits: Floats, weight: float) -> float:
        assert weight == positive_weight(Y)
        assert len(y) == len(logits) == 12
        held = train.read[-12:]
        looked.extend(held)
        learnt.update(train.read[:-12])
        assert not learnt & set(held)
        learnt.clear()
        train.read.clear()
        return 0.0

    monkeypatch.setattr("volssl.evaluation.finetune._loss", loss)
    short = Recipe(folds=2, steps=1, lr=1e-3, batch=4)
    finetune(random_encoder(card, 0), train, Y, Boxes(Y[:2], 1), groups=np.arange(24), recipe=short, seed=0)
    assert sorted(looked) == list(range(24))


def test_early_stop_keeps_the_best_look(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses 3 1 2 2 2 2 ...: the second of ten looks is kept, and after four more without a gain it stops."""
    told = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0, *[9.0] * 20])
    monkeypatch.setattr("volssl.evaluation.finetune._loss", lambda *_: next(told))
    recipe = Recipe(folds=2, steps=20, lr=1e-3, batch=4)
    tuned = finetune(encoder, Boxes(Y, 0), Y, Boxes(Y[:2], 1), groups=np.arange(24), recipe=recipe, seed=0)
    assert tuned.stopped[0] == 4  # every second step is looked at
    assert len(list(told)) == 20 - 5  # the other fold: 9 9 9 9 9, no gain after the first


def test_the_head_starts_at_zero(encoder: Encoder) -> None:
    """No draw is needed, and every encoder starts from the same logits: 0."""
    model = Classifier(encoder).eval()
    assert torch.equal(model(torch.rand(2, 1, 6, 16, 16)), torch.zeros(2))
    assert len(folds(Y, np.arange(24), 3, 0)) == 3
