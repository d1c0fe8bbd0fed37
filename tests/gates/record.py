"""What gates found, a JSON line each, in the file that ``VOLSSL_GATES_RECORD`` names."""

from __future__ import annotations

import json
import os
import time

_last = time.monotonic()


def begin() -> None:
    """A test begins."""
    global _last
    _last = time.monotonic()


def record(gate: str, result: str, bar: str) -> None:
    """Append a line; its seconds are those since the line before it in the same test, or since the test began."""
    global _last
    now = time.monotonic()
    line = json.dumps({"gate": gate, "result": result, "bar": bar, "seconds": round(now - _last, 1)})
    _last = now
    print(line)
    if path := os.environ.get("VOLSSL_GATES_RECORD"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
