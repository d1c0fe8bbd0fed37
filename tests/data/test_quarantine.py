"""The list of items that are left out: who reads it, who is on it, and where it ends a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from volssl.data.quarantine import Quarantine
from volssl.data.stream import Stream
from volssl.errors import RunError
from volssl.types import Item


@dataclass
class Named:
    """Two parts of four items, by their ids."""

    ids: list[str] = field(default_factory=lambda: list("abcdefgh"))
    parts = weights = label_sets = (4, 4)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        return Item(torch.zeros(1, 2, 2), (1.0, 1.0), self.ids[i])


def test_the_next_start_has_the_list_and_so_have_all_ranks(tmp_path: Path) -> None:
    ranks = [Quarantine(Named(), folder=tmp_path, rank=rank) for rank in range(2)]
    for rank, item, position in ((0, 2, 30), (1, 2, 20), (1, 5, 7)):
        assert "once more" in ranks[rank].strike(item, position, "hung")
        assert f"quarantine{'-1' * rank}.jsonl" in ranks[rank].strike(item, position, "hung")
    assert [one.since for one in ranks] == [{2: 30}, {2: 20, 5: 7}]
    again = Quarantine(Named(), folder=tmp_path)
    assert again.since == {2: 20, 5: 7}
    assert again.told() == ["2 items are left out, as they killed or hung loader processes"]


@pytest.mark.parametrize(
    "torn",
    [
        *('\n{"id": "c", "it', "\0\0", "[1]\n", '{"id": "c", "item": 99, "from": 0}\n'),
        *('{"id": "c", "item": 1e400, "from": 0}\n', "[" * 100_000 + "\n"),
    ],
)
def test_a_torn_line_is_none_and_swallows_none(tmp_path: Path, torn: str) -> None:
    (tmp_path / "quarantine.jsonl").write_text(torn)
    one = Quarantine(Named(), folder=tmp_path)
    assert one.since == {}
    for _ in range(2):
        one.strike(3, 1, "hung")
    assert Quarantine(Named(), folder=tmp_path).since == {3: 1}


def test_a_list_of_other_items_is_none(tmp_path: Path) -> None:
    one = Quarantine(Named(), folder=tmp_path)
    for _ in range(2):
        one.strike(3, 1, "hung")
    assert Quarantine(Named(list("hgfedcba")), folder=tmp_path).since == {}


def test_two_strikes_count_only_in_a_row() -> None:
    one = Quarantine(Named())
    for item in (3, 4):
        one.strike(item, 1, "hung")
    one.clear([3])
    one.strike(3, 5, "hung")
    assert one.since == {}
    one.strike(4, 9, "hung")
    assert one.since == {4: 9}


def test_a_share_or_a_whole_part_ends_the_run_and_so_does_the_next_start(tmp_path: Path) -> None:
    one = Quarantine(Named(), max_bad=0.125, folder=tmp_path)
    for item in (0, 0, 6):
        one.strike(item, 1, "hung")
    says = r"2 of 8 items kill or hang .*max_bad is 0.125.*remove a, g, or raise"
    with pytest.raises(RunError, match=says):
        one.strike(6, 1, "hung")
    with pytest.raises(RunError, match=says):
        Quarantine(Named(), max_bad=0.125, folder=tmp_path)
    part = Quarantine(Named(), max_bad=1.0)
    part.since.update({4: 0, 5: 0, 6: 0})
    part.strike(7, 1, "hung")
    with pytest.raises(RunError, match="4 of 8"):
        part.strike(7, 1, "hung")


def test_a_list_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "quarantine-1.jsonl").mkdir()
    one = Quarantine(Named(), folder=tmp_path / "none", rank=1)
    one.strike(1, 1, "hung")
    assert "not written: No such file or directory" in one.strike(1, 1, "hung")


def test_others_of_the_part_stand_in_with_views_of_their_own() -> None:
    """Item 2 is out from position 10 on, item 1 from the start: only where they stood another stands, of 0 and 3."""
    plain, without = Stream(1, (4, 4)), Stream(1, (4, 4), (), {2: 10, 1: 0})
    seen, odd = set(), []
    for p in range(200):
        draw, before = without[p], plain[p]
        seen.add(draw.seed)
        if draw != before:
            odd.append(p)
            assert before.index in ({1} if p < 10 else {1, 2})
            assert draw.index in {0, 2, 3} - ({2} if p >= 10 else set())
    assert odd == [p for p in range(200) if plain[p].index == 1 or (plain[p].index == 2 and p >= 10)]
    assert len(seen) == 200
    assert {without[p].index for p in odd} >= {0, 3}


def test_a_list_that_is_no_file_is_refused_and_a_link_is_not_added_to(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "quarantine.jsonl").symlink_to("theirs")
    one = Quarantine(Named(), folder=tmp_path)
    one.strike(0, 1, "hung")
    assert "not written: it is a symbolic link" in one.strike(0, 1, "hung")
    assert (tmp_path / "theirs").read_text() == "kept"
    (tmp_path / "quarantine.jsonl").unlink()
    os.mkfifo(tmp_path / "quarantine.jsonl")
    with pytest.raises(RunError, match=r"quarantine.jsonl: cannot be read: it is no regular file"):
        Quarantine(Named(), folder=tmp_path)
