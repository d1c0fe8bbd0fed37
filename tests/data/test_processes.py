"""Processes that read: where their sockets would have no room, a person is told."""

from __future__ import annotations

import tempfile

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
