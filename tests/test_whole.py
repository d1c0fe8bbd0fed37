"""A file is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from volssl.whole import replace_file, whole


def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    replace_file(path, "first")

    def fails() -> None:
        with whole(path) as fresh:
            fresh.write_text("half of the sec")
            assert path.read_text() == "first"  # nobody sees it before it is whole
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "first"
    replace_file(path, "second")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "second"


def test_nothing_written_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    replace_file(path, "first")
    with pytest.raises(FileNotFoundError), whole(path):
        pass
    assert path.read_text() == "first"


@pytest.mark.parametrize("shared", [False, True])
def test_what_has_the_unfinished_name_goes_and_what_it_leads_to_stays(shared: bool, tmp_path: Path) -> None:
    """A link to another's file or folder, a pipe that nobody reads, a folder."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/a").write_text("kept")
    path = tmp_path / "run/a.txt"
    path.parent.mkdir()
    fresh = path.with_name(f".a.txt.{os.getpid()}.new" if shared else ".a.txt.new")
    makes: tuple[Callable[[], None], ...] = (
        lambda: fresh.symlink_to(tmp_path / "theirs/a"),
        lambda: fresh.symlink_to(tmp_path / "theirs"),
        lambda: os.mkfifo(fresh),
        lambda: (fresh / "deep").mkdir(parents=True),
    )
    for make in makes:
        make()
        with whole(path, shared=shared) as name:
            assert name == fresh
            name.write_text("new")
        assert path.read_text() == "new"
        assert (tmp_path / "theirs/a").read_text() == "kept"
        assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
