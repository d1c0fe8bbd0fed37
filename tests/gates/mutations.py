"""Seeded damage to bytes: flips, truncations, zeroes, repeats, insertions and edits of the head."""

from __future__ import annotations

import random
from collections.abc import Callable

EXTREMES = (0x00, 0x01, 0x7F, 0x80, 0xFF)


def mutated(data: bytes, seed: str, head: int) -> bytes:
    """One to three kinds of damage, the same for the same seed. head: bytes in which every other damage lies."""
    draw = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        draw.choice(KINDS)(damaged, draw, head if draw.random() < 0.5 else len(data))
    return bytes(damaged)


def _at(data: bytearray, draw: random.Random, head: int) -> int:
    return draw.randrange(max(min(head, len(data)), 1))


def _flip(data: bytearray, draw: random.Random, head: int) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = _at(data, draw, head)
        data[at : at + 1] = bytes(byte ^ 1 << draw.randrange(8) for byte in data[at : at + 1])


def _edit(data: bytearray, draw: random.Random, head: int) -> None:
    """A number of the header becomes an extreme or an odd one."""
    at, width = _at(data, draw, head), draw.choice((1, 2, 4, 8))
    value = bytes([draw.choice(EXTREMES)]) * width if draw.random() < 0.5 else draw.randbytes(width)
    data[at : at + width] = value[: len(data) - at]


def _truncate(data: bytearray, draw: random.Random, head: int) -> None:
    del data[_at(data, draw, head) :]


def _zero(data: bytearray, draw: random.Random, head: int) -> None:
    at = _at(data, draw, head)
    end = min(at + draw.choice((4, 16, 64, 1024)), len(data))
    data[at:end] = bytes(end - at)


def _repeat(data: bytearray, draw: random.Random, head: int) -> None:
    at = _at(data, draw, head)
    data[at:at] = data[at : at + draw.choice((2, 8, 64, 512))]


def _insert(data: bytearray, draw: random.Random, head: int) -> None:
    at = _at(data, draw, head)
    data[at:at] = draw.randbytes(draw.choice((1, 2, 4, 16)))


def _swap(data: bytearray, draw: random.Random, head: int) -> None:
    a, b, n = _at(data, draw, head), _at(data, draw, head), draw.choice((2, 4, 32))
    one, two = data[a : a + n], data[b : b + n]
    data[a : a + n], data[b : b + n] = two, one


KINDS: tuple[Callable[[bytearray, random.Random, int], None], ...] = (
    _flip,
    _flip,
    _edit,
    _edit,
    _truncate,
    _zero,
    _repeat,
    _insert,
    _swap,
)
