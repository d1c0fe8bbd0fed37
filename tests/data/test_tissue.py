"""Tissue on overviews whose answer is known, and the share of it in tiles against a sum over small pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volssl.data.tissue import STRONG, grid, otsu, shares, tissue_mask

GLASS, PINK, PALE, INK = (243, 240, 242), (200, 90, 150), (240, 200, 225), (30, 28, 33)


def field(colour: tuple[int, int, int], noise: int = 3, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    rng = np.random.default_rng(0)
    pixels = np.array(colour) + rng.integers(-noise, noise + 1, (*shape, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def test_otsu_by_hand() -> None:
    """0, 0, 0, 8, 10: at t = 0, w = 3/5, 2/5, means 0 and 9: 6/25 * 81 = 19.4.

    At t = 8, w = 4/5, 1/5, means 2 and 10: 4/25 * 64 = 10.2. So 0, the first of the equal thresholds 0 to 7.
    """
    assert otsu(np.array([0, 10, 0, 8, 0], np.uint8)) == 0


@given(st.lists(st.integers(0, 255), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1))
@settings(max_examples=50, deadline=None)
def test_otsu_is_the_best_of_all_thresholds(values: list[int]) -> None:
    array = np.array(values, np.uint8)

    def between(t: int) -> float:
        low, high = array[array <= t].astype(float), array[array > t].astype(float)
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    assert between(otsu(array)) == pytest.approx(max(map(between, range(256))))


@pytest.mark.parametrize("colour", [GLASS, INK, (255, 255, 255), (0, 0, 0)])
def test_a_slide_without_tissue_has_none(colour: tuple[int, int, int]) -> None:
    """Otsu alone finds two classes in noise, and would call half of the glass tissue."""
    image = field(colour)
    chroma = image.max(axis=2) - image.min(axis=2)
    assert not tissue_mask(image).any()
    assert np.ptp(chroma) == 0 or (chroma > otsu(chroma)).any()


@pytest.mark.parametrize("colour", [PINK, (90, 60, 140)])
def test_a_slide_that_is_all_tissue_is_all_tissue(colour: tuple[int, int, int]) -> None:
    image = field(colour, noise=20)
    chroma = image.max(axis=2) - image.min(axis=2)
    assert tissue_mask(image).all()
    assert not (chroma > otsu(chroma)).all()


def test_pale_tissue_is_told_from_glass_and_ink() -> None:
    image = np.concatenate([field(GLASS), field(PALE), field(INK), field(PINK)])
    expected = np.repeat([False, True, False, True], 20)
    assert (tissue_mask(image) == expected[:, None]).all()
    assert max(PALE) - min(PALE) > STRONG


def test_a_grid_by_hand() -> None:
    """100 wide, tiles of 30: 0, 30, 60; every 20: 0, 20, 40, 60; 90 is the last that fits 99.99999999 wide."""
    assert grid(100, 30, 30).tolist() == [0, 30, 60]
    assert grid(100, 30, 20).tolist() == [0, 20, 40, 60]
    assert grid(30, 30, 30).tolist() == [0]
    assert grid(30 - 1e-9, 30, 30).tolist() == [0]
    assert grid(29, 30, 30).tolist() == []


@given(st.floats(10, 1000), st.floats(1, 300), st.floats(0.3, 300))
@settings(max_examples=200, deadline=None)
def test_tiles_lie_within_the_slide_and_one_more_would_not(extent: float, tile: float, stride: float) -> None:
    starts = grid(extent, tile, stride)
    assert (starts >= 0).all()
    assert (starts + tile <= extent + 1e-5 * tile).all()
    assert (np.diff(starts) >= 0).all()
    assert len(starts) * stride + tile > extent


def test_shares_by_hand() -> None:
    """The mask is 1 in its left column. A tile of 1 x 1 at (0.5, 0.25) is for three quarters in that column."""
    mask = np.array([[True, False], [True, False]])
    share = shares(mask, np.array([0.0, 0.5]), np.array([0.0, 0.25, 1.0]), (1.0, 1.0))
    assert share == pytest.approx(np.array([[1, 0.75, 0], [1, 0.75, 0]]))


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_shares_are_sums_over_small_pieces(seed: int, height: int, width: int) -> None:
    """Mask pixels of 4 x 4 pieces, tiles at whole numbers of pieces."""
    rng = np.random.default_rng(seed)
    mask = rng.random((8, 9)) < 0.5
    fine = np.kron(mask, np.ones((4, 4)))
    rows, columns = np.arange(0, 32 - height + 1, 3), np.arange(0, 36 - width + 1, 5)
    expected = [[fine[r : r + height, c : c + width].mean() for c in columns] for r in rows]
    assert shares(mask, rows / 4, columns / 4, (height / 4, width / 4)) == pytest.approx(np.array(expected))
