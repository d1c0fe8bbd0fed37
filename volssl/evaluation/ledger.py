"""What an evaluation has worked out already, on disk: a study that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from volssl import __version__
from volssl.regular import LARGE, read_regular
from volssl.whole import whole

Arrays = Mapping[str, NDArray[Any]]
ALGORITHM = 1  # raised with whatever changes an answer, so that none of before is taken for one of now


class Ledger:
    """Arrays by what they depend on. A file that is not what was written counts as not there.

    Args:
        folder: where they are kept; nothing is kept where it is None.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def recall(self, key: Any, make: Callable[[], Arrays]) -> Arrays:
        """What ``make`` gave for this key, now or before.

        Args:
            key: plain JSON that names everything the arrays depend on, this package apart.
        """
        if self.folder is None:
            return make()
        everything = [__version__, ALGORITHM, key]
        name = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        if (found := _read(path)) is None:
            found = make()
            self._write(path, found)
        return found

    def _write(self, path: Path, arrays: Arrays) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with whole(path, shared=True) as fresh:
            fresh.write_bytes(_signed(safetensors.numpy.save(held)))


def _signed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def _read(path: Path) -> Arrays | None:
    try:
        signed = read_regular(path, LARGE)
        content = signed[hashlib.sha256().digest_size :]
        return safetensors.numpy.load(content) if _signed(content) == signed else None
    except (OSError, SafetensorError):
        return None
