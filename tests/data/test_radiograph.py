"""DICOM as flat images: radiographs by hand, colour, and what is a slice of a volume or a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import Dataset

from tests.data.conftest import MakeSlice, SaveAll
from volssl.data.cache import CachedSource
from volssl.data.dicom_pixels import read_image
from volssl.data.door import find, load
from volssl.data.image_config import ImageConfig
from volssl.data.items import Keep
from volssl.errors import DataError

REGION = (3, 4)


def build(root: Path, region: tuple[int, ...] = REGION, **fields: Any) -> CachedSource:
    cache = next(p for p in root.parents if p.name.startswith("test_")) / "cache"
    settings = {"intensity": Keep(), "cache": str(cache), **fields}
    return ImageConfig(root=str(root), **settings).build(region)


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


def test_real_dicom(shared_data: Path, tmp_path: Path) -> None:
    """A slice of chest CT is the same in HU as an image and in its volume; a cine is a clip, a lone slice an image."""
    folder = shared_data / "dicom"
    if not folder.is_dir():
        pytest.skip("dicom is not here")
    volume = find(folder / "chest_ct_j2k")[0][0]
    whole = load(volume)[0].numpy()
    for n in (0, 7, 19):
        assert np.array_equal(read_image(volume.files[volume.frames[n][0]]), whole[n])
    lone = folder / "vendor_cases" / "ge" / "anatomical" / "001_single_slice"
    config = ImageConfig(root=str(lone), cache=str(tmp_path))
    assert config.build((64, 64)).ids == ("IM-0001-0112-0001.dcm",)
    with pytest.raises(DataError, match=r"kind: 30 frames, not one image: use data\.name: video"):
        config.model_copy(update={"root": str(folder / "us_cine")}).build((64, 64))


@pytest.mark.parametrize(("greatest", "expected"), [(200, [0, 200]), (51400, [0, 200])])
def test_a_palette_of_bytes_in_16_bits_is_one_of_bytes(
    greatest: int, expected: list[int], tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll
) -> None:
    """Entries up to 200 are 8 bits whatever the descriptor says; 51400 of 65535 is 200 of 255."""
    entries = np.array([0, greatest], "<u2").tobytes()
    palette: dict[str, Any] = {f"{name}PaletteColorLookupTableData": entries for name in ("Red", "Green", "Blue")}
    palette |= {f"{name}PaletteColorLookupTableDescriptor": [2, 0, 16] for name in ("Red", "Green", "Blue")}
    ds = radiograph(make_slice, np.array([[0, 1]], np.uint16), PhotometricInterpretation="PALETTE COLOR", **palette)
    (path,) = save_all(tmp_path / "x", [ds])
    assert read_image(path)[0, :, 0].tolist() == pytest.approx(expected)
