"""The source of several data sets: the items of one after those of the other, drawn as their weights say."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, chain

from volssl.data.each import Each
from volssl.data.items import Origin, PreparedSource
from volssl.types import Item


class MixtureSource:
    """A Source whose ids start with the number of the part, such as ``1/scan.nii.gz``; ``sources`` are the parts.

    Args:
        sources: the parts, of one shape, with one set of labels each.
        weights: how often each part is drawn; in proportion to its items where None.
    """

    def __init__(self, sources: Sequence[PreparedSource], weights: Sequence[int] | None = None) -> None:
        sizes = [len(source) for source in sources]
        self.sources, self._starts = tuple(sources), (0, *accumulate(sizes))
        self.parts = (sum(sizes),) if weights is None else tuple(sizes)
        self.weights = (1,) if weights is None else tuple(weights)
        self.label_sets = tuple(sizes)
        self.channels, self.region = sources[0].channels, sources[0].region
        self.bad = tuple(error for source in sources for error in source.bad)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, i: int) -> Item:
        part, place = self._find(i)
        return replace(self.sources[part][place], id=self.ids[i], part=part)

    @property
    def ids(self) -> Sequence[str]:
        """The number of the part before the part's own."""
        return Each(len(self), self._id)

    @property
    def labels(self) -> Sequence[int]:
        """Those of the parts, one after the other."""
        return [label for source in self.sources for label in source.labels]

    @property
    def fingerprints(self) -> Sequence[str]:
        """Those of the parts."""
        return Each(len(self), self._fingerprint)

    @property
    def origins(self) -> Iterable[Origin]:
        """Those of the parts."""
        return chain.from_iterable(source.origins for source in self.sources)

    def _find(self, i: int) -> tuple[int, int]:
        """The part, and the item's place in it."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        part = bisect_right(self._starts, i) - 1
        return part, i - self._starts[part]

    def _id(self, i: int) -> str:
        part, place = self._find(i)
        return f"{part}/{self.sources[part].ids[place]}"

    def _fingerprint(self, i: int) -> str:
        part, place = self._find(i)
        return self.sources[part].fingerprints[place]
