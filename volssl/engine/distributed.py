"""The one place where ranks talk: gather before the loss, average after backward."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from volssl.errors import ConfigError, PeerError, RunError, UserError
from volssl.strict_yaml import natural

if TYPE_CHECKING:
    from volssl.types import Tensors

_BUCKET = 2**23  # numbers per collective: 32 MB of float32
BEAT = 5.0  # seconds between two signs of life of a rank that the others wait for, at most
LATE = 1.0  # seconds that torch has, over the limit on time, to say itself why ranks do not meet


@dataclass(frozen=True)
class Group:
    """The ranks of a run. With ``world`` 1, the default, nothing is sent and every method still works.

    rank of world; local_rank: which device of this machine; device: where the tensors of this rank live.
    patient: the same ranks over gloo, for work that takes one of them long (``together``). timeout: seconds.
    Every rank calls the same methods in the same order. All that send raise PeerError where another rank
    has ended or is silent for longer than ``timeout``.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: dist.ProcessGroup | None = None
    timeout: float = 600.0

    @classmethod
    def from_environment(
        cls,
        device: Literal["cpu", "cuda"],
        *,
        environ: Mapping[str, str] = os.environ,
        timeout: float = 600.0,
    ) -> Group:
        """Join the ranks that torchrun (RANK, WORLD_SIZE, ...) or srun (SLURM_*) started, if either did.

        gloo on CPU, nccl on CUDA. timeout: seconds until a collective gives up on a rank that is silent.

        Raises:
            ConfigError: the variables contradict or lack one another, or there is no GPU for this rank.
            RunError: the ranks do not meet.
        """
        rank, world, local = _ranks(environ)
        where = torch.device("cuda", _gpu(local, environ)) if device == "cuda" else torch.device("cpu")
        if device == "cuda":
            torch.cuda.set_device(where)
        patient = None
        if world > 1:
            patient = _meet("nccl" if device == "cuda" else "gloo", _address(environ), rank, world, timeout)
        return cls(rank, world, local, where, patient, timeout)

    def gather(self, tensors: Tensors) -> tuple[Tensors, slice]:
        """Every rank's rows in rank order, without a graph, and where this rank's own rows stand in them.

        tensors: name -> (B, ...) with one B per rank, which may differ between ranks.
        """
        if not tensors:
            return {}, slice(0, 0)
        rows = len(next(iter(tensors.values())))
        if self.world == 1:
            return {name: x.detach() for name, x in tensors.items()}, slice(0, rows)
        sizes = self._sizes(rows)
        ends = list(accumulate(sizes))
        gathered = {name: self._gather_rows(x.detach(), sizes) for name, x in tensors.items()}
        return gathered, slice(ends[self.rank] - rows, ends[self.rank])

    def _sizes(self, rows: int) -> list[int]:
        sizes = torch.zeros(self.world, dtype=torch.long, device=self.device)
        sizes[self.rank] = rows
        with _sending():
            dist.all_reduce(sizes)
        return [int(n) for n in sizes]

    def _gather_rows(self, x: Tensor, sizes: list[int]) -> Tensor:
        padded = x.new_zeros((max(sizes), *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        with _sending():
            dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @torch.no_grad()
    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, in place."""
        if self.world == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([x.reshape(-1) for x in bucket])
            with _sending():
                dist.all_reduce(flat)
            for x, part in zip(bucket, torch.split(flat, [x.numel() for x in bucket]), strict=True):
                x.copy_(part.view_as(x))

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the ranks, in place; the same are absent on all ranks."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.add_up(gradients)
        if self.world > 1:
            torch._foreach_div_(gradients, self.world)

    @torch.no_grad()
    def broadcast(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0, in place."""
        if self.world == 1:
            return
        for tensor in module.state_dict().values():
            with _sending():
                dist.broadcast(tensor, src=0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.world == 1:
            return flag
        count = torch.tensor(int(flag), device=self.device)
        with _sending():
            dist.all_reduce(count)
        return bool(count)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What stands inside has been done by all ranks when it ends, however long one of them takes.

        Raises:
            UserError: raised inside, on this rank.
            RunError: such an error was raised on another rank, whose message says what to do.
            PeerError: another rank is gone or silent.
        """
        problem: UserError | None = None
        with _Meeting(self) as meeting:
            try:
                yield
            except UserError as caught:
                problem = caught
            failed = meeting.end(problem is not None)
        if problem is not None:
            raise problem
        if failed:
            raise RunError(f"rank {self.rank} ends because another rank cannot go on: see the message of that rank")

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            dist.destroy_process_group()


class _Meeting:
    """Ranks wait for one another as long as each gives signs of life, which a thread beside its work does.

    A sign is a round of adding up who is through, to which every rank comes. So whoever is through waits in a round for
    the others' threads, and one that is stopped or dead keeps a round from ending, which the limit on time ends.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._through, self._given_up = threading.Event(), False
        self._failed, self._problem = False, None  # type: bool, RuntimeError | None
        self._thread = threading.Thread(target=self._rounds, daemon=True)

    def __enter__(self) -> _Meeting:
        if self._group.world > 1:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Left by an error that is no person's, this rank falls silent, and ends."""
        self._given_up = not self._through.is_set()
        self._through.set()

    def end(self, failed: bool) -> bool:
        """Be through; returns, once all are, whether any of them failed."""
        self._failed = failed
        self._through.set()
        if self._group.world > 1:
            self._thread.join()
            with _sending():
                if self._problem:
                    raise self._problem
        return self._failed

    def _rounds(self) -> None:
        through = False
        try:
            while not through:
                ready = self._through.wait(min(BEAT, self._group.timeout / 4))
                if self._given_up:
                    return
                counts = torch.tensor([int(ready), int(ready and self._failed)])
                dist.all_reduce(counts, group=self._group.patient)
                through = int(counts[0]) == self._group.world
            self._failed = bool(counts[1])
        except RuntimeError as problem:
            self._problem = problem


@contextmanager
def _sending() -> Iterator[None]:
    """A rank that is gone is no fault of this one: one line, for the reason stands where that rank ended.

    gloo notices at once. NCCL only after its limit, unless the launcher (torchrun, srun --kill-on-bad-exit)
    ends the others first.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as problem:
        why = re.sub(r"^\[[^]]*\] ", "", str(problem).strip().splitlines()[0]).partition(". ")[0]
        raise PeerError(f"another rank has ended or is silent: see its message, then run again ({why})") from problem


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Lists of one dtype and at most ``_BUCKET`` numbers (or one tensor), in order."""
    bucket: list[Tensor] = []
    size = 0
    for x in tensors:
        if bucket and (size + x.numel() > _BUCKET or x.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(x)
        size += x.numel()
    if bucket:
        yield bucket


def _ranks(environ: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, world, local rank). sbatch without srun sets SLURM_NTASKS but starts one process only."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    if "RANK" in environ or "WORLD_SIZE" in environ:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_STEP_NUM_TASKS" not in environ:
        return 0, 1, 0
    rank, world, local = (_number(environ, name) for name in names)
    if rank >= world:
        raise ConfigError(f"environment: {names[0]} {rank} is not below {world}: start with torchrun or srun")
    return rank, world, local


def _number(environ: Mapping[str, str], name: str) -> int:
    number = natural(environ.get(name, ""))
    if number is None:
        raise ConfigError(f"environment: {name} is missing or not a number: start with torchrun or srun")
    return number


def _gpu(local: int, environ: Mapping[str, str]) -> int:
    """The GPU of a rank. ``srun --gpus-per-task 1`` shows each rank its own alone, which then is the first."""
    count = torch.cuda.device_count()
    if local < count:
        return local
    if count == 1 and "RANK" not in environ:
        return 0
    ranks = f"start {count} on this machine (torchrun --nproc-per-node {count})"
    raise ConfigError(f"environment: no GPU for local rank {local}, there are {count}: {ranks}, or use loop.device=cpu")


def _meet(backend: str, address: str, rank: int, world: int, timeout: float) -> dist.ProcessGroup:
    """Make the default group; gives one of gloo, for what is said on the CPU.

    A thread does, for torch keeps to no limit where a rank is there and silent, and lets no signal through meanwhile.
    """
    method, patience = f"tcp://{address}", timedelta(seconds=timeout)
    patient: list[dist.ProcessGroup] = []
    problems: list[str] = []

    def meet() -> None:
        try:
            dist.init_process_group(backend, init_method=method, rank=rank, world_size=world, timeout=patience)
            patient.append(dist.new_group(backend="gloo", timeout=patience))
        except (RuntimeError, ValueError) as problem:  # torch's own of the network are RuntimeErrors
            problems.append(str(problem).partition("\n")[0])

    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    thread.join(timeout + LATE)
    if patient:
        return patient[0]
    what = f"{world} ranks do not meet at {address} within {timeout:g} s ({(problems or ['one is silent'])[0]})"
    kind = PeerError if thread.is_alive() else RunError
    raise kind(f"environment: {what}: see that all are started, and MASTER_ADDR and MASTER_PORT")


def _address(environ: Mapping[str, str]) -> str:
    """host:port of rank 0: MASTER_*, or the first host of the SLURM job and a port from the job's number."""
    job = natural(environ.get("SLURM_JOB_ID", ""))
    host = environ.get("MASTER_ADDR") or _first_host(environ.get("SLURM_STEP_NODELIST", ""))
    port = environ.get("MASTER_PORT") or ("" if job is None else str(20000 + job % 20000))
    if not host or not 0 < (natural(port) or 0) < 2**16:
        what = "MASTER_ADDR or MASTER_PORT is missing or no address"
        raise ConfigError(f"environment: {what}: start with torchrun or srun")
    return f"{host}:{port}"


def _first_host(hosts: str) -> str:
    """``node[03-07,12],gpu1`` -> ``node03``."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", hosts)
    return (match[1] + (match[2] or "")) if match else ""
