"""Files that are none, or have no end, are refused at once; what is ours to write is never written through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from volssl.regular import IrregularError, links, open_own, read_regular


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [pipe, endless, folder])
def test_what_is_no_file_is_neither_read_nor_written(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "a")
    with pytest.raises(IrregularError, match="it is a directory" if make is folder else "it is no regular file"):
        read_regular(tmp_path / "a")
    with pytest.raises(IrregularError):
        open_own(tmp_path / "a", os.O_RDWR | os.O_CREAT)


def test_a_link_to_a_file_is_read_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "lost").symlink_to("nowhere")
    assert read_regular(tmp_path / "link") == b"kept"
    for name in ("link", "lost"):
        with pytest.raises(IrregularError, match="it is a symbolic link"):
            open_own(tmp_path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert (tmp_path / "a").read_bytes() == b"kept"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_has_a_ceiling(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    assert read_regular(tmp_path / "a", 11) == bytes(11)
    with pytest.raises(IrregularError, match="it has 11 bytes, more than 10"):
        read_regular(tmp_path / "a", 10)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "b")


def test_links_are_found_by_name_and_below(tmp_path: Path) -> None:
    (tmp_path / "runs/deep").mkdir(parents=True)
    for name in ("other", "a-1", "runs/deep/b"):
        (tmp_path / name).symlink_to(tmp_path)
    assert list(links(tmp_path, ["a*", "runs", "absent"])) == [tmp_path / "a-1", tmp_path / "runs/deep/b"]
    assert not list(links(tmp_path / "nowhere", ["a"]))
