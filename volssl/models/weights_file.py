"""A file of weights written by anyone: tensors come out of it, and nothing in it runs."""

from __future__ import annotations

import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import load_file
from torch.serialization import safe_globals

from volssl.errors import ConfigError

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
        raise ConfigError(f"{path}: cannot be read as weights: {reason}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds a {type(found).__name__}, not weights: give a state dict")
    return {str(key): value for key, value in found.items()}


def _read(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(9)
        if start.endswith(b"{"):  # the header of safetensors, after its length
            return load_file(path)
        file.seek(0)
        names = _names(file, zipped=start.startswith(b"PK"))
        file.seek(0)
        with safe_globals([(_StandIn, name) for name in names]):
            return torch.load(file, map_location="cpu", weights_only=True)


def _names(file: IO[bytes], zipped: bool) -> set[str]:
    """The classes and functions that the pickle names, found by disassembling it."""
    if not zipped:
        return set().union(*(_globals(file) for _ in range(_PICKLES)))
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return set().union(*(_globals(archive.open(name)) for name in pickles))


def _globals(pickle: IO[bytes]) -> set[str]:
    found: set[str] = set()
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            # torch.save writes the names of Python 2, and torch.load knows today's name of some of them
            today = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            found |= {f"{module}.{name}", ".".join(today)}
    return found
