"""Colour operations on red, green and blue: stains by colour deconvolution, saturation and hue about the luma."""

from __future__ import annotations

from math import pi

import numpy as np
import torch
from torch import Tensor

from volssl.views.axes import Matrix

_LN10 = float(np.log(10.0))
_DARKEST = 1.0 / 255.0  # one step of a byte: the optical density of black is not known better
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def _stains() -> Matrix:
    """(3, 3): columns of unit length: hematoxylin, eosin, and the residual at right angles to both.

    Optical densities of red, green and blue from Ruifrok & Johnston, Anal Quant Cytol Histol 23(4), 2001.
    """
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    residual = np.cross(*stains)
    columns: Matrix = np.column_stack([vector / np.linalg.norm(vector) for vector in (*stains, residual)])
    return columns


def _quarter_turn() -> Matrix:
    """(3, 3): the chroma of a colour, turned by 90 degrees from red towards yellow; its luma is 0.

    In the plane of U = 0.492 (B - Y) and V = 0.877 (R - Y) (ITU-R BT.470); I and Q of NTSC are the same plane
    on axes turned by 33 degrees, so the hue turns alike.
    """
    red, _, blue = np.eye(3)
    to_yuv = np.stack([LUMA, 0.492 * (blue - LUMA), 0.877 * (red - LUMA)])
    turn = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    matrix: Matrix = np.linalg.inv(to_yuv) @ turn @ to_yuv
    return matrix


STAINS = _stains()
_UNMIX = np.linalg.inv(STAINS)
_GREY = np.tile(LUMA, (3, 1))
_CHROMA, _QUARTER = np.eye(3) - _GREY, _quarter_turn()


def adjust_stains(x: Tensor, factor: Tensor, shift: Tensor) -> None:
    """Amounts of hematoxylin and eosin times ``factor`` plus ``shift`` (after Tellez et al., IEEE TMI 37(9), 2018).

    Amounts are optical densities, -log10 of the transmitted light (Ruifrok & Johnston 2001). The residual stays,
    and nothing gets brighter than the light itself, 1. Factors of 1 without a shift keep a byte to 5e-6 of its value.

    Args:
        x: (B, 3, ...), red, green, blue in 0..1. factor, shift: (B, 2), hematoxylin and eosin.
    """
    factors = np.pad(factor.double().numpy(), ((0, 0), (0, 1)), constant_values=1.0)
    x.clamp_(min=_DARKEST).log_()
    _mix(x, (STAINS * factors[:, None, :]) @ _UNMIX)
    added = torch.from_numpy(shift.double().numpy() @ STAINS[:, :2].T * _LN10).to(x)
    x.sub_(added.view(*added.shape, *(1,) * (x.ndim - 2))).clamp_(max=0.0).exp_()


def turn_colours(x: Tensor, saturation: Tensor, hue: Tensor) -> None:
    """Scale the chroma by ``saturation`` and turn it by ``hue``; the luma stays, and so does a grey pixel.

    Args:
        x: (B, 3, ...), red, green, blue. saturation: (B,), 0 gives the luma. hue: (B,), fraction of the circle.
    """
    size, turns = (values.double().numpy()[:, None, None] for values in (saturation, hue))
    turned = np.cos(2.0 * pi * turns) * _CHROMA + np.sin(2.0 * pi * turns) * _QUARTER
    _mix(x, _GREY + size * turned)


def _mix(x: Tensor, matrices: Matrix) -> None:
    """Replace channels by their weighted sums, (B, 3, 3); no matrix product, whose rounding may know the batch."""
    weights = torch.from_numpy(matrices).to(x).view(*matrices.shape, *(1,) * (x.ndim - 2))
    mixed = x[:, :1] * weights[:, :, 0]
    for channel in (1, 2):
        mixed.addcmul_(x[:, channel : channel + 1], weights[:, :, channel])
    x.copy_(mixed)
