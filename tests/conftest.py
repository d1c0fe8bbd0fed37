"""Fixtures that every room's tests share: real images, and gloo ranks that are started once and kept."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

# Several test processes share the cores: with a thread per core each, torch's threads mostly wait for one another.
# Set before anything imports torch; the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests look for names in messages; that none gets out without this is what tests/gates/test_names.py shows.
os.environ.setdefault("VOLSSL_NAMES", "1")

# oneDNN of torch 2.13 corrupts the heap in small convolutions where there is AVX2 and no AVX-512: seen as aborts.
CPU = Path("/proc/cpuinfo")
if CPU.is_file() and "avx512" not in CPU.read_text():
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")

Ranks = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real images are not here: {folder.name}/ is looked for beside the repository")
    return folder


def _serve(environ: dict[str, str], pipe: Connection) -> None:
    import torch

    from volssl.engine.distributed import Group

    torch.set_num_threads(1)
    group = Group.from_environment("cpu", environ=environ, timeout=60)
    while request := pipe.recv_bytes():
        function, arguments = pickle.loads(request)
        try:
            answer = (function(group, *arguments), "")
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
    group.close()


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    """``two_ranks(function, *arguments)`` gives what ``function(group, *arguments)`` says on ranks 0 and 1.

    The function stands at the top of its test file, so that the ranks can import it.
    """
    yield from _ranks(2)


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[Ranks]:
    """As ``two_ranks``, on ranks 0 to 3."""
    yield from _ranks(4)


def _ranks(world: int) -> Iterator[Ranks]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(world):
        here, there = context.Pipe()
        environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
        environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=_serve, args=(environ, there), daemon=True))
        processes[-1].start()
        pipes.append(here)

    def call(function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in pipes:
            pipe.send_bytes(pickle.dumps((function, arguments)))
        answers = []
        for pipe in pipes:
            assert pipe.poll(120), "a rank is silent"
            answers.append(pickle.loads(pipe.recv_bytes()))
        for _, error in answers:
            assert not error, error
        return [answer for answer, _ in answers]

    yield call
    for pipe in pipes:
        pipe.send_bytes(b"")
    for process in processes:
        process.join(30)
