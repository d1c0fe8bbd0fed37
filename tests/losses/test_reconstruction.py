"""The error of drawn patches: by hand, against loops in NumPy, its laws, and chunks against the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from torch import Tensor

from volssl.losses.reconstruction import patch_error

Array = NDArray[np.float64]
BOTH = pytest.mark.parametrize("normalise", [False, True])


def patches(seed: int = 0, items: int = 4, hidden: int = 3, pixels: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn, true = torch.randn(2, items, hidden, pixels, generator=generator, dtype=torch.float64)
    return drawn, 2 * true + 1


def slow_patch_error(drawn: Array, pixels: Array, normalise: bool) -> float:
    """Section 3 of the paper: squared differences over the pixels of the hidden patches, and their mean."""
    terms = []
    for item, true_item in zip(drawn, pixels, strict=True):
        for patch, true in zip(item, true_item, strict=True):
            mean = sum(true) / len(true) if normalise else 0.0
            variance = sum((x - mean) ** 2 for x in true) / (len(true) - 1) if normalise else 1 - 1e-6
            terms += [(p - (x - mean) / math.sqrt(variance + 1e-6)) ** 2 for p, x in zip(patch, true, strict=True)]
    return float(sum(terms)) / len(terms)


# By hand


def test_by_hand() -> None:
    """One patch (1, 3) drawn as (0, 0): (1 + 9) / 2 = 5. Normalised: mean 2, unbiased variance 2, so it is
    (-1, 1) / sqrt(2) and costs (1/2 + 1/2) / 2 = 1/2; drawn as (1, 1): 1/2 + 1 = 3/2."""
    pixels, zeros, ones = (torch.tensor([[x]], dtype=torch.float64) for x in ([1.0, 3.0], [0.0, 0.0], [1.0, 1.0]))
    assert patch_error(drawn=zeros, pixels=pixels, normalise=False).item() == pytest.approx(5)
    assert patch_error(drawn=zeros, pixels=pixels, normalise=True).item() == pytest.approx(0.5, abs=1e-6)
    assert patch_error(drawn=ones, pixels=pixels, normalise=True).item() == pytest.approx(1.5, abs=1e-6)


# Against a slow twin


@BOTH
def test_value_and_gradient_are_those_of_the_loops(normalise: bool) -> None:
    drawn, pixels = patches()

    def slow(flat: Array) -> float:
        return slow_patch_error(flat.reshape(drawn.shape), pixels.numpy(), normalise)

    x = drawn.clone().requires_grad_()
    loss = patch_error(drawn=x, pixels=pixels, normalise=normalise)
    assert loss.item() == pytest.approx(slow(drawn.numpy()), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, x)
    np.testing.assert_allclose(gradient.flatten(), approx_fprime(drawn.flatten().numpy(), slow, 1e-7), atol=1e-5)
    # Negative control: all patches of an item normalised as one is something else.
    assert slow_patch_error(drawn.flatten(1, 2)[:, None].numpy(), pixels.flatten(1, 2)[:, None].numpy(), True) != (
        pytest.approx(loss.item(), rel=1e-3)
    )


@BOTH
def test_gradcheck(normalise: bool) -> None:
    drawn, pixels = patches(1)
    assert torch.autograd.gradcheck(
        lambda x: patch_error(drawn=x, pixels=pixels, normalise=normalise), drawn.requires_grad_()
    )


# Laws


def test_the_best_constant_answer_scores_one_less_the_share_of_a_pixel() -> None:
    """The collapsed value: P numbers of mean zero and unbiased variance one have a mean square of (P - 1) / P."""
    _, pixels = patches(2, pixels=5)
    for answer, worse in ((0.0, 0.0), (0.3, 0.09)):
        drawn = torch.full_like(pixels, answer)
        loss = patch_error(drawn=drawn, pixels=pixels, normalise=True, epsilon=0.0)
        assert loss.item() == pytest.approx(4 / 5 + worse)


def test_zero_where_the_patches_are_drawn_and_only_there() -> None:
    drawn, pixels = patches(3)
    assert patch_error(drawn=pixels, pixels=pixels, normalise=False).item() == 0
    centred = pixels - pixels.mean(dim=-1, keepdim=True)
    target = centred / (pixels.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    assert patch_error(drawn=target, pixels=pixels, normalise=True).item() == pytest.approx(0, abs=1e-28)
    assert patch_error(drawn=drawn, pixels=pixels, normalise=False).item() > 1


def test_brightness_and_contrast_of_a_patch_matter_only_where_it_is_not_normalised() -> None:
    drawn, pixels = patches(4)
    scale = torch.linspace(0.5, 3, 12, dtype=torch.float64).view(4, 3, 1)
    plain, brighter = (
        {n: patch_error(drawn=drawn, pixels=x, normalise=n, epsilon=0.0).item() for n in (False, True)}
        for x in (pixels, scale * pixels + 7 * scale)
    )
    assert brighter[True] == pytest.approx(plain[True])
    assert brighter[False] != pytest.approx(plain[False], rel=1e-1)


@BOTH
def test_order_of_items_patches_and_pixels_does_not_matter_but_pairing_does(normalise: bool) -> None:
    drawn, pixels = patches(5)
    loss = patch_error(drawn=drawn, pixels=pixels, normalise=normalise).item()
    for axis in range(3):
        both = patch_error(drawn=drawn.flip(axis), pixels=pixels.flip(axis), normalise=normalise)
        one = patch_error(drawn=drawn.flip(axis), pixels=pixels, normalise=normalise)
        assert both.item() == pytest.approx(loss, rel=1e-12)
        assert one.item() != pytest.approx(loss, rel=1e-3)


def test_no_gradient_reaches_the_pixels() -> None:
    drawn, pixels = (x.requires_grad_() for x in patches(6))
    loss = patch_error(drawn=drawn, pixels=pixels, normalise=True)
    assert torch.autograd.grad(loss, (drawn, pixels), allow_unused=True)[1] is None


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_in_half_precision_for_flat_and_for_bright_patches(dtype: torch.dtype, normalise: bool) -> None:
    """Air is a patch without variance; a square of 1000 does not fit float16."""
    drawn, pixels = (x.to(dtype) for x in patches(7))
    for y in (torch.zeros_like(pixels), torch.full_like(pixels, -3), 1000 * pixels):
        x = drawn.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = patch_error(drawn=x, pixels=y, normalise=normalise)
        assert loss.dtype == torch.float32
        assert loss.item() == patch_error(drawn=drawn.float(), pixels=y.float(), normalise=normalise).item()
        assert loss.isfinite()
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


# Composition


@BOTH
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_weighed_by_their_items_average_to_the_whole(chunk: int, normalise: bool) -> None:
    drawn, pixels = patches(8)
    parts = [
        len(x) * patch_error(drawn=x, pixels=y, normalise=normalise)
        for x, y in zip(torch.split(drawn, chunk), torch.split(pixels, chunk), strict=True)
    ]
    whole = patch_error(drawn=drawn, pixels=pixels, normalise=normalise)
    torch.testing.assert_close(torch.stack(parts).sum() / 4, whole, rtol=0, atol=1e-12)
    if chunk == 3:  # Negative control: without the weights the last item counts as much as the three before it.
        uneven = torch.stack([part / size for part, size in zip(parts, (3, 1), strict=True)]).mean()
        assert not torch.isclose(uneven, whole, rtol=1e-3)
