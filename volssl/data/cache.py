"""The source of preprocessed items: read from the cache, made anew where they are not in it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from volssl.data.cache_file import DamagedError, Spacing, fetch, store
from volssl.data.items import Origin
from volssl.errors import DataError
from volssl.types import Item

Make = Callable[[int], tuple[Tensor, Spacing]]


@dataclass(frozen=True)
class Cached:
    """An item and where the cache keeps it.

    label: class index, -1 = unknown. fingerprint: SHA-256 of its files. patient, dicom: as ``Origin`` has them.
    """

    id: str
    label: int
    fingerprint: str
    path: Path
    patient: str = ""
    dicom: tuple[Path, ...] = ()


class CachedSource:
    """A Source of preprocessed items, in the order of their ids.

    What it says of its items: ``volssl.data.items.PreparedSource``. In loader processes ``make``, which comes
    with MONAI, is unpickled only when an item is not in the cache: the first batch does not wait for the import.
    """

    def __init__(
        self,
        items: Sequence[Cached],
        make: Make,
        *,
        channels: int,
        region: tuple[int, ...],
        bad: Sequence[DataError] = (),
    ) -> None:
        self._items = tuple(items)
        self._make: Make | None = make
        self._pickled_make = pickle.dumps(make)
        self.ids = tuple(item.id for item in items)
        self.labels = tuple(item.label for item in items)
        self.fingerprints = tuple(item.fingerprint for item in items)
        self.parts, self.weights, self.label_sets = (len(items),), (1,), (len(items),)
        self.channels, self.region, self.bad = channels, region, tuple(bad)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_make": None}

    @property
    def origins(self) -> Iterator[Origin]:
        """One for each item."""
        for item in self._items:
            yield Origin(item.fingerprint, 1, item.patient, item.path, item.dicom)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        """The image is float32 (C, *region), from the cache or, beyond its ceiling, made now: the same bits.

        Raises:
            DataError: the item has to be made anew and its files have changed or cannot be read any more.
        """
        item = self._items[i]
        try:
            image, spacing = fetch(item.path)
        except FileNotFoundError:
            image, spacing = self._make_anew(i)
        except DamagedError:
            image, spacing = self._make_anew(i)
            store(item.path, image, spacing)
        return Item(image.to(torch.float32), spacing, item.id, item.label)

    def _make_anew(self, i: int) -> tuple[Tensor, Spacing]:
        if self._make is None:
            self._make = pickle.loads(self._pickled_make)
        return self._make(i)
