"""Processes that read: where their sockets have no room a person is told; where nobody wants them, they are silent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from volssl.data import processes
from volssl.errors import RunError


@pytest.mark.parametrize("spare", [0, 1])
def test_a_folder_whose_name_is_too_long_is_told(monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    """75 characters leave room for a socket's 32 of 107, 76 do not."""
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * (74 + spare))
    if spare:
        with pytest.raises(RunError, match=r"TMPDIR: 76 characters .* at most 75"):
            processes.server([])
    else:
        assert processes.server([]).get_start_method() == "forkserver"


START = """
import sys
from volssl.data.processes import server
class Lock:
    def __reduce__(self):
        return exec, (f"raise {sys.argv[1]}",)
if __name__ == "__main__":
    process = server([]).Process(target=print, args=(Lock(),))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.parametrize(("error", "silent"), [("FileNotFoundError", True), ("ValueError", False)])
def test_what_starts_when_its_parent_has_ended_is_silent(tmp_path: Path, error: str, silent: bool) -> None:
    """A lock of the parent's is gone, in the words of the child that looks for it; other faults are told."""
    script = tmp_path / "start.py"
    script.write_text(START)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script, error], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert (error in done.stderr) is not silent
    assert (done.stderr == "") is silent
