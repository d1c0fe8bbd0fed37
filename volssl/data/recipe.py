"""How an entry becomes an item: what it is made from, how it is named in the cache, how it is made."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from volssl.data.cache_file import HEADER, SUFFIX, Spacing
from volssl.data.door import Found
from volssl.data.fingerprint import Stamp, fingerprint, stamp
from volssl.data.items import Items, Size
from volssl.data.preprocess import preprocess
from volssl.errors import DataError
from volssl.names import cause, withheld

FORMAT = 1  # raise it when the same configuration and the same files give other items
SHAPING = {
    *("orientation", "spacing", "n4", "intensity", "crop_foreground", "slices", "fit"),
    *("colour", "cache_dtype", "non_finite"),
}


@dataclass(frozen=True)
class Entry:
    """What one item is made from.

    parts: the volumes found, more than one where each is a channel. time: the time point of a 4D file, None
    for all of them as channels; the row of an archive. label: class index, -1 where unknown.
    content: a SHA-256 of what the item is made from, where that is not the whole of its files. patient: whose it is,
    as a table writes it.
    """

    id: str
    parts: tuple[Found, ...]
    time: int | None = 0
    label: int = -1
    content: str = ""
    patient: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file, in the order that decides what the item is."""
        return tuple(file for part in self.parts for file in part.files)

    def state(self) -> Stamp:
        """The files' present state, under which is remembered that they are what a manifest says.

        Raises:
            DataError: a file is not there.
        """
        state, told = stamp(self.files), "".join(part.sha256 for part in self.parts)
        return replace(state, digest=hashlib.sha256(f"{state.digest}{told}".encode()).hexdigest()) if told else state

    def check(self, content: str) -> None:
        """Of files whose fingerprint is ``content``: are they what a manifest says, where one does?

        Raises:
            DataError: ``changed``.
        """
        for part in self.parts:
            own = content if len(self.parts) == 1 else fingerprint(part.files) if part.sha256 else ""
            if part.sha256 and part.sha256 != own:
                raise not_as_listed(self.id)


def not_as_listed(where: str) -> DataError:
    """What to say of an item whose files are others than those that the manifest lists."""
    return DataError("changed", "is not what the manifest lists: run volssl index again", where)


Read = Callable[[Entry], MetaTensor]


@dataclass(frozen=True)
class Recipe:
    """How an entry becomes an item; goes to the worker processes.

    read: an entry to (C, *spatial), a function that pickles.
    """

    read: Read
    config: Items
    region: Size

    @property
    def bytes_per_item(self) -> int:
        """At most, in the cache."""
        return self.config.channels * math.prod(self.region) * self._dtype.itemsize + HEADER

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float16 if self.config.cache_dtype == "float16" else torch.float32

    def path(self, entry: Entry, content: str) -> Path:
        """Where the item is kept: its name is a SHA-256 over all that it depends on."""
        key = {
            "format": FORMAT,
            "content": content,
            "parts": [[part.kind, len(part.files), part.frames] for part in entry.parts],
            "time": entry.time,
            "preprocessing": self.config.model_dump(mode="json", include=SHAPING),
            "channels": self.config.channels,
            "region": list(self.region),
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return Path(self.config.cache, name + SUFFIX)

    def make(self, entry: Entry) -> tuple[Tensor, Spacing]:
        """Read and preprocess: (C, *region) in the cache's type, whether it will be cached or not.

        Raises:
            DataError: with ``where`` set, whatever went wrong.
        """
        try:
            image, spacing = preprocess(self.config, self.region)(self.read(entry))
            if len(image) != self.config.channels:
                raise DataError("channels", f"has {len(image)} channels, data says {self.config.channels}")
            return self._cast(image), spacing
        except DataError as error:
            raise DataError(error.code, error.message, error.where or entry.id) from cause(error)
        except Exception as error:  # whatever a transform throws is one bad item, not the end of a run
            what = f"{type(error).__name__}: {withheld(' '.join(str(error).split()))}"
            raise DataError("failed", what, entry.id) from cause(error)

    def _cast(self, image: Tensor) -> Tensor:
        typed = image.to(self._dtype)
        if not bool(torch.isfinite(typed).all()):
            largest = float(image.abs().max())
            raise DataError("range", f"{largest:g} does not fit float16: set data.cache_dtype: float32")
        return typed
