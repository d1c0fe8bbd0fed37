"""The samples of each step for one rank, and the processes that read them ahead."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from volssl.data.stream import Draw, Stream
from volssl.errors import ConfigError, RunError, UserError
from volssl.silence import quieten
from volssl.types import Samples, Source

if TYPE_CHECKING:
    from volssl.data.items import DrawnSource

POLL = 5.0  # seconds between two looks at whether the workers live: they are no children, no signal tells


class Loader:
    """The samples of the steps ``start`` to ``stop - 1`` for one rank.

    Step s holds positions s*batch .. (s+1)*batch - 1 of the stream, of which rank r takes the r-th of ``world``
    equal shares. So ids and seeds depend on the seed and the step alone: not on the workers, not on where the run
    was resumed, and the ranks' shares put together are the batch of one rank.

    Args:
        batch: effective batch per step over all ranks.
        workers: processes that read ahead, about two steps; 0 reads here.
        timeout: seconds to wait for the workers before the run stops.
        pin: hold a step in pinned memory, where there is a GPU to copy it to; asking for one starts CUDA.

    Raises:
        ConfigError: the ranks do not divide the batch.
        DataError: while iterating: an item could not be made.
        RunError: while iterating: a worker died, or took longer than ``timeout``.
    """

    def __init__(
        self,
        source: DrawnSource,
        *,
        batch: int,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        timeout: float = 300.0,
        pin: bool = True,
    ) -> None:
        if batch % world:
            raise ConfigError(f"loop.batch {batch} is not a multiple of the {world} ranks")
        self._source, self._workers, self._timeout = source, workers, timeout
        self._stream = Stream(seed, source.parts, source.weights)
        self._batch, self._share, self._rank = batch, batch // world, rank
        self._steps, self._pin = range(start, stop), pin

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Samples]:
        pieces = self._pieces()
        for step in self._steps:
            draws = self.draws(step)
            parts = [self._next(pieces, step, indices) for indices in self._cut(draws)]
            yield Samples(
                images=_join([part.images for part in parts], self._pin),
                index=torch.tensor([one.index for one in draws]),
                seeds=torch.tensor([one.seed for one in draws]),
                labels=self._columns([label for part in parts for label in part.labels]),
            )

    def draws(self, step: int) -> list[Draw]:
        """What this rank sees in a step."""
        first = step * self._batch + self._rank * self._share
        return [self._stream[p] for p in range(first, first + self._share)]

    def _columns(self, labels: list[Label]) -> Tensor:
        """(B, S), each label in the column of its set."""
        columns = torch.full((len(labels), len(self._source.label_sets)), -1)
        sets, classes = torch.tensor(labels).unbind(1)
        columns[torch.arange(len(labels)), sets] = classes
        return columns

    def _cut(self, draws: list[Draw]) -> list[list[int]]:
        """A step in one piece per worker, so that the first is there soon and few steps are held at a time."""
        size = -(-len(draws) // max(self._workers, 1))
        return [[one.index for one in draws[i : i + size]] for i in range(0, len(draws), size)]

    def _pieces(self) -> Iterator[Piece | UserError]:
        cuts = _Cuts(indices for step in self._steps for indices in self._cut(self.draws(step)))
        items = _Items(self._source)
        if self._workers == 0:
            return (items.__getitems__(indices) for indices in cuts)
        context = multiprocessing.get_context("forkserver")  # a fork would copy the locks of other threads
        context.set_forkserver_preload([__name__, type(self._source).__module__])
        loader = DataLoader(
            items,
            batch_sampler=cuts,
            num_workers=self._workers,
            collate_fn=_as_is,
            multiprocessing_context=context,
            generator=torch.Generator(),  # or it would draw from the global one
            timeout=POLL,
            worker_init_fn=_quiet,
        )
        return iter(loader)

    def _next(self, pieces: Iterator[Piece | UserError], step: int, indices: list[int]) -> Piece:
        waited = 0.0
        while waited < max(self._timeout, POLL):
            try:
                piece = next(pieces)
            except RuntimeError as error:
                _explain(error, step)
                waited += POLL
            else:
                if isinstance(piece, UserError):
                    raise piece
                return piece
        items = ", ".join(str(i) for i in indices)
        what = f"no sample for {waited:g} s at step {step}: items {items} of the source"
        raise RunError(f"{what} hang; with loop.workers=0 the one at fault shows itself")


def _explain(error: RuntimeError, step: int) -> None:
    """Nothing where torch says that it has waited for a while and all workers live.

    Raises:
        RunError: one has died. RuntimeError: anything else is a fault of the program.
    """
    message = str(error)
    if message.startswith("DataLoader timed out"):
        return
    if not message.startswith("DataLoader worker"):
        raise error
    what = f"{message.splitlines()[0]} at step {step} or one of the next two"
    raise RunError(f"{what}: out of memory, or an item that crashes; see with loop.workers=0") from error


Label = tuple[int, int]  # which set of labels, which class


@dataclass(frozen=True)
class Piece:
    """What travels from a loader process: images (B, C, *region) in shared memory, and their labels."""

    images: Tensor
    labels: list[Label]


class _Cuts:
    """The batch sampler, which torch iterates once and ahead of what it hands out."""

    def __init__(self, cuts: Iterator[list[int]]) -> None:
        self._cuts = cuts

    def __iter__(self) -> Iterator[list[int]]:
        return self._cuts


class _Items(Dataset[Piece]):
    """A piece at a time. Errors travel as values: torch would put a traceback into their message."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitems__(self, indices: list[int]) -> Piece | UserError:
        try:
            items = [self._source[i] for i in indices]
        except UserError as error:
            return error
        return Piece(torch.stack([item.image for item in items]), [(item.part, item.label) for item in items])


def _quiet(_worker: int) -> None:
    quieten()


def _as_is(piece: Any) -> Any:  # what __getitems__ made is collated already
    return piece


def _join(images: list[Tensor], pin: bool) -> Tensor:
    """One step, in pinned memory if wanted and of use."""
    pinned = pin and torch.cuda.is_available()
    if len(images) == 1 and not pinned:
        return images[0]
    shape = (sum(len(part) for part in images), *images[0].shape[1:])
    return torch.cat(images, out=torch.empty(shape, dtype=images[0].dtype, pin_memory=pinned))
