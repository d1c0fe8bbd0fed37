"""Files of weights that others wrote: tensors come out, whatever else is in them does not run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tests.gates import hostile_files
from volssl.errors import ConfigError
from volssl.models.weights_file import read_weights

TENSORS = {"model.resnet.conv1.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}
ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])


def tensors(found: object) -> dict[str, Tensor]:
    assert isinstance(found, dict)
    return found


@pytest.fixture
def lightning() -> Iterator[ModuleType]:
    """A package that was there when the file was written and is gone when it is read."""
    names = ("pytorch_lightning", "pytorch_lightning.utilities", "pytorch_lightning.utilities.parsing")
    for name in names:
        sys.modules[name] = ModuleType(name)
    module = sys.modules[names[-1]]
    for name, base in (("AttributeDict", dict), ("ModelCheckpoint", object), ("LARS", object)):
        setattr(module, name, type(name, (base,), {"__module__": module.__name__}))
    yield module
    for name in names:
        sys.modules.pop(name, None)


@ZIPPED
def test_a_lightning_checkpoint_without_lightning(lightning: ModuleType, tmp_path: Path, zipped: bool) -> None:
    """Its classes as keys, dicts, objects with attributes, Namespaces, Paths, NumPy's numbers: none is needed."""
    optimizer = lightning.LARS()
    optimizer.momentum, optimizer.closure = 0.9, Namespace(lr=0.1)
    content = {
        "epoch": 999,
        "pytorch-lightning_version": "0.9.0",
        "callbacks": {lightning.ModelCheckpoint: {"best_model_path": Path("epoch_9.ckpt")}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "best": {"score": [np.float64(0.5), np.arange(3)], "by": defaultdict(list, a=[1])},
        "hyper_parameters": lightning.AttributeDict(lr=0.1, nested={"a": [1, 2.5, None, True]}, seen={1, 2}),
        "hparams": Namespace(batch=256, optimizer=optimizer),
        "state_dict": TENSORS,
    }
    file = tmp_path / "tenpercent_resnet18.ckpt"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    with pytest.raises(pickle.UnpicklingError):  # why the stand-ins are needed
        torch.load(file, weights_only=True)
    found = read_weights(file)
    assert "pytorch_lightning" not in sys.modules
    state = tensors(found["state_dict"])
    assert state.keys() == TENSORS.keys()
    assert all(torch.equal(state[name], value) for name, value in TENSORS.items())
    with pytest.raises(pickle.UnpicklingError):  # the stand-ins do not outlive the reading
        torch.load(file, weights_only=True)


class Hostile:
    """Runs a function as soon as it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.calls = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.calls


def attacks(mark: Path) -> dict[str, Hostile]:
    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "exec": Hostile(exec, code),
        "eval": Hostile(eval, code),
        "system": Hostile(os.system, f"touch '{mark}'"),
        "run": Hostile(subprocess.run, ["touch", str(mark)]),
        "method": Hostile(Path.touch, mark),
        "nested": Hostile(map, Hostile(exec, code), [1]),
    }


@ZIPPED
@pytest.mark.parametrize("attack", ["exec", "eval", "run", "nested"])
def test_what_a_pickle_wants_to_run_does_not_run(tmp_path: Path, attack: str, zipped: bool) -> None:
    """The tensors are read without it. The control: loaded as pickles are, it runs."""
    mark, file = tmp_path / "ran", tmp_path / "weights.pth"
    content = {"state_dict": TENSORS, "hyper_parameters": attacks(mark)[attack]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert torch.equal(tensors(read_weights(file)["state_dict"])["n"], TENSORS["n"])
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()


@ZIPPED
@pytest.mark.parametrize("attack", ["system", "method"])
def test_what_torch_knows_to_be_hostile_is_refused(tmp_path: Path, attack: str, zipped: bool) -> None:
    """A call of the operating system, and a call of what another call gave."""
    mark, file = tmp_path / "ran", tmp_path / "weights.pth"
    torch.save(TENSORS | {"x": attacks(mark)[attack]}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"cannot be read as weights: it is damaged, or holds more than tensors$"):
        read_weights(file)
    assert not mark.exists()


def test_a_state_that_is_an_attack_is_refused(tmp_path: Path) -> None:
    torch.save(Hostile(list, (1, 2)), tmp_path / "weights.pth")
    assert read_weights(tmp_path / "weights.pth") == {}
    torch.save([1, 2], tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="holds a list, not weights: give a state dict"):
        read_weights(tmp_path / "weights.pth")


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.pth")
    assert torch.equal(tensors(read_weights(tmp_path / "weights.pth"))["n"], TENSORS["n"])
    torch.save(TENSORS, tmp_path / "weights.safetensors")
    assert torch.equal(tensors(read_weights(tmp_path / "weights.safetensors"))["n"], TENSORS["n"])


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02c__builtin__\nexec\n.", b"0" * 8 + b"{"]
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as weights") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.pth: cannot be read as weights: No such file or directory: give the path of a file$"
    ):
        read_weights(tmp_path / "none.pth")


@pytest.fixture(scope="module", params=[True, False], ids=["zip", "before torch 1.6"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("sound") / "weights.pth"
    torch.save({"state_dict": TENSORS, "args": Namespace(a=1)}, file, _use_new_zipfile_serialization=request.param)
    return file.read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    sound: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whichever bytes are changed or cut off: a dict or a ConfigError, nothing else."""
    damaged = bytearray(sound[: data.draw(st.integers(1, len(sound)))])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[place] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.pth"
    file.write_bytes(damaged)
    with suppress(ConfigError):
        assert isinstance(read_weights(file), dict)


@ZIPPED
@pytest.mark.parametrize("where", ["value", "key", "called"])
def test_what_repeats_itself_without_end_is_refused_at_once(where: str, zipped: bool, tmp_path: Path) -> None:
    """To look for tensors in it, to hash it or to show it never ends; the same three levels deep is read."""
    file = tmp_path / "a.pt"
    for times in (19, 3):
        pickled = hostile_files.laugh(where, times)
        file.write_bytes(hostile_files.zipped(pickled) if zipped else hostile_files.legacy(pickled))
        if times == 19:
            with pytest.raises(ConfigError, match="what it holds repeats itself without end"):
                read_weights(file)
        elif where == "called":  # a list, which is no function
            with pytest.raises(ConfigError, match="it is damaged"):
                read_weights(file)
        else:
            assert len(read_weights(file)) == 1


def test_a_list_in_itself_is_refused(tmp_path: Path) -> None:
    nested: list[object] = [torch.zeros(1)]
    nested.append(nested)
    torch.save({"state_dict": nested}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="a list in it holds itself"):
        read_weights(tmp_path / "a.pt")


def test_what_stands_in_many_places_is_read(tmp_path: Path) -> None:
    """Tied weights and groups of an optimizer that share their settings."""
    shared, betas = torch.ones(3), (0.9, 0.999)
    groups = [{"betas": betas, "params": [i], "seen": {"a": [betas]}} for i in range(300)]
    torch.save({**{f"w{i}": shared for i in range(1000)}, "optimizer": {"groups": groups}}, tmp_path / "a.pt")
    assert len(read_weights(tmp_path / "a.pt")) == 1001
