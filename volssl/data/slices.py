"""The slices of cached volumes, and frames of cached videos, as items of two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from volssl.data.cache import CachedSource
from volssl.data.items import Origin
from volssl.types import Item


def middles(total: int, parts: int) -> list[int]:
    """The middle of each of ``parts`` equal parts of 0 .. total - 1."""
    return [(2 * part + 1) * total // (2 * parts) for part in range(parts)]


class Slices:
    """A ``PreparedSource`` whose items are ``id#000``, ``id#001``, ... of each volume (or video) in turn.

    Args:
        volumes: of as many slices (or frames) each as their region has.
    """

    def __init__(self, volumes: CachedSource) -> None:
        self._volumes = volumes
        self._each, *size = volumes.region
        self.region = tuple(size)
        each = range(self._each)
        self.ids = tuple(f"{name}#{n:03}" for name in volumes.ids for n in each)
        self.labels = tuple(label for label in volumes.labels for _ in each)
        self.fingerprints = tuple(content for content in volumes.fingerprints for _ in each)
        self.parts, self.weights, self.label_sets = (len(self.ids),), (1,), (len(self.ids),)
        self.channels, self.bad = volumes.channels, volumes.bad

    @property
    def origins(self) -> Iterator[Origin]:
        """One for all slices of a volume."""
        return (replace(origin, items=self._each) for origin in self._volumes.origins)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        """The image is float32 (C, rows, columns).

        Raises:
            DataError: as ``CachedSource``.
        """
        volume = self._volumes[i // self._each]
        return Item(volume.image[:, i % self._each], volume.spacing[1:], self.ids[i], volume.label)
