"""Two processes never write one folder, and a dead one leaves no lock."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from volssl.engine.lock import lock
from volssl.errors import RunError

HOLD = """
import os, sys, time
from pathlib import Path
from typing import Any
from volssl.engine.lock import lock
with lock(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    """The first also has a forked child, as a loader worker is, that outlives it."""
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    orphan = int(first.stdout.readline())
    try:
        with pytest.raises(RunError, match=rf"process {first.pid} on .* is writing here"), lock(tmp_path):
            pass
        first.kill()
        first.wait(10)
        with lock(tmp_path):
            assert str(os.getpid()) in (tmp_path / "lock").read_text()
    finally:
        first.kill()
        os.kill(orphan, signal.SIGKILL)
        first.stdout.close()


def test_leaving_the_block_lets_go(tmp_path: Path) -> None:
    with lock(tmp_path / "new"):
        pass
    child = os.fork()
    if child == 0:
        with lock(tmp_path / "new"):
            os._exit(7)
    deadline = time.monotonic() + 10
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 7


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """The folder itself may be one, as to a larger disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "theirs").write_text("kept")
    folder = tmp_path / "run"
    folder.symlink_to(tmp_path / "disk")
    for name, ours in (("lock", ()), ("steps", ("steps",)), ("list-1", ("list*",))):
        (folder / name).symlink_to(tmp_path / "theirs")
        with pytest.raises(RunError, match=f"{name} is a symbolic link.*put the file or folder itself"):
            lock(folder, ours).__enter__()
        (folder / name).unlink()
    assert (tmp_path / "theirs").read_text() == "kept"
    os.mkfifo(folder / "lock")
    with pytest.raises(RunError, match="lock: it is no regular file: remove it"):
        lock(folder).__enter__()
    (folder / "lock").unlink()
    with lock(folder, ("steps",)):
        assert (tmp_path / "disk/lock").read_text()


@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_is_removed_before_it_is_locked_is_not_the_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    real, path, calls = fcntl.lockf, tmp_path / "lock", []

    def remove_first(*arguments: Any) -> None:
        calls.append(0)
        if len(calls) == 1:
            path.unlink()
            if again:
                path.touch()
        real(*arguments)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    with lock(tmp_path):
        assert f"process {os.getpid()}" in path.read_text()
    assert len(calls) == 2
