"""What gates share: a process that has imported everything, of which commands are forks, and the time of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gates import record
from tests.gates.forked import Forks


@pytest.fixture(autouse=True)
def _timed() -> None:
    record.begin()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """As a person has it who asks for nothing: names are not shown."""
    with Forks(VOLSSL_NAMES="") as started:
        yield started
