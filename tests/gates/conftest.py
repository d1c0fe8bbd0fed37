"""What gates share: one process that has imported everything, from which commands are forked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gates.forked import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """As a person has it who asks for nothing: names are not shown."""
    with Forks(VOLSSL_NAMES="") as started:
        yield started
