"""MAE: which patches are hidden, that they alone count, that each is drawn in its place, the loss in NumPy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.losses.test_reconstruction import slow_patch_error
from tests.methods.conftest import rows
from tests.methods.plain import Array, Arrays
from tests.models.test_decoder import slow_block, slow_decoder, slow_norm
from volssl.methods import MAEConfig
from volssl.methods.mae import MAE
from volssl.models import ViTConfig
from volssl.types import Batch, Progress
from volssl.views import ViewsConfig
from volssl.views.draw import draw

AT = Progress(3, 10)
PLANE = ViTConfig(dims=2, patch=(2, 4), size=(8, 16), width=8, depth=1, heads=2, mlp=2)
VOLUME = ViTConfig(dims=3, patch=(2, 4, 2), size=(6, 8, 6), width=8, depth=1, heads=2, mlp=2)
CASES = {"plane": (PLANE, False), "volume": (VOLUME, False), "tubes": (VOLUME, True)}
ALL = pytest.mark.parametrize(("backbone", "tube"), CASES.values(), ids=CASES)


def build(backbone: ViTConfig, **options: Any) -> MAE:
    """On two channels, in float64, with every parameter moved off its start."""
    settings: dict[str, Any] = {"mask": 0.75, "width": 6, "depth": 1, "heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = MAE(MAEConfig(**(settings | options)), backbone.build(2)).double()
        for parameter in method.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return method


def images(backbone: ViTConfig, samples: int = 4, seed: int = 0) -> Batch:
    """Two views, and seeds of 63 bits."""
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, samples, 2, *backbone.size, generator=generator, dtype=torch.float64)
    index = torch.arange(samples)
    return Batch({"0": views[0], "1": views[1]}, index, index + 2**62, torch.full((samples, 1), -1))


def loss_of(method: MAE, batch: Batch, pixels: Batch | None = None) -> Tensor:
    """``pixels``: other images to compare with than the encoder sees."""
    return method.loss(method.encode(batch), method.target(pixels or batch), AT).total


def masks(method: MAE, seeds: Tensor, view: int = 0) -> tuple[Tensor, Tensor]:
    return method._masks(seeds, view, method.encoder.config.grid(method.encoder.config.size))


def boxes(backbone: ViTConfig) -> list[tuple[slice, ...]]:
    """Where the patches lie in an image, slices before rows before columns."""
    axes = [range(0, n, p) for n, p in zip(backbone.size, backbone.patch, strict=True)]
    return [
        tuple(slice(i, i + p) for i, p in zip(corner, backbone.patch, strict=True))
        for corner in itertools.product(*axes)
    ]


def pixels_of(image: Array, box: tuple[slice, ...]) -> Array:
    """A patch of one image (C, *spatial): pixel after pixel, the channels of a pixel side by side."""
    return np.moveaxis(image[(slice(None), *box)], 0, -1).reshape(-1)


# What is hidden


def test_these_places_stay_hidden_for_ever() -> None:
    """Pinned: another answer would change what a run does that is resumed."""
    keep, hidden = masks(build(PLANE), torch.tensor([7, 8]))
    assert keep.tolist() == [[2, 5, 7, 10], [0, 5, 8, 9]]
    assert [sorted(a + b) for a, b in zip(keep.tolist(), hidden.tolist(), strict=True)] == [list(range(16))] * 2


@ALL
def test_what_is_hidden_is_a_function_of_seed_and_view(backbone: ViTConfig, tube: bool) -> None:
    """The same in any chunk, at any place of it, beside any others; another in another view or of another seed."""
    method, seeds = build(backbone, tube=tube), torch.arange(8) + 2**62
    _, hidden = masks(method, seeds)
    for i in range(8):
        assert torch.equal(masks(method, seeds[i : i + 1])[1][0], hidden[i])
    assert torch.equal(masks(method, seeds.flip(0))[1], hidden.flip(0))
    assert not torch.equal(masks(method, seeds, view=1)[1], hidden)
    assert len({tuple(row) for row in hidden.tolist()}) > 1


@ALL
def test_the_drawn_patches_of_a_batch_are_those_of_its_parts(backbone: ViTConfig, tube: bool) -> None:
    method, batch = build(backbone, tube=tube), images(backbone)
    whole, parts = method.target(batch), [method.target(rows(batch, slice(i, i + 1))) for i in range(4)]
    for name, x in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), x)


@pytest.mark.parametrize(("mask", "kept"), [(0.75, 4), (0.9, 2), (0.5, 8), (0.01, 15), (0.999, 1)])
def test_the_share_is_right_by_hand(mask: float, kept: int) -> None:
    """Of 16 patches 0.75 hides 12, 0.9 hides 14 (of 14.4); at least one is hidden and one is seen."""
    keep, hidden = masks(build(PLANE, mask=mask), torch.arange(3))
    assert keep.shape == (3, kept)
    assert hidden.shape == (3, 16 - kept)
    for seen, unseen in zip(keep.tolist(), hidden.tolist(), strict=True):
        assert sorted(seen + unseen) == list(range(16))
        assert seen == sorted(seen)
        assert unseen == sorted(unseen)


def test_tubes_hide_the_same_places_in_every_slice() -> None:
    """A grid of 3 x 2 x 3: half of 6 places, in all three layers. Without tubes the layers differ."""
    for tube in (True, False):
        _, hidden = masks(build(VOLUME, mask=0.5, tube=tube), torch.arange(50))
        layers = torch.zeros(50, 18).scatter_(1, hidden, 1.0).view(50, 3, 6)
        same = (layers == layers[:, :1]).all()
        assert same == tube
        assert (layers.sum((1, 2)) == 9).all()
        assert not tube or (layers.sum(2) == 3).all()


def test_every_place_is_hidden_as_often() -> None:
    """0.75 of 2000 draws is 1500 with a deviation of 19: none of 16 places is five of them away."""
    _, hidden = masks(build(PLANE), torch.arange(2000))
    counts = hidden.flatten().bincount(minlength=16)
    assert (counts - 1500).abs().max() < 97


@pytest.mark.parametrize("view", [0, 1])
def test_what_is_hidden_does_not_follow_from_how_the_view_was_cut(view: int) -> None:
    """Both come from one seed. Correlations of 2000 have a deviation of 0.022; with the same words it was 0.8."""
    seeds = torch.arange(2000)
    views = ViewsConfig(size=(8, 16), crop=(0.2, 1.0), flip=(0, 1), gamma=(0.5, 2.0), noise=(0.0, 0.1))
    drawn = draw(views, seeds.tolist(), view, (32, 32))
    cut = torch.cat([drawn.matrix.diagonal(dim1=1, dim2=2), drawn.centre], dim=1)
    numbers = torch.cat([cut, drawn.gamma[:, None], drawn.noise[:, None]], dim=1).double()
    _, hidden = masks(build(PLANE), seeds, view)
    flags = torch.zeros(2000, 16, dtype=torch.float64).scatter_(1, hidden, 1.0)
    between = torch.corrcoef(torch.cat([numbers, flags], dim=1).T)[:6, 6:]
    assert between.abs().max() < 0.11


# What counts


@ALL
def test_only_hidden_patches_count_in_the_loss(backbone: ViTConfig, tube: bool) -> None:
    """The encoder sees the same; what is compared is changed at a visible pixel, then at a hidden one."""
    method, batch = build(backbone, tube=tube), images(backbone)
    keep, hidden = masks(method, batch.seeds)
    before = loss_of(method, batch).item()
    for places, counts in ((keep, False), (hidden, True)):
        for i, place in enumerate(places[:, 0].tolist()):
            other = batch.views["0"].clone()
            other[(i, 1, *(box.start for box in boxes(backbone)[place]))] += 1.0
            changed = Batch(batch.views | {"0": other}, batch.index, batch.seeds, batch.labels)
            assert (loss_of(method, batch, pixels=changed).item() != before) == counts


@ALL
def test_the_encoder_does_not_see_what_is_hidden(backbone: ViTConfig, tube: bool) -> None:
    method, batch = build(backbone, tube=tube), images(backbone)
    keep, hidden = masks(method, batch.seeds)
    before = method.encode(batch)
    for places, seen in ((hidden, False), (keep, True)):
        other = batch.views["0"].clone()
        for i, row in enumerate(places.tolist()):
            for place in row:
                other[(i, slice(None), *boxes(backbone)[place])] += 1.0
        after = method.encode(Batch(batch.views | {"0": other}, batch.index, batch.seeds, batch.labels))
        for name in ("0", "drawn 0"):
            assert torch.equal(after[name], before[name]) != seen


@ALL
def test_every_patch_is_drawn_in_its_own_place(backbone: ViTConfig, tube: bool) -> None:
    """A decoder whose blocks add nothing draws at each place what its position says. An image that is made of
    exactly that has no error, whatever is hidden; with two of its patches exchanged it has."""
    method, batch = build(backbone, tube=tube, normalise=False), images(backbone)
    decoder = method.decoder
    for block in decoder.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):  # type: ignore[union-attr]
            for parameter in layer.parameters():  # type: ignore[union-attr]
                parameter.data.zero_()
    with torch.no_grad():
        drawn = decoder.predict(decoder.norm(decoder.mask_token + decoder.pos_embed[:, 1:]))[0]
    image, places = torch.zeros_like(batch.views["0"]), boxes(backbone)
    exchanged = image.clone()
    for i, patch in enumerate(drawn):
        shaped = patch.view(*backbone.patch, 2).movedim(-1, 0)
        image[(slice(None), slice(None), *places[i])] = shaped
        exchanged[(slice(None), slice(None), *places[(i + 1) % len(places)])] = shaped
    for view, expected in ((image, True), (exchanged, False)):
        whole = Batch({"0": view}, batch.index, batch.seeds, batch.labels)
        assert (loss_of(method, whole).item() < 1e-20) == expected


# The loss in NumPy


def slow_loss(p: Arrays, method: MAE, batch: Batch, normalise: bool) -> float:
    """Encode what is seen of each image, draw what is not, compare patch by patch; the mean over the views."""
    drawn: list[Array] = []
    true: list[Array] = []
    encoder = {name.removeprefix("encoder."): x for name, x in p.items() if name.startswith("encoder.")}
    decoder = {name.removeprefix("decoder."): x for name, x in p.items() if name.startswith("decoder.")}
    weight = encoder["patch_embed.proj.weight"]
    for view in ("0", "1"):
        keep, hidden = (x.numpy() for x in masks(method, batch.seeds, int(view)))
        for image, seen, unseen in zip(batch.views[view].numpy(), keep, hidden, strict=True):
            tokens = [encoder["cls_token"][0, 0] + encoder["pos_embed"][0, 0]]
            for i in seen:
                patch = image[(slice(None), *boxes(method.encoder.config)[i])]
                embedded = (weight * patch).reshape(len(weight), -1).sum(axis=1) + encoder["patch_embed.proj.bias"]
                tokens.append(embedded + encoder["pos_embed"][0, 1 + i])
            x = slow_norm(encoder, "norm", slow_block(encoder, "blocks.0", np.stack(tokens), 2))
            drawn.append(slow_decoder(decoder, x[1:], x[0], seen, unseen, 2))
            true.append(np.stack([pixels_of(image, boxes(method.encoder.config)[i]) for i in unseen]))
    return slow_patch_error(np.stack(drawn), np.stack(true), normalise)


@ALL
@pytest.mark.parametrize("normalise", [False, True])
def test_loss_and_gradient_are_those_of_the_equations(backbone: ViTConfig, tube: bool, normalise: bool) -> None:
    """The gradient along two directions drawn over all parameters, against central differences."""
    method, batch = build(backbone, tube=tube, normalise=normalise), images(backbone, samples=2)
    p = {name: x.detach().numpy().copy() for name, x in method.named_parameters()}
    loss = loss_of(method, batch)
    assert loss.item() == pytest.approx(slow_loss(p, method, batch, normalise), rel=1e-12)
    torch.autograd.backward(loss)
    random = np.random.Generator(np.random.Philox(0))
    for _ in range(2):
        along = {name: random.standard_normal(x.shape) for name, x in p.items()}
        ahead, behind = (
            slow_loss({n: x + step * along[n] for n, x in p.items()}, method, batch, normalise)
            for step in (1e-6, -1e-6)
        )
        ours = sum(float((q.grad.numpy() * along[n]).sum()) for n, q in method.named_parameters() if q.grad is not None)
        assert ours == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)


def test_silence_scores_what_a_patch_varies() -> None:
    """Drawing nothing but zeros: normalised patches of P = 16 numbers have a mean square of 15/16."""
    method = build(PLANE)
    for parameter in method.decoder.predict.parameters():
        parameter.data.zero_()
    assert math.prod(PLANE.patch) * 2 == 16
    assert loss_of(method, images(PLANE)).item() == pytest.approx(15 / 16, abs=1e-5)
