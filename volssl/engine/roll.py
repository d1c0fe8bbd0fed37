"""The items that a run trains on, told apart without names: two keyed numbers each, to say what is not as it was."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from volssl.data.items import FixedSource
from volssl.names import keyed, shown_id
from volssl.regular import LARGE, read_regular
from volssl.whole import whole

FILE = "items.safetensors"
NAMED = 3  # items that a message names
Hashes = NDArray[np.uint64]


def write(path: Path, source: FixedSource) -> None:
    """Keep, under the key in use, what the items are called and what they are made from: 16 bytes each."""
    ids, contents = _hashes(source.ids, "item"), _hashes(source.fingerprints, "content")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as fresh:
        fresh.write_bytes(safetensors.numpy.save({"id": ids, "content": contents}))


def difference(path: Path, source: FixedSource) -> str:
    """Which items are new, gone or changed since ``path`` was written; empty where it does not say."""
    try:
        kept = safetensors.numpy.load(read_regular(path, LARGE))
        before, contents = kept["id"], kept["content"]
        if before.dtype != np.uint64 or before.ndim != 1 or contents.shape != before.shape:
            return ""
    except (OSError, SafetensorError, KeyError, ValueError):
        return ""
    now = _hashes(source.ids, "item")
    _, there, here = np.intersect1d(before, now, return_indices=True)
    fingerprints = source.fingerprints
    same = contents[there] == _hashes((fingerprints[i] for i in here.tolist()), "content")
    new = np.flatnonzero(~np.isin(now, before))
    gone = before[~np.isin(before, now)]
    told = (
        _told("new", len(new), (shown_id(source.ids[i]) for i in new[:NAMED].tolist())),
        _told("gone", len(gone), (f"{one:016x}" for one in gone[:NAMED].tolist())),
        _told("changed", int((~same).sum()), (shown_id(source.ids[i]) for i in here[~same][:NAMED].tolist())),
    )
    return "; ".join(part for part in told if part) or "others in the order, or under another key"


def _hashes(texts: Iterable[str], kind: str) -> Hashes:
    return np.array([int(keyed(text, kind), 16) for text in texts], dtype=np.uint64)


def _told(what: str, count: int, names: Iterable[str]) -> str:
    more = f" and {count - NAMED} more" if count > NAMED else ""
    return f"{what}: {', '.join(names)}{more}" if count else ""
