"""What says whether two sources are one, and ranks that do not find the same items."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from volssl.engine.distributed import Group
from volssl.engine.saver import identity, require_one_source
from volssl.errors import RunError
from volssl.types import Item

Ranks = Callable[..., list[Any]]


@dataclass(frozen=True)
class Named:
    """A source of names and digests."""

    ids: tuple[str, ...]
    weights: tuple[int, ...] = (1,)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(name.upper() for name in self.ids)

    @property
    def parts(self) -> tuple[int, ...]:
        return (len(self.ids),)

    label_sets = parts

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        return Item(torch.zeros(1, 2, 2), (1.0, 1.0), self.ids[i])


@pytest.mark.parametrize("ids", [(), ("a",), ("a", 'ü "b"', "c/d")])
def test_the_identity_is_the_digest_of_ids_and_fingerprints(ids: tuple[str, ...]) -> None:
    source = Named(ids)
    text = json.dumps([list(ids), list(source.fingerprints)])
    assert identity(source) == {"count": len(ids), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def compare(group: Group, *ids: tuple[str, ...]) -> str:
    """What ``require_one_source`` says where each rank has its own ids."""
    try:
        require_one_source(identity(Named(ids[group.rank])), group)
    except RunError as error:
        return str(error)
    return "one"


def test_ranks_with_other_items_end_together(two_ranks: Ranks) -> None:
    assert two_ranks(compare, ("a", "b"), ("a", "b")) == ["one", "one"]
    for said in two_ranks(compare, ("a", "b"), ("a",)):
        assert "ranks 0 and 1 find other items (2 and 1)" in said
    for said in two_ranks(compare, ("a", "b"), ("b", "a")):
        assert "find other items (2 and 2)" in said
