"""The files of the cache: written whole or not at all, checked on every read, the oldest deleted first."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from volssl.errors import DataError, RunError
from volssl.names import typed
from volssl.regular import require_regular

Spacing = tuple[float, ...]
SUFFIX = ".safetensors"
HEADER = 256  # bytes of a file beyond its image, at most
STALE_SECONDS = 86_400.0  # a temporary file older than this belongs to a run that was killed


class DamagedError(Exception):
    """A cache file that is not what was written."""


def make_folder(path: str | Path, key: str = "data.cache") -> Path:
    """The folder that a key of the configuration names, made where it is not there.

    Raises:
        RunError: it cannot be made.
    """
    folder = Path(path)
    try:
        if not folder.is_dir():
            if os.path.lexists(folder):
                raise FileExistsError(errno.EEXIST, "it is no folder")
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{key}: {folder} cannot be made ({error.strerror}): name another folder") from error
    except RecursionError:  # of a path of a thousand folders
        raise RunError(f"{key}: {folder} cannot be made (too many folders in one another): name another") from None
    return folder


def store(path: Path, image: Tensor, spacing: Spacing) -> None:
    """Write an item so that the file is there whole or not at all, whoever else writes it or reads it.

    Not synced to disk: what a power cut leaves fails its check and is made anew.

    Raises:
        RunError: the folder is full or cannot be written.
    """
    about = json.dumps({"spacing": spacing, "checksum": _checksum(image, spacing)})
    data = safetensors.torch.save({"image": image}, {"about": about})
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(data)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        what = f"data.cache: {path.parent} cannot be written ({error.strerror})"
        raise RunError(f"{what}: make room, lower data.cache_gb or name another folder") from error


def fetch(path: Path) -> tuple[Tensor, Spacing]:
    """Read an item back.

    Raises:
        FileNotFoundError: not there.
        DamagedError: any bit is not what was written.
        DataError: it is there and the file system does not give it.
    """
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as f:
            about, image = json.loads(f.metadata()["about"]), f.get_tensor("image")
        spacing, checksum = tuple(about["spacing"]), about["checksum"]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedError(str(error)) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        code = "permission" if isinstance(error, PermissionError) else "unreadable"
        what = f"a file of data.cache cannot be read ({error.strerror or error}): delete it or mend its permissions"
        raise DataError(code, what, typed(path)) from error
    if checksum != _checksum(image, spacing):
        raise DamagedError("the checksum does not fit")
    return image, spacing


def _checksum(image: Tensor, spacing: Spacing) -> str:
    start = zlib.crc32(f"{image.dtype} {tuple(image.shape)} {json.dumps(spacing)}".encode())
    return f"{zlib.crc32(image.numpy().data, start):08x}"


def whole(path: Path) -> bool:
    """Whether the file is there in its full length; its bits are checked when it is read."""
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as f:
            return "image" in f.keys()  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return False


def touch(paths: Iterable[Path]) -> None:
    """Say that these files are in use now, where they are there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)


def make_room(folder: Path, used: set[Path], ceiling: int) -> None:
    """Delete the longest unused items other than ``used`` until the folder's items fit under the ceiling."""
    for path, state in _files(folder, "*.tmp"):
        if time.time() - state.st_mtime > STALE_SECONDS:
            path.unlink(missing_ok=True)
    files = _files(folder, "*" + SUFFIX)
    excess = sum(state.st_size for _, state in files) - ceiling
    for path, state in sorted(files, key=lambda file: (file[1].st_mtime_ns, file[0])):
        if excess > 0 and path not in used:
            path.unlink(missing_ok=True)
            excess -= state.st_size


def _files(folder: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another run may delete it now
            found.append((path, path.stat()))
    return found
