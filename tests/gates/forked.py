"""The command in a fork of a process that has imported everything once: a tenth of a second instead of ten."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# Beside the command itself, what it imports late; a fork of threads would hang, so nothing here starts one.
EARLY = (
    *(
        "volssl.run",
        "volssl.lookup",
        "volssl.data.video",
        "volssl.data.slide",
        "volssl.data.image",
        "volssl.data.volume",
    ),
    *("volssl.data.stack", "volssl.data.mixture", "volssl.data.phantom", "torch._dynamo", "torch.utils.tensorboard"),
    *("matplotlib.figure", "pyarrow.parquet", "jinja2", "monai.bundle", "volssl.models.resnet", "volssl.models.vit"),
)


class Forks:
    """Starts commands, one process each. A context: the process that they fork from ends with it."""

    def __init__(self, **environ: str) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **environ}
        command = [sys.executable, "-m", "tests.gates.forked"]
        self._server = subprocess.Popen(
            command, env=env, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == "ready"

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def start(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        said: Path,
        environ: Mapping[str, str] | None = None,
        before: str = "",
        given: Any = None,
        seconds: int = 600,
    ) -> int:
        """Fork; gives the pid, of a process group of its own.

        said: the file that stdout and stderr are appended to. environ: what differs; an empty value is none.
        before: ``module:function``, called with ``given`` in the fork before the command. seconds: it may take.
        """
        request = {"arguments": list(arguments), "cwd": str(cwd), "said": str(said), "environ": dict(environ or {})}
        return int(self._ask({**request, "before": before, "given": given, "seconds": seconds}))

    def wait(self, pid: int) -> int:
        """Its exit code; minus the signal where one ended it."""
        return int(self._ask({"wait": pid}))

    def run(self, arguments: Sequence[str], **how: Any) -> int:
        """Start and wait."""
        return self.wait(self.start(arguments, **how))

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._server.stdout
        line = self._server.stdout.readline()
        assert line, "the process that commands are forked from has ended"
        return json.loads(line)


def _serve() -> None:
    import torch

    torch.set_num_threads(1)
    for name in EARLY:
        importlib.import_module(name)
    pipe = os.fdopen(os.dup(1), "w")
    print(json.dumps("ready"), file=pipe, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _child(request)
        print(json.dumps(answer), file=pipe, flush=True)
    os._exit(0)  # nothing is to be tidied up, which takes seconds


def _child(request: dict[str, Any]) -> None:
    """Never returns."""
    os.setsid()
    signal.alarm(request["seconds"])
    said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for mine, its in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(mine, its)
    os.closerange(3, 256)
    code = 70
    try:
        os.chdir(request["cwd"])
        for key, value in request["environ"].items():
            os.environ.pop(key, None)
            if value:
                os.environ[key] = value
        import tempfile

        tempfile.tempdir = None  # TMPDIR may be another
        sys.argv = ["volssl", *request["arguments"]]
        if request["before"]:
            module, _, function = request["before"].partition(":")
            getattr(importlib.import_module(module), function)(request["given"])
        from volssl.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 71
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
