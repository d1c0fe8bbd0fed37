"""The list of what an encoder has seen, and its key: made once, for one pair of eyes, and never written elsewhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from volssl.data.identity import Identity, Marks, Names
from volssl.data.seen import KINDS, SeenItems, key_mark, read_key, run_key
from volssl.errors import DataError, RunError

KEY = bytes(range(32))


def marks(*hashes: int) -> Marks:
    return Marks(np.arange(len(hashes)), np.array(hashes, dtype=np.uint64))


def identity(*patients: str) -> Identity:
    names = Names(np.arange(len(patients)), np.arange(len(patients)), patients)
    nobody = Names(np.array([], dtype=np.int64), np.array([], dtype=np.int64), ())
    return Identity(("a", "b", "c"), marks(2**64 - 1, 5, 5), marks(7, 6), names, nobody)


def test_hashes_are_sorted_each_once_and_read_back() -> None:
    """Of three items two have the same file, and one no image; 8 bytes a hash, and less than a kilobyte around."""
    seen = SeenItems.of(identity("smith"), KEY)
    assert seen.hashes["file"].tolist() == [5, 2**64 - 1]
    assert seen.hashes["image"].tolist() == [6, 7]
    assert (seen.items, seen.imaged, len(seen.hashes["patient"]), len(seen.hashes["study"])) == (3, 2, 1, 0)
    again = SeenItems.from_bytes(seen.to_bytes(), "x")
    assert (again.items, again.imaged, again.key) == (3, 2, key_mark(KEY))
    assert all(np.array_equal(again.hashes[kind], seen.hashes[kind]) for kind in KINDS)
    many = Identity(range(10_000), marks(*range(10_000)), marks(), identity().patient, identity().study)  # type: ignore[arg-type]
    assert len(SeenItems.of(many, KEY).to_bytes()) < 80_000 + 1024


def test_neither_names_nor_the_key_are_in_it() -> None:
    content = SeenItems.of(identity("smith^jane", "1234567"), KEY).to_bytes()
    for secret in (b"smith", b"jane", b"1234567", KEY, KEY[:8], KEY.hex().encode()):
        assert secret not in content
    assert b"patient" in content  # negative control: what is in it is found


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_what_is_no_list_is_refused(damage: str) -> None:
    content = SeenItems.of(identity(), KEY).to_bytes()
    with pytest.raises(DataError, match="no list of pre-training items"):
        SeenItems.from_bytes(content[:-9] if damage == "cut" else b"pickle", "x")


def test_a_run_makes_its_key_once_for_its_owner(tmp_path: Path) -> None:
    key = run_key(tmp_path)
    assert len(key) == 32
    assert run_key(tmp_path) == key == read_key(tmp_path / "ids.key")
    assert stat.S_IMODE((tmp_path / "ids.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ids.key"]
    (tmp_path / "other").mkdir()
    assert run_key(tmp_path / "other") != key
    assert key_mark(run_key(tmp_path / "other")) != key_mark(key)


def test_a_key_that_others_may_read_is_made_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is refused, it is one line."""
    key = run_key(tmp_path)
    (tmp_path / "ids.key").chmod(0o644)
    assert read_key(tmp_path / "ids.key") == key
    assert stat.S_IMODE((tmp_path / "ids.key").stat().st_mode) == 0o600
    (tmp_path / "ids.key").chmod(0o640)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(DataError, match=r"key: others may read it, .*\(Operation not permitted\): chmod 600") as error:
        read_key(tmp_path / "ids.key")
    assert "\n" not in str(error.value)


def test_what_a_kill_left_is_no_key(tmp_path: Path) -> None:
    """Half a key, readable by all, under the temporary name: the key is another, and its owner's alone."""
    (tmp_path / ".ids.key.new").write_text("ab" * 16)
    (tmp_path / ".ids.key.new").chmod(0o644)
    key = run_key(tmp_path)
    assert key.hex()[:32] != "ab" * 16
    assert stat.S_IMODE((tmp_path / "ids.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ids.key"]


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    """With a new one, encoders of before would be compared with nobody."""
    assert read_key(tmp_path / "ids.key") is None
    (tmp_path / "ids.key").write_text("secret\n")
    with pytest.raises(DataError, match="no key") as error:
        run_key(tmp_path)
    assert "secret" not in str(error.value)
    assert (tmp_path / "ids.key").read_text() == "secret\n"


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((RunError, DataError)) as error:
        run_key(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_a_key_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ids.key")
    with pytest.raises(DataError, match=r"cannot be read .it is no regular file."):
        run_key(tmp_path)
    (tmp_path / "ids.key").unlink()
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / ".ids.key.new").symlink_to("theirs")
    assert run_key(tmp_path) == read_key(tmp_path / "ids.key")
    assert (tmp_path / "theirs").read_text() == "kept"
