"""Evaluations inside a run: scores among the metrics, the best encoder beside the last, and what it has seen."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.evaluation.planted import pictures, table
from volssl import appraisal, config, run
from volssl.check import derived
from volssl.errors import UserError
from volssl.evaluation.encoder import load_encoder

STEPS = 6
RESULTS = ("evaluate", "evaluate-2")


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
    one |= {key: study.pop(key) for key in ("target", "test") if key in study}
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
        ({"encoders": {"other": "nowhere/encoder"}}, "evaluate.0.encoders.other.*nowhere/encoder"),
        ({"target": {"name": "classes", "column": "lable"}}, "lable"),
        ({"target": {"name": "number", "column": "patient"}}, "not a number"),
        ({"test": ["valid"]}, "valid"),
        ({"fusion": [{"encoders": ["pre-trained", "other"]}]}, "evaluate.0.fusion.0.encoders.*other"),
        ({"encoders": {"pre-trained": "x"}}, "named twice"),
    ],
    ids=["dims", "set", "encoder", "column", "value", "side", "fusion", "name"],
)
def test_what_cannot_be_evaluated_is_refused_before_the_first_step(
    folder: Path, study: dict[str, Any], told: str
) -> None:
    wanted = config.load(written(folder, **study))
    with pytest.raises(UserError, match=told):
        derived(wanted)
    with pytest.raises(UserError, match=told):
        run.train(wanted)
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


def test_what_the_table_names_and_is_not_there_is_found_before_the_first_step(folder: Path) -> None:
    table(folder / "gone.csv", {"path": ["images/000.png", "gone.png"], "label": [0, 1]})
    data = {"name": "image", "root": str(folder / "gone.csv"), "region": [16, 16]}
    with pytest.raises(UserError, match=r"gone\.png"):
        derived(config.load(written(folder, sets={"s": {"data": data}})))


def test_two_evaluations_keep_their_own_scores_and_one_chooses(folder: Path) -> None:
    """Two of one kind have keys of their own; ``best/`` is the first one's, whose report says what that costs."""
    one = written(folder, every=3, best=True)
    content = yaml.safe_load(one.read_text())
    other = {**content["evaluate"][0], "protocols": [{"name": "knn"}], "best": False}
    one.write_text(json.dumps({**content, "evaluate": [content["evaluate"][0], other]}))
    run.train(config.load(one))
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    keys = {key for line in lines for key in line if key.endswith(".pre-trained")}
    assert keys == {"evaluate.s.linear.1.pre-trained", "evaluate-2.s.knn.1.pre-trained"}
    notes = [json.loads((folder / "out" / name / "results.json").read_text())["notes"] for name in RESULTS]
    assert ["validation split" in " ".join(note) for note in notes] == [True, False]
    with pytest.raises(UserError, match=r"evaluate\.1\.best"):
        config.load(one, ["evaluate.1.best=true"])


def test_a_best_score_of_another_evaluation_is_not_compared(folder: Path) -> None:
    """A run that goes on with another evaluation chooses anew; with the same one (control) it does not."""
    run.train(config.load(written(folder, best=True)))
    record = folder / "out" / "best.json"
    kept = json.loads(record.read_text())
    for asked, expected in ((kept["evaluation"], 2.0), ("another", kept["score"])):
        record.write_text(json.dumps({"step": 1, "score": 2.0, "evaluation": asked}))
        run.train(config.load(written(folder, best=True)))
        assert json.loads(record.read_text())["score"] == expected
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(UserError, match=r"best.json: cannot be read: it is no regular file: move it away"):
        run.train(config.load(written(folder, best=True)))


def test_an_output_that_cannot_be_made(folder: Path) -> None:
    with pytest.raises(UserError, match="output: /proc/nothing/here"):
        run.train(config.load(written(folder), ["output=/proc/nothing/here"]))


def test_encoders_are_called_as_the_method_keeps_them(folder: Path) -> None:
    """Known without building them: one, two kinds, two of a kind."""
    small = {"name": "resnet", "dims": 2, "depth": 10, "stem": "small", "width": 4}
    vit = {"name": "vit", "dims": 2, "patch": [4, 4], "size": [16, 16], "width": 16, "depth": 1, "heads": 2}
    for partner in (small, vit):
        content = yaml.safe_load(written(folder).read_text())
        content |= {"method": {"name": "cass", "partner": partner}, "evaluate": []}
        (folder / "two.yaml").write_text(yaml.safe_dump(content))
        two = config.load(folder / "two.yaml")
        assert two.encoder_names == tuple(run.build_method(two).encoders)
    assert config.load(written(folder)).encoder_names == ("pre-trained",)
