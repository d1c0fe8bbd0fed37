"""The house keeps its own rules: every method is under the import contract, names say what a file is."""

from __future__ import annotations

import configparser
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_method_is_under_the_contract_that_methods_do_not_import_one_another() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(REPOSITORY / "setup.cfg")
    listed = contracts["importlinter:contract:methods"]["modules"].split()
    files = {path.stem for path in (REPOSITORY / "volssl" / "methods").glob("*.py")} - {"__init__", "base"}
    assert sorted(listed) == sorted(f"volssl.methods.{name}" for name in files)


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "helpers", "misc", "common"}
    assert not [path for path in (REPOSITORY / "volssl").rglob("*.py") if path.stem in drawers]


def test_every_module_opens_with_one_line_on_what_it_is() -> None:
    for folder in ("volssl", "tests", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert path.read_text().startswith('"""'), path
