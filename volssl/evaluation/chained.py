"""Sources one after another, as one: a model that is fitted once can score several versions of the same items."""

from __future__ import annotations

from collections.abc import Sequence

from volssl.types import Item, Source


class Chained:
    """Item ``k * N + i`` is item i of the k-th source; all have N items, whose images may differ in shape."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources, self.each = tuple(sources), len(sources[0])

    def __len__(self) -> int:
        return self.each * len(self.sources)

    def __getitem__(self, i: int) -> Item:
        return self.sources[i // self.each][i % self.each]
