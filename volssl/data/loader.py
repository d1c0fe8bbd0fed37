"""The samples of each step for one rank, made here or ahead of time by processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from volssl.data.processes import PATIENCE
from volssl.data.quarantine import Quarantine
from volssl.data.stream import Draw, Stream
from volssl.data.workers import Label, LostError, Piece, Worker, make
from volssl.errors import ConfigError, RunError, UserError
from volssl.types import Samples

if TYPE_CHECKING:
    from volssl.data.items import NamedSource

AHEAD = 2  # pieces that each worker is asked for at a time: about two steps in all


class Loader:
    """The samples of the steps ``start`` to ``stop - 1`` for one rank.

    Step s holds positions s*batch .. (s+1)*batch - 1 of the stream, of which rank r takes the r-th of ``world``
    equal shares. So ids and seeds depend on the seed and the step alone: not on the workers, not on where the run
    was resumed, and the ranks' shares put together are the batch of one rank.

    A worker that dies or hangs is replaced, and makes again what is missing. An item that does this to it twice is
    left out from there on; which one stands in its place depends on the seed, the position and the list alone.

    Args:
        batch: effective batch per step over all ranks.
        workers: processes that read ahead, about two steps; 0 reads here, without that protection.
        timeout: seconds that a worker may take for one item.
        pin: hold a step in pinned memory, where there is a GPU to copy it to; asking for one starts CUDA.
        quarantine: the list of items that are left out. tell: told what became of a worker or an item.

    Raises:
        ConfigError: the ranks do not divide the batch.
        DataError: while iterating: an item could not be made.
        RunError: while iterating: too many items are left out, or no worker lives long enough to come to one.
    """

    def __init__(
        self,
        source: NamedSource,
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
        quarantine: Quarantine | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        if batch % world:
            raise ConfigError(f"loop.batch {batch} is not a multiple of the {world} ranks")
        self._source, self._workers, self._timeout = source, workers, timeout
        self._quarantine, self._tell = Quarantine(source) if quarantine is None else quarantine, tell
        self._stream = Stream(seed, source.parts, source.weights, self._quarantine.since)
        self._batch, self._share, self._rank = batch, batch // world, rank
        self._steps, self._pin = range(start, stop), pin
        self._fruitless = 0

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Samples]:
        jobs = self._ahead() if self._workers else map(self._here, self._cuts())
        parts: list[tuple[list[Draw], Piece]] = []
        for draws, piece in jobs:
            parts.append((draws, piece))
            if sum(len(own) for own, _ in parts) == self._share:
                yield self._collate(parts)
                parts = []

    def draws(self, step: int) -> list[Draw]:
        """What this rank sees in a step."""
        return [self._stream[p] for p in self._positions(step)]

    def _positions(self, step: int) -> range:
        first = step * self._batch + self._rank * self._share
        return range(first, first + self._share)

    def _cuts(self) -> Iterator[range]:
        """A step in one piece per worker, so that the first is there soon and few steps are held at a time."""
        size = -(-self._share // max(self._workers, 1))
        for step in self._steps:
            positions = self._positions(step)
            yield from (positions[i : i + size] for i in range(0, len(positions), size))

    def _collate(self, parts: list[tuple[list[Draw], Piece]]) -> Samples:
        draws = [draw for own, _ in parts for draw in own]
        return Samples(
            images=_join([piece.images for _, piece in parts], self._pin),
            index=torch.tensor([one.index for one in draws]),
            seeds=torch.tensor([one.seed for one in draws]),
            labels=self._columns([label for _, piece in parts for label in piece.labels]),
        )

    def _columns(self, labels: list[Label]) -> Tensor:
        """(B, S), each label in the column of its set."""
        columns = torch.full((len(labels), len(self._source.label_sets)), -1)
        sets, classes = torch.tensor(labels).unbind(1)
        columns[torch.arange(len(labels)), sets] = classes
        return columns

    def _here(self, positions: range) -> tuple[list[Draw], Piece]:
        draws = [self._stream[p] for p in positions]
        return draws, _sound(make(self._source, [one.index for one in draws]))

    def _ahead(self) -> Iterator[tuple[list[Draw], Piece]]:
        workers = [Worker(self._source, self._timeout) for _ in range(self._workers)]
        jobs = (_Job(cut, worker) for cut, worker in zip(self._cuts(), cycle(workers), strict=False))
        waiting: deque[_Job] = deque()
        try:
            while True:
                for job in islice(jobs, AHEAD * len(workers) - len(waiting)):
                    self._ask(job)
                    waiting.append(job)
                if not waiting:
                    return
                found = self._wait(waiting)
                waiting.popleft()
                yield found
        finally:
            for worker in workers:
                worker.close()

    def _ask(self, job: _Job) -> None:
        job.draws = [self._stream[p] for p in job.positions]
        job.worker.ask([one.index for one in job.draws])

    def _wait(self, waiting: deque[_Job]) -> tuple[list[Draw], Piece]:
        """The piece of the first job, from as many processes as it takes."""
        job = waiting[0]
        while True:
            try:
                piece = _sound(job.worker.answer())
            except LostError as lost:
                self._blame(lost, job)
            else:
                self._quarantine.clear(one.index for one in job.draws)
                self._fruitless = 0
                return job.draws, piece
            # What was asked of a process is gone with it. An answer that holds what is left out now is of no use, and
            # as answers come in order, the simplest way to be rid of one is a new process.
            anew = {one.worker for one in waiting if one.draws != [self._stream[p] for p in one.positions]}
            for worker in anew | {job.worker}:
                worker.restart()
            for one in waiting:
                if one.worker in anew | {job.worker}:
                    self._ask(one)

    def _blame(self, lost: LostError, job: _Job) -> None:
        if lost.item is None:
            self._fruitless += 1
            if self._fruitless < PATIENCE:
                self._tell(f"a loader process {lost.why} before it came to an item: another takes its place")
                return
            what = f"{PATIENCE} loader processes in a row ended before they read an item; the last {lost.why}"
            raise RunError(f"{what}: if memory is short, lower loop.workers; loop.workers=0 shows what else it is")
        at = [one.index for one in job.draws].index(lost.item)
        self._tell(self._quarantine.strike(lost.item, job.positions[at], lost.why))


@dataclass(eq=False)
class _Job:
    """A piece that a worker was asked for."""

    positions: range
    worker: Worker
    draws: list[Draw] = field(default_factory=list)


def _sound(answer: Piece | UserError) -> Piece:
    if isinstance(answer, UserError):
        raise answer
    return answer


def _join(images: list[Tensor], pin: bool) -> Tensor:
    """One step, in pinned memory if wanted and of use."""
    pinned = pin and torch.cuda.is_available()
    if len(images) == 1 and not pinned:
        return images[0]
    shape = (sum(len(part) for part in images), *images[0].shape[1:])
    return torch.cat(images, out=torch.empty(shape, dtype=images[0].dtype, pin_memory=pinned))
