"""Configurations, checkpoints, encoders and paths that mean harm: nothing runs, nothing is written outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from tests.gates import hostile, hostile_files
from tests.gates.forked import REPOSITORY, Forks
from tests.gates.ground import LINES, MEMORY, UNSAFE, Ground
from tests.gates.record import record
from tests.gates.sizes import size
from tests.gates.watch import told

T = TypeVar("T")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Ground:
    place = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for folder in ("work/pictures", "tmp"):
        (place / folder).mkdir(parents=True)
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(place / f"work/pictures/{i}.png")
    base = {
        "seed": 0,
        "output": "case",
        "data": {"name": "image", "root": "pictures", "cache": "cache"},
        "views": {"size": [16, 16]},
        "backbone": {"name": "resnet", "dims": 2, "depth": 10, "stem": "small", "width": 4, "norm": "group"},
        "method": {"name": "byol", "projector": [16, 8], "predictor": [16, 8]},
        "optim": {"name": "sgd", "lr": 0.01},
        "loop": {"steps": 2, "batch": 2, "chunk": 2, "save_every": 1, "workers": 0, "device": "cpu"},
    }
    found = Ground(forks, place, base)
    sound = found.write(json.dumps(base | {"output": "sound"}), "sound.yaml")
    found.case("the sound run", "train", sound, codes=[0])
    assert not found.faults, found.faults
    return found


@pytest.fixture
def tried(ground: Ground) -> Iterator[Ground]:
    """Before and after each test."""
    ground.faults.clear()
    before = ground.tried
    yield ground
    print(f"{ground.tried - before} cases")


def some(cases: Sequence[T], count: int) -> list[T]:
    """``count`` of them, from the first to the last."""
    if count >= len(cases):
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]


def test_configurations_are_data(tried: Ground) -> None:
    cases = list(hostile.configurations(tried.base, str(tried.canary)))
    assert len(cases) >= 120
    chosen = some(cases, size(30, len(cases)))
    for name, text in chosen:
        shutil.rmtree(tried.work / "case", ignore_errors=True)
        tried.case(name, "train", tried.write(text))
    _conclude(tried, f"{len(chosen)} hostile configurations")


def test_checkpoints_encoders_and_manifests_are_data(tried: Ground) -> None:
    """Of each file: resumed from, imported as weights, as the weights or the card of an encoder, as a manifest."""
    files = [*hostile_files.pickled(str(tried.canary)), *hostile_files.claims()]
    signed = list(hostile_files.checkpoints())
    card = json.loads((tried.work / "sound/encoder/card.json").read_text())
    folders = list(hostile.cards(card, (tried.work / "sound/encoder/model.safetensors").read_bytes()))
    assert len(files) + len(signed) + len(folders) >= 100
    for i, (name, content) in enumerate(some(files, size(18, len(files)))):
        uses = USES if size(0, 1) else (USES[i % len(USES)],)
        for use in uses:
            use(tried, name, content)
    for name, content in some(signed, size(4, len(signed))):
        _resumed(tried, name, content)
    for i, (name, inside) in enumerate(some(folders, size(10, len(folders)))):
        tried.put(inside, "theirs")
        for command in COMMANDS if size(0, 1) else COMMANDS[i % 4 : i % 4 + 1]:
            _used(tried, f"{name} ({command})", command)
    _conclude(tried, f"{tried.tried} uses of hostile files")


COMMANDS = ("embed", "export", "evaluate", "weights")


def _resumed(ground: Ground, name: str, content: bytes) -> None:
    shutil.rmtree(ground.work / "case", ignore_errors=True)
    shutil.copytree(ground.work / "sound", ground.work / "case")
    for path in (ground.work / "case/checkpoints").iterdir():
        path.write_bytes(content)
    (ground.work / "case/checkpoints/.metadata").write_bytes(content)
    ground.case(f"{name} (resumed)", "train", ground.write(json.dumps(ground.base)))


def _imported(ground: Ground, name: str, content: bytes) -> None:
    shutil.rmtree(ground.work / "case", ignore_errors=True)
    ground.write(content, "theirs.pt")
    weights = ground.base["backbone"] | {"weights": {"path": "theirs.pt"}}
    ground.case(f"{name} (imported)", "train", ground.write(json.dumps(ground.base | {"backbone": weights})))


def _listed(ground: Ground, name: str, content: bytes) -> None:
    shutil.rmtree(ground.work / "case", ignore_errors=True)
    ground.write(content, "theirs.parquet")
    data = ground.base["data"] | {"root": "theirs.parquet"}
    ground.case(f"{name} (manifest)", "train", ground.write(json.dumps(ground.base | {"data": data})))


def _encoder(ground: Ground, name: str, content: bytes) -> None:
    """Its card has the right SHA-256: whoever writes the one can write the other."""
    import hashlib

    card = json.loads((ground.work / "sound/encoder/card.json").read_text())
    card["sha256"] = hashlib.sha256(content).hexdigest()
    ground.put({"card.json": json.dumps(card).encode(), "model.safetensors": content}, "theirs")
    for command in ("embed", "export", "evaluate") if size(0, 1) else ("embed",):
        _used(ground, f"{name} ({command})", command)


USES = (_resumed, _imported, _encoder, _listed)


def _used(ground: Ground, name: str, command: str) -> None:
    """The folder ``theirs`` as an encoder. A card may say what is true of other images: then it is used."""
    if command == "embed":
        ground.case(name, "embed", "theirs", "pictures", "-o", "out.parquet", codes=[0, 2])
    elif command == "export":
        (ground.work / "out.ts").unlink(missing_ok=True)
        ground.case(name, "export", "theirs", "--to", "torchscript", "-o", "out.ts", codes=[0, 2])
    elif command == "evaluate":
        _evaluated(ground, name, {"encoders": {"theirs": "theirs"}}, codes=[0, 2])
    else:
        shutil.rmtree(ground.work / "case", ignore_errors=True)
        weights = ground.base["backbone"] | {"weights": {"path": "theirs"}}
        config = ground.base | {"backbone": weights}
        ground.case(name, "train", ground.write(json.dumps(config)), codes=[0, 2])


def _evaluated(ground: Ground, name: str, changed: dict[str, Any], codes: Sequence[int] = (2,)) -> None:
    shutil.rmtree(ground.work / "study", ignore_errors=True)
    rows = "".join(f"{i}.png,{i % 2},{i}\n" for i in range(8))
    ground.write("path,label,patient\n" + rows, "pictures/labels.csv")
    data = {"name": "image", "root": "pictures/labels.csv", "region": [16, 16]}
    study = {"sets": {"one": {"data": data, "folds": 2}}, "protocols": [{"name": "knn"}], "bootstrap": 100}
    study |= {"cache": "cache", "output": "study", "device": "cpu", "report": False, **changed}
    ground.case(name, "evaluate", ground.write(json.dumps(study), "study.yaml"), codes=codes)
    (ground.work / "pictures/labels.csv").unlink()


def test_paths_are_names(tried: Ground) -> None:
    """As the value of every key that is a path, in a table, and as the name of an encoder."""
    words = hostile.paths(str(tried.canary))
    cases = [(word, where) for word in words for where in ("root", "weights", "cache", "output", "table", "encoder")]
    chosen = some(cases, size(20, len(cases)))
    assert len(cases) >= 60
    for word, where in chosen:
        shutil.rmtree(tried.work / "case", ignore_errors=True)
        name = f"{where}: {word[:30]!r}"
        if where in ("root", "cache"):
            config = tried.base | {"data": tried.base["data"] | {where: word}}
            # A folder for the cache may be called anything; what is outside is the user's to ask for, and not there.
            codes, asked = ([2], "") if where == "root" else ([0, 2], word)
            tried.case(name, "train", tried.write(json.dumps(config)), codes=codes, asked=_real(asked))
        elif where == "output":
            config = tried.base | {"output": word}
            tried.case(name, "train", tried.write(json.dumps(config)), codes=[0, 2], asked=_real(word))
        elif where == "weights":
            backbone = tried.base["backbone"] | {"weights": {"path": word}}
            tried.case(name, "train", tried.write(json.dumps(tried.base | {"backbone": backbone})))
        elif where == "table":
            quoted = word.replace('"', '""')
            tried.write(f'path,label\n"{quoted}",1\n', "table.csv")
            config = tried.base | {"data": tried.base["data"] | {"root": "table.csv"}}
            tried.case(name, "train", tried.write(json.dumps(config)))
        else:
            _evaluated(tried, name, {"encoders": {word: word}})
    _conclude(tried, f"{len(chosen)} hostile paths")


def _real(word: str) -> str:
    """Nothing of a name that no folder can have."""
    return "" if "\0" in word else word


def test_links_out_of_the_folder_write_nothing(tried: Ground, tmp_path: Path) -> None:
    """An output, a cache and an encoder that are links to a folder elsewhere which holds something."""
    (tmp_path / "else").mkdir()
    (tmp_path / "else/kept.txt").write_text("kept")
    link = tried.work / "case"
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(tmp_path / "else")
    tried.case("output is a link", "train", tried.write(json.dumps(tried.base)))
    link.unlink()
    assert [path.name for path in (tmp_path / "else").iterdir()] == ["kept.txt"]
    _conclude(tried, "a link out of the folder")


def _conclude(ground: Ground, what: str) -> None:
    record(what, f"{len(ground.faults)} faults", "nothing executed or written outside, one line, exit 2")
    assert not ground.faults, "\n\n".join(ground.faults[:10])


def unsafe(given: dict[str, Any]) -> None:
    """The twins: a loader that runs what it is given, under watch."""
    from tests.gates.watch import watch

    watch(given)
    if given["how"] == "yaml":
        import yaml

        yaml.load(given["text"], Loader=yaml.UnsafeLoader)
    else:
        import torch

        torch.load(given["path"], weights_only=False)


@pytest.mark.parametrize("how", ["yaml", "torch"])
def test_a_loader_that_runs_what_it_is_given_is_caught(how: str, tried: Ground) -> None:
    log = tried.place / f"twin-{how}"
    given = {"log": str(log), "allowed": [str(tried.work)], "how": how, "memory": MEMORY}
    given["text"] = f"!!python/object/apply:os.system ['touch {tried.canary}']"
    content = hostile_files.zipped(hostile_files.reduce("os.system", (f"touch {tried.canary}",), 2))
    given["path"] = str(tried.work / tried.write(content, "twin.pt"))
    how_run: dict[str, Any] = {
        "cwd": tried.work,
        "said": tried.place / f"twin-said-{how}",
        "before": f"{__name__}:unsafe",
    }
    tried.forks.run(["--help"], given=given, **how_run)
    assert any("os.system" in line for line in told(log)), told(log)
    assert tried.canary.exists()
    tried.canary.unlink()


def test_a_few_by_the_command_itself(tried: Ground) -> None:
    """Not in a fork: what the watch cannot see, a canary does."""
    cases = list(hostile.configurations(tried.base, str(tried.canary)))
    for _, text in some([case for case in cases if "tag" in case[0] or "expression" in case[0]], size(1, 6)):
        command = [sys.executable, "-m", "volssl", "check", tried.write(text)]
        env = os.environ | UNSAFE | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, cwd=tried.work, env=env, capture_output=True, text=True)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) <= LINES
        assert "Traceback" not in done.stderr
        assert not tried.canary.exists()
