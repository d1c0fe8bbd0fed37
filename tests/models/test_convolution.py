"""Thin images in bfloat16: the same as in float32, whatever lies in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from volssl.models.convolution import Conv2d, Conv3d, replace_convolutions


def litter() -> None:
    """Leave NaN in the memory that the next tensors get."""
    kept = [torch.full((n,), torch.nan) for n in (100, 1000, 5000, 20000, 100000) for _ in range(4)]
    del kept


def results(conv: nn.Conv2d | nn.Conv3d, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    x = x.clone().requires_grad_()
    conv.zero_grad()
    litter()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        out = conv(x)
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    torch.autograd.backward((out.float() * weight).sum())
    assert x.grad is not None
    assert conv.weight.grad is not None
    return [out.detach().float(), x.grad, conv.weight.grad]


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
@pytest.mark.parametrize(("channels", "kernel"), [(1, (3, 7, 7)), (1, (7, 7, 7)), (16, (3, 3, 3)), (16, (1, 1, 1))])
def test_bfloat16_is_float32_but_for_rounding(channels: int, kernel: tuple[int, int, int], slices: int) -> None:
    generator = torch.Generator().manual_seed(slices)
    conv = Conv3d(channels, 16, kernel, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2), bias=False)
    x = torch.randn(2, channels, slices, 7, 8, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    for half, full in zip(results(conv, x, torch.bfloat16), results(conv, x, torch.float32), strict=True):
        assert (half - full).norm() < 0.02 * full.norm()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "size", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (3, 3), (1, 1, 1), (2, 2, 1), (1, 3, 1), (2, 2, 2)]
)
def test_a_single_column_is_right_too(size: tuple[int, ...], stride: int) -> None:
    """Negative control: torch's own, on one column with stride 2, gives NaN or other numbers on this kind of CPU."""
    generator = torch.Generator().manual_seed(stride)
    kind = Conv2d if len(size) == 2 else Conv3d
    conv = kind(16, 32, 3, stride, padding=1, bias=False)
    x = torch.randn(4, 16, *size, generator=generator)
    for half, full in zip(results(conv, x, torch.bfloat16), results(conv, x, torch.float32), strict=True):
        assert (half - full).norm() < 0.02 * full.norm()


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_it_is_torch_s_convolution(slices: int) -> None:
    net = nn.Sequential(nn.Conv3d(2, 3, (5, 3, 3), stride=(2, 1, 1), padding=(2, 1, 1), dtype=torch.float64))
    x = torch.randn(2, 2, slices, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, state, theirs = net(x), net.state_dict(), net[0]
    replace_convolutions(net)
    assert isinstance(net[0], Conv3d)
    assert net[0].weight is theirs.weight
    assert net.state_dict().keys() == state.keys()
    torch.testing.assert_close(net(x), before, rtol=0, atol=1e-12)


def test_what_pads_otherwise_stays() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))
    before = list(net)
    replace_convolutions(net)
    assert list(net) == before
