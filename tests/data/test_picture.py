"""The numbers of one picture: every mode, alpha, palettes, orientation, and what is no single picture."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from volssl.data.picture import as_picture, in_colour, read_picture
from volssl.errors import DataError

REGION = (3, 4)


def numbers(seed: int, shape: tuple[int, ...] = REGION) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


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
        assert np.array_equal(read_picture(saved(Path(folder, "a.png"), pixels)), pixels)


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
    (tmp_path / "cut.png").write_bytes(saved(tmp_path / "whole.png", numbers(0, (64, 64))).read_bytes()[:200])
    one.save(tmp_path / "gif.png", format="GIF")
    for name, code in (("pages.tif", "dims"), ("text.png", "image"), ("cut.png", "image"), ("gif.png", "image")):
        with pytest.raises(DataError) as caught:
            read_picture(tmp_path / name)
        assert caught.value.code == code


def test_an_array_may_have_its_channels_at_either_end() -> None:
    """Three or one at exactly one end; 3 x 5 x 3 could be either, 4 channels are no colours, and 4 axes no picture."""
    colour = numbers(0, (5, 7, 3))
    assert np.array_equal(as_picture(colour), colour)
    assert np.array_equal(as_picture(np.moveaxis(colour, -1, 0)), colour)
    for grey in (colour[..., 0], colour[..., :1], np.moveaxis(colour[..., :1], -1, 0)):
        assert np.array_equal(as_picture(grey), colour[..., 0])
    for shape in ((3, 5, 3), (5, 7, 4), (1, 1, 5, 7), (5,)):
        with pytest.raises(DataError, match="rows x columns are wanted"):
            as_picture(np.zeros(shape))
