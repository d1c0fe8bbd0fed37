"""Fingerprints: by hand, and what is remembered of them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from volssl.data.fingerprint import Memory, Stamp, fingerprint, stamp
from volssl.errors import DataError, RunError

OLD, OTHER = Stamp("a" * 64, settled=True), Stamp("b" * 64, settled=True)


def write(folder: Path, *contents: bytes) -> list[Path]:
    files = [folder / str(i) for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


def test_one_file_has_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    assert fingerprint(write(tmp_path, b"abc")) == hashlib.sha256(b"abc").hexdigest()


def test_of_several_the_digests_are_digested_in_order(tmp_path: Path) -> None:
    """Otherwise ("ab", "c") would be ("a", "bc"), and slices in another order the same volume."""
    files = write(tmp_path, b"ab", b"c")
    parts = hashlib.sha256(b"ab").digest() + hashlib.sha256(b"c").digest()
    assert fingerprint(files) == hashlib.sha256(parts).hexdigest()
    assert fingerprint(files) != fingerprint(files[::-1])
    assert fingerprint(files) != fingerprint(write(tmp_path, b"a", b"bc"))


def test_a_stamp_changes_with_any_write_and_settles(tmp_path: Path) -> None:
    (file,) = write(tmp_path, b"abc")
    first = stamp([file])
    assert not first.settled
    file.unlink()
    second = stamp(write(tmp_path, b"abc"))
    assert second.digest != first.digest
    time.sleep(2.1)
    assert stamp([file]) == Stamp(second.digest, settled=True)


def test_missing_files_are_data_errors(tmp_path: Path) -> None:
    for look in (stamp, fingerprint):
        with pytest.raises(DataError, match=r"(?i)missing: .*no such file"):
            look([tmp_path / "lost"])


def test_memory_outlives_the_run_and_takes_no_young_files(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.txt")
    memory.remember(OLD, "1" * 64)
    memory.remember(Stamp("c" * 64, settled=False), "2" * 64)
    again = Memory(tmp_path / "memory.txt")
    assert again.recall(OLD) == "1" * 64
    assert again.recall(OTHER) is None
    assert again.recall(Stamp("c" * 64, settled=True)) is None


def test_two_runs_share_a_memory_and_a_cut_line_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "memory.txt"
    one, two = Memory(path), Memory(path)
    one.remember(OLD, "1" * 64)
    path.write_text(path.read_text() + "abc")  # a run was killed while it wrote
    two.remember(OTHER, "2" * 64)
    both = Memory(path)
    assert (both.recall(OLD), both.recall(OTHER)) == ("1" * 64, "2" * 64)


def test_a_memory_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "link").symlink_to("theirs")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match=r"link cannot be used .it is a symbolic link.: delete it"):
        Memory(tmp_path / "link").remember(OLD, "c" * 64)
    assert (tmp_path / "theirs").read_text() == "kept"
    with pytest.raises(RunError, match=r"pipe cannot be used .it is no regular file.: delete it"):
        Memory(tmp_path / "pipe")


def test_a_name_that_is_not_utf_8_is_a_name(tmp_path: Path) -> None:
    """As archives of old leave it."""
    file = tmp_path / os.fsdecode(b"M\xfcller.png")
    file.write_bytes(b"pixels")
    assert stamp([file]) == stamp([file])
    assert stamp([file]).digest != stamp([file.rename(tmp_path / os.fsdecode(b"M\xfdller.png"))]).digest
