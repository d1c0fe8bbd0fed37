"""What a run began without because it killed or hung its reader: a run that goes on leaves out the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from volssl.data.items import PASSING, PreparedSource
from volssl.errors import RunError
from volssl.names import keyed
from volssl.regular import LARGE, read_regular
from volssl.whole import replace_file

FILE = "left-out.jsonl"


def remember(folder: Path, source: PreparedSource) -> None:
    """Keep the list in the folder of a run; all else that was left out is a function of the files."""
    errors = ((part, error) for part, one in enumerate(_parts(source)) for error in one.bad)
    found = [(part, error) for part, error in errors if error.code in PASSING]
    lines = [json.dumps({"id": keyed(error.where), "part": part, "why": error.code}) for part, error in found]
    if lines:
        replace_file(folder / FILE, "\n".join(lines) + "\n")
    else:
        (folder / FILE).unlink(missing_ok=True)


def recall(folder: Path) -> frozenset[tuple[int, str]]:
    """The list, as ``Readers.without`` takes it; of lines that are damaged nothing is believed.

    Raises:
        RunError: it cannot be read.
    """
    path = folder / FILE
    try:
        lines = read_regular(path, LARGE).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return frozenset()
    except OSError as problem:
        raise RunError(f"{path}: cannot be used: {problem.strerror}: move it away") from None
    return frozenset(_read(lines))


def _read(lines: list[str]) -> Iterator[tuple[int, str]]:
    for line in lines:
        try:
            entry = json.loads(line)
            yield int(entry["part"]), str(entry["id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue


def _parts(source: PreparedSource) -> tuple[PreparedSource, ...]:
    parts: tuple[PreparedSource, ...] = getattr(source, "sources", (source,))
    return parts
