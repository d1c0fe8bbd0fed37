"""Run every gate of ``tests/gates`` in full and write their results into the table of ``docs/reliability.md``.

python -m benchmarks.reliability              # in full, on two cores
python -m benchmarks.reliability --trimmed    # as the test suite runs them, printed and not written
python -m benchmarks.reliability -k bombs     # some of them, printed and not written
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- the table of python -m benchmarks.reliability -->", "<!-- end of the table -->"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each gate, in the order of their names."""
    head = "| gate | result | bar | seconds |\n|---|---|---|---:|\n"
    rows = sorted(lines, key=lambda line: str(line["gate"]))
    return head + "".join("| {gate} | {result} | {bar} | {seconds:.0f} |\n".format(**row) for row in rows)


def written(page: str, rows: str) -> str:
    """The page with these rows in place of those that it holds."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{rows}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write; the exit code of pytest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trimmed", action="store_true", help="in the sizes of the test suite")
    parser.add_argument("-k", metavar="EXPRESSION", help="only the gates that pytest selects by it")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        record = Path(scratch) / "gates.jsonl"
        record.touch()
        env = os.environ | {"VOLSSL_GATES": "trimmed" if args.trimmed else "full", "VOLSSL_GATES_RECORD": str(record)}
        chosen = ["-k", args.k] if args.k else []
        started = time.monotonic()
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/gates", "-n", "2", *chosen], cwd=ROOT, env=env, check=False
        ).returncode
        minutes = (time.monotonic() - started) / 60
        rows = table([json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()])
    print(rows)
    print(f"{minutes:.1f} minutes on {os.cpu_count()} cores")
    if code == 0 and not args.trimmed and not args.k:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
