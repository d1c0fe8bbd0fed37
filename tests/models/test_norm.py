"""Batch norm with deferred statistics against torch's own, and the swap of norms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from volssl.models.norm import (
    BatchNorm,
    commit_statistics,
    defer_statistics,
    discard_statistics,
    pending_statistics,
    replace_norm,
)

SHAPES = [(6, 3), (6, 3, 5), (6, 3, 4, 5), (6, 3, 2, 4, 5)]
TORCHS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(shape, generator=generator, dtype=torch.float64)


def pair(dims: int) -> tuple[BatchNorm, nn.Module]:
    """Ours, deferred, and torch's with the same weights."""
    theirs = TORCHS[dims](3).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        theirs.bias.copy_(torch.tensor([0.1, 0.0, -0.1]))
    ours = BatchNorm(3).double()
    ours.load_state_dict(theirs.state_dict())
    defer_statistics(ours)
    return ours, theirs


@pytest.mark.parametrize("shape", SHAPES)
def test_one_group_is_torch_s_batch_norm(shape: tuple[int, ...]) -> None:
    """Output, gradient, buffers after the commit, and what eval mode makes of them."""
    ours, theirs = pair(len(shape))
    x, y = images(shape).requires_grad_(), images(shape).requires_grad_()
    assert torch.equal(ours(x), theirs(y))
    torch.autograd.backward([ours(x).square().sum(), theirs(y).square().sum()])
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.grad)
    theirs.load_state_dict(pair(len(shape))[1].state_dict())
    theirs(y)
    commit_statistics(ours)  # two passes over the same group average to that group
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(y))


@pytest.mark.parametrize("shape", SHAPES)
def test_as_built_it_is_torch_s_batch_norm(shape: tuple[int, ...]) -> None:
    """Whoever fine-tunes an encoder in a loop of his own needs no commit."""
    ours, theirs = pair(len(shape))
    defer_statistics(ours, False)
    for seed in range(3):
        torch.testing.assert_close(ours(images(shape, seed)), theirs(images(shape, seed)))
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert not pending_statistics(ours)


def test_groups_are_averaged_once() -> None:
    """Groups (0, 2) and (4, 8): means 1 and 6, unbiased variances 2 and 8. From (0, 1) at momentum 0.1:
    mean 0.9 * 0 + 0.1 * 3.5 = 0.35; variance 0.9 * 1 + 0.1 * 5 = 1.4."""
    norm = BatchNorm(1)
    defer_statistics(norm)
    norm(torch.tensor([[0.0], [2.0]]))
    norm(torch.tensor([[4.0], [8.0]]))
    assert (norm.running_mean.item(), norm.running_var.item()) == (0, 1)
    commit_statistics(norm)
    assert norm.running_mean.item() == pytest.approx(0.35)
    assert norm.running_var.item() == pytest.approx(1.4)
    assert norm.num_batches_tracked == torch.tensor(1)
    before = copy.deepcopy(norm.state_dict())
    commit_statistics(norm)  # nothing is pending
    torch.testing.assert_close(dict(norm.state_dict()), dict(before))


def test_a_pass_without_a_graph_and_a_discarded_one_leave_no_trace() -> None:
    norm, x = BatchNorm(3), images((6, 3)).float()
    defer_statistics(norm)
    before = copy.deepcopy(norm.state_dict())
    with torch.no_grad():
        norm(x)
    assert not pending_statistics(norm)
    norm(x)
    assert len(pending_statistics(norm)) == 1
    discard_statistics(norm)
    commit_statistics(norm)
    torch.testing.assert_close(dict(norm.state_dict()), dict(before), rtol=0, atol=0)


def test_bfloat16_inputs_keep_float32_statistics() -> None:
    norm = BatchNorm(3)
    defer_statistics(norm)
    assert norm(images((6, 3, 4, 4, 4)).bfloat16()).dtype == torch.bfloat16
    assert [p.dtype for p in pending_statistics(norm)] == [torch.float32]


def test_groups_of_channels() -> None:
    """At most 32 groups, at least two channels in each: a lone channel on one voxel would become zero."""
    net = nn.Sequential(*[nn.BatchNorm3d(c) for c in (4, 6, 16, 64, 96, 512)])
    replace_norm(net, "group")
    assert [m.num_groups for m in net if isinstance(m, nn.GroupNorm)] == [2, 3, 8, 32, 32, 32]


@pytest.mark.parametrize(
    ("torchs", "instance"), [(nn.BatchNorm2d, nn.InstanceNorm2d), (nn.BatchNorm3d, nn.InstanceNorm3d)]
)
def test_instance_norm_fits_the_dimensions(torchs: type[nn.Module], instance: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Sequential(torchs(8)))
    replace_norm(net, "instance")
    (norm,) = (m for m in net.modules() if isinstance(m, instance))
    assert [p.shape for p in norm.parameters()] == [(8,), (8,)]


def test_statistics_are_recorded_in_a_compiled_graph() -> None:
    """Whole graphs, no breaks: without gradient, first group of a step, further groups."""
    plain, compiled = BatchNorm(3), BatchNorm(3)
    for norm in (plain, compiled):
        defer_statistics(norm)
    compiled.compile(backend="aot_eager", fullgraph=True)
    for _ in range(2):
        for seed in range(3):
            x = images((6, 3, 5), seed).float()
            with torch.no_grad():
                assert torch.equal(compiled(x), plain(x))
            assert torch.equal(compiled(x), plain(x))
        commit_statistics(plain)
        commit_statistics(compiled)
    torch.testing.assert_close(dict(compiled.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    assert plain.num_batches_tracked == torch.tensor(2)
