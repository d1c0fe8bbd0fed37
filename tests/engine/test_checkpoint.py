"""A checkpoint is whole or it is not there, and no damage goes unnoticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from volssl.engine import checkpoint
from volssl.engine.checkpoint import list_checkpoints, load_latest, read, save, sweep
from volssl.errors import RunError


def tensors(step: int) -> dict[str, Tensor]:
    """A few of every kind that a run has: several dimensions and types, a scalar, an empty one."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(2, 3, 2, 2, 2, generator=generator).to(memory_format=torch.channels_last_3d)
    return {
        "method.weight": weight,
        "method.seen": torch.tensor(step),
        "method.half": torch.randn(5, generator=generator).bfloat16(),
        "method.mask": torch.tensor([True, False]),
        "method.none": torch.empty(0, 4),
        "optimizer.weight.momentum": torch.randn(7, generator=generator, dtype=torch.float64),
    }


def write(folder: Path, *steps: int, keep: int = 3) -> Path:
    for step in steps:
        path = save(folder, step=step, tensors=tensors(step), meta={"lr": 0.1, "at": step}, keep=keep)
    return path


def steps(folder: Path) -> list[int]:
    return [read(path).step for path in list_checkpoints(folder)]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    write(tmp_path, 100, 200)
    found = load_latest(tmp_path)
    assert found is not None
    assert (found.step, found.meta, found.damaged) == (200, {"lr": 0.1, "at": 200}, ())
    assert found.tensors.keys() == tensors(200).keys()
    for name, expected in tensors(200).items():
        got = found.tensors[name]
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert torch.equal(got, expected)


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "missing") is None


def test_the_newest_are_kept_in_order_of_the_step(tmp_path: Path) -> None:
    write(tmp_path, 9, 10, 100_000_000, keep=3)
    assert steps(tmp_path) == [9, 10, 100_000_000]
    write(tmp_path, 100_000_001, keep=2)
    assert steps(tmp_path) == [100_000_000, 100_000_001]


def test_a_damaged_newer_file_never_costs_a_good_one(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    newest = list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    write(tmp_path, 15, keep=1)
    found = load_latest(tmp_path)
    assert found is not None
    assert found.step == 15
    assert len(found.damaged) == 1
    assert "step-00000020.safetensors is damaged" in found.damaged[0]


def test_only_damaged_files_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, 10).write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint can be used"):
        load_latest(tmp_path)


def test_tied_weights_and_views_of_one_storage(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save(tmp_path, step=1, tensors={"a": whole, "b": whole, "c": whole[2:4]}, meta={}, keep=1)
    found = load_latest(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors["b"], whole)
    assert found.tensors["c"].tolist() == [2.0, 3.0]


def test_the_checksum_is_what_detects_it(tmp_path: Path) -> None:
    """Negative control: safetensors alone takes a flipped bit of the payload for the truth."""
    path = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(8)}, path)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(bytes(whole))
    assert load_file(path)["a"].tolist() != [0.0] * 8
    with pytest.raises(RunError, match="checksum"):
        read(path)


def test_free_space_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: pytest.fail("written all the same"))
    with pytest.raises(RunError, match="not saved: 0 MB are needed"):
        write(tmp_path, 1)


def test_stray_files_are_no_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (tmp_path / "step-x.safetensors").write_bytes(b"junk")
    (tmp_path / ".step-00000009.safetensors.tmp").write_bytes(b"junk")
    found = load_latest(tmp_path)
    assert found is not None
    assert found.step == 5
    sweep(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_what_safetensors_leaves_when_it_is_killed_is_swept(tmp_path: Path) -> None:
    """A file as large as a checkpoint, under a name that nobody asked for."""
    path = save(tmp_path, step=1, tensors=tensors(1), meta={}, keep=3)
    (tmp_path / ".tmpLa0NQi").write_bytes(b"half")
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
