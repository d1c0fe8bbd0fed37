"""How large a gate is: trimmed in the suite, full where ``VOLSSL_GATES=full``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def size(trimmed: T, full: T) -> T:
    """The one of the two that is asked for."""
    return full if os.environ.get("VOLSSL_GATES") == "full" else trimmed


def some(cases: Sequence[T], count: int) -> list[T]:
    """``count`` of them, from the first to the last."""
    if count >= len(cases):
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]
