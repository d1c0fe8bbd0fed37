"""`volssl evaluate` through the real command: what it finds, writes, resumes, and refuses in one line."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from tests.evaluation.planted import encoder, pictures, table
from volssl import appraisal, cli, run
from volssl.config import load_evaluation
from volssl.data.identity import identify
from volssl.data.image_config import ImageConfig
from volssl.data.seen import SeenItems
from volssl.evaluation.card import Fingerprint
from volssl.evaluation.contestants import PUBLISHED, Contestant
from volssl.evaluation.encoder import load_encoder, save_encoder


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "volssl", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of 30 patients, two each; half are bright. Split by patient; columns of every kind of target."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    bright = np.repeat(rng.permutation(np.arange(30) % 2), 2)
    names = pictures(folder / "images", bright + 0.2 * rng.normal(size=60))
    columns: dict[str, Any] = {
        "path": [f"images/{name}" for name in names],
        "label": ["bright" if b else "dark" for b in bright],
        "patient": [f"p{i // 2:02}" for i in range(60)],
        "split": ["test" if i % 6 < 2 else "train" for i in range(60)],
        "level": bright + 0.1 * rng.normal(size=60),
        "a": bright,
        "b": np.where(rng.random(60) < 0.1, "", (np.repeat(rng.random(30), 2) < 0.5).astype(int).astype(str)),
    }
    table(folder / "labels.csv", columns)
    table(folder / "folds.csv", {key: value for key, value in columns.items() if key != "split"})
    encoder(folder / "encoder", seed=7)
    return folder


def written(folder: Path, cohort: Path, **given: Any) -> Path:
    """A configuration of one set, ``s``; ``table``, ``target`` and what else is given over it."""
    root = str(cohort / given.pop("table", "labels.csv"))
    one = {"data": {"name": "image", "root": root, "region": [16, 16]}}
    one |= {key: given.pop(key) for key in ("target", "folds", "test") if key in given}
    content = {
        "output": str(folder / "out"),
        "encoders": {"mine": str(cohort / "encoder")},
        "sets": {"s": one},
        "bootstrap": 100,
        "report": False,
        "cache": str(folder / "cache"),
        **given,
    }
    path = folder / "evaluate.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def results(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "out" / "results.csv").read_text().splitlines()))


def scores(folder: Path, metric: str) -> dict[tuple[str, str, str], float]:
    """By encoder, protocol and budget."""
    rows = [row for row in results(folder) if row["metric"] == metric and row["encoder"]]
    return {(row["encoder"], row["protocol"], row["budget"]): float(row["value"]) for row in rows}


def test_a_study_by_the_command(tmp_path: Path, cohort: Path) -> None:
    """Two protocols, three budgets, two seeds; everybody finds the bright square with all labels; the page is there."""
    config = written(tmp_path, cohort, fractions=[0.1, 1.0], per_class=[3], seeds=2, report=True)
    done = command("evaluate", config)
    assert done.returncode == 0, done.stderr
    found = scores(tmp_path, "auroc")
    assert {key[0] for key in found} == {"mine", "random", "pixels"}
    assert {key[2] for key in found} == {"3 per class", "10 %", "100 %"}
    assert min(value for (_, _, budget), value in found.items() if budget == "100 %") > 0.9
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mine" in page
    assert json.loads((tmp_path / "out" / "results.json").read_text())
    assert "mine" in done.stdout


def test_a_stopped_study_goes_on_and_finds_the_same(tmp_path: Path, cohort: Path) -> None:
    """The answers that were kept are not worked out again: with the images gone, the same results are written."""
    config = load_evaluation(written(tmp_path, cohort, protocols=[{"name": "linear"}]))
    run.evaluate(config)
    first = (tmp_path / "out" / "results.csv").read_bytes()
    kept = sorted((tmp_path / "out" / "cells").iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    (tmp_path / "out" / "results.csv").unlink()
    kept[0].write_bytes(b"torn")
    run.evaluate(config)
    assert (tmp_path / "out" / "results.csv").read_bytes() == first
    assert [path.stat().st_mtime_ns for path in kept][1:] == times[1:]
    assert kept[0].read_bytes() != b"torn"


def test_shuffled_labels_are_worth_a_half(tmp_path: Path, cohort: Path) -> None:
    """Labels dealt anew to patients, six times: the interval of the linear probe's AUROC holds 0.5 in four at least.

    With ten test patients, percentile intervals of 95 % hold it nine times in ten: 3 of 6 or more would miss it with
    probability 0.02. As the labels are (control), it is above 0.5.
    """
    held = [_holds_a_half(tmp_path / str(seed), cohort, np.random.default_rng(seed)) for seed in range(6)]
    assert sum(held) >= 4
    assert not _holds_a_half(tmp_path / "control", cohort, None)


def _holds_a_half(folder: Path, cohort: Path, rng: np.random.Generator | None) -> bool:
    folder.mkdir()
    rows = list(csv.DictReader((cohort / "labels.csv").read_text().splitlines()))
    dealt = [row["label"] for row in rows] if rng is None else np.repeat(rng.permutation(np.arange(30) % 2), 2)
    kept = {key: [row[key] for row in rows] for key in ("patient", "split")}
    table(folder / "t.csv", {"path": [str(cohort / row["path"]) for row in rows], "label": dealt, **kept})
    encoders = {"mine": str(cohort / "encoder")}
    cache = str(cohort / "cache")
    config = written(
        folder, folder, table="t.csv", encoders=encoders, protocols=[{"name": "linear"}], floors=[], cache=cache
    )
    run.evaluate(load_evaluation(config))
    row = next(row for row in results(folder) if row["metric"] == "auroc")
    return float(row["low"]) <= 0.5 <= float(row["high"])


@pytest.mark.parametrize(
    ("target", "metric"),
    [({"name": "number", "column": "level"}, "r2"), ({"name": "labels", "columns": ["a", "b"]}, "auroc")],
    ids=["number", "labels"],
)
def test_other_targets(tmp_path: Path, cohort: Path, target: dict[str, Any], metric: str) -> None:
    run.evaluate(load_evaluation(written(tmp_path, cohort, target=target, table="folds.csv", folds=3)))
    found = scores(tmp_path, metric)
    assert found["mine", "linear", "100 %"] > (0.3 if metric == "r2" else 0.6)


def test_everything_at_once(tmp_path: Path, cohort: Path) -> None:
    """Fine-tuning, fusion, robustness and convergence, a few steps each, and their places in the results."""
    encoder(tmp_path / "other", width=5, seed=8)
    config = written(
        tmp_path,
        cohort,
        encoders={"mine": str(cohort / "encoder"), "other": str(tmp_path / "other")},
        protocols=[{"name": "linear"}, {"name": "finetune", "steps": 4, "batch": 8}],
        fusion=[{"width": 8, "heads": 2, "steps": 10}, {"width": 8, "heads": 2, "steps": 2, "end_to_end": True}],
        robustness={"rotation": [0, 90], "scale": [], "intensity": [], "noise": [0, 0.5], "blur": []},
        convergence={"steps": 4, "looks": 2, "smooth": 1},
        seeds=2,
        report=True,
    )
    run.evaluate(load_evaluation(config))
    found = scores(tmp_path, "auroc")
    named = {"random mine", "random other", "pixels", "DVME 1", "concatenation 1", "DVME 2", "concatenation 2, frozen"}
    assert named <= {key[0] for key in found}
    assert {key[0] for key in found if key[1] == "finetune"} >= {"mine", "other", "DVME 2"}
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    clean = {(c["encoder"], c["protocol"]): c["estimates"][0]["value"] for c in content["robustness"]}
    assert clean["mine", "linear"] == pytest.approx(found["mine", "linear", "100 %"])
    assert len(content["savings"]) == 2
    assert sum(content["fusions"][0]["weights"].values()) == pytest.approx(1)


def test_masks_are_outlined_in_the_report(tmp_path: Path) -> None:
    """A bright block in each of six volumes, by a probe of the voxels of an encoder without weights."""
    rng = np.random.default_rng(0)
    for i in range(6):
        one = np.zeros((8, 8, 8), np.uint8)
        one[2:6, 2:6, 2 : 5 + i % 2] = 1
        for name, voxels in (("v", (rng.normal(size=one.shape) + 6 * one).astype(np.float32)), ("m", one)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}{i}.nii")
    sides = ["train"] * 4 + ["test"] * 2
    columns = {"path": [f"v{i}.nii" for i in range(6)], "mask": [f"m{i}.nii" for i in range(6)], "split": sides}
    table(tmp_path / "labels.csv", columns)
    data = {"name": "volume", "root": str(tmp_path / "labels.csv"), "region": [8, 8, 8]}
    backbone = {"name": "resnet", "dims": 3, "depth": 10, "stem": "small", "width": 4}
    content = {
        "output": str(tmp_path / "out"),
        "sets": {"s": {"data": data, "target": {"name": "masks", "classes": ["cube"]}}},
        "encoders": {"plain": {"backbone": backbone}},
        "protocols": [{"name": "voxels", "voxels": 100}],
        "bootstrap": 100,
        "cache": str(tmp_path / "cache"),
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(content))
    run.evaluate(load_evaluation(tmp_path / "evaluate.yaml"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Segmentations" in page
    told = [float(score) for score in re.findall(r'alt="v[45].nii, Dice ([0-9.]+)"', page)]
    assert len(told) == 2
    mean = scores(tmp_path, "dice")["plain", "voxels", "100 %"]
    assert sum(told) / 2 == pytest.approx(mean, abs=0.01)


def refused(config: Path, *overrides: str) -> str:
    """The one line that the command says, in this process: what it imports is loaded once."""
    told = io.StringIO()
    given = ["volssl", "evaluate", str(config), *overrides]
    with redirect_stderr(told), patch.object(sys, "argv", given), pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "Traceback" not in told.getvalue()
    assert len(told.getvalue().strip().splitlines()) == 1, told.getvalue()
    return told.getvalue()


def spoilt(folder: Path, cohort: Path, change: Any) -> Path:
    """A configuration of the cohort's table after a change of its rows."""
    rows = list(csv.DictReader((cohort / "labels.csv").read_text().splitlines()))
    rows = [{**row, "path": str(cohort / row["path"])} for row in rows]
    rows = change(rows)
    table(folder / "spoilt.csv", {key: [row[key] for row in rows] for key in rows[0]})
    return written(folder, folder, table="spoilt.csv", encoders={"mine": str(cohort / "encoder")})


def test_a_missing_file_is_named(tmp_path: Path, cohort: Path) -> None:
    message = refused(spoilt(tmp_path, cohort, lambda rows: [*rows[1:], {**rows[0], "path": "gone.png"}]))
    assert "gone.png" in message


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("protocols={name: knn}", "protocols: write a list, such as [{name: knn}]"),
        ("protocols=knn", "protocols: write a list, such as [{name: knn}] (got 'knn')"),
        ("protocls=[{name: knn}]", "protocls: no such key: did you mean protocols?"),
    ],
)
def test_what_should_be_a_list_is_shown_as_one(tmp_path: Path, cohort: Path, override: str, told: str) -> None:
    assert told in refused(written(tmp_path, cohort), override)


def test_a_label_in_test_that_is_not_in_train(tmp_path: Path, cohort: Path) -> None:
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "label": "odd"} if row["patient"] in {"p00", "p03"} else row for row in rows]

    message = refused(spoilt(tmp_path, cohort, change))
    assert "odd" in message
    assert "sets.s" in message


def test_one_class_only(tmp_path: Path, cohort: Path) -> None:
    message = refused(spoilt(tmp_path, cohort, lambda rows: [{**row, "label": "dark"} for row in rows]))
    assert "dark" in message


def test_labels_that_are_nan_are_left_out_or_refused(
    tmp_path: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few are left out, and counted in the data card; all of them are refused."""
    some = spoilt(
        tmp_path, cohort, lambda rows: [{**row, "label": "nan"} if i < 2 else row for i, row in enumerate(rows)]
    )
    run.evaluate(load_evaluation(some))
    card = json.loads((tmp_path / "out" / "results.json").read_text())["sets"][0]
    assert card["items"] == 58
    assert card["notes"] == ["2 items without an answer are left out"]
    assert "s: 2 items without an answer are left out" in capsys.readouterr().out
    message = refused(spoilt(tmp_path, cohort, lambda rows: [{**row, "label": "nan"} for row in rows]))
    told = "no row of spoilt.csv says what its item is: fill the column in"
    assert message == f"volssl: sets.s: labels: {told}\n"


def test_ten_items_at_one_percent(tmp_path: Path, cohort: Path) -> None:
    """Two patients of each class are the least that can be cross-validated: taken, and told; with one, refused."""

    def ten(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        firsts = [row for i, row in enumerate(rows) if i % 2 == 0]
        dark, bright = ([row for row in firsts if row["label"] == label] for label in ("dark", "bright"))
        sides = ["train"] * 3 + ["test"] * 2
        return [{**row, "split": side} for side, row in zip(sides * 2, dark[:5] + bright[:5], strict=True)]

    run.evaluate(load_evaluation(spoilt(tmp_path, cohort, ten), ["fractions=[0.01]"]))
    row = next(row for row in results(tmp_path) if row["encoder"])
    assert float(row["labels"]) == 4
    card = json.loads((tmp_path / "out" / "results.json").read_text())["sets"][0]
    assert any("two of each class" in note for note in card["notes"]), card["notes"]

    def few(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [row for i, row in enumerate(ten(rows)) if i not in (0, 1)]

    message = refused(spoilt(tmp_path, cohort, few), "fractions=[0.01]")
    assert "dark" in message


def test_a_patient_on_both_sides_is_found(tmp_path: Path, cohort: Path) -> None:
    """Of the last picture, which is for training, the patient is said to be the first, who is tested."""
    message = refused(spoilt(tmp_path, cohort, lambda rows: [*rows[:-1], {**rows[-1], "patient": "p00"}]))
    told = "1 patients are in training and test rows, such as patient p00: keep each on one side"
    assert message == f"volssl: sets.s: leak: {told}\n"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sets.s.target={name: classes, column: lable}"], "label"),
        (["encoders.mine=nowhere"], "nowhere"),
        (["sets.s.data={name: volume, root: x, region: [4, 4, 4]}"], "2D"),
        (["protocols=[{name: linaer}]"], "linear"),
        (["sets.s.test=[valid]"], "valid"),
        (["fractions=[]"], "per_class"),
        (["protocols=[{name: knn, k: 1}, {name: knn, k: 20}]"], "title"),
        (["protocols=[{name: voxels}]"], "sets.s: voxels"),
        (["sets.s.target={name: masks, classes: [a]}"], "add {name: voxels}"),
        (["encoders={}", "floors=[pixels]", "protocols=[{name: finetune}]"], "raw pixels"),
        (["fusion=[{}]"], "fusion.0"),
        (["fusion=[{encoders: [mine, yours]}]"], "yours"),
        (["encoders.b=b", "fusion=[{encoders: [mine, mine]}]"], "mine is named twice"),
        (["encoders.b=b", "fusion=[{end_to_end: true}]"], "add {name: finetune}"),
        (["encoders.b=b", "fusion=[{}]", "protocols=[{name: knn}]"], "add {name: linear}"),
        (["encoders={DVME: x}"], "DVME is the name of a fusion"),
        (["encoders={concatenation 2: x}"], "concatenation 2 is the name of a fusion"),
        (["fractions=[0.1, 0.1000001]"], "10 %"),
        (["encoders.mine={path: x, size: [3, 3]}"], "size"),
        (["encoders.mine={part: 0, backbone: {name: resnet, dims: 2, depth: 10, stem: small}}"], "part"),
        (["robustness={rotation: [], scale: [], intensity: [], noise: [], blur: []}"], "robustness"),
        (["robustness={}", "protocols=[{name: knn}]"], "robustness: is of linear probes"),
        (["convergence={}", "encoders={}"], "convergence: compares"),
        (["output=/proc/nothing/here"], "output"),
        (["encoders={}", "sets.s.encoders={mine: nowhere}"], "sets.s.encoders.mine: encoder: nowhere"),
    ],
    ids=[
        *("column", "encoder", "dims", "protocol", "split", "budget", "two protocols", "only voxels", "no voxels"),
        *("only pixels", "fusion of one", "fusion of nobody", "fused twice", "fusion without peers", "frozen fusion"),
        *(
            "DVME",
            "concatenation",
            "two fractions",
            "size",
            "part",
            "no strength",
            "nothing changed",
            "nobody converges",
            "output",
            "encoder of a set",
        ),
    ],
)
def test_other_faults_are_one_line(tmp_path: Path, cohort: Path, overrides: list[str], told: str) -> None:
    assert told in refused(written(tmp_path, cohort), *overrides)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_refused_under_its_key(tmp_path: Path, cohort: Path) -> None:
    assert refused(written(tmp_path, cohort), "device=cuda").startswith("volssl: device: ")


def test_a_class_of_too_few_patients_for_folds_is_counted_over_all(tmp_path: Path, cohort: Path) -> None:
    def rare(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        kept = [{key: value for key, value in row.items() if key != "split"} for row in rows]
        return [{**row, "label": "odd"} if row["patient"] in {"p00", "p03"} else row for row in kept]

    message = refused(spoilt(tmp_path, cohort, rare))
    assert "sets.s: labels: odd has 2 of 30 patients" in message


def test_two_settings_of_a_protocol_stand_side_by_side(tmp_path: Path, cohort: Path) -> None:
    """Under their titles; and what is worked out does not depend on the title."""
    near: list[dict[str, Any]] = [{"name": "knn", "k": 1, "title": "nearest"}, {"name": "knn"}]
    run.evaluate(load_evaluation(written(tmp_path, cohort, protocols=near, floors=[])))
    found = scores(tmp_path, "auroc")
    assert {key[1] for key in found} == {"nearest", "knn"}
    kept = len(list((tmp_path / "out" / "cells").iterdir()))
    other = [{**near[0], "title": "closest"}, near[1]]
    run.evaluate(load_evaluation(written(tmp_path, cohort, protocols=other, floors=[])))
    assert len(list((tmp_path / "out" / "cells").iterdir())) == kept
    assert scores(tmp_path, "auroc")["mine", "closest", "100 %"] == found["mine", "nearest", "100 %"]


def test_other_patients_are_other_answers(tmp_path: Path, cohort: Path) -> None:
    """The sides are the same, and who is whose is not: cross-validation is done anew, on the features of before."""

    def alone(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "patient": f"p{i}"} for i, row in enumerate(rows)]

    cells = tmp_path / "out" / "cells"
    for change, kept in ((list, 2), (alone, 3)):
        config = load_evaluation(spoilt(tmp_path, cohort, change), ["protocols=[{name: linear}]", "floors=[]"])
        run.evaluate(config)
        assert len(list(cells.iterdir())) == kept


def test_all_labels_of_an_archive(tmp_path: Path) -> None:
    """Without columns, every one; of classes (control) it must be said which."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=(40, 2))
    images = (rng.integers(40, 100, size=(40, 16, 16)) + 50 * labels[:, :1, None]).astype(np.uint8)
    sides = {"train": slice(0, 24), "test": slice(24, 40)}
    arrays: dict[str, Any] = {f"{side}_images": images[rows] for side, rows in sides.items()}
    arrays |= {f"{side}_labels": labels[rows] for side, rows in sides.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    given: dict[str, Any] = {"encoders": {}, "floors": ["pixels"], "protocols": [{"name": "linear"}]}
    config = written(tmp_path, tmp_path, table="a.npz", target={"name": "labels"}, **given)
    run.evaluate(load_evaluation(config))
    card = json.loads((tmp_path / "out" / "results.json").read_text())["sets"][0]
    assert card["counts"] == {f"label {i}": float(labels[:, i].sum()) for i in range(2)}
    assert "label_column" in refused(written(tmp_path, tmp_path, table="a.npz", **given))


def test_weights_of_an_encoder_are_audited_as_the_encoder(tmp_path: Path, cohort: Path) -> None:
    """What it was trained on is found, given as weights."""
    source = ImageConfig(root=str(cohort / "labels.csv"), split="all", cache=str(tmp_path / "cache"))
    seen = SeenItems.of(identify(source.build((16, 16))), b"k" * 32)
    old = load_encoder(cohort / "encoder")
    fingerprint = Fingerprint(digest="", count=60)
    card = old.card.model_copy(update={"fingerprint": fingerprint})
    save_encoder(tmp_path / "enc", old.network, card, seen)
    backbone = {"name": "resnet", "dims": 2, "depth": 10, "stem": "small", "width": 4}
    given = {"path": str(tmp_path / "enc")}
    config = written(
        tmp_path,
        cohort,
        encoders={"own": {"backbone": {**backbone, "weights": given}}},
        protocols=[{"name": "knn"}],
        floors=[],
    )
    run.evaluate(load_evaluation(config))
    audit = json.loads((tmp_path / "out" / "results.json").read_text())["audit"]
    assert [(found["kind"], found["test_count"]) for found in audit["overlaps"]] == [("file", 20)]


def test_published_weights_keep_no_list(cohort: Path) -> None:
    one = Contestant("p", load_encoder(cohort / "encoder").card.model_copy(update={"method": PUBLISHED}), None)
    known = appraisal.origin_of(one).known
    assert known is not None
    assert known.items is None
    assert appraisal.origin_of(replace(one, floor=True)).known is None


def test_masks_of_one_size(tmp_path: Path) -> None:
    """Nothing is to be told apart but voxels, and one patient is enough to test on."""
    rng = np.random.default_rng(0)
    for i in range(4):
        volume, mask = rng.normal(size=(8, 8, 8)), np.zeros((8, 8, 8), np.uint8)
        mask[2:6, 2:6, 2:6] = 1
        nib.save(nib.Nifti1Image((volume + 3 * mask).astype(np.float32), np.eye(4)), tmp_path / f"v{i}.nii")
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / f"m{i}.nii")
    columns = {
        "path": [f"v{i}.nii" for i in range(4)],
        "mask": [f"m{i}.nii" for i in range(4)],
        "patient": list("abcd"),
    }
    table(tmp_path / "t.csv", {**columns, "split": ["train", "train", "train", "test"]})
    config = written(tmp_path, tmp_path, table="t.csv", encoders={}, floors=["pixels"], protocols=[{"name": "voxels"}])
    data = f"{{name: volume, root: {tmp_path / 't.csv'}, region: [8, 8, 8]}}"
    over = [f"sets.s.data={data}", "sets.s.target={name: masks, classes: [cube]}", "robustness={}"]
    run.evaluate(load_evaluation(config, over))
    assert scores(tmp_path, "dice")["pixels", "voxels", "100 %"] > 0.8
    card = json.loads((tmp_path / "out" / "results.json").read_text())["sets"][0]
    assert card["counts"] == {"mean": 64.0, "sd": 0.0}
    assert any("masks" in note and "robustness" in note for note in card["notes"])


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, cohort: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    assert "thesis.tex" in refused(written(tmp_path, cohort))
