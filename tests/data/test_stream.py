"""The stream of samples: parts that take turns by their weights, each an endless stream of epochs."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volssl.data.stream import Stream, pattern, permutation, sample_seed

WEIGHTS = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def test_the_first_words_of_philox_order_the_items() -> None:
    """Golden: must never change, or no run can be resumed or repeated by a later version."""
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert [sample_seed(0, 0, i) for i in range(2)] == [4635879678023765015, 5354679218300372251]


def test_permutation_is_one_and_differs_by_seed_and_epoch() -> None:
    orders = [tuple(permutation(s, e, 50)) for s in (0, 1, 2**63) for e in (0, 1, 2)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == len(orders)


def test_permutation_is_uniform() -> None:
    """Chi-squared of the place of item 0 over 2,000 epochs and 10 places: 9 degrees of freedom, 27.9 is p = 0.001."""
    places = Counter(int(np.flatnonzero(permutation(3, e, 10) == 0)[0]) for e in range(2000))
    assert sum((places[i] - 200) ** 2 / 200 for i in range(10)) < 27.9


def test_seeds_of_neighbours_are_independent() -> None:
    """40,000 seeds: all different, in 63 bits; neighbours differ in half their bits (31.5 +- 0.1 of 63)."""
    seeds = [sample_seed(s, e, i) for s in range(4) for e in range(100) for i in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert 0 <= min(seeds) < max(seeds) < 2**63
    assert np.mean([(a ^ b).bit_count() for a, b in pairwise(seeds)]) == pytest.approx(31.5, abs=0.1)
    bits = np.array([[s >> b & 1 for b in range(63)] for s in seeds[:10_000]])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.025  # five standard deviations of 10,000 tosses
    assert np.abs(np.corrcoef(bits.T) - np.eye(63)).max() < 0.055


def test_seeds_do_not_mix_up_their_arguments() -> None:
    assert len({sample_seed(*key) for key in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 1, 1)]}) == 5


def shares_hold(turns: list[int], weights: list[int]) -> bool:
    """After any number t of turns, each part has had t w / W of them rounded up or down: less than one off."""
    had = np.cumsum(np.eye(len(weights), dtype=int)[turns], axis=0) * sum(weights)
    due = np.arange(1, len(turns) + 1)[:, None] * np.array(weights)
    return bool((np.abs(had - due) < sum(weights)).all())


@given(WEIGHTS)
def test_parts_take_turns_as_their_weights_say(weights: list[int]) -> None:
    turns = pattern(weights)
    assert [turns.count(k) for k in range(len(weights))] == weights
    assert shares_hold(turns, weights)


def test_turns_by_hand() -> None:
    """Of 4 turns part 0 has three: due from 0, 4/3 and 8/3, to end by 4/3, 8/3 and 4; part 1 must end by 4."""
    assert pattern([3, 1]) == [0, 0, 0, 1]
    assert pattern([1, 2]) == [1, 0, 1]
    assert pattern([5]) == [0] * 5
    assert pattern([1] * 4) == [0, 1, 2, 3]
    assert pattern([2, 2]) == [0, 1, 0, 1]


def test_turns_in_blocks_would_be_noticed() -> None:
    """Negative control: after three turns in a row part 0 is 3 - 1.5 ahead."""
    assert not shares_hold([0, 0, 0, 1, 1, 1], [3, 3])


def test_one_part_is_one_permutation_after_the_other() -> None:
    """Golden, as above: position p is place p mod n of epoch p // n, whatever the part's weight is."""
    for weights in ([], [1], [3]):
        drawn = [Stream(5, [7], weights)[p] for p in range(40)]
        assert [d.index for d in drawn] == [int(permutation(5, p // 7, 7)[p % 7]) for p in range(40)]
        assert [d.seed for d in drawn] == [sample_seed(5, p // 7, d.index) for p, d in enumerate(drawn)]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
def test_every_part_is_a_stream_of_its_own_epochs(parts: list[tuple[int, int]], seed: int) -> None:
    """Whatever the others are: no item of a part twice in an epoch of the part."""
    sizes, weights = [n for n, _ in parts], [w for _, w in parts]
    stream, starts = Stream(seed, sizes, weights), [0, *accumulate(sizes)]
    indices = [stream[p].index for p in range(6 * sum(weights))]
    for k, n in enumerate(sizes):
        own = [i - starts[k] for i in indices if starts[k] <= i < starts[k + 1]]
        assert len(own) == 6 * weights[k]
        assert own == [int(permutation(seed, i // n, n, k)[i % n]) for i in range(len(own))]


def test_parts_of_one_size_are_not_in_one_order() -> None:
    orders = [tuple(permutation(0, epoch, 20, part)) for epoch in range(3) for part in range(3)]
    assert len(set(orders)) == 9
    assert permutation(0, 0, 8, 1).tolist() == [7, 4, 2, 6, 5, 0, 1, 3]  # golden


def test_samples_of_all_parts_have_seeds_of_their_own() -> None:
    """2 x 3 x 4 positions over six epochs of two parts of four: all 48 differ."""
    stream = Stream(1, [4, 4])
    assert len({stream[p].seed for p in range(48)}) == 48


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 30])
def test_any_piece_of_an_even_stream_holds_every_part_equally_often_up_to_one(size: int) -> None:
    stream = Stream(0, [3, 50, 11])
    parts = [int(np.searchsorted([3, 53], stream[p].index, side="right")) for p in range(120)]
    for start in range(120 - size):
        count = Counter(parts[start : start + size])
        assert max(count[k] for k in range(3)) - min(count[k] for k in range(3)) <= 1


def test_an_order_is_made_once_per_part_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts must not push one another's order out: with millions of items each takes seconds."""
    made: list[tuple[int, int]] = []

    def counted(seed: int, epoch: int, *, n: int, part: int) -> np.ndarray:
        made.append((part, epoch))
        return permutation(seed, epoch, n, part)

    monkeypatch.setattr("volssl.data.stream.permutation", counted)
    stream = Stream(0, [10] * 5)
    assert len([stream[p] for p in range(100)]) == 100
    assert sorted(made) == [(part, epoch) for part in range(5) for epoch in range(2)]
