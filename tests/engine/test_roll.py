"""The list of a run's items: which are new, gone or changed, and nothing where the list does not say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from volssl import names
from volssl.engine import roll
from volssl.types import Item


@dataclass(frozen=True)
class Held:
    """A source of names and contents."""

    held: dict[str, str]
    weights: tuple[int, ...] = (1,)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.held)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(self.held.values())

    @property
    def parts(self) -> tuple[int, ...]:
        return (len(self.held),)

    label_sets = parts

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, i: int) -> Item:
        return Item(torch.zeros(1, 2, 2), (1.0, 1.0), self.ids[i])


TEN = {f"scan-{i}": f"{i:064x}" for i in range(10)}
OTHER = "f" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The list of ten scans."""
    roll.write(tmp_path / "run" / roll.FILE, Held(TEN))
    return tmp_path / "run" / roll.FILE


def without(*gone: str) -> dict[str, str]:
    return {name: content for name, content in TEN.items() if name not in gone}


def test_what_is_new_gone_or_changed_is_named(path: Path) -> None:
    gone, cases = names.keyed("scan-4"), list[tuple[dict[str, str], str]]()
    cases.append((TEN | {"scan-7": OTHER}, "changed: scan-7"))
    cases.append((TEN | {"scan-a": OTHER, "scan-b": OTHER}, "new: scan-a, scan-b"))
    cases.append((without("scan-4"), f"gone: {gone}"))
    renamed = without("scan-4") | {"scan-d": TEN["scan-4"]}
    cases.append((renamed, f"new: scan-d; gone: {gone}"))
    cases.append((renamed | {"scan-0": OTHER}, f"new: scan-d; gone: {gone}; changed: scan-0"))
    cases.append((dict(reversed(TEN.items())), "others in the order, or under another key"))
    for held, says in cases:
        assert roll.difference(path, Held(held)) == says


def test_of_many_three_are_named(path: Path) -> None:
    changed = roll.difference(path, Held(dict.fromkeys(TEN, OTHER)))
    assert changed.startswith("changed: scan-")
    assert changed.count("scan-") == 3
    assert changed.endswith(" and 7 more")
    assert roll.difference(path, Held({})).endswith(" and 7 more")


def test_the_list_holds_nothing_but_keyed_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = path.read_bytes()
    assert not any(name.encode() in content for name in TEN)
    assert len(content) < 16 * len(TEN) + 300
    kept = safetensors.numpy.load(content)
    assert f"{kept['id'][4]:016x}" == names.keyed("scan-4")
    monkeypatch.setattr(names, "_key", bytes(32))
    roll.write(path, Held(TEN))
    other = safetensors.numpy.load(path.read_bytes())
    assert not any(np.isin(kept[which], other[which]).any() for which in ("id", "content"))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{}",
        safetensors.numpy.save({"id": np.zeros(3, dtype=np.uint64)}),
        safetensors.numpy.save({name: np.zeros(3) for name in ("id", "content")}),
        safetensors.numpy.save({"id": np.zeros(3, dtype=np.uint64), "content": np.zeros(2, dtype=np.uint64)}),
    ],
)
def test_a_damaged_list_says_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / roll.FILE).write_bytes(content)
    assert roll.difference(tmp_path / roll.FILE, Held(TEN)) == ""
