"""DVME: the network against a slow twin, what a fusion of halves is worth, and that order changes no bit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax
from torch import nn

from volssl.data.image_config import ImageConfig
from volssl.errors import RunError
from volssl.evaluation import FusionConfig
from volssl.evaluation.card import Card
from volssl.evaluation.dvme import DVME
from volssl.evaluation.encoder import Encoder, random_encoder
from volssl.evaluation.fusion import Fused, concatenate, fuse, fuse_end_to_end
from volssl.evaluation.objective import deciding
from volssl.evaluation.target import Floats, Target
from volssl.models import ResNetConfig
from volssl.types import Item

SMALL = FusionConfig(width=16, heads=2, steps=60, lr=3e-3, batch=32)


def hidden(z: Floats, width: int, seed: int) -> Floats:
    """(N, width) features in which z is one of 5 directions of like size, mixed, under noise of a fifth of it."""
    rng, fixed = np.random.default_rng([seed, 1]), np.random.default_rng([width, 2])
    latent = np.column_stack([z, rng.normal(size=(len(z), 4))])
    return latent @ fixed.normal(size=(5, width)) + 0.2 * rng.normal(size=(len(z), width))


def halves(n: int, seed: int) -> tuple[dict[str, Floats], Target]:
    """y is whether a + b > 0; one encoder sees a, the other, of another width, b."""
    a, b = np.random.default_rng([seed, 0]).normal(size=(2, n))
    y = (a + b > 0).astype(np.int64)
    return {"left": hidden(a, 12, 2 * seed), "right": hidden(b, 20, 2 * seed + 1)}, Target("classes", y, ("no", "yes"))


def cut(x: Mapping[str, Floats], rows: slice) -> dict[str, Floats]:
    return {name: one[rows] for name, one in x.items()}


def fused(x: Mapping[str, Floats], target: Target, learnt: int, config: FusionConfig = SMALL, seed: int = 0) -> Fused:
    """The first ``learnt`` rows are learnt, the others scored."""
    train = target.at(np.arange(learnt))
    return fuse(
        cut(x, slice(learnt)),
        train,
        cut(x, slice(learnt, None)),
        groups=np.arange(learnt),
        config=config,
        seed=seed,
    )


def worth(found: Fused, target: Target, learnt: int) -> float:
    return deciding(target.at(np.arange(learnt, len(target))), found.predicted.score)


def twin(dvme: DVME, features: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """The network in NumPy, an item, a head and an encoder at a time."""
    state = {name: x.double().numpy() for name, x in dvme.state_dict().items()}
    outputs, shares = [], []
    names = sorted(features)

    def norm(x: Floats, of: str) -> Floats:
        scaled: Floats = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        out: Floats = scaled * state[f"{of}.weight"] + state[f"{of}.bias"]
        return out

    def apply(x: Floats, of: str, kind: str = "weight", bias: str = "bias") -> Floats:
        out: Floats = x @ state[f"{of}.{kind}"].T + state[f"{of}.{bias}"]
        return out

    def gelu(x: Floats) -> Floats:
        out: Floats = x * (1 + erf(x / math.sqrt(2))) / 2
        return out

    for item in range(len(features[names[0]])):
        rows = [(features[n][item] - state[f"tokens.{i}.mean"]) / state[f"tokens.{i}.sd"] for i, n in enumerate(names)]
        tokens = np.stack([apply(row, f"tokens.{i}.project") for i, row in enumerate(rows)])
        for b in range(len(dvme.blocks)):
            of = f"blocks.{b}"
            q, k, v = np.split(
                apply(norm(tokens, f"{of}.norm1"), f"{of}.attention", "in_proj_weight", "in_proj_bias"), 3, 1
            )
            heads, per = [], []
            for h in np.split(np.arange(q.shape[1]), 2):
                weight = softmax(q[:, h] @ k[:, h].T / math.sqrt(len(h)), axis=1)
                heads.append(weight @ v[:, h])
                per.append(weight)
            tokens = tokens + apply(np.concatenate(heads, 1), f"{of}.attention.out_proj")
            tokens = tokens + apply(gelu(apply(norm(tokens, f"{of}.norm2"), f"{of}.mlp.0")), f"{of}.mlp.2")
            shares.append(np.mean(per, axis=(0, 1)))
        outputs.append(apply(gelu(apply(norm(tokens, "norm").ravel(), "mix")), "head"))
    return np.stack(outputs), np.reshape(shares, (len(outputs), -1, len(names))).mean(1)


def test_the_network_is_what_it_says() -> None:
    """Three encoders of three widths, two blocks, two heads, float64, against the twin."""
    widths, rng = {"c": 3, "a": 4, "b": 7}, np.random.default_rng(0)
    dvme = DVME(widths, 2, FusionConfig(width=8, heads=2, depth=2), seed=5).double()
    torch.nn.init.normal_(dvme.head.weight, generator=torch.Generator().manual_seed(0))
    x = {name: rng.normal(3, 2, size=(5, d)) for name, d in widths.items()}
    dvme.standardise(x)
    with torch.no_grad():
        outputs, shares = dvme.eval().attend({name: torch.from_numpy(one) for name, one in x.items()})
    by_hand, attention = twin(dvme, x)
    assert np.allclose(outputs.numpy(), by_hand, atol=1e-12)
    assert np.allclose(shares.numpy(), attention, atol=1e-12)
    assert np.allclose(attention.sum(1), 1)


def test_what_is_drawn_for_an_encoder_depends_on_its_name_and_the_seed() -> None:
    """Not on who else is there, nor on torch's generator, which is left as it was."""
    config, before = FusionConfig(width=8, heads=2), torch.random.get_rng_state()
    one, two, other = (
        DVME(widths, 1, config, seed) for widths, seed in (({"b": 3, "a": 2}, 0), ({"b": 3, "c": 9}, 0), ({"b": 3}, 1))
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    b = [dict(dvme.named_tokens())["b"].project.weight for dvme in (one, two, other)]
    assert torch.equal(b[0], b[1])
    assert not torch.equal(b[0], b[2])
    same = DVME({"a": 3, "b": 3}, 1, config, 0)
    assert not torch.equal(*(token.project.weight for _, token in same.named_tokens()))


def test_every_parameter_learns() -> None:
    dvme = DVME({"a": 3, "b": 4}, 2, FusionConfig(width=8, heads=2, depth=2), 0)
    nn.init.ones_(dvme.head.weight)
    dvme({"a": torch.randn(4, 3), "b": torch.randn(4, 4)})[:, 0].pow(2).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in dvme.parameters())
    assert all(
        p.grad.abs().max() > 0 for n, p in dvme.named_parameters() if n.startswith("tokens") and p.grad is not None
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_halves_are_worth_more_than_each(seed: int) -> None:
    """Each knows a of s = a + b; r = 1/sqrt 2 is their correlation. Of three normal variables a1 - a0, s1, -s0 all are
    above 0 with probability 1/8 + 2 asin(r / sqrt 2) / (4 pi), which over that of the last two, 1/4, is the AUROC:
    1/2 + 2/pi asin(1/2) = 5/6, were it all seen (sd over 400 test rows: 0.02). Together they know all.
    """
    x, target = halves(700, seed)
    alone = [worth(fused({name: one}, target, 300, seed=seed), target, 300) for name, one in x.items()]
    together = fused(x, target, 300, seed=seed)
    assert 0.65 < min(alone) < max(alone) < 5 / 6 + 0.06
    assert worth(together, target, 300) > 0.95
    assert sum(together.weights.values()) == pytest.approx(1)
    assert min(together.without.values()) > 0


def test_two_copies_are_worth_no_more_than_one() -> None:
    """Negative control."""
    x, target = halves(700, 0)
    one = worth(fused({"left": x["left"]}, target, 300), target, 300)
    two = worth(fused({"left": x["left"], "again": x["left"]}, target, 300), target, 300)
    assert two == pytest.approx(one, abs=0.03)


def test_noise_beside_an_encoder_is_not_missed() -> None:
    """What falls without the one that knows, and hardly without the one that does not."""
    x, target = halves(700, 0)
    y = Target(
        "classes", (x["left"] @ np.linalg.pinv(np.random.default_rng([12, 2]).normal(size=(5, 12))))[:, 0] > 0, ()
    )
    known = Target("classes", y.values.astype(np.int64), target.names)
    found = fused(x, known, 300)
    assert worth(found, known, 300) > 0.95
    assert found.without["left"] > 0.3
    assert abs(found.without["right"]) < 0.1


def test_the_order_of_encoders_changes_no_bit() -> None:
    """Three of them, dropout and early stop included, and whatever state torch's generator is in."""
    x, target = halves(120, 0)
    x["middle"] = hidden(np.zeros(120), 9, 7)
    found: list[Fused] = []
    for order in (["left", "right", "middle"], ["middle", "left", "right"], ["right", "middle", "left"]):
        torch.manual_seed(len(found))
        found.append(fused({name: x[name] for name in order}, target, 60))
    for one in found[1:]:
        assert np.array_equal(one.predicted.score, found[0].predicted.score)
        assert one.weights == found[0].weights
        assert one.without == found[0].without
    assert not np.array_equal(fused(x, target, 60, seed=1).predicted.score, found[0].predicted.score)


def test_units_do_not_matter() -> None:
    """Features a thousandfold and moved: standardised by the rows that are learnt, they are the same to rounding."""
    x, target = halves(120, 0)
    other = {**x, "left": 1000 * x["left"] - 5}
    short = SMALL.model_copy(update={"steps": 5})
    one, two = fused(x, target, 60, short), fused(other, target, 60, short)
    assert np.allclose(one.predicted.score, two.predicted.score, atol=1e-3)


def test_a_row_is_scored_alone() -> None:
    """Other test rows change nothing, and no test row changes what is learnt."""
    x, target = halves(120, 0)
    few = fuse(
        cut(x, slice(60)), target.at(np.arange(60)), cut(x, slice(60, 63)), groups=np.arange(60), config=SMALL, seed=0
    )
    assert np.allclose(fused(x, target, 60).predicted.score[:3], few.predicted.score, atol=1e-5)


def test_labels_and_numbers_are_fused_too() -> None:
    """The number a + b to more than nine tenths of its variance; whether each of a and b is above 0, one unknown."""
    a, b = np.random.default_rng(0).normal(size=(2, 700))
    x = {"left": hidden(a, 12, 0), "right": hidden(b, 20, 1)}
    number = Target("number", 30 + 5 * (a + b), ("age",))
    longer = SMALL.model_copy(update={"steps": 150})
    assert worth(fused(x, number, 300, longer), number, 300) > 0.9
    values = np.column_stack([a > 0, b > 0]).astype(np.int64)
    values[::7, 0] = -1
    labels = Target("labels", values, ("p", "q"))
    found = fused(x, labels, 300)
    assert worth(found, labels, 300) > 0.95
    assert found.predicted.score.shape == (400, 2)


def test_where_nothing_can_be_held_out_nothing_is_known_of_falls() -> None:
    """One patient per class."""
    x, target = halves(120, 0)
    rows = np.array([int(np.flatnonzero(target.values == k)[0]) for k in (0, 1)])
    found = fuse({n: one[rows] for n, one in x.items()}, target.at(rows), x, groups=rows, config=SMALL, seed=0)
    assert all(map(math.isnan, found.without.values()))
    assert np.isfinite(found.predicted.score).all()


def test_what_is_not_finite_is_one_line() -> None:
    x, target = halves(120, 0)
    x["left"][3, 2] = np.nan
    with pytest.raises(ValueError, match="features must be finite"):
        fused(x, target, 60)
    x, target = halves(120, 0)
    with pytest.raises(RunError, match=r"lower its lr, which is 1e\+30"):
        fused(x, target, 60, SMALL.model_copy(update={"lr": 1e30}))


def test_concatenation_is_in_the_order_of_names() -> None:
    x = {"b": np.array([[1.0, 2]]), "a": np.array([[3.0]])}
    assert concatenate(x).tolist() == [[3, 1, 2]]
    assert concatenate(dict(reversed(x.items()))).tolist() == [[3, 1, 2]]


class Half:
    """10 x 10 images of noise, in the middle brighter by ``z``."""

    def __init__(self, z: Floats, seed: int) -> None:
        self.z, self.seed = z, seed

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, i: int) -> Item:
        image = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(1000 * self.seed + int(i)))
        image[:, 3:7, 3:7] += float(self.z[i])
        return Item(image, (1.0, 1.0), str(i))


def flat(card: Card, width: int, seed: int) -> Encoder:
    backbone = ResNetConfig(dims=2, depth=10, stem="small", width=width)
    of_images = {"backbone": backbone, "region": (10, 10), "size": (10, 10), "data": ImageConfig(root="")}
    return random_encoder(card.model_copy(update=of_images), seed)


def test_end_to_end(card: Card) -> None:
    """Two encoders of two widths, each with its own images of the same items: better than chance by far, the given
    encoders left as they are, and no bit depends on their order."""
    a, b = np.random.default_rng(0).normal(size=(2, 120))
    target = Target("classes", (a + b > 0).astype(np.int64), ("no", "yes"))
    encoders = {"left": flat(card, 4, 0), "right": flat(card, 8, 1)}
    sources = {"left": Half(a, 0), "right": Half(b, 1)}
    before = {n: {k: v.clone() for k, v in one.state_dict().items()} for n, one in encoders.items()}
    train, test = np.arange(80), np.arange(80, 120)

    def run(names: list[str]) -> Fused:
        return fuse_end_to_end(
            {name: encoders[name] for name in names},
            {name: sources[name] for name in names},
            train,
            target.at(train),
            test,
            groups=train,
            config=SMALL.model_copy(update={"batch": 16, "steps": 40}),
            seed=0,
        )

    one, two = run(["left", "right"]), run(["right", "left"])
    assert deciding(target.at(test), one.predicted.score) > 0.8
    assert np.array_equal(one.predicted.score, two.predicted.score)
    assert one.weights == two.weights
    assert set(one.without) == {"left", "right"}
    for name, state in before.items():
        assert all(torch.equal(state[k], v) for k, v in encoders[name].state_dict().items())
        assert not encoders[name].training
