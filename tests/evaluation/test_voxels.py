"""The voxel probe: Dice by hand, a fit that scikit-learn agrees with, planted structures, and what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from volssl.data import VolumeConfig
from volssl.data.masks import read_mask
from volssl.evaluation import voxels as module
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import random_encoder
from volssl.evaluation.hypercolumns import Hypercolumns, encoder_maps, pixel_maps
from volssl.evaluation.outlines import CALLED, TRUE, border, picture
from volssl.evaluation.target import Floats, Ints
from volssl.evaluation.voxels import Samples, dice, dice_metrics, draw, fit_voxels, segment, segmentation_dice
from volssl.models import ResNetConfig
from volssl.types import Item

REGION = (10, 12, 14)
ALL = np.arange(12)
PATIENTS = np.array([f"p{i}" for i in ALL])


class Planted:
    """Twelve volumes in which smooth noise is class 1 where it is high, 2 where it is low, and rarely either."""

    def __init__(self, noise: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        field = gaussian_filter(rng.normal(size=(len(ALL), *REGION)), (0, 2, 2, 2))
        field /= field.std()
        seen = field + noise * rng.normal(size=field.shape)
        self.images = torch.from_numpy(seen).float()[:, None]
        self.masks = [torch.from_numpy((f > 1.3) + 2 * (f < -1.6)).long() for f in field]

    def __len__(self) -> int:
        return len(ALL)

    def __getitem__(self, i: int) -> Item:
        return Item(self.images[i], (1.0, 1.0, 1.0), str(i))


def found(source: Planted, masks: list[Tensor], train: Ints, test: Ints, **options: Any) -> Floats:
    fields = {"patients": PATIENTS, "classes": 2, "voxels": 150, "seed": 0, **options}
    return segmentation_dice(Hypercolumns(pixel_maps, source), masks, train, test, **fields)


# Dice


def test_dice_by_hand() -> None:
    """Class 1: called 3, true 2, both 1: 2/5. Class 2: called 0, true 1: 0. Class 3: neither. Class 4: both 1: 1."""
    called, truth = torch.tensor([1, 1, 1, 0, 0, 4]), torch.tensor([1, 0, 0, 1, 2, 4])
    np.testing.assert_array_equal(dice(called, truth, 4), [0.4, 0, np.nan, 1])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 40))
def test_dice_is_a_slow_twin_s_and_monai_s(seed: int, classes: int, size: int) -> None:
    """MONAI gives 1 where both are empty (here NaN), as it is told to count empty truths."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, rng.integers(1, classes + 2), size) for _ in range(2))
    ours = dice(torch.from_numpy(a), torch.from_numpy(b), classes)
    for k in range(1, classes + 1):
        called, true = {i for i in range(size) if a[i] == k}, {i for i in range(size) if b[i] == k}
        expected = 2 * len(called & true) / (len(called) + len(true)) if called or true else np.nan
        np.testing.assert_equal(ours[k - 1], expected)
    one_hot = [torch.nn.functional.one_hot(torch.from_numpy(x), classes + 1).T[None].float() for x in (a, b)]
    theirs = compute_dice(*one_hot, include_background=False, ignore_empty=False)[0].numpy()
    np.testing.assert_allclose(np.where(np.isnan(ours), 1, ours), theirs, rtol=1e-6)


def test_metrics_by_hand() -> None:
    """Left in volume 0 alone counts 0.2 and 0.6 (mean 0.4), right 0.8 where it is: their mean is 0.6. Drawn twice,
    volume 1 makes left (0.2 + 2 * 0.6) / 3. Without volume 0 there is no right, and the mean is left's."""
    each = np.array([[0.2, 0.8], [0.6, np.nan]])
    weight = np.array([[1.0, 1], [1, 2], [0, 1], [0, 0]])
    got = dice_metrics(each, weight, ("left", "right"))
    assert list(got) == ["dice", "dice left", "dice right"]
    np.testing.assert_allclose(got["dice left"], [0.4, 1.4 / 3, 0.6, np.nan])
    np.testing.assert_allclose(got["dice right"], [0.8, 0.8, np.nan, np.nan])
    np.testing.assert_allclose(got["dice"], [0.6, (1.4 / 3 + 0.8) / 2, 0.6, np.nan])


def test_metrics_of_a_resample_are_those_of_the_volumes_it_holds() -> None:
    rng = np.random.default_rng(0)
    each = np.where(rng.random((9, 3)) < 0.3, np.nan, rng.random((9, 3)))
    weight = rng.multinomial(9, np.full(9, 1 / 9), size=20).astype(float)
    got = dice_metrics(each, weight, ("a", "b", "c"))
    for r, row in enumerate(weight.astype(int)):
        means = np.nanmean(np.repeat(each, row, axis=0), axis=0)
        np.testing.assert_allclose([got[f"dice {name}"][r] for name in "abc"], means)
        np.testing.assert_allclose(got["dice"][r], np.nanmean(means))


# Which voxels


def test_what_a_small_class_lacks_is_left_to_the_others() -> None:
    """30 of 2 + 20 + 100: a third is 10, but class 1 has two; the other 28 are halved."""
    mask = np.repeat([1, 2, 0], [2, 20, 100])
    drawn = draw(mask, 30, np.random.default_rng(0))
    assert np.bincount(mask[drawn]).tolist() == [14, 2, 14]
    assert len(draw(mask, 1000, np.random.default_rng(0))) == 122


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 50), st.integers(0, 99))
def test_draws_are_of_the_mask_without_repeats_and_as_even_as_can_be(classes: list[int], count: int, seed: int) -> None:
    mask = np.array(classes)
    drawn = draw(mask, count, np.random.default_rng(seed))
    assert len(set(drawn.tolist())) == len(drawn) == min(count, len(mask))
    taken, held = np.bincount(mask[drawn], minlength=4), np.bincount(mask, minlength=4)
    most = taken.max()
    assert all(t == h or t >= most - 1 for t, h in zip(taken, held, strict=True) if h)


def test_samples_stand_for_all_voxels_and_depend_on_no_other_volume() -> None:
    """Their numbers add up to the classes' sizes; the prevalence of a class is its share of all voxels."""
    source = Planted()
    columns = Hypercolumns(pixel_maps, source)
    samples = module._sample(columns, source.masks, np.array([3, 5]), PATIENTS, 90, 7)
    sizes = sum(source.masks[i].flatten().bincount(minlength=3).numpy() for i in (3, 5))
    np.testing.assert_allclose(np.bincount(samples.y, weights=samples.stands), sizes)
    np.testing.assert_allclose(np.exp(module._log_prevalence(samples, 2)), sizes / np.sum(sizes))
    assert len(samples.y) == 180
    alone = module._sample(columns, source.masks, np.array([5]), PATIENTS, 90, 7)
    assert np.array_equal(samples.x[90:], alone.x)
    assert set(samples.patients[90:]) == {"p5"}


# The fit


def test_the_model_is_scikit_learns_moved_by_the_prevalence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run to the end on the same voxels, standardised, classes weighing alike, C = 1 / (N penalty)."""
    monkeypatch.setattr(module, "EXACT", 1e-7)
    source, train = Planted(noise=0.5), np.arange(6)
    columns = Hypercolumns(pixel_maps, source)
    model = fit_voxels(columns, source.masks, train, patients=PATIENTS, classes=2, voxels=150, seed=1)
    samples = module._sample(columns, source.masks, train, PATIENTS, 150, 1)
    scale, c = StandardScaler().fit(samples.x), 1 / (len(samples.y) * model.penalty)
    theirs = LogisticRegression(C=c, class_weight="balanced", tol=1e-9, max_iter=10_000)
    theirs.fit(scale.transform(samples.x), samples.y)
    x = columns.at(8, np.arange(0, 1680, 7), REGION)
    size = np.bincount(samples.y, weights=samples.stands)
    expected = theirs.decision_function(scale.transform(x)) + model.temper * np.log(size / size.sum())
    ours = x @ model.weights.T + model.bias
    np.testing.assert_allclose(
        ours - ours.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=2e-4
    )
    called = segment(columns, model, 8, REGION).flatten().numpy()[::7]
    assert (called == expected.argmax(1)).mean() > 0.99


def test_a_planted_structure_is_found_and_a_moved_one_is_not() -> None:
    """The classes are where the image is high or low. Masks of other volumes say nothing about it."""
    source = Planted()
    right = found(source, source.masks, ALL[:6], ALL[6:])
    assert right.shape == (6, 2)
    assert np.nanmean(right) > 0.85
    wrong = found(source, [*source.masks[1:], source.masks[0]], ALL[:6], ALL[6:])
    assert np.nanmean(wrong) < 0.4


def test_the_temper_is_worth_having() -> None:
    """Under noise, classes that weigh alike are called where they are not: that Dice is lower than the chosen one."""
    source = Planted(noise=1.5)
    columns = Hypercolumns(pixel_maps, source)
    model = fit_voxels(columns, source.masks, ALL[:6], patients=PATIENTS, classes=2, voxels=150, seed=0)
    assert model.temper > 0
    samples = module._sample(columns, source.masks, ALL[:6], PATIENTS, 150, 0)
    prior = module._log_prevalence(samples, 2)
    scores = []
    for temper in (0.0, model.temper):
        bias = model.bias + (temper - model.temper) * prior
        moved = module.VoxelModel(model.weights, bias, model.penalty, temper)
        scores.append([dice(segment(columns, moved, i, REGION), source.masks[i], 2) for i in range(6, 12)])
    assert np.nanmean(scores[1]) > np.nanmean(scores[0]) + 0.03


def test_no_patient_is_on_both_sides_of_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    source, sides = Planted(), []
    fit = module._fit

    def spied(samples: Samples, *others: Any) -> tuple[Floats, Floats]:
        sides.append(set(samples.patients))
        return fit(samples, *others)

    monkeypatch.setattr(module, "_fit", spied)
    found(source, source.masks, ALL[:8], ALL[8:], patients=np.array([f"p{i // 3}" for i in ALL]))
    first, second, everybody = sides
    assert not first & second
    assert first | second == everybody == {"p0", "p1", "p2"}


def test_a_seed_draws_other_voxels_and_the_same_one_the_same() -> None:
    source = Planted(noise=1.0)
    a, b, c = (found(source, source.masks, ALL[:6], ALL[6:], seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(a, b, equal_nan=True)
    assert not np.array_equal(a, c, equal_nan=True)


def test_one_training_volume_is_enough() -> None:
    assert np.nanmean(found(Planted(), Planted().masks, ALL[:1], ALL[6:])) > 0.5


def test_a_class_that_training_does_not_show_is_never_called() -> None:
    """Dice 0 where a test volume has it, NaN where none of both has it; with nothing to learn nothing is called."""
    source = Planted()
    masks = [torch.where(mask == 2, 0, mask) if i < 6 else mask for i, mask in enumerate(source.masks)]
    masks[6] = torch.where(masks[6] == 2, 0, masks[6])
    got = found(source, masks, ALL[:6], ALL[6:9])
    assert got[:, 0].min() > 0.9
    assert np.isnan(got[0, 1])
    assert got[1:, 1].tolist() == [0, 0]
    empty = [torch.zeros_like(mask) if i < 6 else mask for i, mask in enumerate(masks)]
    assert np.nanmax(found(source, empty, ALL[:6], ALL[6:9])) == 0


def test_features_that_are_not_finite_are_refused() -> None:
    source = Planted()
    source.images[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="features must be finite"):
        found(source, source.masks, ALL[:2], ALL[6:7])


def test_real_hippocampi(shared_data: Path, tmp_path: Path) -> None:
    """Thirteen to learn from, four to segment: raw pixels find something of them, a random network more."""
    folder, region = shared_data / "nifti" / "hippocampus", (40, 56, 40)
    config = VolumeConfig(root=str(folder / "images"), cache=str(tmp_path), sequences=("*_0*", "*_1[0-4]*"))
    source = config.build(region)
    masks = [read_mask(folder / "labels" / i, folder / "images" / i, config, region, classes=2) for i in source.ids]
    card = Card(
        backbone=ResNetConfig(depth=10, stem="small", width=8),
        channels=1,
        region=region,
        size=(40, 48, 40),
        data=config,
        method="random",
        step=0,
        seed=0,
    )
    train, test, patients = np.arange(len(source))[:-4], np.arange(len(source))[-4:], np.array(source.ids)
    assert len(train) == 13
    worth = []
    for maps in (pixel_maps, encoder_maps(random_encoder(card, 0))):
        columns = Hypercolumns(maps, source)
        fields: dict[str, Any] = {"patients": patients, "classes": 2, "voxels": 300, "seed": 0}
        each = segmentation_dice(columns, masks, train, test, **fields)
        worth.append(dice_metrics(each, np.ones((1, 4)), ("anterior", "posterior"))["dice"][0])
    assert 0.1 < worth[0] < worth[1] < 0.9


def test_outlines_are_of_the_slice_that_holds_most_of_the_mask() -> None:
    """A square of 3 x 3 in slice 2 of 4: its 8 outer voxels are blue, what was called elsewhere in the slice dashed."""
    truth, called = torch.zeros(4, 8, 8, dtype=torch.int64), torch.zeros(4, 8, 8, dtype=torch.int64)
    truth[1, 0, 0], truth[2, 1:4, 1:4], called[2, 4:8, 4:8] = 1, 1, 2
    image = torch.arange(256.0).reshape(1, 4, 8, 8)
    seen = picture(image, truth, called)
    assert seen.shape == (144, 144, 3)
    at = (seen == TRUE).all(axis=2)
    assert at[18:72, 18:72].sum() == at.sum() == 54**2 - 52**2  # one pixel of 18 to a voxel, round 3 x 3 voxels
    dashed = (seen == CALLED).all(axis=2)
    assert 0.4 < dashed.sum() / (72**2 - 70**2) < 0.6
    assert not dashed[:72, :72].any()
    assert seen[0, 143].tolist() == [28] * 3  # grey from the least to the most of this slice: 7 of 63


def test_an_outline_lies_inside_and_parts_classes() -> None:
    """Two classes side by side, and the edge of the picture."""
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 0, 0]])
    assert border(labels).tolist() == [[True] * 4, [True] * 4, [True] * 4, [False] * 4]
    wide = np.pad(np.ones((3, 3), np.int64), 1)
    assert border(wide).sum() == 8
    assert not border(np.zeros((3, 3), np.int64)).any()
