"""Hybrid training: any method plus cross entropy on what is labelled, its weight, a step in NumPy."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.losses.test_contrastive import slow_nt_xent
from tests.losses.test_supervised import slow_cross_entropy
from tests.methods.conftest import GEOMETRIES, batch_of, fitting, methods
from tests.methods.conftest import build as build_in_small
from tests.methods.plain import (
    Arrays,
    around,
    descend,
    distance,
    encode,
    head,
    images,
    momentum,
    of_student,
    state,
    step,
    views_of,
)
from volssl.methods import CASSConfig, DINOConfig, HybridConfig, MAEConfig, MethodConfig, SimCLRConfig
from volssl.methods.hybrid import Classifiers, Hybrid
from volssl.models import ViTConfig
from volssl.types import Batch, Loss, Progress

AT = Progress(3, 10)
PLANE = GEOMETRIES["2D"]
SSL = {name: config for name, config in methods(PLANE).items() if not isinstance(config, HybridConfig)}
EVERY = pytest.mark.parametrize("ssl", SSL.values(), ids=SSL)
# Two sets, of 3 and 2 classes: labelled in the one, the other, both or neither.
LABELS = torch.tensor([[2, -1], [-1, 1], [-1, -1], [0, -1], [1, 0], [-1, -1]])


def build(ssl: Any = None, *widths: int, **options: Any) -> Hybrid:
    ssl = ssl or SimCLRConfig(projector=(5, 3), temperature=0.3)
    method = around(HybridConfig(ssl=ssl, **({"classes": (3, 2), "weight": (0.5, 2.0)} | options)).build, *widths)
    assert isinstance(method, Hybrid)
    return method


def around_any(ssl: MethodConfig, **options: Any) -> tuple[Hybrid, Batch]:
    """Around a small version of any method on a real backbone, with a batch for it of two sets of labels."""
    config = HybridConfig(ssl=cast("Any", ssl), classes=(3, 2), **options)
    hybrid = build_in_small(config, PLANE, "CNN" if fitting(config, PLANE, "CNN") else "ViT")
    assert isinstance(hybrid, Hybrid)
    return hybrid, batch_of(config, PLANE)


def run(method: Any, batch: Batch, at: Progress = AT) -> Loss:
    loss: Loss = method.loss(method.encode(batch), method.target(batch), at)
    return loss


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in module.named_parameters()}


# The sum


def test_loss_by_hand() -> None:
    """Classifiers that answer (0, log 3) to anything: 1/4 and 3/4. Labels 0, 1 and none in both views: the mean of
    log 4 and log(4/3) is log(16/3) / 2 = 0.83699, and with w = 0.5 at step 0 half of it is added to SimCLR's loss.
    The likelier class is right once in two."""
    method = build(classes=(2,))
    for parameter in method.classifiers.parameters():
        parameter.data.zero_()
    bias = dict(method.named_parameters())["classifiers.encoder.0.bias"]
    bias.data = torch.tensor([0.0, math.log(3)], dtype=torch.float64)
    batch = images("0", "1", samples=3, labels=torch.tensor([[0], [1], [-1]]))
    loss, own = run(method, batch, Progress(0, 10)), run(method.ssl, batch, Progress(0, 10))
    assert loss.total.item() == pytest.approx(own.total.item() + math.log(16 / 3) / 4)
    metrics = {name: x.item() for name, x in loss.metrics.items()}
    assert metrics == pytest.approx(
        {"ssl": own.total.item(), "supervised": 0.83699, "labelled": 2 / 3, "accuracy": 1 / 2}, abs=1e-5
    )


def test_a_whole_step_is_that_of_the_equations() -> None:
    """SimCLR on all items, cross entropy on those with labels, in two sets, over both views, w at step 3 of 10."""
    method, batch = build(smoothing=0.1), images("0", "1", labels=LABELS)
    before, x, w = state(method), views_of(batch), momentum(0.5, 2.0, AT)

    def slow(p: Arrays, labels: Tensor = LABELS) -> float:
        pooled = [encode(p, "ssl.encoder", view) for view in x.values()]
        a, b = (head(p, "ssl.projector", h) for h in pooled)
        supervised = 0.0
        for h in pooled:
            at = "classifiers.encoder"
            logits = [h @ p[f"{at}.{i}.weight"].T + p[f"{at}.{i}.bias"] for i in range(2)]
            supervised += slow_cross_entropy(logits, labels.numpy(), 0.1) / 2
        return slow_nt_xent(a, b, 0.3) + w * supervised

    expected = descend(slow, before, of_student)
    assert step(method, batch, AT).total.item() == pytest.approx(slow(before), rel=1e-12)
    assert distance(state(method), expected) < 1e-8
    # Negative control: an item that takes its missing label for the last class makes another step.
    wrong = torch.where(LABELS < 0, torch.tensor([2, 1]), LABELS)
    assert distance(descend(lambda p: slow(p, wrong), before, of_student), expected) > 1e-3


def test_the_weight_by_hand() -> None:
    """From 0.5 to 2 along half a cosine: 0.5, half way 1.25, 2 at the end; a quarter 2 - 1.5 * 1.70711 / 2."""
    method, batch = build(), images("0", "1", labels=LABELS)
    weights = []
    for k in (0, 2, 4, 8):
        loss = run(method, batch, Progress(k, 8))
        metrics = {name: x.item() for name, x in loss.metrics.items()}
        weights.append((loss.total.item() - metrics["ssl"]) / metrics["supervised"])
    assert weights == pytest.approx([0.5, 0.719670, 1.25, 2.0], abs=1e-6)


# Labels that are missing


def test_items_without_a_label_change_nothing_in_the_supervised_term() -> None:
    method, batch = build(), images("0", "1", labels=LABELS)
    other = {name: x.clone() for name, x in batch.views.items()}
    for x in other.values():
        x[[2, 5]] += 1.0
    one, two = (run(method, Batch(v, batch.index, batch.seeds, LABELS)) for v in (batch.views, other))
    assert torch.equal(one.metrics["supervised"], two.metrics["supervised"])
    assert torch.equal(one.metrics["accuracy"], two.metrics["accuracy"])
    assert one.metrics["ssl"] != two.metrics["ssl"]
    other["0"][0] += 1.0  # Negative control: an item with a label.
    three = run(method, Batch(other, batch.index, batch.seeds, LABELS))
    assert three.metrics["supervised"] != one.metrics["supervised"]


def test_a_set_without_classes_is_as_if_it_were_not_there() -> None:
    """Sets of 3, no and 2 classes, and labels where there are no classes, are those of 3 and 2: no classifier more."""
    one, two = build(classes=(3, 2)), build(classes=(3, 0, 2))
    two.load_state_dict(one.state_dict())
    assert len(list(two.classifiers.parameters())) == len(list(one.classifiers.parameters())) == 4
    batch = images("0", "1", labels=LABELS)
    third = torch.stack([LABELS[:, 0], torch.full((6,), 1), LABELS[:, 1]], dim=1)
    ours, theirs = run(one, batch), run(two, Batch(batch.views, batch.index, batch.seeds, third))
    assert torch.equal(ours.total, theirs.total)
    assert all(torch.equal(x, theirs.metrics[name]) for name, x in ours.metrics.items())


def test_the_share_of_labelled_items_counts_items_and_not_labels() -> None:
    """Four of six have a label in at least one set."""
    assert run(build(), images("0", "1", labels=LABELS)).metrics["labelled"].item() == pytest.approx(4 / 6)


@EVERY
def test_no_label_at_all_leaves_exactly_the_gradient_of_the_method_inside(ssl: MethodConfig) -> None:
    hybrid, batch = around_any(ssl)
    alone = copy.deepcopy(hybrid.ssl)
    batch.labels.fill_(-1)
    torch.autograd.backward([run(hybrid, batch).total, run(alone, batch).total])
    ours, theirs = gradients(hybrid.ssl), gradients(alone)
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        y = ours[name]
        assert (x is None) == (y is None), name
        assert x is None or y is None or torch.equal(x, y), name
    for name, y in gradients(hybrid.classifiers).items():
        assert y is not None, name
        assert not y.any(), name


# Whatever is inside


@EVERY
def test_around_any_method_it_is_that_method_and_the_labels(ssl: MethodConfig) -> None:
    """The sum, what moves after the step, and what is kept, to the last bit; every label reaches every encoder."""
    hybrid, batch = around_any(ssl, weight=(0.7, 0.7))
    alone = copy.deepcopy(hybrid.ssl)
    loss, own = run(hybrid, batch), run(alone, batch)
    expected = own.total + 0.7 * loss.metrics["supervised"]
    torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-14)
    assert loss.metrics.keys() == own.metrics.keys() | {"ssl", "supervised", "labelled", "accuracy"}
    assert loss.stats.keys() == own.stats.keys()
    assert all(torch.equal(loss.stats[name], x) for name, x in own.stats.items())
    supervised = (loss.total - own.total) / 0.7
    for encoder in hybrid.encoders.values():
        gradient = torch.autograd.grad(supervised, list(encoder.parameters())[-1], retain_graph=True)[0]
        assert gradient.abs().sum() > 0
    hybrid.after_step(loss.stats, AT)
    alone.after_step(own.stats, AT)
    theirs = alone.state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in hybrid.ssl.state_dict().items())
    assert list(hybrid.encoders) == list(alone.encoders) == list(hybrid.classifiers)


def test_two_encoders_have_classifiers_of_their_own() -> None:
    """Around CASS, of widths 4 and 3, on three views: the supervised term is the mean over 2 encoders x 3 views."""
    partner = ViTConfig(dims=2, patch=(4, 4), size=(8, 8), width=8, depth=1, heads=2)
    method = build(CASSConfig(partner=partner, logits=5), 4, 3)
    batch = images("0", "1", "2", labels=LABELS)
    terms = []
    for name, encoder in method.encoders.items():
        classify = method.classifiers[name]
        assert isinstance(classify, Classifiers)
        assert {layer.in_features for layer in classify} == {encoder.width}
        for view in batch.views.values():
            logits = [x.detach().numpy() for x in classify(encoder(view).pooled)]
            terms.append(slow_cross_entropy(logits, LABELS.numpy()))
    assert len(terms) == 6
    assert run(method, batch).metrics["supervised"].item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_small_views_are_not_classified() -> None:
    """A crop of a corner need not show what the label says."""
    method = build(DINOConfig(projector=(5, 3), prototypes=4))
    whole, cut = images("0", "1", "local0", labels=LABELS), images("0", "1", labels=LABELS)
    cut = Batch({name: whole.views[name] for name in cut.views}, cut.index, cut.seeds, LABELS)
    found = [run(method, batch).metrics for batch in (whole, cut)]
    assert torch.equal(found[0]["supervised"], found[1]["supervised"])
    assert found[0]["ssl"] != found[1]["ssl"]


# Its configuration


def test_it_asks_for_what_the_method_inside_asks_for() -> None:
    for ssl in SSL.values():
        hybrid = HybridConfig(ssl=cast("Any", ssl), classes=(4, 2, 9))
        assert (hybrid.views, hybrid.local, hybrid.teacher) == (ssl.views, ssl.local, ssl.teacher)
        assert list(hybrid.partners.values()) == list(ssl.partners.values())
        assert hybrid.label_sets == (4, 2, 9)
        assert ssl.label_sets == ()
        assert hybrid.coupled  # what an item weighs depends on how many others are labelled
    refused = HybridConfig(ssl=MAEConfig(), classes=(2,)).fits(PLANE.backbone("CNN"), PLANE.size)
    assert refused is not None
    assert refused[0] == "backbone.name"


def test_a_hybrid_of_a_hybrid_is_refused() -> None:
    inner = {"name": "hybrid", "ssl": {"name": "simclr"}, "classes": (2,)}
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        HybridConfig.model_validate({"ssl": inner, "classes": (2,)})
    with pytest.raises(ValidationError, match="at least 1 item"):
        HybridConfig(ssl=SimCLRConfig(), classes=())
