"""A file of weights written by anyone: tensors come out of it, and nothing in it runs."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import load_file
from torch.serialization import safe_globals

from volssl.errors import ConfigError
from volssl.models.pickled import RefusedError, names
from volssl.names import one_line
from volssl.regular import open_regular

_PICKLES = 4  # before its storages, a file of torch < 1.6 has a magic number, a version, the system and the content


class _StandIn:
    """In place of every class and function that a pickle names and torch does not trust.

    Called or instantiated it gives an empty Counter, the one type that torch's unpickler lets take both items
    and a state of any kind; the state is dropped.
    """

    def __new__(cls, *_: object) -> Counter[object]:  # type: ignore[misc]
        empty: Counter[object] = Counter()
        vars(empty)["__setstate__"] = _drop
        return empty


def _drop(_state: object) -> None:
    """What the pickle would have made of an object."""


def read_weights(path: Path) -> dict[str, object]:
    """What ``torch.save`` or safetensors wrote, by its own keys; values that are no tensors are worth nothing.

    A pickle is read by torch's restricted unpickler alone (``weights_only``). Names it does not trust, such as
    those of Lightning, mean ``_StandIn`` while it reads, so neither the packages nor their code are needed.

    Raises:
        ConfigError: the file cannot be read, would run code even so, or holds no dict.
    """
    try:
        found = _read(path)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        known = isinstance(error, OSError) and error.strerror
        reason = f"{known}: give the path of a file" if known else "it is damaged, or holds more than tensors"
        reason = str(error) if isinstance(error, RefusedError) else reason
        raise ConfigError(f"{path}: cannot be read as weights: {reason}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds a {type(found).__name__}, not weights: give a state dict")
    return {one_line(str(key)): value for key, value in found.items()}


def _read(path: Path) -> object:
    with open_regular(path) as file:
        start = file.read(9)
        if start.endswith(b"{"):  # the header of safetensors, after its length
            return load_file(path)
        file.seek(0)
        if zipped := start.startswith(b"PK"):
            _require_stored(file)
        named = _names(file, zipped=zipped)
        file.seek(0)
        with safe_globals([(_StandIn, name) for name in named]):
            # Said aloud: where it is not, an environment variable may make torch run what a pickle asks for.
            found = torch.load(file, map_location="cpu", weights_only=True)
    _require_held(found, path.stat().st_size)
    return found


def _require_stored(file: IO[bytes]) -> None:
    """As ``torch.save`` writes it, nothing is packed: what is, may be a thousand times as large in memory."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    held = file.seek(0, 2)
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > held:
        raise RefusedError("its members are compressed or claim more than it holds: save it with torch.save")
    file.seek(0)


def _require_held(found: object, size: int) -> None:
    """No tensor claims more bytes than the file has, as one that repeats its numbers can."""
    waiting, met = [found], set()
    while waiting:
        one = waiting.pop()
        if id(one) in met:  # a list may stand in a list ten times, and that again: each is looked into once
            continue
        met.add(id(one))
        if isinstance(one, torch.Tensor):
            if one.layout != torch.strided or one.numel() * one.element_size() > size:
                raise RefusedError("a tensor in it claims more numbers than it holds")
        elif isinstance(one, Mapping | list | tuple):
            waiting += one.values() if isinstance(one, Mapping) else one


def _names(file: IO[bytes], zipped: bool) -> set[str]:
    """The classes and functions that its pickles name."""
    if not zipped:
        return set().union(*(names(file) for _ in range(_PICKLES)))
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return set().union(*(names(archive.open(name)) for name in pickles))
