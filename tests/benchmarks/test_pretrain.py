"""The benchmark on real images: a small run to its table, what a stop leaves behind, what the table says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import pretrain
from benchmarks.outcomes import append, read
from benchmarks.pretrain import ALL, PRETRAINED, RANDOM, build, digest, hold_out, overrides, shown, tables, wanted


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every method with a network and a batch of next to nothing."""
    common = {
        "backbone.width": 4,
        "backbone.depth": 10,
        "views.size": [16, 16],
        "data.region": [24, 24],
        "data.cache": str(tmp_path / "cache"),
        "optim.warmup": 1,
        "loop.batch": 4,
        "loop.chunk": 4,
    }
    made = wanted()
    monkeypatch.setattr(pretrain, "wanted", lambda: {**made, "common": {**made["common"], **common}})


def main(images: Path, *arguments: str) -> None:
    sets = ["lc25000_lung", "lc25000_new_patients", "pneumoniamnist"]
    given = ["--data", *sets, "--minutes", "0.001", "--seeds", "0", "--methods", "simclr"]
    pretrain.main([*given, "--images", str(images), "--output", str(images.parent / "out"), *arguments])


def held_out(images: Path, seed: int = 0) -> set[int]:
    """The patients whose tiles are tested."""
    train = hold_out(images / "lc25000_lung" / "labels.csv", images.parent / f"third-{seed}", seed)
    patients = {
        name: {int(line.rpartition(",p")[2]) for line in train.with_name(name).read_text().splitlines()[1:]}
        for name in ("train.csv", "test.csv")
    }
    assert patients["train.csv"] | patients["test.csv"] == set(range(9))
    assert not patients["train.csv"] & patients["test.csv"]
    return patients["test.csv"]


def test_three_seeds_hold_every_patient_out_once(images: Path) -> None:
    thirds = [held_out(images, seed) for seed in range(3)]
    assert sum(len(third) for third in thirds) == len(set.union(*thirds)) == 9
    assert all({patient % 3 for patient in third} == {0, 1, 2} for third in thirds)


@pytest.mark.usefixtures("small")
def test_from_images_to_table_once(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every set leaves a line; called again, nothing trains and the table is the same."""
    main(images)
    first = capsys.readouterr().out
    assert first.count("| simclr | 2 |") == 4  # tiles, new patients' tiles, radiographs with all labels and a tenth
    lines = read(images.parent / "out" / "results.jsonl")
    lung = next(line for line in lines.values() if line["data"] == "lc25000_new_patients")
    assert sorted(lung["patients"]) == sorted([f"p{patient}" for patient in held_out(images) for _ in range(2)])
    assert sorted(lung["y"]) == [0, 0, 1, 1, 2, 2]
    assert {name: scores[ALL]["shape"] for name, scores in lung["scores"]["encoder"].items()} == {
        PRETRAINED: [6, 3],
        RANDOM: [6, 3],
    }
    monkeypatch.setattr(pretrain, "train", lambda _run: pytest.fail("trained again"))
    main(images)
    assert first.endswith(capsys.readouterr().out)


@pytest.mark.usefixtures("small")
def test_a_table_of_nothing_trains_nothing(images: Path) -> None:
    main(images, "--table")
    assert not (images.parent / "out").exists()


def test_every_configuration_is_valid() -> None:
    """All sets and methods, at full size: read and cross-checked as ``volssl train`` would."""
    for data in pretrain.DATA:
        for method, entry in wanted()["methods"].items():
            if data in entry["steps"]:
                run = build(overrides(data, method, 1, 5.0, Path("images")), Path("out"))
                assert (run.seed, run.loop.steps) == (1, entry["steps"][data])
                assert run.data.root.startswith("images/")
                assert shown(data, run, Path("images")).data.name in ("image", "stack")


def test_another_configuration_is_another_run() -> None:
    """Steps, seed and minutes count; where the images lie does not."""
    same = [digest(overrides("lc25000_lung", "byol", 0, 5.0, Path(folder))) for folder in ("a", "b")]
    assert same[0] == same[1]
    others = [
        digest(overrides("lc25000_lung", "byol", seed, minutes, Path())) for seed, minutes in ((1, 5.0), (0, 4.0))
    ]
    assert len({same[0], *others}) == 3


def test_a_torn_line_is_left_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, {"key": "a", "n": 1})
    path.write_bytes(path.read_bytes() + b'{"key": "b", "sco')
    append(path, {"key": "c"})
    append(path, {"key": "a", "n": 2})
    assert read(path) == {"a": {"key": "a", "n": 2}, "c": {"key": "c"}}


def planted(seed: int, method: str, gain: float) -> dict[str, Any]:
    """Scores of 60 rows: random ones know the class a little, pre-trained ones by ``gain`` sd more."""
    rng, y = np.random.default_rng(seed), np.arange(60) % 2
    noise = rng.normal(size=60)
    scores = {
        name: {ALL: {"shape": [60], "score": (noise + d * y).tolist(), "fold": None}}
        for name, d in ((PRETRAINED, 0.5 + gain), (RANDOM, 0.5))
    }
    told = {"data": "pneumoniamnist", "method": method, "seed": seed, "steps": 7, "seconds": 240.0 * (1 + seed)}
    told["memory"] = 0.5
    return {**told, "y": y.tolist(), "patients": list(range(60)), "scores": {"encoder": scores}}


def test_the_table_says_better_worse_or_noise() -> None:
    """240 and 480 seconds of two cores are 3 minutes on average; the verdict follows the paired interval."""
    lines = [planted(seed, f"gain{gain}", gain) for gain in (2.0, 0.0, -2.0) for seed in (0, 1)]
    rows = [row for row in tables(json.loads(json.dumps(lines)), resamples=200) if row.startswith("| gain")]
    assert [row.split(" | ")[-1] for row in rows] == ["better |", "within noise |", "worse |"]
    assert rows[1].startswith("| gain0.0 | 7 | 3.0 | 0.5 | 2 |")
    assert "+0.000 [+0.000, +0.000] | +0.000 +0.000" in rows[1]


def test_two_encoders_make_two_rows() -> None:
    """A method that keeps a CNN and a Transformer is told of each."""
    line = planted(0, "cass", 1.0)
    line["scores"] = {"cnn": line["scores"]["encoder"], "vit": line["scores"]["encoder"]}
    rows = [row for row in tables([line], resamples=100) if row.startswith("| cass")]
    assert [row.split(" |")[0] for row in rows] == ["| cass (cnn)", "| cass (vit)"]
