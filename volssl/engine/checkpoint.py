"""Checkpoints: one safetensors file per save, replaced whole or not at all, verified when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from volssl.errors import RunError
from volssl.whole import flush

if TYPE_CHECKING:
    from volssl.types import Tensors

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run is after ``step`` optimiser steps.

    tensors: dotted name -> tensor on the CPU. meta: plain JSON.
    damaged: one line for every newer file that could not be used.
    """

    step: int
    tensors: Tensors
    meta: dict[str, Any]
    damaged: tuple[str, ...] = ()


def save(folder: Path, *, step: int, tensors: Tensors, meta: Mapping[str, Any], keep: int) -> Path:
    """Write ``step-<step>.safetensors``, then remove all but the newest ``keep`` up to ``step``.

    The file appears under its name only when it is whole and on the disk. Tensors that share memory (tied
    weights) are written once each. Needs free space for one more file than is kept.

    Raises:
        RunError: it could not be written; what was there before is untouched.
    """
    final = folder / f"step-{step:08d}{SUFFIX}"
    temporary = final.with_name(f".{final.name}.tmp")
    held = _plain(tensors)
    size = sum(t.nbytes for t in held.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(folder, size)
        save_file(held, temporary, _header(step, held, meta))
        flush(temporary)
        os.replace(temporary, final)
        flush(folder)
    except (OSError, SafetensorError) as problem:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"{final}: not saved: {problem} ({free(folder)}); make room") from None
    _prune(folder, step, keep)
    return final


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there is none at all. Nothing is unpickled.

    Raises:
        RunError: there are checkpoints, and every one of them is damaged.
    """
    damaged: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            found = read(path)
        except RunError as problem:
            damaged.append(str(problem))
            continue
        return Checkpoint(found.step, found.tensors, found.meta, tuple(damaged))
    if damaged:
        raise RunError(f"{folder}: no checkpoint can be used; move it away to start anew. {'; '.join(damaged)}")
    return None


def read(path: Path) -> Checkpoint:
    """One checkpoint file, every bit of it verified against the SHA-256 that it carries.

    Raises:
        RunError: the file is damaged or is no checkpoint.
    """
    try:
        if not path.is_file():
            raise OSError("no regular file")
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, MemoryError) as problem:
        raise RunError(f"{path.name} is damaged: {problem}") from None
    if header.get("sha256") != _digest(tensors, header):
        raise RunError(f"{path.name} is damaged: its checksum does not fit its content")
    try:
        step, meta = int(header["step"]), json.loads(header["meta"])
        plain = all(isinstance(meta.get(key, {}), dict) for key in ("config", "data", "environment", "pending"))
    except (KeyError, ValueError, AttributeError, RecursionError):
        plain = False
    if not plain:
        raise RunError(f"{path.name} is damaged: its header is no checkpoint's")
    if step != _step(path):
        raise RunError(f"{path.name} is another file: it holds step {step}")
    return Checkpoint(step, tensors, meta)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a folder, oldest first, told from their names alone."""
    return sorted((path for path in folder.glob(f"step-*{SUFFIX}") if _digits(path).isdecimal()), key=_step)


def sweep(folder: Path) -> None:
    """Remove what a killed save left behind. Only for the one process that writes here.

    safetensors writes to a file of its own, ``.tmp`` and six letters, which it renames to the name it was given.
    """
    for pattern in (f".step-*{SUFFIX}.tmp", ".tmp??????"):
        for stale in folder.glob(pattern):
            stale.unlink(missing_ok=True)


def _digits(path: Path) -> str:
    return path.name.removeprefix("step-").removesuffix(SUFFIX)


def _step(path: Path) -> int:
    return int(_digits(path))


def _prune(folder: Path, step: int, keep: int) -> None:
    """A file newer than ``step`` is a damaged one that resuming passed over: it neither counts nor goes."""
    for old in [path for path in list_checkpoints(folder) if _step(path) <= step][:-keep]:
        with contextlib.suppress(OSError):
            old.unlink()


def _plain(tensors: Tensors) -> Tensors:
    """On the CPU, contiguous, and no two in one storage, as safetensors wants them."""
    held: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        held[name] = plain
    return held


def _header(step: int, tensors: Tensors, meta: Mapping[str, Any]) -> dict[str, str]:
    header = {"step": str(step), "meta": json.dumps(meta, sort_keys=True)}
    return header | {"sha256": _digest(tensors, header)}


def _digest(tensors: Tensors, header: Mapping[str, str]) -> str:
    """SHA-256 over everything in the file that has a meaning: names, types, shapes, bytes, and the header."""
    sha = hashlib.sha256()
    for key, value in sorted(header.items()):
        if key != "sha256":
            sha.update(json.dumps([key, value]).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _require_space(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size:
        raise OSError(f"{size / 1e6:.0f} MB are needed")


def free(folder: Path) -> str:
    """How much room the disk has, in words."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free"
    except OSError:
        return "free space unknown"
