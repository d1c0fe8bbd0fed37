"""Run every gate of ``tests/gates`` and write the results of their full form into the table of ``docs/reliability.md``.

python -m benchmarks.reliability              # trimmed, for their time, then in full, on two cores
python -m benchmarks.reliability --trimmed    # as the test suite runs them, printed and not written
python -m benchmarks.reliability -k bombs     # some of them in full, printed and not written
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- the table of python -m benchmarks.reliability -->", "<!-- end of the table -->"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each gate, in the order of their names."""
    head = "| gate | result | bar | seconds |\n|---|---|---|---:|\n"
    rows = sorted(lines, key=lambda line: str(line["gate"]))
    cells = ([str(row["gate"]), str(row["result"]), str(row["bar"]), f"{row['seconds']:.0f}"] for row in rows)
    return head + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in cells)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def written(page: str, rows: str) -> str:
    """The page with these rows in place of those that it holds."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{rows}\n{END}{after}"


def gates(form: str, *chosen: str) -> tuple[int, list[dict[str, Any]], float]:
    """Run them: the exit code of pytest, what they recorded, minutes."""
    with tempfile.TemporaryDirectory() as scratch:
        record = Path(scratch) / "gates.jsonl"
        record.touch()
        env = os.environ | {"VOLSSL_GATES": form, "VOLSSL_GATES_RECORD": str(record)}
        command, started = [sys.executable, "-m", "pytest", "tests/gates", "-n", "2", *chosen], time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        minutes = (time.monotonic() - started) / 60
        return code, [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()], minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write; the exit code of pytest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trimmed", action="store_true", help="in the sizes of the test suite")
    parser.add_argument("-k", metavar="EXPRESSION", help="only the gates that pytest selects by it")
    args = parser.parse_args(arguments)
    chosen = ["-k", args.k] if args.k else []
    first = 0.0
    if not args.trimmed and not args.k:
        code, _, first = gates("trimmed")
        if code:
            return code
    code, lines, minutes = gates("trimmed" if args.trimmed else "full", *chosen)
    rows, on = table(lines), f"on {os.cpu_count()} cores (torch {version('torch')})"
    print(f"{rows}\n{minutes:.1f} minutes {on}")
    if code == 0 and first:
        told = f"{len(lines)} gates, in full in {minutes:.1f} minutes, trimmed in {first:.1f}, {on}."
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), f"{told}\n\n{rows}"), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
