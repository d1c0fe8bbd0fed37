"""Evaluations inside a run: scores among the metrics, the best encoder beside the last, and what it has seen."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.evaluation.planted import pictures, table
from volssl import appraisal, config, run
from volssl.errors import UserError
from volssl.evaluation.encoder import load_encoder

STEPS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 pictures of 12 patients, with a table and a run that looks at it every two steps."""
    bright = np.repeat(np.arange(12) % 2, 2)
    names = pictures(tmp_path / "images", bright + 0.3 * np.random.default_rng(1).normal(size=24))
    patients = [f"p{i // 2}" for i in range(24)]
    split = ["test" if i % 6 < 2 else "train" for i in range(24)]
    columns: dict[str, Any] = {
        "path": [f"images/{name}" for name in names],
        "label": bright,
        "patient": patients,
        "split": split,
    }
    table(tmp_path / "labels.csv", columns)
    return tmp_path


def written(folder: Path, **study: Any) -> Path:
    root = str(folder / "labels.csv")
    one = {"data": {"name": "image", "root": root, "region": [16, 16]}}
    study = {"name": "evaluate", "sets": {"s": one}, "protocols": [{"name": "linear"}], "bootstrap": 100, **study}
    content = {
        "output": str(folder / "out"),
        "data": {"name": "image", "root": root, "split": "train", "region": [16, 16], "cache": str(folder / "cache")},
        "views": {"size": [16, 16], "crop": [0.5, 1.0]},
        "backbone": {"name": "resnet", "dims": 2, "depth": 10, "stem": "small", "width": 4},
        "method": {"name": "simclr", "projector": [8, 8]},
        "optim": {"name": "adamw", "lr": 1e-2},
        "loop": {"steps": STEPS, "batch": 8, "chunk": 8, "save_every": 3, "log_every": 1},
        "evaluate": [study],
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_scores_while_training_and_the_best_encoder_is_kept(folder: Path) -> None:
    """Every two steps a score; ``best/`` has the step of the largest one, ``encoder/`` the last."""
    run.train(config.load(written(folder, every=2, best=True)))
    out = folder / "out"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = {
        line["step"]: line["evaluate.s.linear.1.pre-trained"]
        for line in lines
        if "evaluate.s.linear.1.pre-trained" in line
    }
    assert list(scores) == [2, 4]
    rows = list(csv.DictReader((out / "evaluate" / "results.csv").read_text().splitlines()))
    last = next(row for row in rows if (row["encoder"], row["metric"]) == ("pre-trained", "auroc"))
    scores[STEPS] = float(last["value"])
    best = max(scores, key=lambda step: (scores[step], -step))
    assert load_encoder(out / "best").card.step == best
    assert json.loads((out / "best.json").read_text())["step"] == best
    assert load_encoder(out / "encoder").card.step == STEPS
    assert (out / "evaluate" / "step-2" / "report.html").is_file()


def test_a_run_that_saw_the_test_side_is_told_so(folder: Path) -> None:
    """Trained on all rows, the leak stands in the results; on the training rows alone (control), it does not."""
    run.train(config.load(written(folder)))
    clean = json.loads((folder / "out" / "evaluate" / "results.json").read_text())["audit"]["overlaps"]
    assert [overlap["test_count"] for overlap in clean] == [0] * len(clean)
    run.train(config.load(written(folder), ["data.split=all", f"output={folder / 'leaky'}"]))
    found = json.loads((folder / "leaky" / "evaluate" / "results.json").read_text())["audit"]["overlaps"]
    assert sum(overlap["test_count"] for overlap in found) == 8
    assert "saw" in (folder / "leaky" / "evaluate" / "report.html").read_text()


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"sets": {"s": {"data": {"name": "volume", "root": "x", "region": [4, 4, 4]}}}}, "3D"),
        ({"sets": {"s": {"data": {"name": "image", "root": "nowhere.csv", "region": [16, 16]}}}}, "nowhere.csv"),
        ({"encoders": {"other": "nowhere/encoder"}}, "nowhere/encoder"),
    ],
    ids=["dims", "set", "encoder"],
)
def test_what_cannot_be_evaluated_is_refused_before_the_first_step(
    folder: Path, study: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        run.train(config.load(written(folder, **study)))
    assert not (folder / "out" / "checkpoints").exists()


def test_a_long_log_is_thinned_but_for_its_scores(tmp_path: Path) -> None:
    """Every 13th of 9,000 lines is not one of those in which every 500 steps an evaluation wrote its score."""
    lines = [
        {"step": step, "loss": 1.0} | ({"evaluate-2.s.linear.1.x": 0.5} if step % 500 == 0 else {})
        for step in range(1, 9001)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    kept = appraisal._history(tmp_path / "metrics.jsonl")
    assert len(kept) < 450
    assert sum("evaluate-2.s.linear.1.x" in line for line in kept) == 18
