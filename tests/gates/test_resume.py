"""What may change between two starts of one run, and what is refused, with the difference shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests.gates.record import record
from volssl import config as configuration
from volssl import run as root
from volssl.config import Run
from volssl.engine import saver
from volssl.engine.checkpoint import save
from volssl.engine.distributed import Group
from volssl.engine.lock import lock
from volssl.errors import RunError

CONFIG = """\
output: {out}
data: {{name: stack, root: stacks, region: [6, 20, 20]}}
views: {{size: [6, 16, 16], crop: [0.5, 1.0]}}
backbone: {{name: resnet, depth: 10, stem: small, width: 4, norm: batch}}
method: {{name: byol, projector: [16, 8], predictor: [16, 8]}}
optim: {{name: lars, lr: 0.2, warmup: 5}}
loop: {{steps: 30, batch: 6, chunk: 3}}
"""
REFUSED = {
    "seed": "1",
    "data.root": "others",
    "data.intensity": "{name: zscore}",
    "views.crop": "[0.4, 1.0]",
    "backbone.width": "8",
    "method.predictor": "[8, 8]",
    "optim.lr": "0.1",
    "optim": "{name: sgd, lr: 0.2, warmup: 5}",
    "loop.steps": "60",
    "loop.batch": "12",
    "loop.chunk": "6",
    "loop.precision": "bf16",
    "loop.compile": "true",
}
ALLOWED = {
    "data.cache": "elsewhere",
    "data.cache_gb": "1.0",
    "data.max_bad": "0.5",
    "evaluate": "[{name: acl_tear, data: knees}]",
    "loop.device": "cpu",
    "loop.keep": "9",
    "loop.log_every": "7",
    "loop.peer_timeout": "9.0",
    "loop.save_every": "7",
    "loop.tensorboard": "true",
    "loop.timeout": "9.0",
    "loop.workers": "4",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration whose folder holds a checkpoint of it."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(out=tmp_path / "out"))
    run = configuration.load(path)
    meta = {"config": run.model_dump(mode="json")}
    save(tmp_path / "out" / "checkpoints", step=3, tensors={"a": torch.zeros(2)}, meta=meta, keep=1)
    (tmp_path / "out" / "config.yaml").write_text(configuration.dump(run))
    return path


def refusal(path: Path, key: str, value: str) -> str:
    """What a start with another value says; empty where it goes on."""
    run = configuration.load(path, [f"{key}={value}"])
    try:
        root.claim(Path(run.output), run)
    except RunError as problem:
        return str(problem)
    return ""


def test_every_key_but_those_on_the_list_is_refused_with_both_values(path: Path) -> None:
    refused = [key for key, value in REFUSED.items() if f"  {key}" in refusal(path, key, value)]
    allowed = [key for key, value in ALLOWED.items() if not refusal(path, key, value)]
    result = f"{len(refused)}/{len(REFUSED)} refused with the difference, {len(allowed)}/{len(ALLOWED)} allowed"
    record("changed keys at a resume", result, "all")
    assert refused == list(REFUSED)
    assert allowed == list(ALLOWED)
    assert "optim.lr: 0.2 -> 0.1" in refusal(path, "optim.lr", "0.1")
    assert "loop.steps: 30 -> 60 (learning rate and momentum follow a schedule" in refusal(path, "loop.steps", "60")
    assert "optim.name: lars -> sgd" in refusal(path, "optim", "{name: sgd, lr: 0.2, warmup: 5}")


def test_the_list_names_keys_that_there_are(path: Path) -> None:
    """A name that is written wrong would let nothing through, or be forgotten when a key is renamed."""
    keys = set(configuration._flat(configuration.load(path).model_dump(mode="json")))
    wanted = {key for key in configuration.MUTABLE if "*" not in key and key != "evaluate"}
    assert wanted <= keys


def test_a_list_that_lets_everything_through_does_not_pass(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(configuration, "MUTABLE", ("*",))
    assert not any(refusal(path, key, value) for key, value in REFUSED.items())


def test_a_file_beside_the_checkpoints_that_was_edited_fools_nobody(path: Path) -> None:
    """The checkpoint itself says what it was made by."""
    written = Path(configuration.load(path).output) / "config.yaml"
    written.write_text(written.read_text().replace("lr: 0.2", "lr: 0.1"))
    assert "optim.lr: 0.2 -> 0.1" in refusal(path, "optim.lr", "0.1")
    assert not refusal(path, "loop.keep", "9")


def test_the_configuration_of_a_version_with_other_keys_is_one_line(path: Path) -> None:
    run = configuration.load(path)
    meta = {"config": run.model_dump(mode="json") | {"colour": "red"}}
    save(Path(run.output) / "checkpoints", step=6, tensors={"a": torch.zeros(2)}, meta=meta, keep=1)
    assert "written by another version of volssl" in refusal(path, "loop.keep", "9")


def test_parts_of_a_mixture_may_become_more_patient_but_not_others(path: Path) -> None:
    run = configuration.load(path).model_dump(mode="json")
    parts = [{"name": "image", "root": root, "fit": "resize"} for root in "ab"]
    run["data"] = {"name": "mixture", "region": [16, 16], "parts": parts}
    run["views"] |= {"size": [16, 16]}
    run["backbone"] |= {"dims": 2}
    runs = [Run.model_validate_json(json.dumps(run))]
    for change in ({"max_bad": 0.5}, {"root": "c"}):
        run["data"]["parts"] = [parts[0], parts[1] | change]
        runs.append(Run.model_validate_json(json.dumps(run)))
    assert configuration.differences(runs[0], runs[1]) == []
    assert configuration.differences(runs[0], runs[2]) == ["data.parts.1.root: b -> c"]


@pytest.mark.parametrize("what", ["volssl", "torch", "numpy", "monai", "python", "threads", "ranks", "device"])
def test_what_the_last_bits_depend_on_is_in_every_checkpoint(what: str) -> None:
    assert what in saver.environment(Group())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            with lock(tmp_path / "out"):
                os._exit(1)
        except RunError as problem:
            os._exit(0 if "cannot be written (Permission denied): give another folder" in str(problem) else 2)
        except BaseException:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
