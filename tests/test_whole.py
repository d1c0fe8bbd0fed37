"""A file is there whole or not at all."""

from __future__ import annotations

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
