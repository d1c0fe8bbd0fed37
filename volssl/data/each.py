"""A sequence whose members are made when they are asked for (torch-free): a large data set has millions of names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload


class Each(Sequence[str]):
    """``member(0)``, ``member(1)``, ... up to ``length``; a slice of it is a list."""

    def __init__(self, length: int, member: Callable[[int], str]) -> None:
        self._length, self._member = length, member

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...

    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return [self._member(k) for k in range(self._length)[i]]
        return self._member(range(self._length)[i])
