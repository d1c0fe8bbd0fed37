"""Every Python file of the repository parses, also those that no test imports (a defect of BYOLMed3D: one did not)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("volssl", "tests", "benchmarks", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_parses(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_one_that_does_not_is_noticed() -> None:
    """Negative control: the defect itself."""
    with pytest.raises(SyntaxError):
        ast.parse("LOAD FINAL MODEL")
    assert len(FILES) > 50
