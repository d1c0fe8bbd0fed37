"""What ranks tell one another, on two gloo ranks with different data and on one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volssl.engine import distributed
from volssl.engine.distributed import Group
from volssl.errors import ConfigError, PeerError, RunError

Ranks = Callable[..., list[Any]]


def gather_uneven(group: Group) -> tuple[dict[str, Tensor], slice]:
    """Rank 0 has the rows 0, 1, 2; rank 1 the row 10."""
    x = torch.arange(3.0) if group.rank == 0 else torch.tensor([10.0])
    return group.gather({"x": x[:, None].requires_grad_(), "index": x.long()})


def average(group: Group) -> list[Tensor]:
    """Gradients 1 and 3 (mean 2), in two dtypes and in buckets of four numbers."""
    parameters = [nn.Parameter(torch.zeros(n, dtype=d)) for n in (3, 5, 1) for d in (torch.float32, torch.float64)]
    for p in parameters[:-1]:
        p.grad = torch.full_like(p, 1.0 + 2 * group.rank)
    bucket, distributed._BUCKET = distributed._BUCKET, 4
    group.average_gradients(parameters)
    distributed._BUCKET = bucket
    return [p.grad for p in parameters if p.grad is not None]


def share_state(group: Group) -> dict[str, Tensor]:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for tensor in net.state_dict().values():
        tensor.fill_(group.rank + 5)
    group.broadcast(net)
    return dict(net.state_dict())


def any_of(group: Group) -> tuple[bool, bool]:
    return group.any(group.rank == 1), group.any(False)


def test_gather_keeps_rank_order_and_uneven_rows(two_ranks: Ranks) -> None:
    for rank, (rows, own) in enumerate(two_ranks(gather_uneven)):
        assert rows["x"].flatten().tolist() == rows["index"].tolist() == [0, 1, 2, 10]
        assert own == [slice(0, 3), slice(3, 4)][rank]
        assert not rows["x"].requires_grad


def test_gradients_become_the_mean_over_ranks(two_ranks: Ranks) -> None:
    for gradients in two_ranks(average):
        assert len(gradients) == 5
        assert all(torch.equal(g, torch.full_like(g, 2.0)) for g in gradients)


def test_everyone_starts_from_rank_0(two_ranks: Ranks) -> None:
    for state in two_ranks(share_state):
        assert all(torch.equal(x, torch.full_like(x, 5)) for x in state.values())


def fail_on_rank_0(group: Group) -> tuple[str, bool]:
    """What a rank is told, and whether the ranks can still talk afterwards."""
    try:
        with group.together():
            if group.rank == 0:
                raise RunError("output: give another")
    except RunError as told:
        return str(told), group.any(True)
    return "", group.any(True)


def test_an_error_on_one_rank_ends_all_and_only_its_own_message_says_why(two_ranks: Ranks) -> None:
    ours, theirs = two_ranks(fail_on_rank_0)
    assert ours == ("output: give another", True)
    assert theirs == ("rank 1 ends because another rank cannot go on: see the message of that rank", True)


def join(rank: int, port: int, act: str, pipe: Connection) -> None:
    """One of two ranks whose limit is one second. Rank 0 works for two, is as late for a collective, stands still
    amid its work, ends without a word, or leaves in order."""
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")
    values = ("127.0.0.1", port, 2, rank, rank)
    environ = {name: str(value) for name, value in zip(names, values, strict=True)}
    group = Group.from_environment("cpu", environ=environ, timeout=1)
    if rank == 0 and act == "ends":
        os._exit(1)
    if rank == 0 and act == "leaves":
        group.close()
        return
    if rank == 0 and act == "late for a collective":
        time.sleep(2)
    try:
        if act in ("late for a collective", "leaves"):
            group.any(False)
        else:
            with group.together():
                if rank == 0 and act == "stands still":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if rank == 0:
                    time.sleep(2)
    except RunError as problem:
        pipe.send(str(problem))
    pipe.send("fine")


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("works", "fine"),
        ("late for a collective", "another rank"),
        ("stands still", "another rank"),
        ("ends", "another rank"),
        ("leaves", "another rank"),
    ],
)
def test_a_late_rank_is_waited_for_and_a_lost_one_noticed(act: str, says: str) -> None:
    """Negative control: the limit of one second does hold where nobody has reason to be late."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    ranks = [context.Process(target=join, args=(rank, port, act, pipes[rank][1]), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    assert pipes[1][0].poll(180)  # on a busy machine its start alone takes a minute
    assert str(pipes[1][0].recv()).startswith(says)
    for rank in ranks:
        rank.kill()
        rank.join(30)


def test_any_is_known_to_all(two_ranks: Ranks) -> None:
    assert two_ranks(any_of) == [(True, False), (True, False)]


def test_alone_nothing_is_sent() -> None:
    group = Group.from_environment("cpu", environ={})
    rows, own = group.gather({"x": torch.ones(3, 1)})
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    group.average_gradients([parameter])
    group.broadcast(nn.Linear(1, 1))
    with group.together():
        pass
    with pytest.raises(RunError, match="mine"), group.together():
        raise RunError("mine")
    group.close()
    assert (group.world, own, parameter.grad.item()) == (1, slice(0, 3), 1.0)
    assert rows["x"].shape == (3, 1)
    assert group.gather({}) == ({}, slice(0, 0))
    assert group.any(True)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (3, 4, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "0"}, (2, 8, 0)),
        # sbatch without srun: one process, whatever was asked for
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (0, 1, 0)),
        # torchrun started by srun, one launcher per node
        (
            {
                "RANK": "9",
                "WORLD_SIZE": "16",
                "LOCAL_RANK": "1",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
            },
            (9, 16, 1),
        ),
    ],
)
def test_ranks_from_the_environment(environ: dict[str, str], expected: tuple[int, int, int]) -> None:
    assert distributed._ranks(environ) == expected


PAIR = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is missing"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK is missing or not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK 2 is not below 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_ADDR"),
        ({"RANK": "\u00b2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK is missing or not a number"),
        ({"RANK": "0", "WORLD_SIZE": "9" * 5000, "LOCAL_RANK": "0"}, "WORLD_SIZE is missing or not a number"),
        (PAIR | {"MASTER_ADDR": "localhost", "MASTER_PORT": "99999"}, "MASTER_PORT is missing or no address"),
        (PAIR | {"MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "MASTER_PORT is missing or no address"),
    ],
)
def test_a_broken_environment_is_one_line(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Group.from_environment("cpu", environ=environ)


@pytest.mark.parametrize("where", ["127.0.0.1", "no/host"])
def test_ranks_that_do_not_meet_are_told_where(where: str) -> None:
    """The second rank is never started; or nobody is at home there."""
    environ = PAIR | {"RANK": "1", "MASTER_ADDR": where, "MASTER_PORT": "9"}
    with pytest.raises(RunError, match=rf"2 ranks do not meet at {where}:9 within 1 s"):
        Group.from_environment("cpu", environ=environ, timeout=1)


def test_a_rank_that_is_there_and_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes the connection of a process that is stopped; torch alone would wait for an answer for ever."""
    monkeypatch.setattr(distributed, "LATE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(silent.getsockname()[1])}
        began = time.monotonic()
        with pytest.raises(PeerError, match=r"2 ranks do not meet at 127.0.0.1:\d+ within 1 s \(one is silent\)"):
            Group.from_environment("cpu", environ=PAIR | where | {"RANK": "1"}, timeout=1)
    assert time.monotonic() - began < 10


def test_every_rank_has_a_gpu_or_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun shows every rank all GPUs; srun may show each its own alone, and only there the first is right."""
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}
    srun = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}
    for count, environ, expected in ((4, torchrun, 2), (4, srun, 2), (1, srun, 0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert distributed._gpu(2, environ) == expected
    for count, environ in ((1, torchrun), (2, torchrun), (2, srun)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(ConfigError, match=rf"local rank 2, there are {count}: .*loop.device=cpu"):
            Group.from_environment("cuda", environ=environ)


@pytest.mark.parametrize(
    ("hosts", "first"), [("node[03-07,12],gpu1", "node03"), ("a1,b2", "a1"), ("big", "big"), ("", "")]
)
def test_first_host_of_a_slurm_list(hosts: str, first: str) -> None:
    assert distributed._first_host(hosts) == first


def test_a_slurm_job_meets_at_a_port_of_its_own() -> None:
    assert distributed._address({"SLURM_JOB_ID": "41234", "SLURM_STEP_NODELIST": "n[1-2]"}) == "n1:21234"
