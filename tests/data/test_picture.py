"""The numbers of one picture: every mode, alpha, palettes, orientation, and what is no single picture."""

from __future__ import annotations

import struct
import zlib
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


@pytest.mark.parametrize(("photometric", "expected"), [(0, [65535, 65235, 0, 64535]), (1, [0, 300, 65535, 1000])])
def test_more_is_brighter_where_zero_is_white(photometric: int, expected: list[int], tmp_path: Path) -> None:
    """A TIFF of 16 bits, byte by byte (TIFF 6.0): v is 65535 - v where PhotometricInterpretation is 0."""
    path = tiff(tmp_path / "a.tif", photometric, np.array([0, 300, 65535, 1000], "<u2"), sample=1)
    assert read_picture(path).flatten().tolist() == expected


def test_what_would_lose_its_numbers_is_refused(tmp_path: Path) -> None:
    """Floating point in which zero is white; grey of 16 bits with alpha, of which 8 would be left."""
    assert read_picture(tiff(tmp_path / "a.tif", 1, np.array([0.5, 1, 2, 3], "<f4"), sample=3)).max() == 3
    with pytest.raises(DataError, match="zero is white"):
        read_picture(tiff(tmp_path / "b.tif", 0, np.array([0.5, 1, 2, 3], "<f4"), sample=3))
    (tmp_path / "c.png").write_bytes(png_grey_alpha(16, b"\x01\x02\xff\xff"))
    with pytest.raises(DataError, match="16-bit grey with alpha"):
        read_picture(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(png_grey_alpha(8, b"\x07\xff"))
    assert read_picture(tmp_path / "d.png").tolist() == [[7]]


def tiff(path: Path, photometric: int, numbers: np.ndarray[Any, Any], sample: int) -> Path:
    """2 x 2 pixels in one strip. sample: 1 for whole numbers, 3 for floating point."""
    tags = [(256, 2), (257, 2), (258, 8 * numbers.itemsize), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, 2), (279, numbers.nbytes), (339, sample)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + numbers.nbytes)
    path.write_bytes(head + numbers.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def png_grey_alpha(bits: int, pixel: bytes) -> bytes:
    """One pixel of colour type 4 (PNG, section 11.2)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, bits, 4, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + pixel)) + chunk(b"IEND", b"")
