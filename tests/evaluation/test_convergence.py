"""The saving by hand on given curves, intervals and sentences, and real runs of encoders that know and do not."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from volssl.data.image_config import ImageConfig
from volssl.errors import DataError
from volssl.evaluation import ConvergenceConfig, convergence, finetune
from volssl.evaluation.card import Card
from volssl.evaluation.convergence import Reached, converge, look_steps, reach, saving_of, summarise, trailing_mean
from volssl.evaluation.encoder import Encoder
from volssl.evaluation.findings import Curve, Saving
from volssl.evaluation.target import Ints, Target
from volssl.models import ResNetConfig
from volssl.types import Features, Item

STEPS = np.array([0, 10, 20, 30, 40])
SCRATCH = np.array([0.5, 0.6, 0.7, 0.8, 0.75])  # at its best, 0.8, after 30 steps


@pytest.mark.parametrize(
    ("pretrained", "saving"),
    [
        ([0.5, 0.8, 0.9, 0.9, 0.9], 1 - 10 / 30),
        ([0.5, 0.79, 0.7, 0.85, 0.9], 0.0),
        ([0.9, 0.7, 0.7, 0.7, 0.7], 1.0),
        ([0.5, 0.5, 0.5, 0.5, 0.8], 1 - 40 / 30),
        ([0.5, 0.79, 0.79, 0.79, 0.79], math.nan),
    ],
)
def test_the_saving_by_hand(pretrained: list[float], saving: float) -> None:
    """The first look at 0.8 or above: after 10 steps of 30, a saving of 2/3; 30, 0; 0, 1; 40, -1/3; never, none."""
    assert saving_of(np.array(pretrained), SCRATCH, STEPS) == pytest.approx(saving, nan_ok=True)


def test_the_first_of_equal_bests_counts() -> None:
    """From scratch 0.8 after 20 and 40 steps: it took 20."""
    found = reach(np.array([0.5, 0.8, 0.8, 0.8, 0.8]), np.array([0.5, 0.6, 0.8, 0.7, 0.8]))
    assert found == Reached(0.8, 2, 1)


def test_where_nothing_is_learnt_nothing_is_saved() -> None:
    """From scratch the start is the best: 0 of 0 steps is no number."""
    scratch = np.array([0.5, 0.4, 0.4, 0.5, 0.3])
    assert math.isnan(saving_of(np.ones(5), scratch, STEPS))
    assert reach(np.ones(5), scratch) == Reached(0.5, 0, 0)


def test_scores_are_averaged_over_the_looks_before() -> None:
    """Over 3: 3, (3 + 6) / 2, (3 + 6 + 0) / 3, (6 + 0 + 9) / 3."""
    assert trailing_mean(np.array([3.0, 6, 0, 9]), 3).tolist() == [3, 4.5, 3, 5]
    assert trailing_mean(SCRATCH, 1).tolist() == SCRATCH.tolist()


def test_looks_are_even_and_start_at_nought() -> None:
    assert look_steps(40, 5).tolist() == STEPS.tolist()
    assert look_steps(2, 20).tolist() == [0, 1, 2]


def given(pretrained: list[list[float]], scratch: list[list[float]]) -> Saving:
    """Each step took a second, from scratch two."""
    scores = [np.array(pretrained), np.array(scratch)]
    seconds = [np.tile(factor * STEPS.astype(float), (len(pretrained), 1)) for factor in (1, 2)]
    return summarise(scores, seconds, STEPS, data="knees", name="byol", metric="auroc", within=(0, 1))


EARLY = [0.5, 0.85, 0.9, 0.9, 0.9]
LATER = [0.5, 0.6, 0.85, 0.9, 0.9]
NEVER = [0.5, 0.6, 0.6, 0.6, 0.6]
IDLE = [0.5, 0.4, 0.4, 0.4, 0.4]


def test_the_interval_is_students() -> None:
    """Savings of 2/3, 2/3, 1/3: mean 55.6 %, t with 2 degrees of freedom, as SciPy has it; it ends at 100 %.

    Steps 10, 10 and 20 of 30, seconds the same of 60.
    """
    found = given([EARLY, EARLY, LATER], [SCRATCH.tolist()] * 3)
    each = np.array([200 / 3, 200 / 3, 100 / 3])
    low, high = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
    assert found.percent.value == pytest.approx(each.mean())
    assert found.percent.low == pytest.approx(low)
    assert found.percent.high == pytest.approx(min(high, 100))
    assert found.percent.sd == pytest.approx(each.std(ddof=1))
    assert (found.steps, found.scratch_steps) == pytest.approx((40 / 3, 30))
    assert (found.seconds, found.scratch_seconds) == pytest.approx((40 / 3, 60))
    assert (found.best.value, found.best.sd) == pytest.approx((0.8, 0))
    assert (found.reached, found.seeds) == (3, 3)


def test_an_interval_stays_within_what_the_score_can_be() -> None:
    """Two seeds of 0.9 and 1: Student's is -0.37 to 2.17, of 0.02 and 0.3 from -1.6 on."""
    found = given([EARLY, EARLY], [SCRATCH.tolist(), [0.5, 0.6, 0.7, 1.0, 1.0]])
    assert found.best.value == pytest.approx(0.9)
    assert found.best.high == 1
    assert given([EARLY, EARLY], [[0.0, 0.02, 0, 0, 0], [0.0, 0.3, 0, 0, 0]]).best.low == 0


def test_what_is_never_reached_is_counted_and_not_made_up() -> None:
    """Of three seeds one never gets there: the mean of the others is 2/3, and the sentence says what is left out."""
    found = given([EARLY, NEVER, EARLY], [SCRATCH.tolist()] * 3)
    assert found.percent.value == pytest.approx(200 / 3)
    assert (found.reached, found.seeds) == (2, 3)
    assert found.sentence == (
        "byol reaches the best auroc from scratch in 67 % fewer steps (95 % interval 67 to 67 %); "
        "not reached within 40 steps in 1 of 3 seeds"
    )


def test_nothing_reached_at_all() -> None:
    found = given([NEVER, NEVER], [SCRATCH.tolist()] * 2)
    assert math.isnan(found.percent.value)
    assert math.isnan(found.steps)
    assert math.isnan(found.seconds)
    assert found.reached == 0
    assert found.best.value == pytest.approx(0.8)
    said = "byol saves nothing that could be measured; not reached within 40 steps in 2 of 2 seeds"
    assert found.sentence == said


@pytest.mark.parametrize(
    ("pretrained", "scratch", "sentence"),
    [
        ([EARLY], [SCRATCH], "in 67 % fewer steps (one seed, so no interval)"),
        ([LATER] * 2, [[0.5, 0.85, 0.5, 0.5, 0.5]] * 2, "in 100 % more steps (95 % interval 100 to 100 %)"),
        ([EARLY, [0.5, 0.5, 0.5, 0.5, 0.9]], [SCRATCH] * 2, "in as many steps, within noise: 17 % fewer"),
        ([EARLY, EARLY], [SCRATCH, IDLE], "; from scratch nothing was learnt in 1 of 2 seeds"),
    ],
)
def test_sentences(pretrained: list[Any], scratch: list[Any], sentence: str) -> None:
    """20 steps instead of 10 are 100 % more; savings of 2/3 and -1/3 have the mean 1/6 and an interval that holds 0."""
    assert sentence in given(pretrained, scratch).sentence


class Stripes:
    """8 x 8 images of noise, brighter by the class."""

    def __init__(self, y: Ints) -> None:
        self.y = y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Item:
        image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(int(i)))
        return Item(image + 0.3 * float(self.y[i]), (1.0, 1.0), str(i))


class Features2(nn.Module):
    """Two features of an image: its mean, times ``scale``, or (``blind``) nothing. ``scale`` can be learnt."""

    width = 2

    def __init__(self, scale: float, blind: bool = False) -> None:
        super().__init__()
        self.scale, self.blind = nn.Parameter(torch.tensor(scale)), blind

    def forward(self, images: Tensor) -> Features:
        mean = (images.flatten(1).mean(1, keepdim=True) - 0.65) * self.scale
        pooled = torch.cat([mean * (0 if self.blind else 1), torch.zeros_like(mean)], dim=1)
        return Features(pooled[:, None], (1,), pooled)


Y = (np.arange(40) % 2).astype(np.int64)
TARGET = Target("classes", Y, ("dark", "bright"))
CONFIG = ConvergenceConfig(steps=20, lr=0.01, batch=8, looks=11, smooth=1, held=0.4)


@pytest.fixture
def images(card: Card) -> Card:
    backbone = ResNetConfig(dims=2, depth=10, stem="small", width=4)
    return card.model_copy(
        update={"backbone": backbone, "region": (8, 8), "size": (8, 8), "data": ImageConfig(root="")}
    )


def compare(encoder: Encoder, scratch: Encoder, seeds: int = 2, **changes: Any) -> tuple[Saving, tuple[Curve, Curve]]:
    return converge(
        encoder,
        lambda _seed: scratch,
        Stripes(Y),
        np.arange(40),
        TARGET,
        groups=np.arange(40),
        config=CONFIG.model_copy(update=changes),
        seeds=seeds,
        data="stripes",
        name="byol",
    )


def test_an_encoder_compared_with_itself_saves_nothing(images: Card) -> None:
    """To the bit the same curves: 0 in every seed; nothing is changed in the encoder that was given."""
    encoder = Encoder(Features2(0.3), images).eval()
    before = copy.deepcopy(encoder.state_dict())
    saving, (one, other) = compare(encoder, encoder)
    assert one.estimates == other.estimates
    assert one.x == other.x == tuple(float(step) for step in range(0, 21, 2))
    assert (one.encoder, other.encoder) == ("byol", "random byol")
    assert saving.percent.value == 0
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert not encoder.training


class Slow(Features2):
    """Knows nothing until its gate, which starts shut and is pushed open by every step, lets the mean through."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.seen = 0

    def forward(self, images: Tensor) -> Features:
        self.seen += self.training
        known = super().forward(images)
        gone = known.pooled * 0 if self.seen < 12 else known.pooled
        return Features(gone[:, None], (1,), gone)


def test_an_encoder_that_knows_saves_nearly_all_and_a_useless_one_nothing(images: Card) -> None:
    """One that sees brightness is best at the first look, step 2; one that is blind for 12 of 20 steps at 12 or later.

    So the saving is 1 - 2/12 or more. A blind one stays at chance, 0.5: never reached.
    """
    knows, slow, blind = (Encoder(net, images) for net in (Features2(1.0), Slow(), Features2(1.0, blind=True)))
    saving, _ = compare(knows, slow)
    assert saving.percent.value >= 100 * (1 - 2 / 12) - 1e-9
    assert saving.steps == 2
    assert saving.scratch_steps >= 12
    assert 0 < saving.seconds < saving.scratch_seconds
    missed, (curve, _) = compare(blind, knows)
    assert (missed.reached, missed.seeds) == (0, 2)
    assert all(estimate.value == 0.5 for estimate in curve.estimates)
    idle, _ = compare(knows, blind)
    assert idle.reached == 0
    assert "from scratch nothing was learnt in 2 of 2 seeds" in idle.sentence


def test_both_learn_the_same_batches_at_the_same_rate(images: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """By seed; and the rate rises over a twentieth of 40 steps, to 0.01 at the second, and stays."""
    rows: list[list[int]] = []
    rates: list[float] = []
    real, feeding = torch.optim.AdamW.step, finetune.feed

    def feed(*given: Any) -> Any:
        inner = feeding(*given)

        def watched(chosen: Ints, seeds: Tensor | None) -> Any:
            rows.append([*chosen.tolist(), *([] if seeds is None else seeds.tolist())])
            return inner(chosen, seeds)

        return watched

    def step(self: Any, *given: Any, **named: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return real(self, *given, **named)

    monkeypatch.setattr(convergence, "feed", feed)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    compare(Encoder(Features2(1.0), images), Encoder(Features2(2.0), images), seeds=1, steps=40)
    assert rows[: len(rows) // 2] == rows[len(rows) // 2 :]
    assert rates == pytest.approx([0.005] + [0.01] * 39 + [0.005] + [0.01] * 39)


def test_too_few_to_validate_is_one_line(images: Card) -> None:
    encoder, target = Encoder(Features2(1.0), images), TARGET.at(np.arange(2))
    with pytest.raises(DataError, match="validation rows are too few to score: give more patients"):
        converge(
            encoder,
            lambda _seed: encoder,
            Stripes(Y),
            np.arange(2),
            target,
            groups=np.arange(2),
            config=CONFIG,
            seeds=1,
            data="stripes",
            name="byol",
        )


def test_a_number_converges_by_r2(images: Card) -> None:
    y = Y.astype(np.float64) + 10
    saving, _ = converge(
        Encoder(Features2(10.0), images),
        lambda _seed: Encoder(Features2(1.0), images),
        Stripes(Y),
        np.arange(40),
        Target("number", y, ("age",)),
        groups=np.arange(40),
        config=CONFIG,
        seeds=2,
        data="stripes",
        name="byol",
    )
    assert saving.metric == "r2"
    assert saving.percent.value > 0
