"""Two gloo ranks, started once and kept: what a function says on each of them."""

from __future__ import annotations

import multiprocessing
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

Ranks = Callable[..., list[Any]]


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        here, there = context.Pipe()
        environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
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
