"""Configurations, checkpoints, encoders and paths that mean harm: nothing runs, nothing is written outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.gates import hostile, hostile_files
from tests.gates.forked import REPOSITORY
from tests.gates.ground import LINES, MEMORY, UNSAFE, Ground
from tests.gates.sizes import size, some
from tests.gates.watch import told


def test_configurations_are_data(tried: Ground) -> None:
    cases = list(hostile.configurations(tried.base, str(tried.canary)))
    assert len(cases) >= 120
    chosen = some(cases, size(30, len(cases)))
    for name, text in chosen:
        shutil.rmtree(tried.work / "case", ignore_errors=True)
        tried.case(name, "train", tried.write(text))
    tried.conclude(f"{len(chosen)} hostile configurations")


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
    tried.conclude(f"{tried.tried} uses of hostile files")


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
        ground.evaluate(name, {"encoders": {"theirs": "theirs"}}, codes=[0, 2])
    else:
        shutil.rmtree(ground.work / "case", ignore_errors=True)
        weights = ground.base["backbone"] | {"weights": {"path": "theirs"}}
        config = ground.base | {"backbone": weights}
        ground.case(name, "train", ground.write(json.dumps(config)), codes=[0, 2])


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
            tried.evaluate(name, {"encoders": {word: word}})
    tried.conclude(f"{len(chosen)} hostile paths")


def _real(word: str) -> str:
    """Nothing of a name that no folder can have."""
    return "" if "\0" in word else word


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


@pytest.mark.parametrize("how", ["yaml", "torch", "torch.hub"])
def test_a_loader_that_runs_what_it_is_given_is_caught(how: str, tried: Ground) -> None:
    """What of torch itself a pickle names is seen by its name, as it may have no effect."""
    log = tried.place / f"twin-{how}"
    given = {"log": str(log), "allowed": [str(tried.work)], "how": how, "memory": MEMORY}
    given["text"] = f"!!python/object/apply:os.system ['touch {tried.canary}']"
    named = "torch.hub.get_dir" if how == "torch.hub" else "os.system"
    arguments = () if how == "torch.hub" else (f"touch {tried.canary}",)
    content = hostile_files.zipped(hostile_files.reduce(named, arguments, 2))
    given["path"] = str(tried.work / tried.write(content, "twin.pt"))
    how_run: dict[str, Any] = {
        "cwd": tried.work,
        "said": tried.place / f"twin-said-{how}",
        "before": f"{__name__}:unsafe",
    }
    tried.forks.run(["--help"], given=given, **how_run)
    seen = "('torch.hub', 'get_dir')" if how == "torch.hub" else "os.system"
    assert any(seen in line for line in told(log)), told(log)
    assert tried.canary.exists() == (how != "torch.hub")
    tried.canary.unlink(missing_ok=True)


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
