"""What is said on a full disk, into a broken pipe or nowhere ends nothing, and arrives where it can."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.test_cli import tiny
from volssl.unfailing import unfailing

__all__ = ["tiny"]  # a fixture


def broken_pipe() -> int:
    reads, writes = os.pipe()
    os.close(reads)
    return writes


@pytest.mark.parametrize("where", ["full disk", "broken pipe"])
def test_what_cannot_be_written_is_lost(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    descriptor = broken_pipe() if where == "broken pipe" else os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(descriptor, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with unfailing():
            print("plain", flush=True)
            Console().print("styled")
            print("without a line's end", end="")
        assert sys.stdout is stream


def test_what_can_be_written_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "told").open("w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with unfailing():
            print("Grüße ", end="")
            Console().print("styled")
    assert (tmp_path / "told").read_text(encoding="utf-8") == "Grüße styled\n"


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_what_is_no_channel_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, stream: object) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    with unfailing():
        assert sys.stdout is stream


def test_a_command_whose_reader_has_gone_ends_well(tiny: Path) -> None:
    """As ``volssl check config.yaml | true``; and one line that nobody hears is exit code 2 all the same."""
    for argument, code in (("seed=1", 0), ("seed=x", 2)):
        command = [sys.executable, "-m", "volssl", "check", str(tiny), argument]
        descriptor = broken_pipe()
        done = subprocess.run(command, stdout=descriptor, stderr=subprocess.STDOUT, timeout=60, check=False)
        os.close(descriptor)
        assert done.returncode == code
