"""The order of the samples and their seeds, as pure functions (torch-free)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate, count

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def permutation(seed: int, epoch: int, n: int, part: int = 0) -> NDArray[np.int64]:
    """The order of the ``n`` items of a part in an epoch, a pure function of its arguments.

    The ranks of n 64-bit words of Philox-4x64-10 (Salmon et al. 2011) under the key (seed, epoch), from where the
    last word of the counter is the part. Raw words, because NumPy promises that a bit generator's stream stays
    the same for ever, but not that shuffling does.
    """
    key = np.array([seed & _MASK, epoch & _MASK], dtype=np.uint64)
    counter = np.array([0, 0, 0, part], dtype=np.uint64)
    return np.argsort(np.random.Philox(key=key, counter=counter).random_raw(n), kind="stable")


def sample_seed(*numbers: int) -> int:
    """A seed of 63 bits for one (run seed, epoch, item).

    The finaliser of SplitMix64 (Steele et al. 2014) over one number after the other. It is a bijection of 64
    bits, so within an epoch no two items share all of them.
    """
    state = _GOLDEN
    for number in numbers:
        state = _mix((state + (number + 1) * _GOLDEN) & _MASK)
    return state >> 1


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def pattern(weights: Sequence[int]) -> list[int]:
    """The parts in the order in which they take turns, each as often as its weight says, spread evenly.

    Of the parts whose next turn is due to begin, the one whose turn has to end first (Baruah et al. 1996,
    proportionate progress): after any number of turns of the repeated pattern, each part has had its share of
    them rounded up or down. With equal weights they take turns in their order.
    """
    total, had = sum(weights), [0] * len(weights)
    turns = []
    for t in range(total):
        due = [k for k, weight in enumerate(weights) if had[k] * total < weight * (t + 1)]
        chosen = min(due, key=lambda k: -(-(had[k] + 1) * total // weights[k]))
        had[chosen] += 1
        turns.append(chosen)
    return turns


@dataclass(frozen=True)
class Draw:
    """One place in the stream of samples: which item, and the seed of its views."""

    index: int
    seed: int


class Stream:
    """What stands at each position of the endless stream of samples.

    Every part is an endless stream of epochs of its own, one permutation after the other: an epoch holds every
    item of the part once, and what is left of it when a batch ends starts the next batch. The parts take turns
    by position, so any piece of the stream holds them as their weights say.

    Where an item that is left out would stand, another of its part does: a function of the seed and the position,
    and of what is left out there.

    Args:
        parts: the numbers of items. weights: how often each part is drawn; equally often where absent.
        without: item -> the position from which on it is left out; looked at anew each time.
    """

    def __init__(
        self, seed: int, parts: Sequence[int], weights: Sequence[int] = (), without: Mapping[int, int] | None = None
    ) -> None:
        self._seed, self._parts, self._without = seed, tuple(parts), {} if without is None else without
        self._starts = [0, *accumulate(parts)]
        self._turns = pattern(weights or [1] * len(parts))
        self._places = [[t for t, turn in enumerate(self._turns) if turn == k] for k in range(len(parts))]
        # a step lies in one epoch of a part or on the border of two
        self._orders = [lru_cache(maxsize=2)(partial(permutation, n=n, part=k)) for k, n in enumerate(parts)]

    def __getitem__(self, position: int) -> Draw:
        round_, turn = divmod(position, len(self._turns))
        part = self._turns[turn]
        places = self._places[part]
        epoch, place = divmod(round_ * len(places) + bisect_left(places, turn), self._parts[part])
        index = self._starts[part] + int(self._orders[part](self._seed, epoch)[place])
        if self._is_out(index, position):
            return self._instead(part, position, epoch)
        return Draw(index, sample_seed(self._seed, epoch, index))

    def _is_out(self, index: int, position: int) -> bool:
        return index in self._without and position >= self._without[index]

    def _instead(self, part: int, position: int, epoch: int) -> Draw:
        """Its seed counts the position, too: its views must not be those that the same item has in its own place."""
        for attempt in count():
            index = self._starts[part] + sample_seed(self._seed, position, attempt) % self._parts[part]
            if not self._is_out(index, position):
                break
        return Draw(index, sample_seed(self._seed, epoch, index, position))
