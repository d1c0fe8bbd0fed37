"""The notebooks as they are kept: run from top to bottom, with outputs that are small, clean and of no one machine.

That they run is another matter: ``pytest --nbmake notebooks``, in ``.ci/run``.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = ("explore_mri", "fuse_encoders", "pretrain_and_probe")
MOST = 1_500_000  # bytes of a file
MACHINE = re.compile(r"(?<![\w.~/-])/(?:builds?|Users|home|mnt|private|root|tmp|usr|var|work|workspace)/")
PROMISE = re.compile(r"\bitems/s\b|\b\d+(?:\.\d+)? ?(?:s|min|ms) (?:left|a step|in all)\b")
BAR = re.compile("\x1b|\r(?!\n)")  # a terminal's lines end in both
WARNING = re.compile(r"\b\w*Warning\b")

Notebook = dict[str, Any]
Faults = Iterator[str]


def outputs(notebook: Notebook) -> Iterator[tuple[int, Notebook]]:
    for i, cell in enumerate(notebook["cells"]):
        yield from ((i, output) for output in cell.get("outputs", ()))


def told(notebook: Notebook) -> Iterator[tuple[int, str]]:
    """What cells put out to be read, pictures left out."""
    for i, output in outputs(notebook):
        yield i, "".join(output.get("text", ()))
        yield from ((i, "".join(text)) for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def ran(notebook: Notebook) -> Faults:
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if counts != list(range(1, len(counts) + 1)):
        yield f"was not run once from top to bottom: {counts}"
    if not any(True for _ in outputs(notebook)):
        yield "has no outputs"


def quiet(notebook: Notebook) -> Faults:
    for i, output in outputs(notebook):
        if output["output_type"] == "error":
            yield f"cell {i} failed: {output['ename']}"
        if output.get("name") == "stderr":
            yield f"cell {i} wrote to stderr"
    yield from (f"cell {i} warns" for i, text in told(notebook) if WARNING.search(text) or "Traceback" in text)
    yield from (f"cell {i} has a progress bar" for i, text in told(notebook) if BAR.search(text))


def anywhere(notebook: Notebook) -> Faults:
    """Nothing of the machine that ran it: paths, timings, widgets' state, metadata."""
    sources = ((i, "".join(cell["source"])) for i, cell in enumerate(notebook["cells"]))
    for i, text in (*sources, *told(notebook)):
        if found := MACHINE.search(text):
            yield f"cell {i} has the path {text[found.start() :][:30]}"
    for i, text in told(notebook):
        if found := PROMISE.search(text):
            yield f"cell {i} has the timing {found.group()}"
    if notebook["metadata"].keys() - {"kernelspec", "language_info"}:
        yield f"metadata: {sorted(notebook['metadata'])}"
    if notebook["metadata"]["kernelspec"]["name"] != "python3":
        yield "another kernel than python3"
    yield from (f"cell {i} has metadata" for i, cell in enumerate(notebook["cells"]) if cell["metadata"])
    yield from (
        f"cell {i} keeps a widget" for i, o in outputs(notebook) if any("widget" in k for k in o.get("data", ()))
    )


def captioned(notebook: Notebook) -> Faults:
    """A cell that draws says in a sentence what is to be seen."""
    for i, cell in enumerate(notebook["cells"]):
        kinds = [output.get("data", {}) for output in cell.get("outputs", ())]
        captions = ["".join(data["text/markdown"]) for data in kinds if "text/markdown" in data]
        if any("image/png" in data for data in kinds) and not any(re.match(r"\*\w.*[.]\*$", c) for c in captions):
            yield f"cell {i} draws and has no caption"


CHECKS: tuple[Callable[[Notebook], Faults], ...] = (ran, quiet, anywhere, captioned)


def read(name: str) -> Notebook:
    notebook: Notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook


def test_every_notebook_is_looked_at() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_clean(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    nbformat.validate(nbformat.read(path, as_version=4))
    assert path.stat().st_size < MOST
    notebook = read(name)
    assert not [fault for check in CHECKS for fault in check(notebook)]
    pictures = [output for _, output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2


BREAKS: dict[str, Callable[[Notebook], object]] = {
    "not run once": lambda n: _code(n).update(execution_count=7),
    "no outputs": lambda n: [cell.update(outputs=[]) for cell in n["cells"] if cell["cell_type"] == "code"],
    "stderr": lambda n: _add(n, output_type="stream", name="stderr", text=["ah\n"]),
    "failed": lambda n: _add(n, output_type="error", ename="ValueError", evalue="", traceback=[]),
    "warns": lambda n: _add(n, output_type="stream", name="stdout", text=["x.py:1: FutureWarning: soon\n"]),
    "progress bar": lambda n: _add(n, output_type="stream", name="stdout", text=["\r 50 %"]),
    "the path /home/": lambda n: _add(n, output_type="stream", name="stdout", text=["wrote /home/me/run\n"]),
    "the timing": lambda n: _add(n, output_type="stream", name="stdout", text=["7 items/s\n"]),
    "metadata: ": lambda n: n["metadata"].update(widgets={}),
    "another kernel": lambda n: n["metadata"]["kernelspec"].update(name="mine"),
    "has metadata": lambda n: _code(n).update(metadata={"execution": {}}),
    "widget": lambda n: _add(n, output_type="display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
    "no caption": lambda n: _code(n).update(outputs=[{"output_type": "display_data", "data": {"image/png": ""}}]),
}


def _code(notebook: Notebook) -> Notebook:
    return next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")


def _add(notebook: Notebook, **output: Any) -> None:
    _code(notebook)["outputs"].append(output)


@pytest.mark.parametrize("fault", BREAKS)
def test_what_is_broken_on_purpose_is_seen(fault: str) -> None:
    """Negative controls: each check finds what it is there for, and nothing in the notebook as it was."""
    good: Notebook = {
        "metadata": {"kernelspec": {"name": "python3"}, "language_info": {}},
        "cells": [
            {"cell_type": "markdown", "source": ["# A study, and/or two"], "metadata": {}},
            {
                "cell_type": "code",
                "source": ["draw()"],
                "metadata": {},
                "execution_count": 1,
                "outputs": [
                    {"output_type": "display_data", "data": {"image/png": ""}},
                    {"output_type": "display_data", "data": {"text/markdown": ["*What is to be seen.*"]}},
                    {"output_type": "stream", "name": "stdout", "text": ["../../shared/data/images/x.npz, runs/x\n"]},
                ],
            },
        ],
    }
    assert not [fault for check in CHECKS for fault in check(good)]
    bad = copy.deepcopy(good)
    BREAKS[fault](bad)
    assert any(fault in found for check in CHECKS for found in check(bad))
