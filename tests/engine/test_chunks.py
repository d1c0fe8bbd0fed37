"""Held or made again: the same views either way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from volssl.engine.chunks import Chunks, memory
from volssl.types import Samples

SIZE = 2 * 3 * 4 * 2  # bytes of one chunk's views: 2 items of 3 float32 in 2 views


class Counted:
    """Two views of 3 numbers each; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"0": images + seeds[:, None], "1": images - seeds[:, None]}


def samples(n: int = 6) -> Samples:
    index = torch.arange(n)
    return Samples(torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), index, index * 7, -index)


@pytest.mark.parametrize(("hold", "calls"), [(0, 6), (SIZE, 5), (2 * SIZE + 1, 4), (3 * SIZE, 3), (10**9, 3)])
def test_what_fits_is_held_and_the_rest_made_again(hold: int, calls: int) -> None:
    views, whole = Counted(), samples()
    chunks = Chunks(whole, views, 2, device=torch.device("cpu"), hold=hold)
    passes = [list(chunks), list(chunks)]
    assert views.calls == calls
    for parts in passes:
        assert torch.equal(torch.cat([p.views["0"] for p in parts]), whole.images + whole.seeds[:, None])
        assert torch.equal(torch.cat([p.views["1"] for p in parts]), whole.images - whole.seeds[:, None])
        assert torch.equal(torch.cat([p.index for p in parts]), whole.index)
        assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)


def test_the_memory_of_the_machine() -> None:
    assert 2**28 < memory(torch.device("cpu")) < 2**50
