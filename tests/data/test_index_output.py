"""What an index writes takes the place of nothing but its like, and is refused before the work, not after it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from volssl.cli import app
from volssl.data import index as indexing
from volssl.data import index_work
from volssl.data.index import index
from volssl.errors import ConfigError, DataError, RunError


def scans(folder: Path, count: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        np.save(folder / f"{i}.npy", np.arange(8, dtype=np.int16).reshape(2, 2, 2) + i)
    return folder


def command(*args: str | Path) -> str:
    done = CliRunner().invoke(app, ["index", *map(str, args), "--workers", "0"])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_sheet_takes_the_place_of_nothing_but_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out, html = scans(tmp_path / "scans"), tmp_path / "m.parquet", tmp_path / "sheet.html"
    command(root, "-o", out, "--html", html)
    command(root, "-o", out, "--html", html)
    (tmp_path / "page.html").write_text("<!doctype html>mine")
    (tmp_path / "link.html").symlink_to(tmp_path / "m.parquet.key")
    (tmp_path / "lost.html").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.html")
    held = {path: path.read_bytes() for path in (*root.iterdir(), *tmp_path.iterdir()) if path.is_file()}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the folder is walked")

    monkeypatch.setattr(indexing, "Indexing", never)
    refused = {root / "0.npy": "called .html", tmp_path / "m.parquet.key": "called .html", out: "called .html"}
    refused |= {tmp_path / f"{name}.html": "no contact sheet" for name in ("page", "link", "lost", "pipe")}
    refused |= {tmp_path / "no" / "sheet.html": "no folder that may be written to"}
    for path, told in refused.items():
        with pytest.raises(ConfigError, match=told):
            command(root, "-o", out, "--html", path)
    assert held == {path: path.read_bytes() for path in held}


def test_a_manifest_is_called_so(tmp_path: Path) -> None:
    root = scans(tmp_path / "scans")
    with pytest.raises(ConfigError, match=r"--out: .* is not called \.parquet"):
        index([root], tmp_path / "list.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_a_folder_and_a_link_to_it_are_one(tmp_path: Path) -> None:
    root = scans(tmp_path / "scans")
    (tmp_path / "alias").symlink_to(root)
    with pytest.raises(ConfigError, match="would be walked twice"):
        index([root, tmp_path / "alias"], tmp_path / "m.parquet")
    index([tmp_path / "alias"], tmp_path / "m.parquet")


def test_of_nothing_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    out = tmp_path / "m.parquet"
    with pytest.raises(DataError, match="empty: no images") as refused:
        index([tmp_path / "empty"], out)
    assert refused.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    index([scans(tmp_path / "scans")], out)
    held = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".journal"}
    with pytest.raises(DataError, match="empty"):
        index([tmp_path / "empty"], out)
    assert held == {path: path.read_bytes() for path in held}
    assert len(held) == 2


def test_what_cannot_be_read_is_no_fault_of_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = scans(tmp_path / "scans"), tmp_path / "m.parquet"

    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr(index_work, "run_as_they_come", broken)
        with pytest.raises(RunError, match=r"^ROOT: the reading of files stopped \(Broken pipe\)"):
            index([root], out)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(indexing, "_write_group", full)
    with pytest.raises(RunError, match=r"^--out: .* cannot be written \(No space left on device\)"):
        index([root], out)
