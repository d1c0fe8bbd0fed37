"""Slice stacks: arrays, folders of slice images and labels.csv, as items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from volssl.data import StackConfig, Window
from volssl.data.cache import CachedSource
from volssl.errors import DataError

REGION = (2, 4, 4)


def array(seed: int, shape: tuple[int, ...] = REGION) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def slices(folder: Path, stack: np.ndarray[Any, Any]) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(stack):
        Image.fromarray(image).save(folder / f"{i}.png")


def build(root: Path, cache: Path, **fields: Any) -> CachedSource:
    settings = {"intensity": Window(centre=127.5, width=255.0), **fields}
    return StackConfig(root=str(root), cache=str(cache), **settings).build(REGION)


def expected(stack: np.ndarray[Any, Any]) -> torch.Tensor:
    return (torch.from_numpy(stack).float() / 255).half().float()[None]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two arrays and a folder of slice images under ``scans``."""
    folder = tmp_path / "scans"
    slices(folder / "c" / "knee", array(2))
    for i, name in enumerate(["a.npy", "b.npy"]):
        np.save(folder / name, array(i))
    return folder


def test_arrays_and_folders_of_images_are_items(cohort: Path, tmp_path: Path) -> None:
    source = build(cohort, tmp_path / "cache")
    assert source.ids == ("a.npy", "b.npy", "c/knee")
    for i in range(3):
        assert torch.equal(source[i].image, expected(array(i)))
    assert set(source.labels) == {-1}


def test_labels_are_numbered_in_the_order_of_their_names(cohort: Path, tmp_path: Path) -> None:
    """healthy is 0, torn is 1, an empty label is unknown; other columns are not looked at."""
    table = cohort / "labels.csv"
    table.write_text("path,label,patient\n./c/knee/,torn,7\nb.npy,healthy,8\na.npy,,9\n")
    source = build(table, tmp_path / "cache")
    assert source.ids == ("a.npy", "b.npy", "c/knee")
    assert source.labels == (-1, 0, 1)
    assert source[2].label == 1


def test_numbers_are_ordered_by_value(cohort: Path, tmp_path: Path) -> None:
    """As words, 10 would come before 2."""
    table = cohort / "labels.csv"
    table.write_text("path,label\na.npy,10\nb.npy,2\n")
    assert build(table, tmp_path / "cache").labels == (1, 0)


@pytest.mark.usefixtures("cohort")
def test_a_row_may_name_a_folder_of_several_and_one_outside(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "labels.csv"
    table.write_text("path,label\n../scans,x\n")
    source = build(table, tmp_path / "cache")
    assert source.ids == ("../scans/a.npy", "../scans/b.npy", "../scans/c/knee")
    assert source.labels == (0, 0, 0)


def test_a_row_whose_file_is_missing_is_named(cohort: Path, tmp_path: Path) -> None:
    table = cohort / "labels.csv"
    table.write_text("path,label\na.npy,x\nlost.npy,x\n")
    with pytest.raises(DataError, match=r"lost.npy: missing: labels.csv names it"):
        build(table, tmp_path / "cache")
    assert build(table, tmp_path / "cache", max_bad=0.5).ids == ("a.npy",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,label\na.npy,x\n", "has no column path"),
        ("a.npy,1\n", "has no column label and path"),
        ("path,label\na.npy,x\n./a.npy,y\n", "names a.npy twice"),
        ("path,label\na.npy,x\n,y\n", "row 2 names no path"),
        ("", "has no column"),
    ],
)
def test_a_table_that_is_none_is_one_line(cohort: Path, tmp_path: Path, text: str, says: str) -> None:
    table = cohort / "labels.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        build(table, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_missing_and_empty_folders_are_one_line(tmp_path: Path) -> None:
    for name in ("missing", "empty"):
        if name == "empty":
            (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=name) as caught:
            build(tmp_path / name, tmp_path / "cache")
        assert "\n" not in str(caught.value)


def test_volumes_of_other_kinds_are_none_of_its_business(cohort: Path, tmp_path: Path) -> None:
    (cohort / "scan.nii.gz").write_bytes(b"not looked at")
    assert len(build(cohort, tmp_path / "cache")) == 3


def test_lung_nodules(shared_data: Path, tmp_path: Path) -> None:
    """882 stacks of 1 to 43 slices, 615 benign (class 0) and 267 malignant (class 1)."""
    root = shared_data / "stacks" / "lidc_nodules"
    if not root.is_dir():
        pytest.skip("stacks/lidc_nodules is not here")
    config = StackConfig(root=str(root / "labels.csv"), cache=str(tmp_path))
    source = config.build((8, 32, 32))
    assert (len(source), source.labels.count(0), source.labels.count(1)) == (882, 615, 267)
    assert not source.bad
    images = torch.stack([source[i].image for i in range(0, 882, 9)])
    assert images.min() == 0
    assert (images.amax((1, 2, 3, 4)) == 1).float().mean() > 0.9
