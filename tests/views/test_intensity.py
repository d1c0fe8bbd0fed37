"""Intensity operations against MONAI, NumPy and SciPy, each sample and channel by itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    AdjustContrast,
    RandBiasField,
    RandHistogramShift,
    ScaleIntensityFixedMean,
    ShiftIntensity,
)
from numpy.polynomial import legendre
from scipy import ndimage, stats
from torch import Tensor

from volssl.views import ViewsConfig
from volssl.views.draw import draw
from volssl.views.intensity import (
    add_noise,
    adjust_contrast,
    adjust_gamma,
    apply_intensity,
    drop_boxes,
    energy_bands,
    multiply_bias,
    normal_quantiles,
    shift_histogram,
)

SHAPES = [(3, 1, 6, 20, 24), (3, 4, 6, 20, 24), (3, 1, 20, 24), (3, 4, 20, 24)]
shapes = pytest.mark.parametrize("shape", SHAPES)


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def changed(x: Tensor, change: Callable[[Tensor], None]) -> Tensor:
    y = x.clone()
    change(y)
    return y


@shapes
def test_gamma_is_monais(shape: tuple[int, ...]) -> None:
    x, gamma = noise(shape), torch.tensor([0.5, 1.3, 2.0])
    y = changed(x, lambda y: adjust_gamma(y, gamma))
    for i, c in np.ndindex(shape[:2]):
        expected = torch.as_tensor(np.asarray(AdjustContrast(gamma=float(gamma[i]))(x[i, c : c + 1])))
        torch.testing.assert_close(y[i, c : c + 1], expected, rtol=0, atol=2e-6)


@shapes
def test_contrast_is_monais_scaling_about_the_mean(shape: tuple[int, ...]) -> None:
    x, factor = noise(shape), torch.tensor([0.5, 1.0, 1.7])
    y = changed(x, lambda y: adjust_contrast(y, factor, torch.zeros(3)))
    for i, c in np.ndindex(shape[:2]):
        monai = ScaleIntensityFixedMean(factor=float(factor[i]) - 1.0, fixed_mean=True)(x[i, c : c + 1])
        torch.testing.assert_close(y[i, c : c + 1], torch.as_tensor(np.asarray(monai)), rtol=0, atol=5e-6)


def test_contrast_and_brightness_by_hand() -> None:
    """(0, 1, 5): mean 2; doubled about it (-2, 0, 8); plus 0.5."""
    x = torch.tensor([0.0, 1.0, 5.0]).view(1, 1, 1, 3)
    adjust_contrast(x, torch.tensor([2.0]), torch.tensor([0.5]))
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.5, 0.5, 8.5]))


@shapes
def test_the_curve_is_np_interp(shape: tuple[int, ...]) -> None:
    x = noise(shape)
    curve = torch.tensor([[0.0, 0.3, 0.5, 0.7, 1.0], [0.0, 0.15, 0.6, 0.7, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0]])
    y = changed(x, lambda y: shift_histogram(y, curve))
    for i, c in np.ndindex(shape[:2]):
        image = x[i, c].double().numpy()
        low, high = image.min(), image.max()
        points = np.linspace(low, high, 5)
        expected = np.interp(image, points, low + curve[i].double().numpy() * (high - low))
        np.testing.assert_allclose(y[i, c].numpy(), expected, atol=5e-6)


@shapes
def test_the_curve_is_monais_histogram_shift(shape: tuple[int, ...]) -> None:
    """MONAI's transform with our control points in place of those it would draw."""
    x = noise(shape)
    curve = torch.tensor([[0.0, 0.3, 0.5, 0.7, 1.0], [0.0, 0.15, 0.6, 0.7, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0]])
    y = changed(x, lambda y: shift_histogram(y, curve))
    monai = RandHistogramShift(num_control_points=5, prob=1.0)
    monai.randomize()
    for i, c in np.ndindex(shape[:2]):
        monai.floating_control_points = curve[i].numpy()
        expected = torch.as_tensor(np.asarray(monai(x[i, c : c + 1], randomize=False)))
        torch.testing.assert_close(y[i, c : c + 1], expected, rtol=0, atol=5e-6)


@shapes
def test_brightness_is_monais_shift(shape: tuple[int, ...]) -> None:
    x, shift = noise(shape), torch.tensor([-0.5, 0.0, 2.0])
    y = changed(x, lambda y: adjust_contrast(y, torch.ones(3), shift))
    for i in range(3):
        expected = torch.as_tensor(np.asarray(ShiftIntensity(offset=float(shift[i]))(x[i])))
        torch.testing.assert_close(y[i], expected, rtol=0, atol=1e-6)


@shapes
def test_the_bias_field_is_numpys_legendre_polynomial(shape: tuple[int, ...]) -> None:
    x, n = noise(shape), len(shape) - 2
    p = draw(ViewsConfig(size=shape[2:], bias=(0.2, 0.3)), [1, 2, 3], 0, shape[2:])
    y = changed(x, lambda y: multiply_bias(y, p.bias))
    for i in range(3):
        places = [np.linspace(-1, 1, edge) for edge in shape[2:]]
        coefficients = p.bias[i].double().numpy()
        vectors = [legendre.legvander(place, 3) for place in places]
        log = np.einsum("ai,bj,ij->ab" if n == 2 else "ai,bj,ck,ijk->abc", *vectors, coefficients)
        assert np.ptp(log) > 0.1
        np.testing.assert_allclose(y[i].numpy(), x[i].numpy() * np.exp(log), rtol=2e-5, atol=1e-6)


def test_the_bias_field_is_monais() -> None:
    """MONAI lists the coefficients in the order of (i, j, k) with i + j + k <= 3; the constant is 0 here."""
    shape = (6, 20, 24)
    bias = draw(ViewsConfig(size=shape, bias=(0.2, 0.3)), [1], 0, shape).bias
    within = np.indices((4, 4, 4)).sum(axis=0) <= 3
    assert not bias[0].numpy()[~within].any()
    coefficients = bias[0].numpy()[within].tolist()
    log = RandBiasField(degree=3)._generate_random_field(spatial_shape=shape, degree=3, coeff=coefficients)
    field = changed(torch.ones(1, 1, *shape), lambda y: multiply_bias(y, bias))
    np.testing.assert_allclose(field[0, 0].numpy(), np.exp(log), rtol=2e-5)


@shapes
def test_energy_bands_are_differences_of_gaussians(shape: tuple[int, ...]) -> None:
    x = noise(shape)
    gains = torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 1.0], [3.0, 0.2, 1.5]])
    y = changed(x, lambda y: energy_bands(y, gains))
    for i, c in np.ndindex(shape[:2]):
        image = x[i, c].double().numpy()
        through = (0.0,) * (image.ndim - 2)
        blurs = [image] + [ndimage.gaussian_filter(image, (*through, s, s), mode="nearest") for s in (2, 4, 8)]
        bands = [finer - coarser for finer, coarser in pairwise(blurs)]
        np.testing.assert_allclose(sum(bands) + blurs[-1], image, atol=1e-12)
        expected = sum(float(g) * band for g, band in zip(gains[i], bands, strict=True)) + blurs[-1]
        np.testing.assert_allclose(y[i, c].numpy(), expected, atol=5e-6)
    assert torch.equal(y[1], x[1])


@shapes
def test_noise_is_gaussian_and_each_samples_own(shape: tuple[int, ...]) -> None:
    x, sd = noise(shape), torch.tensor([0.05, 0.5, 2.0])
    y = changed(x, lambda y: add_noise(y, sd, [7, 8, 9]))
    for i in range(3):
        alone = x[i : i + 1].clone()
        add_noise(alone, sd[i : i + 1], [7 + i])
        assert torch.equal(alone[0], y[i])
        added = ((y[i] - x[i]) / sd[i]).flatten().double().numpy()
        assert stats.kstest(added, "norm").pvalue > 0.001
        assert abs(np.corrcoef(added[:-1], added[1:])[0, 1]) < 5 / np.sqrt(added.size)


def test_the_noise_is_normal_in_the_large() -> None:
    """A million draws: mean 0 +- 0.001, variance 1, kurtosis 3 +- 0.005, and no pattern of four per word."""
    x = torch.zeros(1, 1, 1000, 1000)
    add_noise(x, torch.ones(1), [3])
    values = x.flatten().double().numpy()
    assert abs(values.mean()) < 4e-3
    assert abs(values.var() - 1) < 6e-3
    assert abs(stats.kurtosis(values)) < 0.025
    fours = np.corrcoef(values.reshape(-1, 4).T) - np.eye(4)
    assert np.abs(fours).max() < 0.01
    assert abs(values).max() > 4.0


def test_the_quantiles_are_the_normal_distributions() -> None:
    quantiles = normal_quantiles(torch.device("cpu")).double().numpy()
    np.testing.assert_allclose(quantiles, stats.norm.ppf((np.arange(65536) + 0.5) / 65536), atol=1e-6)
    assert abs(quantiles.var() - 1) < 1e-4


@shapes
def test_boxes_are_zero_and_the_rest_is_kept(shape: tuple[int, ...]) -> None:
    x, n = noise(shape), len(shape) - 2
    boxes = torch.rand((3, 2, n, 2), generator=torch.Generator().manual_seed(1)).double().sort(dim=-1).values
    y = changed(x, lambda y: drop_boxes(y, boxes))
    for i in range(3):
        inside = np.zeros(shape[2:], dtype=bool)
        for box in boxes[i].numpy():
            at = [np.rint(corner * edge).astype(int) for corner, edge in zip(box, shape[2:], strict=True)]
            inside[tuple(slice(*pair) for pair in at)] = True
        assert inside.any()
        expected = np.where(inside, 0.0, x[i].numpy())
        np.testing.assert_array_equal(y[i].numpy(), expected)


def test_a_constant_channel_stays_finite() -> None:
    x = torch.full((1, 1, 4, 4), 3.0)
    adjust_gamma(x, torch.tensor([0.5]))
    shift_histogram(x, torch.tensor([[0.0, 0.3, 0.5, 0.7, 1.0]]))
    assert torch.equal(x, torch.full((1, 1, 4, 4), 3.0))


def test_an_inactive_sample_keeps_its_bits_beside_active_ones() -> None:
    settings: dict[str, Any] = {"gamma": (2.0, 2.0), "contrast": (1.5, 1.5), "bias": (0.2, 0.2), "noise": (0.1, 0.1)}
    more: dict[str, Any] = {"bands": (0.5, 0.6), "histogram": (1.0, 1.0), "dropout": (0.5, 0.5)}
    on = draw(ViewsConfig(size=(20, 24), **settings, **more), [5], 0, (20, 24))
    off = draw(ViewsConfig(size=(20, 24)), [6], 0, (20, 24))
    both = type(on)(*(torch.cat([getattr(on, f), getattr(off, f)]) for f in on.__slots__))
    x = noise((2, 3, 20, 24))
    y = changed(x, lambda y: apply_intensity(y, both))
    assert torch.equal(y[1], x[1])
    alone = changed(x[:1], lambda y: apply_intensity(y, on))
    torch.testing.assert_close(y[:1], alone)
    assert not torch.allclose(alone, x[:1], atol=0.1)
