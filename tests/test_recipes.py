"""Every file in configs/ runs: two steps of the real thing, made small by overrides of size alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.data import tiff
from volssl import config, run, strict_yaml
from volssl.data.phantom import generate

FOLDER = Path(__file__).resolve().parents[1] / "configs"
STUDIES = sorted(path.name for path in FOLDER.glob("*.yaml") if "\nsets:" in path.read_text())
RECIPES = sorted({path.name for path in FOLDER.glob("*.yaml")} - set(STUDIES))
SIZES = {2: ([40, 40], [32, 32], [16, 16]), 3: ([16, 40, 40], [16, 32, 32], [8, 16, 16])}  # region, view, small view
PATCH = {2: [8, 8], 3: [8, 8, 8]}
SCHEDULES = ("freeze", "queue_start", "teacher_warmup")
HEADS = {"projector": [16, 8], "predictor": [16, 8], "prototypes": 12, "queue": 4, "logits": 8}
OF_EVALUATION = {"planes": ("sagittal",), "seeds": 1, "bootstrap": 100, "steps": 2, "folds": 2, "fractions": (1.0,)}


def smaller(given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Overrides that make a recipe as small as it gets: sizes, widths and numbers, nothing else."""
    dims = len(given["views"]["size"])
    region, size, local = SIZES[dims]
    yield "views.size", size
    yield "data.region", region
    if "local" in given["views"]:
        yield from {"views.local.size": local, "views.local.count": 2}.items()
    yield from _network("backbone", given["backbone"], size, PATCH[dims])
    yield from _method("method", given["method"], size, PATCH[dims])
    yield from {"loop.steps": 2, "loop.batch": 4, "loop.chunk": 2, "loop.workers": 0, "optim.warmup": 1}.items()
    yield "output", "out"


def _network(key: str, given: dict[str, Any], size: list[int], patch: list[int]) -> Iterator[tuple[str, Any]]:
    if given["name"] == "vit":
        yield from {f"{key}.size": size, f"{key}.patch": patch, f"{key}.width": 12, f"{key}.heads": 2}.items()
        yield f"{key}.depth", 2
    else:
        yield from {f"{key}.width": 4, f"{key}.depth": 10}.items()


def _method(key: str, given: dict[str, Any], size: list[int], patch: list[int]) -> Iterator[tuple[str, Any]]:
    yield from ((f"{key}.{name}", HEADS[name]) for name in given if name in HEADS)
    yield from ((f"{key}.{name}", 1) for name in SCHEDULES if name in given)
    if given["name"] == "mae":
        yield from {f"{key}.width": 8, f"{key}.depth": 1, f"{key}.heads": 2}.items()
    if "partner" in given:
        yield from _network(f"{key}.partner", given["partner"], size, patch)
    if "ssl" in given:
        yield from _method(f"{key}.ssl", given["ssl"], size, patch)


def write_images(folder: Path, *, colour: bool) -> None:
    """Eight pictures of noise, and a table that knows the class of every other one."""
    rng = np.random.default_rng(len(folder.name))
    folder.mkdir(parents=True)
    for i in range(8):
        shape = (48, 48, 3) if colour else (48, 48)
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{i}.png")
    rows = [f"{i}.png,{i // 2 % 2 if i % 2 else ''}" for i in range(8)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")


def write_volumes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(4):
        voxels = rng.integers(0, 1000, (40, 44, 24)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{i}.nii.gz")


def write_videos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(2):
        with av.open(str(folder / f"{i}.avi"), "w") as file:
            stream = file.add_stream("ffv1", rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "gray"
            for image in rng.integers(0, 256, (10, 48, 64), dtype=np.uint8):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
            file.mux(stream.encode())


def write_slides(folder: Path, mpp: float) -> None:
    """Slides that are all tissue."""
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(60, 200, (160, 160, 3), dtype=np.uint8) * np.array([1.0, 0.4, 1.0])
        tiff.write(folder / f"{i}.tiff", [pixels.astype(np.uint8)], mpp=mpp)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with everything that a recipe names."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("tiles", True), ("images", True), ("radiographs", False)):
        write_images(Path(name), colour=colour)
    for name in ("scans", "ct", "mr"):
        write_volumes(Path(name))
    write_videos(Path("ultrasound"))
    for name, mpp in (("10x", 1.0), ("20x", 0.5), ("40x", 0.25)):
        write_slides(Path(name), mpp)
    generate(Path("knees"), train=16, valid=12, pixels=48, seed=0)


def roots(given: dict[str, Any]) -> dict[str, Any]:
    """Where the recipes that draw knees, or ask for MRNet, find some."""
    if given["data"]["name"] == "phantom":
        return {"data.root": "knees", "data.train": 16, "data.valid": 12, "data.pixels": 48}
    return {"data.root": "knees/train/sagittal"} if given["data"]["name"] == "stack" else {}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str) -> None:
    given = strict_yaml.parse((FOLDER / name).read_text(), name).data
    overrides = {**dict(smaller(given)), **roots(given)}
    loaded = config.load(FOLDER / name, [f"{key}={json.dumps(value)}" for key, value in overrides.items()])
    wanted = tuple(entry.model_copy(update=OF_EVALUATION) for entry in loaded.evaluate)
    run.train(loaded.model_copy(update={"evaluate": wanted}))
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert len(list(Path("out/encoder").rglob("card.json"))) == len(loaded.backbones)
    for entry in wanted:
        assert Path("out", entry.name, "results.json").is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_states_command_and_cost(name: str) -> None:
    header = [line for line in (FOLDER / name).read_text().splitlines() if line.startswith("#")]
    assert any(f"volssl train configs/{name}" in line for line in header)
    told = " ".join(header)
    assert "Not run here" in told or all(word in told for word in ("Time", "emory", "Result"))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_read_and_its_header_states_command_and_result(name: str) -> None:
    """What studies find is tested in test_evaluate.py: here that the file says what its classes know."""
    assert config.load_evaluation(FOLDER / name).sets
    header = " ".join(line for line in (FOLDER / name).read_text().splitlines() if line.startswith("#"))
    assert f"volssl evaluate configs/{name}" in header
    assert "Not run here" in header or all(word in header for word in ("Time", "emory", "Result"))
