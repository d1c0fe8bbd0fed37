"""The reason codes: each is raised, each is explained, and nothing else passes for one."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from volssl.errors import DataError
from volssl.reasons import ReasonCode

REPOSITORY = Path(__file__).resolve().parents[1]


def _raised(source: str) -> set[str]:
    """The codes that a source gives to an error or to a guard, by themselves or as one of two."""
    first = r'(?:DataError|guard)\(\s*"([a-z_0-9]+)"'
    either = r'code = "([a-z_0-9]+)" if .* else "([a-z_0-9]+)"'
    named = {code.lower() for code in re.findall(r"ReasonCode\.([A-Z0-9_]+)", source)}
    return {*re.findall(first, source), *(code for pair in re.findall(either, source) for code in pair), *named}


def test_the_source_raises_every_code_and_no_other() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "volssl").rglob("*.py"))
    assert _raised(source) == set(ReasonCode)


def test_a_code_that_the_source_makes_up_is_found() -> None:
    assert _raised('raise DataError(\n    "odd", "...")\nwith guard("queer", path):') == {"odd", "queer"}
    assert not {"odd", "queer"} & set(ReasonCode)


def test_the_table_in_the_documentation_is_that_of_the_source() -> None:
    table = (REPOSITORY / "docs" / "data.md").read_text().partition("| code | what it means |\n|---|---|\n")[2]
    rows = re.findall(r"^\| `([a-z_0-9]+)` \| ([^|]+) \|$", table, re.M)
    assert rows == [(code.value, code.meaning) for code in ReasonCode]


def test_a_code_is_its_own_text_and_nothing_else_is_one() -> None:
    error = pickle.loads(pickle.dumps(DataError("gap", "slices are missing", "knee")))
    assert error.code is ReasonCode.GAP
    assert str(error) == "knee: gap: slices are missing"
    assert json.dumps({error.code: 1}) == '{"gap": 1}'
    with pytest.raises(ValueError, match="no_such_code"):
        DataError("no_such_code", "...")
