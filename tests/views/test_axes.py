"""Matrices along one axis against SciPy and torch, and their product against einsum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from volssl.views.axes import Matrix, along, gaussian, linear, low_resolution, product

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("source", "target"), [(48, 32), (16, 40), (7, 7), (5, 1), (1, 4)])
def test_linear_is_torch_interpolate(source: int, target: int) -> None:
    x = torch.from_numpy(RNG.standard_normal((3, 1, source)))
    expected = F.interpolate(x, size=target, mode="linear", align_corners=False)[:, 0]
    matrix = linear(source, target)
    ours = x[:, 0] if matrix is None else x[:, 0] @ torch.from_numpy(matrix).T
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-8)


def test_a_window_of_whole_voxels_is_copied_exactly() -> None:
    """Voxels 3 to 10 of 20: centre (2 * 3 + 8) / 20 - 1 = -0.3, extent 8 / 20."""
    matrix = linear(20, 8, -0.3, 0.4)
    assert matrix is not None
    np.testing.assert_array_equal(matrix, np.eye(20)[3:11])
    turned = linear(20, 8, -0.3, -0.4)
    assert turned is not None
    np.testing.assert_array_equal(turned, np.eye(20)[3:11][::-1])


@pytest.mark.parametrize("sigma", [0.3, 0.8, 2.0, 9.0])
def test_gaussian_is_scipys(sigma: float) -> None:
    x = RNG.standard_normal((4, 24))
    matrix = gaussian(24, sigma)
    assert matrix is not None
    np.testing.assert_allclose(x @ matrix.T, ndimage.gaussian_filter1d(x, sigma, mode="nearest"), atol=1e-12)
    assert np.abs(x @ matrix.T - ndimage.gaussian_filter1d(x, sigma * 1.1, mode="nearest")).max() > 1e-3


def test_low_resolution_by_hand() -> None:
    """(0, 2, 4, 10) at factor 2: averages (1, 7), whose centres lie at 0.5 and 2.5.

    Back at 0, 1, 2, 3: clamped 1; 1 + 6 * 0.25 = 2.5; 1 + 6 * 0.75 = 5.5; clamped 7.
    """
    matrix = low_resolution(4, 2.0)
    assert matrix is not None
    np.testing.assert_allclose(matrix @ [0.0, 2.0, 4.0, 10.0], [1.0, 2.5, 5.5, 7.0])


@pytest.mark.parametrize(("length", "factor"), [(24, 3.0), (25, 2.2), (16, 16.0), (10, 1.4)])
def test_low_resolution_against_a_fine_twin(length: int, factor: float) -> None:
    """Each voxel in ``count`` parts, averaged in groups of ``length``, is averaging over length / count voxels."""
    x = RNG.standard_normal(length)
    count = round(length / factor)
    coarse = np.repeat(x, count).reshape(count, length).mean(axis=1)
    back = F.interpolate(torch.from_numpy(coarse)[None, None], size=length, mode="linear", align_corners=False)
    matrix = low_resolution(length, factor)
    assert matrix is not None
    np.testing.assert_allclose(matrix @ x, back[0, 0].numpy(), atol=1e-8)


def test_identities_are_no_matrix() -> None:
    assert linear(9, 9) is None
    assert gaussian(9, 0.0) is None
    assert low_resolution(9, 1.0) is None
    assert product(None, None) is None


def test_product_applies_the_last_first() -> None:
    a, b = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 5))
    result = product(None, a, None, b)
    assert result is not None
    np.testing.assert_allclose(result, a @ b)


@pytest.mark.parametrize("shape", [(3, 2, 7, 40, 36), (3, 1, 5, 6, 33), (3, 4, 40, 70), (3, 1, 33, 8)])
def test_along_is_einsum_on_every_axis(shape: tuple[int, ...]) -> None:
    """Dense, banded and absent matrices; more than one block of rows."""
    x = torch.from_numpy(RNG.standard_normal(shape))
    for axis in range(2, len(shape)):
        n = shape[axis]
        matrices: list[Matrix | None] = [RNG.standard_normal((n, n)), None, gaussian(n, 1.0)]
        full = torch.stack([torch.from_numpy(np.eye(n) if m is None else m) for m in matrices])
        expected = torch.einsum("b...k,bnk->b...n", x.movedim(axis, -1), full).movedim(-1, axis)
        torch.testing.assert_close(along(x, matrices, axis), expected, rtol=0, atol=1e-12)


def test_along_changes_the_length() -> None:
    x = torch.from_numpy(RNG.standard_normal((2, 3, 20, 6, 5)))
    matrix = linear(20, 8)
    assert matrix is not None
    expected = torch.einsum("bcdhw,nd->bcnhw", x, torch.from_numpy(matrix))
    torch.testing.assert_close(along(x, [matrix, matrix], 2), expected)
