"""Slice stacks: arrays, folders of slice images and labels.csv, as items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from volssl.data import StackConfig
from volssl.data.cache import CachedSource
from volssl.data.items import Window
from volssl.data.loader import Loader
from volssl.data.table import classes
from volssl.errors import DataError
from volssl.views import ViewsConfig

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


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["10.0", "9", "-1"], [1, 0, -1]),
        (["1", "1.0", "0"], [1, 1, 0]),
        (["NA", "nan", "torn"], [-1, -1, 0]),
        (["-1.0", "", "healthy"], [-1, -1, 0]),
        (["10", "9", "x"], [0, 1, 2]),
    ],
)
def test_classes_by_hand(labels: list[str], numbers: list[int]) -> None:
    """Numbers by value, names by the alphabet; below zero, not a number and nothing at all are unknown."""
    index = classes(labels)
    assert [index[label] for label in labels] == numbers


@pytest.mark.usefixtures("cohort")
def test_a_row_may_name_a_folder_of_several_and_one_outside(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "labels.csv"
    table.write_text("path,label\n../scans,x\n")
    source = build(table, tmp_path / "cache")
    assert source.ids == ("../scans/a.npy", "../scans/b.npy", "../scans/c/knee")
    assert source.labels == (0, 0, 0)


def test_of_many_splits_a_few_are_told(cohort: Path, tmp_path: Path) -> None:
    """What is called split may be a column of remarks."""
    table = cohort / "labels.csv"
    remarks = [f"{i}{'x' * 50}" for i in range(8)]
    table.write_text("path,split\n" + "".join(f"{i}.npy,{remark}\n" for i, remark in enumerate(remarks)))
    for split in (None, "train"):
        with pytest.raises(DataError, match=r"0x{39}\.\.\., 1x.*, 4x{39}\.\.\. and 3 more") as caught:
            build(table, tmp_path / "cache", split=split)
        assert "5x" not in str(caught.value)
    table.write_text(f"path,{remarks[0]},{remarks[0]}\n")
    with pytest.raises(DataError, match=r"has two columns 0x{39}\.\.\.: rename one"):
        build(table, tmp_path / "cache")


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
        ("a.npy,1\n", "has no column path"),
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


def test_a_stack_shorter_than_the_view_is_padded_on_the_way_to_training(tmp_path: Path) -> None:
    """Defect 8 of BYOLMed3D: with fewer slices than the view it wrapped around, and so did all later stacks.

    Slice i holds 10 (i + 1). A view of 8 slices of 5 is 1 empty slice, the 5 in order and 2 empty ones (or 2 and 1);
    a stack of 9 gives 8 of its own in order, whether it comes before or after the short one.
    """
    for name, count in (("a", 9), ("b", 5), ("c", 9)):
        np.save(tmp_path / f"{name}.npy", np.repeat(np.arange(1, count + 1, dtype=np.uint8) * 10, 16).reshape(-1, 4, 4))
    window = Window(centre=127.5, width=255.0)
    source = StackConfig(root=str(tmp_path), cache=str(tmp_path / "cache"), intensity=window).build((8, 4, 4))
    views = ViewsConfig(size=(8, 4, 4)).build()
    seen: dict[int, set[tuple[int, ...]]] = {}
    for samples in Loader(source, batch=3, seed=0, start=0, stop=4):
        for view in views(samples.images, samples.seeds).values():
            for index, volume in zip(samples.index.tolist(), view[:, 0, :, 0, 0] * 25.5, strict=True):
                seen.setdefault(index, set()).add(tuple(volume.round().int().tolist()))
    assert seen[1] in ({(0, 1, 2, 3, 4, 5, 0, 0)}, {(0, 0, 1, 2, 3, 4, 5, 0)})
    assert seen[0] == seen[2]
    assert seen[0] in ({tuple(range(1, 9))}, {tuple(range(2, 10))})


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
