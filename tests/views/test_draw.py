"""Drawing: a view's parameters are a function of (seed, view number), within the bounds, and nothing else."""

from __future__ import annotations

from dataclasses import fields
from math import cos, radians, sin, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from volssl.views import Chances, ViewsConfig
from volssl.views.draw import Parameters, draw

REGION = (20, 64, 48)
RICH = ViewsConfig(
    size=(16, 32, 32),
    crop=(0.3, 0.8),
    aspect=(0.75, 1.33),
    slices=(0.5, 1.0),
    flip=(0, 2),
    rotate=(-20, 20),
    tilt=(-10, 10),
    scale=(0.8, 1.2),
    voxel=(3.0, 1.0, 1.0),
    coarse=(1.0, 3.0),
    thick=(1.0, 2.0),
    blur=(0.5, 2.0),
    blur_slices=(0.0, 1.0),
    bands=(0.5, 2.0),
    histogram=(0.2, 1.0),
    gamma=(0.5, 2.0),
    contrast=(0.7, 1.4),
    brightness=(-0.1, 0.1),
    bias=(0.1, 0.3),
    noise=(0.01, 0.1),
    dropout=(0.1, 0.3),
    stain=(0.7, 1.4),
    stain_shift=(-0.05, 0.05),
    saturation=(0.5, 1.5),
    hue=(-0.1, 0.1),
)


def equal(a: Parameters, b: Parameters) -> dict[str, bool]:
    return {f.name: torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Parameters)}


def test_a_sample_draws_the_same_in_any_company() -> None:
    together = draw(RICH, [3, -7, 2**62, 3], 1, REGION)
    alone = draw(RICH, [-7], 1, REGION)
    assert all(equal(together[1:2], alone).values())
    assert all(equal(together[0:1], together[3:4]).values())


def test_seed_and_view_each_change_every_parameter() -> None:
    first = draw(RICH, [3], 0, REGION)
    for other in (draw(RICH, [4], 0, REGION), draw(RICH, [3], 1, REGION)):
        same = equal(first, other)
        assert not any(same[name] for name in same if name != "smooth")


def test_turning_an_operation_on_leaves_the_others_as_they_were() -> None:
    with_more = draw(RICH, [3, 4], 0, REGION)
    without = RICH.model_copy(update={"bands": (1.0, 1.0), "dropout": (0.0, 0.0), "gamma": (1.0, 1.0), "holes": 2})
    same = equal(with_more, draw(without, [3, 4], 0, REGION))
    assert {name for name, kept in same.items() if not kept} == {"bands", "boxes", "gamma"}


def test_a_seed_draws_what_it_has_always_drawn() -> None:
    """A run that goes on with a later version sees the same views: new draws come after the old ones.

    The numbers are those of the version before colours; its last draws were the noise's seed and the boxes.
    """
    p = draw(RICH, [3, -7], 1, REGION)
    assert p.noise_seed.tolist() == [1849178715999846, 6260586819948128]
    assert p.boxes[:, -1, -1, 0].tolist() == pytest.approx([0.2664343927396788, 0.06841260201238274], abs=1e-12)
    assert p.gamma.tolist() == pytest.approx([0.931557834148407, 0.8737807869911194])


def test_the_defaults_draw_the_identity() -> None:
    p = draw(ViewsConfig(size=(16, 32, 32)), [1, 2, 3], 0, REGION)
    eye = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    assert torch.equal(p.matrix, eye)
    assert not any(
        getattr(p, name).any() for name in ("centre", "blur", "brightness", "bias", "noise", "stain_shift", "hue")
    )
    assert all(
        (getattr(p, name) == 1).all() for name in ("coarse", "bands", "gamma", "contrast", "stain", "saturation")
    )
    assert torch.equal(p.curve, torch.linspace(0, 1, 5).expand(3, 5))
    assert torch.equal(p.boxes[..., 0], p.boxes[..., 1])


def test_everything_drawn_lies_within_its_bounds() -> None:
    p = draw(RICH, range(500), 0, REGION)
    for values, (low, high) in (
        (p.gamma, RICH.gamma),
        (p.contrast, RICH.contrast),
        (p.brightness, RICH.brightness),
        (p.noise, RICH.noise),
        (p.blur[:, 1], RICH.blur),
        (p.blur[:, 0], RICH.blur_slices),
        (p.coarse[:, 0], RICH.thick),
        (p.coarse[:, 2], RICH.coarse),
        (p.bands, RICH.bands),
        (p.stain, RICH.stain),
        (p.stain_shift, RICH.stain_shift),
        (p.saturation, RICH.saturation),
        (p.hue, RICH.hue),
    ):
        assert low <= values.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < values.max() <= high
    assert torch.equal(p.blur[:, 1], p.blur[:, 2])
    assert not torch.isclose(p.stain[:, 0], p.stain[:, 1]).any()
    assert (p.curve.diff(dim=1) > 0).all()
    assert p.bias.abs().max() <= 0.3
    edges = p.boxes[..., 1] - p.boxes[..., 0]
    assert 0.1 - 1e-9 <= edges.min() <= edges.max() <= 0.3 + 1e-9
    assert 0 <= p.boxes.min() <= p.boxes.max() <= 1


def test_crops_lie_within_the_region_and_keep_the_share_asked_for() -> None:
    """Without rotation the matrix is diagonal: its entries are the kept shares of the edges."""
    config = ViewsConfig(size=(16, 32, 32), crop=(0.3, 0.8), aspect=(0.75, 1.33), slices=(0.4, 0.8))
    p = draw(config, range(500), 0, REGION)
    kept = p.matrix.diagonal(dim1=1, dim2=2)
    assert ((p.centre.abs() + kept) <= 1 + 1e-9).all()
    area = kept[:, 1] * kept[:, 2]
    assert area.min() >= 0.3 * 0.75 / 1.34  # an edge is cut at the region's: the area may then be smaller
    assert area.max() <= 0.8 + 1e-9
    assert p.centre[:, 1].max() > 0.2
    slices = kept[:, 0] * REGION[0]
    assert torch.allclose(slices, slices.round())
    assert 8 <= slices.min() <= slices.max() <= 16
    first = (p.centre[:, 0] + 1) * REGION[0] / 2 - slices / 2
    assert torch.allclose(first, first.round())
    assert len(set(first.round().tolist())) > 8


def test_probabilities_are_met() -> None:
    config = RICH.model_copy(update={"p": Chances(gamma=0.25, noise=0.0, flip=0.5, tilt=0.0, stain=0.3, grey=0.2)})
    p = draw(config, range(2000), 0, REGION)
    assert 0.21 < (p.gamma != 1).double().mean() < 0.29
    assert not p.noise.any()
    still = (p.stain == 1).all(dim=1)
    assert torch.equal(still, (p.stain_shift == 0).all(dim=1))
    assert 0.66 < still.double().mean() < 0.74
    assert 0.16 < (p.saturation == 0).double().mean() < 0.24
    assert 0.45 < (p.matrix[:, 0, 0] < 0).double().mean() < 0.55


def test_flips_stay_on_the_axes_that_may_flip() -> None:
    certain: dict[str, Any] = {"count": 1, "p": Chances(flip=1.0)}
    volume = draw(ViewsConfig(size=(4, 4, 4), flip=(1,), **certain), [0], 0, (4, 4, 4))
    assert torch.equal(volume.matrix[0].diagonal(), torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    image = draw(ViewsConfig(size=(4, 4), flip=(0,), **certain), [0], 0, (4, 4))
    assert torch.equal(image.matrix[0].diagonal(), torch.tensor([-1.0, 1.0], dtype=torch.float64))


def test_rotation_by_hand() -> None:
    """30 degrees, all of a region of 10 x 20 square pixels: edges 10 and 20.

    One half edge of the view's columns is 10 pixels; turned from rows to columns it lies -10 sin 30 rows and
    10 cos 30 columns away, which is -10 sin 30 / 5 and 10 cos 30 / 10 of the region's half edges.
    """
    p = draw(ViewsConfig(size=(10, 20), rotate=(30, 30)), [0], 0, (10, 20))
    c, s = cos(radians(30)), sin(radians(30))
    expected = torch.tensor([[c, -2 * s], [s / 2, c]], dtype=torch.float64)
    torch.testing.assert_close(p.matrix[0], expected)


def test_tilt_is_a_rotation_in_millimetres() -> None:
    """With R the rotation, matrix[a, b] = R[a, b] edge[b] / edge[a]; R is orthogonal and R[0, 0] = cos 20."""
    config = ViewsConfig(size=(4, 8, 8), tilt=(20, 20), voxel=(3.0, 1.0, 1.0))
    p = draw(config, range(8), 0, (10, 20, 40))
    edge = torch.tensor([30.0, 20.0, 40.0], dtype=torch.float64)
    rotation = p.matrix * edge[:, None] / edge[None, :]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(8, 3, 3))
    torch.testing.assert_close(rotation[:, 0, 0], torch.full((8,), cos(radians(20)), dtype=torch.float64))
    assert (torch.linalg.det(rotation) > 0).all()


@pytest.mark.parametrize(("size", "expected"), [((32, 32), 0.5), ((64, 64), 0.0), ((42, 42), 0.0)])
def test_the_filter_before_down_sampling_by_hand(size: tuple[int, int], expected: float) -> None:
    """64 -> 32 is a factor of 2: sd (2 - 1) / 2. 64 -> 42: (1.52 - 1) / 2 = 0.26 counts as none."""
    for rotate in ((0.0, 0.0), (45.0, 45.0)):
        p = draw(ViewsConfig(size=size, rotate=rotate), [0], 0, (64, 64))
        np.testing.assert_allclose(p.smooth.numpy(), expected)
    off = draw(ViewsConfig(size=size, antialias=False), [0], 0, (64, 64))
    assert not off.smooth.any()


def test_aspect_by_hand() -> None:
    """Area 0.25 and width by height 4: rows sqrt(0.25 / 4) = 0.25, columns sqrt(0.25 * 4) = 1."""
    p = draw(ViewsConfig(size=(8, 8), crop=(0.25, 0.25), aspect=(4, 4)), [0], 0, (8, 8))
    torch.testing.assert_close(p.matrix[0].diagonal(), torch.tensor([sqrt(0.0625), 1.0], dtype=torch.float64))
