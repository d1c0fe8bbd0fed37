"""Flat images: numbers by hand through every format, tables, archives, and data of another shape refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from pydicom import Dataset

from tests.data.conftest import MakeSlice, SaveAll
from volssl.data.cache import CachedSource
from volssl.data.count import count
from volssl.data.image_config import BYTES, ImageConfig
from volssl.data.items import Keep, Percentile, Window
from volssl.data.picture import in_colour, read_picture
from volssl.errors import DataError

REGION = (3, 4)


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


def radiograph(make_slice: MakeSlice, pixels: np.ndarray[Any, Any], **attributes: Any) -> Dataset:
    """A CR image as scanners send them: no position, no orientation, an imager's pixel spacing."""
    ds = make_slice(0.0, pixels=pixels, Modality="CR", ImagerPixelSpacing=[0.2, 0.2], **attributes)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    return ds


def test_monochrome1_is_inverted_within_its_stored_range(
    tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll
) -> None:
    """12 bits stored: 0 becomes 4095, 4095 becomes 0, 1000 becomes 3095; then times 0.5 minus 1000."""
    stored = np.array([[0, 4095], [1000, 2000]], np.uint16)
    plain, inverse = ({"PhotometricInterpretation": f"MONOCHROME{n}", "BitsStored": 12, "HighBit": 11} for n in (2, 1))
    save_all(tmp_path / "x", [radiograph(make_slice, stored, **plain), radiograph(make_slice, stored, **inverse)])
    source = build(tmp_path / "x", (2, 2), cache_dtype="float32")
    values = [source[i].image.flatten().tolist() for i in range(2)]
    assert sorted(values) == [[-1000, 1047.5, -500, 0], [1047.5, -1000, 547.5, 47.5]]
    assert source[0].spacing == (1, 1)


def test_dicom_in_colour(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:
    """YBR_FULL of (76, 85, 255) and (255, 128, 128) are red and white (C.7.6.3.1.2 of the standard), as RGB says."""
    red = np.full((2, 2, 3), 255, np.uint8)
    red[0] = (254, 0, 0)
    encoded = np.full((2, 2, 3), (255, 128, 128), np.uint8)
    encoded[0] = (76, 85, 255)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    made = []
    for pixels, encoding in ((red, "RGB"), (encoded, "YBR_FULL")):
        ds = radiograph(make_slice, np.zeros((2, 2), np.uint8), PhotometricInterpretation=encoding, **eight)
        ds.PixelData = pixels.tobytes()
        made.append(ds)
    save_all(tmp_path / "x", made)
    source = build(tmp_path / "x", (2, 2), colour="rgb", max_bad=0.0)
    for i in range(2):
        assert torch.equal(source[i].image, torch.from_numpy(red).permute(2, 0, 1).float())
    with pytest.raises(DataError, match=r"set data\.colour to rgb, or to luma"):
        build(tmp_path / "x", (2, 2))


def test_a_series_of_slices_is_a_volume_and_a_lone_slice_an_image(
    tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll
) -> None:
    """A table that names the files makes images of the slices all the same."""
    paths = save_all(tmp_path / "ct", [make_slice(d) for d in (0.0, 3.0, 6.0)])
    with pytest.raises(DataError, match=r"3 slices of one series are a volume: use data\.name: volume") as caught:
        build(tmp_path / "ct")
    assert "\n" not in str(caught.value)
    save_all(tmp_path / "lone", [make_slice(0.0)])
    assert len(build(tmp_path / "lone")) == 1
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"ct/{p.name},1\n" for p in paths))
    assert len(build(tmp_path / "labels.csv")) == 3


def test_several_frames_are_a_clip(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:
    ds = radiograph(make_slice, np.zeros((2, 2), np.uint16), NumberOfFrames=3)
    ds.PixelData = bytes(3 * 2 * 2 * 2)
    save_all(tmp_path / "x", [ds])
    with pytest.raises(DataError, match=r"kind: 3 frames, not one image: use data\.name: video"):
        build(tmp_path / "x")


def test_a_split_is_of_an_archive() -> None:
    with pytest.raises(ValidationError, match=r"split is of an \.npz"):
        ImageConfig(root="tiles", split="val")


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


FORMS = {
    "1": ([0, 0, 255, 0], False),
    "L": ([0, 100, 200, 50], False),
    "LA": ([0, 100, 200, 50], False),
    "I;16": ([0, 300, 40000, 65535], False),
    "F": ([-1.5, 0.25, 3e5, 2], False),
    "P": ([10, 20, 30, 10, 20, 30, 40, 50, 60, 10, 20, 30], True),
    "RGB": ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], True),
    "RGBA": ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], True),
}


def picture(mode: str) -> Image.Image:
    """2 x 2 pixels of ``FORMS``; alpha hides half of them."""
    values, colour = FORMS[mode]
    if mode == "P":
        image = Image.fromarray(np.array([[0, 0], [1, 0]], np.uint8), mode="P")
        image.putpalette([10, 20, 30, 40, 50, 60])
        return image
    shape = (2, 2, 3) if colour else (2, 2)
    dtype = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    image = Image.fromarray(np.array(values, dtype).reshape(shape))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.array([[0, 255], [0, 128]], np.uint8)))
    return image.convert("1") if mode == "1" else image


@pytest.mark.parametrize("mode", FORMS)
def test_pictures_of_every_mode_keep_their_numbers(mode: str, tmp_path: Path) -> None:
    """Grey as stored (black and white is 0 and 255), palettes as their colours, alpha dropped."""
    values, colour = FORMS[mode]
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    picture(mode).save(path)
    pixels = read_picture(path)
    assert pixels.shape == ((2, 2, 3) if colour else (2, 2))
    assert pixels.flatten().tolist() == values
    grey = in_colour(pixels, "luma", "")
    assert grey.shape == (1, 2, 2)
    if colour:  # 0.299 R + 0.587 G + 0.114 B of the first pixel
        assert grey[0, 0, 0] == pytest.approx(0.299 * values[0] + 0.587 * values[1] + 0.114 * values[2])
        with pytest.raises(DataError, match=r"a colour picture: set data\.colour to rgb, or to luma"):
            in_colour(pixels, "grey", "")
    else:
        assert np.array_equal(in_colour(pixels, "rgb", ""), np.stack([pixels] * 3))


@given(st.integers(0, 2**31), st.sampled_from([np.uint8, np.uint16]), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_what_is_saved_is_what_is_read(seed: int, dtype: type[np.unsignedinteger[Any]], shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    with TemporaryDirectory() as folder:
        assert np.array_equal(read_picture(save(Path(folder, "a.png"), pixels)), pixels)


def test_grey_saved_in_colour_is_grey() -> None:
    """Equal channels lose nothing; one pixel that differs by one is colour."""
    pixels = np.repeat(numbers(0)[..., None], 3, axis=2)
    assert np.array_equal(in_colour(pixels, "grey", "")[0], pixels[..., 0])
    pixels[0, 0, 2] ^= 1
    with pytest.raises(DataError, match="colour"):
        in_colour(pixels, "grey", "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_camera_held_upright_is_turned(suffix: str, tmp_path: Path) -> None:
    """EXIF orientation 6: the first row is the right side, so [[a, b]] is shown as [[a], [b]]."""
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, axis=0).repeat(8, axis=1))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    pixels = read_picture(tmp_path / f"a.{suffix}")
    assert pixels.shape == (16, 8)
    assert (pixels[:8] < 10).all()
    assert (pixels[8:] > 245).all()


def test_what_is_no_single_picture_is_refused(tmp_path: Path) -> None:
    """Two pages; a text file called .png; a real one cut short; another format under a name that is read."""
    one = Image.fromarray(numbers(0))
    one.save(tmp_path / "pages.tif", save_all=True, append_images=[one])
    (tmp_path / "text.png").write_text("nothing of the kind")
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "whole.png", numbers(0, (64, 64))).read_bytes()[:200])
    one.save(tmp_path / "gif.png", format="GIF")
    for name, code in (("pages.tif", "dims"), ("text.png", "image"), ("cut.png", "image"), ("gif.png", "image")):
        with pytest.raises(DataError) as caught:
            read_picture(tmp_path / name)
        assert caught.value.code == code


def test_numbers_beyond_bytes_do_not_pass_for_bytes(tmp_path: Path) -> None:
    """A 16-bit picture in the window of colour would be white; percentiles asked for take it, thrice the same."""
    deep = np.array([[0, 1000], [4000, 65535]], np.uint16)
    save(tmp_path / "x" / "a.png", deep)
    with pytest.raises(DataError, match="range: numbers up to 65535"):
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
