"""The exact step: a gradient that does not depend on how the batch was cut into chunks and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from volssl.engine.distributed import Group
from volssl.engine.optim import gradient_norm
from volssl.errors import RunError
from volssl.losses.collapse import effective_rank, spread
from volssl.methods.base import Method
from volssl.models.norm import discard_statistics, pending_statistics
from volssl.types import Batch, Loss, Progress

if TYPE_CHECKING:
    from volssl.types import Tensors


# Fewer items say nothing of a space: the spread of one is 0, the rank of two is 2 at most.
GAUGED = 4


class NonFiniteError(RunError):
    """Embeddings, loss or gradient hold a NaN or infinity; raised on every rank before any weight has moved.

    ``indices``: ``Batch.index`` of the items whose embeddings are not finite; empty where all are finite.
    """

    def __init__(self, what: str, indices: list[int]) -> None:
        super().__init__(f"the {what} not finite" + (f" for items {indices}" if indices else ""))
        self.indices = indices


def backward(
    method: Method,
    chunks: Iterable[Batch],
    at: Progress,
    *,
    group: Group,
    autocast: torch.dtype | None = None,
) -> Loss:
    """Write the whole-batch gradient, over all chunks and ranks, into ``.grad`` of every student parameter.

    Gradients and norm statistics left over from before (an abandoned step) are dropped first. Afterwards the
    caller clips, moves the weights and calls ``method.after_step(loss.stats, at)``.

    Args:
        chunks: this rank's part of the batch, cut as memory allows, never empty. Iterated once if the method
            is separable, twice if it is coupled: a list holds the views, an iterable may make them anew.
        autocast: dtype for ``encode`` and ``target`` (torch.bfloat16), or none. The loss is always float32.

    Returns:
        The loss of the whole batch, without a graph. Beside the method's own metrics and gauges it holds
        ``gradient_norm``, of the whole gradient, and, of ``GAUGED`` items or more, ``spread`` and ``rank``: the
        collapse gauges of the first global view over the whole batch, the lowest of all encoders.

    Raises:
        NonFiniteError: before any weight has moved.
    """
    for parameter in method.parameters():
        parameter.grad = None
    discard_statistics(method)
    way = coupled_backward if method.coupled else separable_backward
    loss = way(method, chunks, at, group=group, autocast=autocast)
    group.average_gradients(method.parameters())
    group.add_up(pending_statistics(method))
    norm = gradient_norm(method)  # after the mean over ranks, so that all of them find the same
    if not norm.isfinite():
        raise NonFiniteError("gradient is", [])
    return replace(loss, metrics=loss.metrics | method.gauges(loss.stats) | {"gradient_norm": norm})


def coupled_backward(
    method: Method,
    chunks: Iterable[Batch],
    at: Progress,
    *,
    group: Group,
    autocast: torch.dtype | None = None,
) -> Loss:
    """Cache the gradient at the cut (GradCache, Gao et al. 2021, arXiv 2101.06983).

    Every chunk is encoded without a graph, the loss sees all of them, then each chunk is encoded again and
    back-propagates its rows of the gradient. The last chunk keeps its graph from the first time, so one chunk
    costs nothing extra. Adds to ``.grad``: the mean over ranks is the whole-batch gradient, because each rank
    has all of the heads' gradient but only its own rows' part of the encoder's, scaled by the world size.
    """
    z_parts: list[Tensors] = []
    t_parts: list[Tensors] = []
    index: list[Tensor] = []
    graph: Tensors = {}
    for chunk, last in _mark_last(chunks):
        t_parts.append(_target(method, chunk, autocast))
        graph = _encode(method, chunk, autocast, with_graph=last)
        z_parts.append({name: z.detach() for name, z in graph.items()})
        index.append(chunk.index)
    z, own = group.gather(_concatenate(z_parts))
    t, _ = group.gather(_concatenate(t_parts))
    items, _ = group.gather({"index": torch.cat(index)})
    _require_finite_rows(_finite_rows(*z.values(), *t.values()), items["index"])

    loss, cached = _loss_and_gradient(method, z, t, at)
    sizes = [len(i) for i in index]
    rows = {name: torch.split(g[own] * group.world, sizes) for name, g in cached.items()}
    _backpropagate(graph, {name: parts[-1] for name, parts in rows.items()})
    del graph  # activations are only ever those of one chunk
    for i, chunk in enumerate(islice(chunks, len(sizes) - 1)):
        again = _encode(method, _channels_last(chunk), autocast, with_graph=True)
        _backpropagate(again, {name: parts[i] for name, parts in rows.items()})
    return replace(loss, metrics=loss.metrics | _gauges(_first_views(method, z)))


def separable_backward(
    method: Method,
    chunks: Iterable[Batch],
    at: Progress,
    *,
    group: Group,
    autocast: torch.dtype | None = None,
) -> Loss:
    """Plain accumulation, exact where no sample's gradient depends on another sample.

    Chunks count by their sizes. ``.grad`` must be empty before, as the sum is divided by the number of
    samples at the end. As for ``coupled_backward``, the mean over ranks is the whole-batch gradient.
    """
    summaries: list[Tensors] = []
    samples: list[Tensors] = []
    for chunk in map(_channels_last, chunks):
        t = _target(method, chunk, autocast)
        z = _encode(method, chunk, autocast, with_graph=True)
        with _autocast(z, None):
            loss = method.loss(z, t, at)
        torch.autograd.backward(loss.total * len(chunk))
        summaries.append(_summary(loss, len(chunk)))
        finite = _finite_rows(*z.values(), *t.values()).to(torch.uint8)
        first = {f"first.{name}": x for name, x in _first_views(method, z).items()}
        samples.append({"index": chunk.index, "finite": finite} | first)
    whole, _ = group.gather(_concatenate(samples))
    _require_finite_rows(whole["finite"].bool(), whole["index"])
    parts, _ = group.gather(_concatenate(summaries))
    for parameter in method.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(group.world / len(whole["index"]))
    loss = _weighted_mean(parts)
    _require_finite_loss(loss.total)
    return replace(loss, metrics=loss.metrics | _gauges(_under("first.", whole)))


def _mark_last(chunks: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Each chunk, in the layout that convolutions are fastest in, and whether it is the last."""
    ahead = iter(map(_channels_last, chunks))
    held = next(ahead)
    for chunk in ahead:
        yield held, False
        held = chunk
    yield held, True


def _channels_last(batch: Batch) -> Batch:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    views = {
        name: x.contiguous(memory_format=formats.get(x.dim(), torch.contiguous_format))
        for name, x in batch.views.items()
    }
    return replace(batch, views=views)


def _autocast(tensors: Tensors, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    device = next(iter(tensors.values())).device.type
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)


def _encode(method: Method, chunk: Batch, dtype: torch.dtype | None, *, with_graph: bool) -> Tensors:
    # one autocast block per call: its cache of cast weights must not outlive the pass without a graph
    with torch.set_grad_enabled(with_graph), _autocast(chunk.views, dtype):
        return _full_precision(method.encode(chunk))


def _target(method: Method, chunk: Batch, dtype: torch.dtype | None) -> Tensors:
    with torch.no_grad(), _autocast(chunk.views, dtype):
        return _full_precision(method.target(chunk))


def _full_precision(tensors: Tensors) -> Tensors:
    return {name: x.to(torch.promote_types(x.dtype, torch.float32)) for name, x in tensors.items()}


def _concatenate(parts: list[Tensors]) -> Tensors:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _loss_and_gradient(method: Method, z: Tensors, t: Tensors, at: Progress) -> tuple[Loss, Tensors]:
    """The loss of the whole batch and its gradient with respect to ``z``; heads get theirs in ``.grad``."""
    leaves = {name: x.detach().requires_grad_() for name, x in z.items()}
    with _autocast(z, None):
        loss = method.loss(leaves, t, at)
    _require_finite_loss(loss.total)
    torch.autograd.backward(loss.total)
    gradient = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return replace(loss, total=loss.total.detach()), gradient


def _backpropagate(outputs: Tensors, gradient: Tensors) -> None:
    torch.autograd.backward([outputs[name] for name in gradient], list(gradient.values()))


def _summary(loss: Loss, size: int) -> Tensors:
    """One row of what a chunk's loss says, to be averaged over chunks and ranks by size."""
    rows = {"size": loss.total.new_tensor(size), "total": loss.total.detach()}
    rows |= {f"metric.{name}": x.detach() for name, x in loss.metrics.items()}
    rows |= {f"stat.{name}": x.detach() for name, x in loss.stats.items()}
    return {name: x.to(loss.total).unsqueeze(0) for name, x in rows.items()}


def _weighted_mean(rows: Tensors) -> Loss:
    share = rows["size"] / rows["size"].sum()
    mean = {name: torch.tensordot(share, x, dims=1) for name, x in rows.items()}
    named = {kind: _under(kind, mean) for kind in ("metric.", "stat.")}
    return Loss(mean["total"], metrics=named["metric."], stats=named["stat."])


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _first_views(method: Method, z: Tensors) -> Tensors:
    """What each encoder says of the first global view, by encoder."""
    return {name: views[0].detach() for name, views in method.features(z).items()}


def _gauges(first: Tensors) -> Tensors:
    """Each the lowest of all encoders, as one may collapse while another does not."""
    if len(next(iter(first.values()))) < GAUGED:
        return {}
    gauges = {"spread": spread, "rank": effective_rank}
    return {name: torch.stack([gauge(z=z) for z in first.values()]).min() for name, gauge in gauges.items()}


def _finite_rows(*tensors: Tensor) -> Tensor:
    return torch.stack([x.isfinite().flatten(1).all(1) for x in tensors]).all(0)


def _require_finite_rows(finite: Tensor, index: Tensor) -> None:
    if not finite.all():
        raise NonFiniteError("embeddings are", [int(i) for i in index[~finite]])


def _require_finite_loss(total: Tensor) -> None:
    if not total.isfinite():
        raise NonFiniteError("loss is", [])
