"""Flat images: numbers by hand through every format, tables, archives, and data of another shape refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from volssl.data.archive import _images
from volssl.data.cache import CachedSource
from volssl.data.count import count
from volssl.data.image_config import BYTES, ImageConfig
from volssl.data.items import Keep, Percentile, Window
from volssl.data.picture import flat
from volssl.errors import DataError

REGION = (3, 4)
FIELDS = np.zeros(2, [("Jane Doe", "<i2")])


def numbers(seed: int, shape: tuple[int, ...] = REGION) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def build(root: Path, region: tuple[int, ...] = REGION, **fields: Any) -> CachedSource:
    cache = next(p for p in root.parents if p.name.startswith("test_")) / "cache"
    settings = {"intensity": Keep(), "cache": str(cache), **fields}
    return ImageConfig(root=str(root), **settings).build(region)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Three grey pictures in two folders."""
    for i, name in enumerate(["a/0.png", "a/1.bmp", "b/2.tif"]):
        save(tmp_path / "tiles" / name, numbers(i))
    return tmp_path / "tiles"


def test_every_picture_is_an_item(tiles: Path) -> None:
    source = build(tiles)
    assert source.ids == ("a/0.png", "a/1.bmp", "b/2.tif")
    assert (source.channels, source.region, set(source.labels)) == (1, REGION, {-1})
    for i in range(3):
        assert torch.equal(source[i].image, torch.from_numpy(numbers(i)).float()[None])
        assert source[i].spacing == (1, 1)


def test_a_table_gives_labels(tiles: Path) -> None:
    """healthy is 0, torn is 1, an empty label unknown; a row may name a folder."""
    table = tiles / "labels.csv"
    table.write_text("path,label,patient\nb/2.tif,torn,1\na/0.png,healthy,2\na/1.bmp,,3\n")
    assert build(table).labels == (0, -1, 1)
    table.write_text("path,label\na,x\n")
    assert build(table).ids == ("a/0.png", "a/1.bmp")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """MedMNIST's layout: 3, 2 and 2 pictures of 3 x 4, labels of one column; two of them are the same."""
    path = tmp_path / "mnist.npz"
    arrays: dict[str, Any] = {
        f"{split}_{what}": values
        for s, (split, n) in enumerate((("train", 3), ("val", 2), ("test", 2)))
        for what, values in (("images", numbers(s, (n, *REGION))), ("labels", np.arange(n, dtype=np.uint8)[:, None]))
    }
    arrays["test_images"][1] = arrays["train_images"][0]
    np.savez_compressed(path, **arrays)
    return path


def test_rows_of_an_archive_are_items(archive: Path) -> None:
    """Fingerprints are of the row: the same picture in train and test has the same one."""
    source = build(archive)
    assert source.ids == ("train/000000", "train/000001", "train/000002")
    assert source.labels == (0, 1, 2)
    assert torch.equal(source[2].image[0], torch.from_numpy(numbers(0, (3, *REGION))[2]).float())
    every = build(archive, split="all")
    assert len(every) == 7
    prints = dict(zip(every.ids, every.fingerprints, strict=True))
    assert prints["train/000000"] == prints["test/000001"]
    assert len(set(every.fingerprints)) == 6
    assert len(pickle.dumps(every)) < 20_000


def test_beyond_the_cache_a_row_is_made_anew(archive: Path) -> None:
    """With no room at all the items are the same bits; once the file has changed they are refused."""
    cached, bare = build(archive), build(archive, cache=str(archive.parent / "other"), cache_gb=0.0)
    assert all(torch.equal(cached[i].image, bare[i].image) for i in range(3))
    archive.write_bytes(archive.read_bytes() + b" ")
    with pytest.raises(DataError, match="changed"):
        bare[0]


@pytest.mark.parametrize(
    ("arrays", "fields", "says"),
    [
        ({"images": numbers(0, (2, 3, 4))}, {}, "npz: has no train_images but images"),
        ({"train_images": numbers(0, (2, 3, 4, 5)), "train_labels": np.zeros(2, int)}, {}, "use data.name: stack"),
        ({"train_images": numbers(0, (2, 3, 4)), "train_labels": np.zeros((2, 14), int)}, {}, "14 columns: say which"),
        (
            {"train_images": numbers(0, (2, 3, 4)), "train_labels": np.zeros((2, 1), int)},
            {"label_column": 1},
            "of 0 to 0",
        ),
        ({"train_images": numbers(0, (2, 3, 4)), "train_labels": np.zeros(3, int)}, {}, "labels are 3 of type"),
        (
            {"train_images": FIELDS, "train_labels": np.zeros(2, int)},
            {},
            r"train_images is a structure of fields \(2,\)",
        ),
        ({"train_images": numbers(0, (2, 3, 4)), "train_labels": FIELDS}, {}, "train_labels is a structure of fields"),
        ({"train_images": np.array([{}]), "train_labels": np.zeros(1, int)}, {}, "npz: ValueError"),
    ],
)
def test_an_archive_of_something_else_is_one_line(
    tmp_path: Path, arrays: dict[str, Any], fields: dict[str, Any], says: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=says) as caught:
        build(tmp_path / "x.npz", **fields)
    assert "\n" not in str(caught.value)
    assert "Jane" not in str(caught.value)


def test_one_of_several_label_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=numbers(0, (2, 3, 4)), train_labels=np.array([[0, 5], [1, 6]]))
    assert build(tmp_path / "x.npz", label_column=1).labels == (5, 6)


def test_colour_is_three_channels_of_one_window(tmp_path: Path) -> None:
    """Percentiles of each channel would shift the stain; percentiles asked for are kept, also through JSON."""
    config = ImageConfig(root="tiles", colour="rgb")
    assert (config.channels, config.intensity) == (3, BYTES)
    assert ImageConfig.model_validate_json(config.model_dump_json()) == config
    assert ImageConfig(root="tiles", colour="rgb", intensity=Percentile()).intensity == Percentile()
    assert ImageConfig(root="tiles").intensity == Percentile()
    colour = numbers(0, (*REGION, 3))
    save(tmp_path / "tiles" / "a.png", colour)
    image = build(tmp_path / "tiles", colour="rgb", intensity=BYTES)[0].image
    assert torch.equal(image, (torch.from_numpy(colour).permute(2, 0, 1).float() / 255).half().float())


def test_a_split_is_of_an_archive() -> None:
    with pytest.raises(ValidationError, match=r"split is of an \.npz"):
        ImageConfig(root="tiles", split="val")
    with pytest.raises(ValidationError, match=r"split of an \.npz is train, val, test or all, not valid"):
        ImageConfig(root="x.npz", split="valid")


def test_rows_of_a_table_are_those_of_a_split(tiles: Path) -> None:
    """Classes are numbered over all splits; nothing is read until one is named, and the count says the same."""
    table = tiles / "labels.csv"
    table.write_text("path,label,split\na/0.png,torn,train\na/1.bmp,healthy,test\nb/2.tif,torn,train\n")
    for split, says in ((None, r"column split \(test, train\): say which"), ("val", "no row of data.split val")):
        with pytest.raises(DataError, match=says):
            count(ImageConfig(root=str(table), split=split))
        with pytest.raises(DataError, match=says):
            build(table, split=split)
    train = build(table, split="train")
    assert (train.ids, train.labels) == (("a/0.png", "b/2.tif"), (1, 1))
    assert count(ImageConfig(root=str(table), split="train")) == 2
    assert len(build(table, split="all")) == 3
    table.write_text("path,label\na/0.png,torn\n")
    with pytest.raises(DataError, match=r"no column split: leave out data\.split"):
        build(table, split="train")


def test_one_file_in_two_rows_is_refused(tiles: Path) -> None:
    """By its folder and by its own name, with two labels; under two names of one folder as well."""
    table = tiles / "labels.csv"
    table.write_text("path,label\na,0\na/1.bmp,1\n")
    with pytest.raises(DataError, match=r"rows a and a/1\.bmp both name 1\.bmp"):
        build(table)
    table.write_text("path,label\na/1.bmp,0\nb/../a/1.bmp,0\n")
    with pytest.raises(DataError, match="both name"):
        build(table)


def test_pictures_among_more_volumes_are_no_data_set(tiles: Path) -> None:
    """Three pictures beside three arrays are read; a fourth array makes it a folder of volumes."""
    for i in range(4):
        if i == 3:
            assert len(build(tiles)) == 3
        np.save(tiles / f"{i}.npy", np.zeros((2, 3, 4)))
    with pytest.raises(DataError, match="kind: holds arrays"):
        build(tiles)


def test_an_archive_is_not_kept_in_memory(archive: Path) -> None:
    build(archive)
    assert _images.cache_info().currsize == 0


def test_what_names_can_tell_of_a_table(tiles: Path, tmp_path: Path) -> None:
    """A table in Latin-1 and a path of 300 characters are one line; a row that names a folder cannot be counted."""
    table = tiles / "labels.csv"
    table.write_text("path,label\na,0\nb/2.tif,1\n")
    assert count(ImageConfig(root=str(table))) is None
    table.write_bytes("path,label\nb/2.tif,Mängel\n".encode("latin-1"))
    with pytest.raises(DataError, match="labels: is no table in UTF-8"):
        count(ImageConfig(root=str(table)))
    table.write_text(f"path,label\n{'x' * 300}.png,0\nb/2.tif,1\n")
    assert [error.code for error in build(table, max_bad=0.5).bad] == ["unreadable"]
    assert count(ImageConfig(root=str(table))) is None
    for root in (tmp_path / ("x" * 300), tmp_path / ("x" * 300 + ".csv")):
        with pytest.raises(DataError, match="unreadable"):
            count(ImageConfig(root=str(root)))
        with pytest.raises(DataError, match="unreadable"):
            build(root)


@pytest.mark.parametrize(
    ("pixels", "passes"), [([[0, 0.5]], False), ([[-3.0, 9]], False), ([[0.0, 1]], True), ([[0.5, 2]], True)]
)
def test_fractions_do_not_pass_for_bytes(pixels: list[list[float]], passes: bool) -> None:
    """0..1 in the window 0..255 would be almost black, and below zero is cut; whole numbers up to 1 are bytes."""
    array, config = np.array(pixels, np.float32), ImageConfig(root="", colour="rgb")
    if passes:
        assert flat(array, config, "").shape == (3, 1, 2)
        return
    with pytest.raises(DataError, match="expects bytes"):
        flat(array, config, "")


def test_real_sets(shared_data: Path, tmp_path: Path) -> None:
    """94 tiles of three classes in colour; 524 radiographs; 250 heads, of which 8 are blank."""
    folder = shared_data / "images"
    if not folder.is_dir():
        pytest.skip("images is not here")

    def make(root: Path, region: tuple[int, int], **fields: Any) -> CachedSource:
        return ImageConfig(root=str(root), cache=str(tmp_path / "cache"), **fields).build(region)

    head, *table = (folder / "lc25000_lung" / "labels.csv").read_text().splitlines()
    rows = [f"{folder / 'lc25000_lung'}/{row}" for row in table[::8]]
    (tmp_path / "labels.csv").write_text("\n".join([head, *rows]))
    slides = make(tmp_path / "labels.csv", (32, 32), colour="rgb")
    assert (len(slides), set(slides.labels), slides[0].image.shape) == (94, {0, 1, 2}, (3, 32, 32))
    chests = make(folder / "pneumoniamnist" / "pneumoniamnist.npz", (28, 28), split="val")
    assert (len(chests), chests.labels.count(0), chests.labels.count(1)) == (524, 135, 389)
    heads = make(folder / "mednist" / "HeadCT", (64, 64), max_bad=0.1)
    assert (len(heads), len(heads.bad)) == (242, 8)
    assert {error.code for error in heads.bad} == {"constant"}


def test_numbers_beyond_bytes_do_not_pass_for_bytes(tmp_path: Path) -> None:
    """A 16-bit picture in the window of colour would be white; percentiles asked for take it, thrice the same."""
    deep = np.array([[0, 1000], [4000, 65535]], np.uint16)
    save(tmp_path / "x" / "a.png", deep)
    with pytest.raises(DataError, match="range: numbers of 0 to 65535"):
        build(tmp_path / "x", (2, 2), colour="rgb", intensity=BYTES)
    image = build(tmp_path / "x", (2, 2), colour="rgb", intensity=Percentile(lower=0, upper=100))[0].image
    assert torch.equal(image[0], (torch.from_numpy(deep.astype(np.float32)) / 65535).half().float())
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_one_flat_colour_is_an_image_and_none_that_varies_is_not(tmp_path: Path) -> None:
    """Red is 200 everywhere, as on a stained tile; a blank tile shows nothing."""
    tile = numbers(0, (*REGION, 3))
    tile[..., 0] = 200
    save(tmp_path / "x" / "a.png", tile)
    save(tmp_path / "x" / "b.png", np.full((*REGION, 3), 200, np.uint8))
    for intensity in (BYTES, Percentile()):
        source = build(tmp_path / "x", colour="rgb", intensity=intensity, max_bad=0.5)
        assert source.ids == ("a.png",)
        assert source.bad[0].code == "constant"


def test_a_picture_is_resized_unless_it_is_to_be_cropped(tmp_path: Path) -> None:
    """Left half 0, right half 255, 4 x 8: all of it in 2 x 4, or its middle, of which the border is the middle."""
    save(tmp_path / "x" / "a.png", np.repeat(np.array([[0, 255]], np.uint8), 4, axis=0).repeat(4, axis=1))
    resized, cropped = (build(tmp_path / "x", (2, 4), fit=fit)[0].image[0] for fit in ("resize", "crop"))
    assert cropped.tolist() == [[0, 0, 255, 255]] * 2
    assert resized[:, 0].max() < 40
    assert resized[:, -1].min() > 215
    assert ImageConfig(root="x").fit == "resize"


def test_a_grey_window_is_of_the_stored_numbers(tmp_path: Path) -> None:
    """16 bits: 0..4000 around 2000, so 1000 becomes 1/4."""
    save(tmp_path / "x" / "a.png", np.array([[0, 1000], [4000, 65535]], np.uint16))
    image = build(tmp_path / "x", (2, 2), intensity=Window(centre=2000, width=4000))[0].image
    assert image.flatten().tolist() == [0, 0.25, 1, 1]


def test_the_number_of_items_is_known_beforehand(tiles: Path, archive: Path) -> None:
    """By names, by the header of the array, and not where there may be DICOM."""

    def items(root: Path, **fields: Any) -> int | None:
        return count(ImageConfig(root=str(root), **fields))

    assert (items(tiles), items(archive), items(archive, split="all")) == (3, 3, 7)
    (tiles / "IM0001").write_bytes(b"")
    assert items(tiles) is None
    np.savez(archive, other=np.zeros(2))
    assert items(archive) == 0
