"""The command ``volssl`` in processes that are forked off one which has loaded everything, so that a start is cheap.

A start of ``python -m volssl`` takes ten seconds of a core, nearly all of it imports. What a fork runs is the same
``main`` with its arguments, its environment and its own group; loader processes come from one fork server.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """A running command, and where it writes what it says."""

    pid: int
    told: Path

    def send(self, number: signal.Signals) -> None:
        """To the command's process group, if it still runs."""
        if self.running():
            os.killpg(self.pid, number)

    def wait(self, timeout: float = 120) -> int:
        """The exit code, negative where a signal ended it."""
        deadline = time.monotonic() + timeout
        while (code := _ask({"wait": self.pid})) is None:
            assert time.monotonic() < deadline, f"still runs after {timeout} s: {self.told.read_text()}"
            time.sleep(0.01)
        return int(code)

    def running(self) -> bool:
        return _ask({"running": self.pid}) is True


def start(*arguments: str | Path, told: Path, environ: Mapping[str, str] | None = None, sabotage: str = "") -> Started:
    """``volssl`` with these arguments; what it says on either channel is added to the file ``told``.

    sabotage: ``module:function`` to call before it.
    """
    command = {"argv": [str(a) for a in arguments], "told": str(told), "sabotage": sabotage}
    pid = _ask(command | {"environ": dict(environ or {})})
    assert isinstance(pid, int)
    return Started(pid, told)


@cache
def _server() -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "tests.gates.zygote"]
    server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    with server:
        server.kill()


def _ask(request: object) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _serve() -> None:
    """Answer requests until the pipe closes; returns in every fork, where the command is yet to run."""
    _load()
    codes: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "argv" in request:
            pid = os.fork()
            if pid == 0:
                return _become(request)
            with contextlib.suppress(OSError):  # whoever comes first: it is to have a group of its own from now on
                os.setpgid(pid, pid)
            answer: object = pid
        else:
            pid = request.get("wait") or request["running"]
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                codes |= {pid: os.waitstatus_to_exitcode(status)} if done else {}
            answer = codes.get(pid) if "wait" in request else pid not in codes
        print(json.dumps(answer), flush=True)
    sys.exit()


def _load() -> None:
    import monai.transforms  # noqa: F401
    import torch

    import volssl.cli
    import volssl.data.stack
    import volssl.engine.optim
    import volssl.methods.byol
    import volssl.models.resnet
    import volssl.run  # noqa: F401

    torch.set_num_threads(1)
    server: Any = vars(multiprocessing.forkserver)["_forkserver"]
    server.set_forkserver_preload(["volssl.data.workers", "volssl.data.cache", "volssl.data.stack"])
    server.ensure_running()
    server.ensure_running = lambda: None  # it is not the child of those who will ask


def _become(request: dict[str, object]) -> None:
    os.setpgid(0, 0)
    told = os.open(str(request["told"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (told, 1), (told, 2)):
        os.dup2(here, there)
    environ, arguments = request["environ"], request["argv"]
    assert isinstance(environ, dict)
    assert isinstance(arguments, list)
    os.environ.update(environ)
    sys.argv = ["volssl", *arguments]
    if request["sabotage"]:
        module, _, function = str(request["sabotage"]).partition(":")
        getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    _serve()
    from volssl.cli import main

    main()
