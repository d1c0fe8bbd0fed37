"""How processes that read are started: from a server that has loaded what they need, not by a fork of this one."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext

from volssl.errors import RunError

SILENT = "volssl.data.orphan"
LONGEST = 107  # bytes of the name of a socket, which Linux holds to
NAME = len("/pymp-xxxxxxxx/listener-xxxxxxxx")  # that Python gives it, in the folder for temporary files


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
