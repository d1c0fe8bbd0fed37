"""Batch normalisation whose running statistics move once per optimiser step, and the swap of norms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["batch", "group", "instance"]


class BatchNorm(_BatchNorm):
    """torch's batch normalisation for any number of dimensions, with statistics that can be deferred.

    Built, it behaves as ``nn.BatchNorm`` does, and its state dict is the same. After ``defer_statistics`` a
    training pass normalises with the statistics of the group it is given (one view of one chunk: "ghost
    batch norm", Hoffer et al. 2017, arXiv 1705.08741) and touches no buffer. A pass that builds a graph adds
    the group's mean and unbiased variance to ``pending``; ``commit_statistics`` moves the running buffers by
    their average over all groups, so that a pass without a graph, or an abandoned step, leaves no trace.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1, *, affine: bool = True) -> None:
        super().__init__(features, eps, momentum, affine)
        self.deferred = False
        self.pending: Tensor | None = None  # (2 C + 1): sum of means, sum of variances, number of groups

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, *spatial), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *spatial) to the same shape."""
        if not (self.training and self.deferred):
            return super().forward(input)
        # momentum 1 makes the kernel write the group's own statistics, which saves computing them again
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        out = F.batch_norm(input, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        if torch.is_grad_enabled():
            group = torch.cat([mean, var, mean.new_ones(1)])
            self.pending = group if self.pending is None else self.pending + group
        return out


def _batch_norms(module: nn.Module) -> Iterator[BatchNorm]:
    return (m for m in module.modules() if isinstance(m, BatchNorm))


def defer_statistics(module: nn.Module, defer: bool = True) -> None:
    """Let running statistics move only in ``commit_statistics``; if not ``defer``, in every training pass."""
    for norm in _batch_norms(module):
        norm.deferred, norm.pending = defer, None


def pending_statistics(module: nn.Module) -> list[Tensor]:
    """What was recorded since the last commit, one tensor per layer; ranks add theirs up in place."""
    return [norm.pending for norm in _batch_norms(module) if norm.pending is not None]


def discard_statistics(module: nn.Module) -> None:
    """Forget what was recorded since the last commit."""
    for norm in _batch_norms(module):
        norm.pending = None


@torch.no_grad()
def commit_statistics(module: nn.Module) -> None:
    """Move the running buffers once, by the average over all recorded groups, and forget the groups."""
    for norm in _batch_norms(module):
        if norm.pending is None or norm.num_batches_tracked is None:
            continue
        mean, var = (norm.pending[:-1] / norm.pending[-1]).chunk(2)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var, norm.momentum)
        norm.num_batches_tracked += 1
        norm.pending = None


def _groups(channels: int) -> int:
    """The largest divisor that is at most 32 (Wu and He 2018, arXiv 1803.08494) and leaves two channels each.

    A group of one channel on a grid of one voxel would be normalised to zero.
    """
    return max(g for g in range(1, min(32, max(channels // 2, 1)) + 1) if channels % g == 0)


def _like(norm: _BatchNorm, kind: Norm) -> nn.Module:
    channels = norm.num_features
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "group":
        return nn.GroupNorm(_groups(channels), channels)
    instance = nn.InstanceNorm3d if isinstance(norm, nn.BatchNorm3d) else nn.InstanceNorm2d
    return instance(channels, affine=True)


def replace_norm(net: nn.Module, kind: Norm) -> None:
    """Put a fresh norm of ``kind`` (weight 1, bias 0) where torch's batch norms are, in place."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, _like(child, kind))
