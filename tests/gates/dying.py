"""A process that dies at its n-th call on a run's files, and a disk that forgets what was not brought to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from volssl.engine import checkpoint


class Death:
    """Dies before or after the n-th call on something below ``folder``; made in the process that is to die.

    power: the machine loses power: what was written and not brought to the disk is gone, a name that was given and not
    brought to it with its folder, too, while what was taken away is gone for good.
    """

    def __init__(self, folder: Path, n: int, *, after: bool, power: bool) -> None:
        self.folder, self.n, self.after, self.power = str(folder), n, after, power
        self.count = 0
        self.paths: dict[int, str] = {}
        self.safe: dict[str, int] = {}  # the bytes of each file that are on the disk
        self.names: set[str] = set()  # given, and their folder not brought to the disk since
        for owner, name, place in (
            (os, "open", self.opened),
            (os, "close", None),
            (os, "write", None),
            (os, "ftruncate", None),
            (os, "fsync", self.synced),
            (os, "replace", self.renamed),
            (os, "unlink", None),
            (checkpoint, "save_file", self.saved),
        ):
            setattr(owner, name, self.wrap(getattr(owner, name), place))

    def wrap(self, call: Callable[..., Any], then: Callable[..., None] | None) -> Callable[..., Any]:
        def dying(*args: Any, **kwargs: Any) -> Any:
            if not any(self.where(arg).startswith(self.folder) for arg in args[:2]):
                return call(*args, **kwargs)
            if then == self.saved:
                self.half(args[1])
            self.count += 1
            mine = self.count == self.n  # which calls inside of this one would not tell afterwards
            if mine and not self.after:
                self.die()
            try:
                result = call(*args, **kwargs)
            except OSError:  # such as of a file that is not there: a point like any other
                if mine:
                    self.die()
                raise
            if then:
                then(result, *args)
            if mine:
                self.die()
            return result

        return dying

    def half(self, path: Path) -> None:
        """A point within the call: safetensors has written half of a file of its own."""
        self.count += 1
        if self.count == self.n:
            path.with_name(".tmpAbCdEf").write_bytes(b"half")
            self.die()

    def where(self, arg: Any) -> str:
        if isinstance(arg, int):
            return self.paths.get(arg, "")
        return str(arg) if isinstance(arg, str | Path) else ""

    def opened(self, descriptor: int, path: Any, *_: Any) -> None:
        self.paths[descriptor] = str(path)
        if os.path.isfile(path):
            self.safe.setdefault(str(path), os.stat(path).st_size)

    def synced(self, _: None, descriptor: int) -> None:
        path = self.paths[descriptor]
        if os.path.isdir(path):
            self.names = {name for name in self.names if os.path.dirname(name) != path}
        else:
            self.safe[path] = os.stat(path).st_size

    def saved(self, _: None, __: Any, path: Any, *___: Any) -> None:
        self.safe[str(path)] = 0

    def renamed(self, _: None, source: Any, target: Any) -> None:
        self.safe[str(target)] = self.safe.pop(str(source), os.stat(target).st_size)
        self.names.add(str(target))

    def die(self) -> None:
        for path, size in self.safe.items() if self.power else ():
            if os.path.exists(path):
                os.truncate(path, min(size, os.stat(path).st_size))
        for name in self.names if self.power else ():
            os.remove(name)
        os._exit(9)
