"""What a process does is watched: programs it starts, what it connects to and loads, and where it writes."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARTS = {
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}
REACHES = {
    "socket.connect",
    "socket.bind",
    "urllib.Request",
    "webbrowser.open",
    "ctypes.dlopen",
    "os.kill",
    "signal.alarm",
}
CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
}
FOLLOWS = {"os.truncate", "os.chmod", "os.chown"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OWN = (
    "volssl.",
    "pathlib",
    "collections",
    "numpy",
    "monai",
)  # what this package pickles of itself
DECODER = ["-P", "-m", "volssl.data.decoder"]  # the process in which native codecs run
ANYWHERE = ("/dev/null", "/dev/shm", "/proc/self", f"{tempfile.gettempdir()}/torchinductor")


def watch(given: Mapping[str, Any]) -> None:
    """Append a line to ``given["log"]`` for everything outside ``given["allowed"]``, or that nobody asked for.

    An audit hook cannot be taken back, so this is for a process of its own.
    """
    if given.get("memory"):
        here = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (here + given["memory"],) * 2)
    from torch._weights_only_unpickler import _get_allowed_globals

    trusted = set(_get_allowed_globals())  # by torch: all else of it that a pickle names is told, run or not
    log = os.open(given["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    allowed = tuple(os.path.realpath(one) for one in given["allowed"])

    def tell(event: str, *what: object) -> None:
        os.write(log, f"{event} {what}\n".encode(errors="backslashreplace"))

    def outside(path: object, *, named: bool = False) -> bool:
        """Whether it leads out; of what is itself made, renamed or removed, a link is not followed."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # a descriptor, which was opened before
        folder, name = os.path.split(os.fsdecode(path))
        real = os.path.join(os.path.realpath(folder), name) if named else os.path.realpath(os.fsdecode(path))
        return not any(real == one or real.startswith(one + "/") for one in (*allowed, *ANYWHERE))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and list(args[1])[1:] == DECODER:
            return
        if event in STARTS or event in REACHES:
            if event != "ctypes.dlopen" or args[0] not in (None, ""):
                tell(event, *args[:2])
        elif event == "open":
            path, mode, flags = args
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & WRITES)
            if writes and outside(path):
                tell(event, path, mode)
        elif event in CHANGES:
            paths = args[:2] if event in ("os.rename", "os.link", "os.symlink") else args[:1]
            for path in paths:
                if outside(path, named=event not in FOLLOWS):
                    tell(event, path)
        elif event == "pickle.find_class" and not str(args[0]).startswith(OWN) and ".".join(args) not in trusted:
            tell(event, *args)

    sys.addaudithook(hook)


def told(log: Path) -> list[str]:
    """The lines."""
    return log.read_text().splitlines() if log.exists() else []
