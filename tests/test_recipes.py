"""Every file in configs/ runs: two steps of the real thing, made small by overrides of size alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from volssl import config, run
from volssl.data.phantom import generate

FOLDER = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(p.name for p in FOLDER.glob("*.yaml"))
SMALL = {
    "data.region": "[8, 40, 40]",
    "views.size": "[8, 32, 32]",
    "backbone.width": "4",
    "method.projector": "[16, 8]",
    "method.predictor": "[16, 8]",
    "loop.steps": "2",
    "loop.batch": "4",
    "loop.chunk": "2",
    "loop.workers": "0",
    "optim.warmup": "1",
}
OF_EVALUATION = {"planes": ("sagittal",), "seeds": 1, "bootstrap": 100, "steps": 2, "folds": 2}


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generate(Path("knees"), train=16, valid=12, pixels=48, seed=0)
    root = "knees" if "phantom" in (FOLDER / name).read_text() else "knees/train/sagittal"
    small = {**SMALL, "data.root": root, "output": "out"}
    if root == "knees":
        small |= {"data.train": "16", "data.valid": "12", "data.pixels": "48"}
    loaded = config.load(FOLDER / name, [f"{key}={value}" for key, value in small.items()])
    wanted = tuple(entry.model_copy(update={**OF_EVALUATION, "fractions": (1.0,)}) for entry in loaded.evaluate)
    run.train(loaded.model_copy(update={"evaluate": wanted}))
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 2
    assert Path("out/encoder/card.json").is_file()
    for entry in wanted:
        assert Path("out", entry.name, "results.json").is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_states_command_and_cost(name: str) -> None:
    header = [line for line in (FOLDER / name).read_text().splitlines() if line.startswith("#")]
    assert any(f"volssl train configs/{name}" in line for line in header)
    told = " ".join(header)
    assert "Not run here" in told or all(word in told for word in ("Time", "emory", "Result"))
