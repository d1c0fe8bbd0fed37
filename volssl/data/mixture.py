"""The source of several data sets: the items of one after those of the other, drawn as their weights say."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from volssl.data.items import PreparedSource
from volssl.types import Item


class MixtureSource:
    """A Source whose ids start with the number of the part, such as ``1/scan.nii.gz``.

    Args:
        sources: the parts, of one shape, with one set of labels each.
        weights: how often each part is drawn; in proportion to its items where None.
    """

    def __init__(self, sources: Sequence[PreparedSource], weights: Sequence[int] | None = None) -> None:
        sizes = [len(source) for source in sources]
        self._sources, self._starts = tuple(sources), (0, *accumulate(sizes))
        self.ids = tuple(f"{k}/{name}" for k, source in enumerate(sources) for name in source.ids)
        self.labels = tuple(label for source in sources for label in source.labels)
        self.fingerprints = tuple(digest for source in sources for digest in source.fingerprints)
        self.parts = (sum(sizes),) if weights is None else tuple(sizes)
        self.weights = (1,) if weights is None else tuple(weights)
        self.label_sets = len(sources)
        self.channels, self.region = sources[0].channels, sources[0].region
        self.bad = tuple(error for source in sources for error in source.bad)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, i: int) -> Item:
        part = bisect_right(self._starts, i) - 1
        item = self._sources[part][i - self._starts[part]]
        return replace(item, id=self.ids[i], part=part)
