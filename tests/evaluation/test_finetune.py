"""Fine-tuning of every kind of target: what is learnt, what is left alone, and that no row is scored by what saw it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from volssl.data.image_config import ImageConfig
from volssl.errors import RunError
from volssl.evaluation import FinetuneConfig
from volssl.evaluation import finetune as finetuning
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import Encoder, random_encoder
from volssl.evaluation.finetune import Classifier, feed, finetune, light_views, tune
from volssl.evaluation.fitting import fit, generator_of
from volssl.evaluation.objective import deciding, objective
from volssl.evaluation.ranking import auc
from volssl.evaluation.target import Floats, Groups, Ints, Predicted, Target
from volssl.models import ResNetConfig
from volssl.types import Item

Y = (np.arange(24) % 3 == 0).astype(np.int64)
CONFIG = FinetuneConfig(steps=30, lr=3e-3, batch=4)
SHORT = FinetuneConfig(steps=3, batch=4)


class Boxes:
    """Noise with two boxes, brighter by what ``values`` say; ``read`` remembers which items were asked for."""

    def __init__(self, values: Ints | Floats, seed: int, region: tuple[int, ...] = (8, 24, 24)) -> None:
        self.values, self.seed, self.read, self.region = values.reshape(len(values), -1), seed, list[int](), region

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> Item:
        self.read.append(int(i))
        image = torch.rand(1, *self.region, generator=torch.Generator().manual_seed(1000 * self.seed + int(i)))
        quarter = self.region[-1] // 4
        image[..., quarter:-quarter, quarter : 2 * quarter] += 0.8 * float(max(self.values[i][0], 0))
        image[..., quarter:-quarter, 2 * quarter : -quarter] += 0.8 * float(max(self.values[i][-1], 0))
        return Item(image, (1.0,) * len(self.region), str(i))


@pytest.fixture
def flat(card: Card) -> Encoder:
    """A ResNet-10 of 4 channels on 12 x 12."""
    backbone = ResNetConfig(dims=2, depth=10, stem="small", width=4)
    of_images = {"backbone": backbone, "region": (12, 12), "size": (12, 12), "data": ImageConfig(root="")}
    return random_encoder(card.model_copy(update=of_images), 0)


@pytest.fixture
def encoder(card: Card) -> Encoder:
    return random_encoder(card, 0)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, list[int]]]:
    """(whether it was to learn from, which items of the source) of every batch, in order."""
    calls = []

    def watched(source: Any, rows: Ints, views: Any, device: Any) -> Any:
        inner = feed(source, rows, views, device)

        def images(chosen: Ints, seeds: Tensor | None) -> Tensor:
            calls.append((seeds is not None, rows[chosen].tolist()))
            out: Tensor = inner(chosen, seeds)
            return out

        return images

    monkeypatch.setattr(finetuning, "feed", watched)
    return calls


def tuned(flat: Encoder, source: Boxes, target: Target, groups: Groups | None = None, **changes: Any) -> Predicted:
    """The first half of the items is learnt, the second scored."""
    half = len(source) // 2
    train, test = np.arange(half), np.arange(half, len(source))
    config = FinetuneConfig(**({"steps": 40, "lr": 5e-3, "batch": 8} | changes))
    owners = np.arange(half) if groups is None else groups
    return tune(flat, source, train, target.at(train), test, groups=owners, config=config, seed=0)


def classes(k: int, n: int) -> Target:
    return Target("classes", (np.arange(n) % k).astype(np.int64), tuple("abcd"[:k]))


def labels(n: int) -> Target:
    """Two that vary on their own; every fifth of the second is unknown."""
    values = np.column_stack([np.arange(n) % 2, np.arange(n) // 2 % 2])
    values[4::5, 1] = -1
    return Target("labels", values.astype(np.int64), ("p", "q"))


def test_three_classes_are_learnt(flat: Encoder) -> None:
    """Boxes of three brightnesses: nearly all ranked right, log-odds, and probabilities that sum to 1."""
    target = classes(3, 96)
    said = tuned(flat, Boxes(target.values, 0, (12, 12)), target)
    assert said.probability is not None
    assert deciding(target.at(np.arange(48, 96)), said.score) > 0.85
    assert said.score.shape == said.probability.shape == (48, 3)
    assert np.allclose(said.probability.sum(1), 1)
    odds = np.log(said.probability / (1 - said.probability))  # the classes are equally frequent
    assert np.allclose(said.score, odds, atol=1e-4)
    assert said.called is None


def test_labels_are_learnt_where_they_are_known(flat: Encoder) -> None:
    target = labels(96)
    said = tuned(flat, Boxes(target.values, 0, (12, 12)), target, steps=80)
    assert said.called is not None
    assert deciding(target.at(np.arange(48, 96)), said.score) > 0.85
    assert said.score.shape == said.called.shape == (48, 2)


def test_a_number_is_learnt_in_its_unit(flat: Encoder) -> None:
    """50 + 20 x brightness: predicted to a part of its spread, not in standard deviations."""
    bright = np.random.default_rng(0).random(96)
    target = Target("number", 50 + 20 * bright, ("age",))
    said = tuned(flat, Boxes(bright, 0, (12, 12)), target, steps=80)
    assert deciding(target.at(np.arange(48, 96)), said.score) > 0.5
    assert said.probability is None
    assert said.called is None


def test_shuffled_labels_teach_nothing(flat: Encoder) -> None:
    """Negative control: 48 test rows, AUC 0.5 with a standard error of sqrt(49 / (12 * 24 * 24)) = 0.084."""
    y = np.random.default_rng(0).permutation(classes(2, 96).values)
    target = Target("classes", y, ("no", "yes"))
    said = tuned(flat, Boxes(np.zeros(96), 0, (12, 12)), target)
    assert deciding(target.at(np.arange(48, 96)), said.score) == pytest.approx(0.5, abs=0.25)


def test_two_classes_have_a_threshold_and_a_prevalence(flat: Encoder) -> None:
    """A quarter is positive: a balanced logit z has probability sigmoid(z + log(1/3))."""
    target = Target("classes", (np.arange(48) % 4 == 0).astype(np.int64), ("no", "yes"))
    said = tuned(flat, Boxes(target.values, 0, (12, 12)), target, steps=5)
    assert said.probability is not None
    assert said.called is not None
    assert np.allclose(said.probability[:, 1], 1 / (1 + 3 * np.exp(-said.score)))
    assert said.score[said.called].min() > said.score[~said.called].max()


def test_neither_test_rows_nor_held_out_patients_are_learnt(flat: Encoder, fed: list[tuple[bool, list[int]]]) -> None:
    """24 rows of 12 patients learn or say when to stop; rows 24 to 47 are read last, once each and not augmented."""
    target, groups = classes(2, 48), np.repeat(np.arange(12), 2)
    target = Target("classes", np.concatenate([groups % 2, groups % 2]), target.names)
    tuned(flat, Boxes(target.values, 0, (12, 12)), target, groups, steps=20)
    learnt = {i for learns, rows in fed if learns for i in rows}
    looked = [i for learns, rows in fed if not learns for i in rows]
    held = {i for i in looked if i < 24}
    assert looked[-24:] == list(range(24, 48))
    assert not {i for i in looked[:-24] if i >= 24}
    assert learnt | held == set(range(24))
    assert not set(groups[list(learnt)]) & set(groups[list(held)])
    assert {0, 1} == set(groups[list(held)] % 2)


@pytest.mark.parametrize("patients", [1, 2])
def test_the_smallest_budgets(flat: Encoder, patients: int, fed: list[tuple[bool, list[int]]]) -> None:
    """Two patients per class: one of each says when to stop. One per class: none can, all are learnt to the end."""
    train, test = np.arange(2 * patients), np.arange(8, 12)
    target = classes(2, 12)
    config = FinetuneConfig(steps=10, batch=4)
    said = tune(
        flat, Boxes(target.values, 0, (12, 12)), train, target.at(train), test, groups=train, config=config, seed=0
    )
    assert np.isfinite(said.score).all()
    assert said.called is not None
    if patients == 1:
        assert np.array_equal(said.called, said.score >= 0)
        assert [rows for learns, rows in fed if not learns] == [test.tolist()]
    else:
        assert {len(rows) for learns, rows in fed if not learns and max(rows) < 8} == {2}


def test_a_head_alone_leaves_the_encoder_as_it_was(flat: Encoder) -> None:
    """Every weight and buffer, bit by bit, and batch norm in evaluation mode; the head itself moves."""
    source, target = Boxes(Y, 0, (12, 12)), Target("classes", Y, ("no", "yes"))
    model = Classifier(flat, frozen=True)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    images = feed(source, np.arange(24), light_views(flat.card.size).build(), "cpu")
    groups = model.parameter_groups(1e-2, 1.0)
    none, aim = np.arange(0), objective(target)
    fit(model, images, target, np.arange(24), none, aim, parameters=groups, config=CONFIG, generator=generator_of(0))
    assert all(torch.equal(before[k], v) for k, v in model.encoder.state_dict().items())
    assert model.head.weight.abs().max() > 0
    model.train()
    assert model.training
    assert not model.encoder.training


@pytest.mark.parametrize("layers", ["all", "head"])
def test_layers_are_what_is_trained(flat: Encoder, layers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``all``, the stem moves at lr * 0.5^5 of the head's rate."""
    seen: dict[str, Any] = {}

    def watched(model: Classifier, *rest: Any, parameters: Any, **named: Any) -> Any:
        seen.update(groups=parameters, frozen=model.frozen)
        return fit(model, *rest, parameters=parameters, **named)

    monkeypatch.setattr(finetuning, "fit", watched)
    tuned(flat, Boxes(Y, 0, (12, 12)), Target("classes", Y, ("no", "yes")), layers=layers, layer_decay=0.5, steps=2)
    rates = [group["initial_lr"] for group in seen["groups"]]
    assert rates == pytest.approx([5e-3 * 0.5**d for d in range(6)] if layers == "all" else [5e-3])
    assert seen["frozen"] == (layers == "head")


def test_views_may_be_given(flat: Encoder) -> None:
    seen = []
    light = light_views(flat.card.size).build()

    def own(images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        seen.append(len(images))
        return light(images, seeds)

    config, target = FinetuneConfig(steps=3, batch=4), Target("classes", Y, ("no", "yes"))
    views: Any = own
    tune(
        flat,
        Boxes(Y, 0, (12, 12)),
        np.arange(24),
        target,
        np.arange(2),
        groups=np.arange(24),
        config=config,
        seed=0,
        views=views,
    )
    assert len(seen) == 3


def test_what_is_no_number_is_one_line(flat: Encoder) -> None:
    """A rate of 10^30 is no network's; the message names it."""
    with pytest.raises(RunError, match=r"lower its lr, which is 1e\+30"):
        tuned(flat, Boxes(Y, 0, (12, 12)), Target("classes", Y, ("no", "yes")), lr=1e30)


def test_learns_and_leaves_the_encoder_alone(encoder: Encoder) -> None:
    """A bright box is found in test items; the given encoder keeps its weights, buffers and mode."""
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    train, test = Boxes(Y, 0), Boxes(Y, 1)
    tuned = finetune(encoder, train, Y, test, groups=np.arange(24), most=2, config=CONFIG, seed=0)
    assert auc(Y, tuned.scores, np.ones((1, 24)))[0] > 0.9
    assert auc(Y, tuned.oof_scores, np.ones((1, 24)))[0] > 0.7
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert not encoder.training
    assert all(1 <= step <= CONFIG.steps for step in tuned.stopped)


def test_the_seed_is_all(encoder: Encoder) -> None:
    """Same seed, same scores whatever the global generator; another seed, others."""

    def scores(seed: int, noise: int) -> list[float]:
        torch.manual_seed(noise)
        tuned = finetune(
            encoder, Boxes(Y, 0), Y, Boxes(Y[:4], 1), groups=np.arange(24), most=2, config=SHORT, seed=seed
        )
        return [float(score) for score in tuned.scores]

    assert scores(0, 1) == scores(0, 2)
    assert scores(0, 1) != scores(1, 1)


def test_two_encoders_see_the_same_items_in_the_same_order(card: Card) -> None:
    """So that a difference between encoders is paired."""
    read = []
    for seed in (0, 1):
        train = Boxes(Y, 0)
        finetune(
            random_encoder(card, seed), train, Y, Boxes(Y[:2], 1), groups=np.arange(24), most=2, config=SHORT, seed=5
        )
        read.append(train.read)
    assert read[0] == read[1]


def test_no_item_is_scored_by_a_network_that_learnt_it(encoder: Encoder, fed: list[tuple[bool, list[int]]]) -> None:
    """Two folds of 12: what is read for a step and what for a look are never the same; each item is looked at once."""
    one = FinetuneConfig(steps=1, batch=12)
    finetune(encoder, Boxes(Y, 0), Y, Boxes(Y[:2], 1), groups=np.arange(24), most=2, config=one, seed=0)
    learnt, looked = ([rows for learns, rows in fed if learns is which and len(rows) == 12] for which in (True, False))
    assert [sorted(a + b) for a, b in zip(learnt, looked, strict=True)] == [list(range(24))] * 2
    assert sorted(looked[0] + looked[1]) == list(range(24))


def test_the_head_starts_at_zero(encoder: Encoder) -> None:
    """No draw is needed, and every encoder starts from the same logits: 0."""
    before = torch.random.get_rng_state()
    model = Classifier(encoder, 3).eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(model(torch.rand(2, 1, 6, 16, 16)), torch.zeros(2, 3))
