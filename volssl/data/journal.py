"""What was verified, remembered beside a manifest: a killed index goes on, and a later one reads only what is new."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
from pathlib import Path
from typing import Any

from volssl.errors import RunError
from volssl.regular import open_own

_SEAL = 16  # hexadecimal digits that tell a line that was written from one that was damaged or made up


class Journal:
    """State of some files -> what was found in them, a line each; nothing in it can be read without the key.

    Lines are only ever appended, in one write each; of one that was cut short by a kill nothing is believed.
    Only where each line begins is held in memory.

    Args:
        key: seals the lines; what another key has sealed is not known here.

    Raises:
        RunError: it cannot be read or written, or another process has it.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path, self._key = path, key
        self._places: dict[str, int] = {}
        try:
            self._file = os.fdopen(open_own(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = 0
            for line in self._file:
                state, _, _ = line.partition(b" ")
                self._places[state.decode("ascii", "replace")] = place
                place += len(line)
            self._file.seek(0, os.SEEK_END)
            self._file.write(b"\n")
        except BlockingIOError as error:
            self._file.close()
            raise RunError(f"--out: another volssl index is writing beside {path}: let it end") from error
        except OSError as error:
            raise self._unusable(error) from error

    def recall(self, state: str) -> Any | None:
        """What was kept under a state."""
        if (place := self._places.get(state)) is None:
            return None
        self._file.seek(place)
        _, _, rest = self._file.readline().rstrip(b"\n").partition(b" ")
        seal, _, content = rest.partition(b" ")
        return json.loads(content) if hmac.compare_digest(seal, self._seal(state, content)) else None

    def keep(self, state: str, value: Any) -> None:
        """Remember a value, which JSON can hold, from now on.

        Raises:
            RunError: the disk is full.
        """
        content = json.dumps(value, separators=(",", ":")).encode()
        try:
            self._places[state] = self._file.seek(0, os.SEEK_END)
            self._file.write(b"%s %s %s\n" % (state.encode(), self._seal(state, content), content))
            self._file.flush()
        except OSError as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _seal(self, state: str, content: bytes) -> bytes:
        return hmac.digest(self._key, state.encode() + b"\0" + content, "sha256").hex()[:_SEAL].encode()

    def _unusable(self, error: OSError) -> RunError:
        return RunError(f"--out: {self._path} cannot be used ({error.strerror}): make room, or move it away")
