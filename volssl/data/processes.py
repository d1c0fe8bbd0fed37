"""How processes that read begin and end: they come from a server that has loaded what they need, not from a fork."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize

from volssl.errors import RunError

SILENT = "volssl.data.orphan"
LONGEST = 107  # bytes of the name of a socket, which Linux holds to
NAME = len("/pymp-xxxxxxxx/listener-xxxxxxxx")  # that Python gives it, in the folder for temporary files
PATIENCE = 3  # processes in a row that may end before they have come to an item
NO_MEMORY = 12  # the exit code of a process that ran out of memory


def server(preload: Sequence[str]) -> ForkServerContext:
    """Makes processes that have the modules ``preload``. A fork would copy the locks of other threads.

    Raises:
        RunError: the name of the folder for temporary files is too long for a socket in it.
    """
    folder = tempfile.gettempdir()
    if len(folder.encode(errors="surrogateescape")) + NAME > LONGEST:
        most = LONGEST - NAME
        raise RunError(f"TMPDIR: {len(folder)} characters are too long for a socket in it: give one of at most {most}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([SILENT, *preload])
    return context


class Attached:
    """A process of the server's, at the other end of ``pipe``. It holds nothing that must be put in order.

    Args:
        target: what it does, called with ``args`` and its own end of the pipe.
    """

    def __init__(self, preload: Sequence[str], target: Callable[..., None], *args: object) -> None:
        context = server(preload)
        self.pipe, theirs = context.Pipe()
        # No daemon, as those may have no children, in which a reader may want to decode.
        self._process = context.Process(target=target, args=(*args, theirs), daemon=False)
        self._process.start()
        theirs.close()
        self._end = Finalize(self, _end, args=(self._process, self.pipe), exitpriority=0)

    def end(self) -> None:
        """End it at once."""
        self._end()

    def death(self) -> str:
        """What became of one that does not answer any more, in words."""
        self._process.join(5)
        code = self._process.exitcode
        if code is None:
            return "closed its pipe"
        if code == NO_MEMORY:
            return "ran out of memory"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _end(process: BaseProcess, pipe: Connection) -> None:
    process.kill()
    process.join(5)  # one that waits for a dead disk cannot be ended by anybody
    pipe.close()  # only now, as a thread may be reading from it
