"""How large a gate is: trimmed in the suite, full where ``VOLSSL_GATES=full``."""

from __future__ import annotations

import os


def size(trimmed: int, full: int) -> int:
    """The one of the two that is asked for."""
    return full if os.environ.get("VOLSSL_GATES") == "full" else trimmed
