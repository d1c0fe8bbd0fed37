"""What gates share: a process that has imported everything, of which commands are forks, and the time of a test."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.gates import record
from tests.gates.forked import Forks
from tests.gates.ground import Ground


@pytest.fixture(autouse=True)
def _timed() -> None:
    record.begin()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """As a person has it who asks for nothing: names are not shown."""
    with Forks(VOLSSL_NAMES="") as started:
        yield started


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Ground:
    """A sound run of eight pictures."""
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
