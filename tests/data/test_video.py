"""Clips of videos: which frames they hold, in what colour, and what is refused, on files written without loss."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

from volssl import config, run
from volssl.data import extra, video_decoder, video_file
from volssl.data.cache_file import fetch
from volssl.data.child import disposable
from volssl.data.count import count
from volssl.data.items import Keep, PreparedSource, Readers
from volssl.data.slices import middles
from volssl.data.video import starts
from volssl.data.video_config import VideoConfig
from volssl.errors import ConfigError, DataError
from volssl.evaluation.encoder import load_encoder

ROWS, COLUMNS = 16, 24
Pixels = np.ndarray[Any, Any]


def grey(frames: int, seed: int = 0) -> Pixels:
    """(frames, rows, columns) of noise whose first pixel is the number of the frame."""
    clip = np.random.default_rng(seed).integers(0, 256, (frames, ROWS, COLUMNS), dtype=np.uint8)
    clip[:, 0, 0] = np.arange(frames)
    return clip


def coloured(frames: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (frames, ROWS, COLUMNS, 3), dtype=np.uint8)


def write(path: Path, clip: Pixels, codec: str = "ffv1", pixels: str | None = None, **options: str) -> Path:
    """FFV1 is lossless: grey as it is, colour as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "gray" if clip.ndim == 3 else "rgb24"
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pixels or {"gray": "gray", "rgb24": "bgr0"}[source]
        for image in clip:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=source)))
        file.mux(stream.encode())
    return path


def dicom(path: Path, clip: Pixels, photometric: str = "MONOCHROME2", **attributes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = UltrasoundMultiFrameImageStorage, generate_uid(), "US"
    ds.NumberOfFrames, ds.Rows, ds.Columns = clip.shape[:3]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3 if clip.ndim == 4 else 1), photometric
    if clip.ndim == 4:
        ds.PlanarConfiguration = 0
    bits = 8 * clip.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    ds.FrameTime = 33.3
    ds.PixelData = clip.tobytes()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def build(root: Path, frames: int = 4, workers: int = 0, **fields: Any) -> PreparedSource:
    fields = {"intensity": Keep(), "cache_dtype": "float32", "cache": str(root.parent / "cache"), **fields}
    return VideoConfig(root=str(root), **fields).build((frames, ROWS, COLUMNS), readers=Readers(workers))


def pick(root: Path, frames: int, **fields: Any) -> PreparedSource:
    fields = {"intensity": Keep(), "cache_dtype": "float32", "cache": str(root.parent / "cache"), **fields}
    return VideoConfig(root=str(root), frames=frames, **fields).build((ROWS, COLUMNS))


def tensor(clip: Pixels, frames: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(clip[list(frames)]).float()[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "videos"


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.dcm", "a"])
def test_a_clip_is_every_so_many_frames_of_the_middle(folder: Path, name: str) -> None:
    """20 frames, clips of 4 that are 3 apart span 10: 11 first frames are possible, 5 is the middle one."""
    clip = grey(20)
    (write if "." in name and not name.endswith(".dcm") else dicom)(folder / name, clip)
    source = build(folder, stride=3)
    assert (source.ids, source.channels, source.region) == ((f"{name}@0005",), 1, (4, ROWS, COLUMNS))
    assert torch.equal(source[0].image, tensor(clip, (5, 8, 11, 14)))


def test_several_clips_and_all_of_them(folder: Path) -> None:
    """10 frames, clips of 4: of 7 first frames two clips take the middles of two halves, 7/4 and 21/4.

    All are 0..3 and 4..7; 8 and 9 are left.
    """
    clip = grey(10)
    write(folder / "a.avi", clip)
    two, every = build(folder, clips=2), build(folder, clips="all")
    assert two.ids == ("a.avi@0001", "a.avi@0005")
    assert every.ids == ("a.avi@0000", "a.avi@0004")
    assert torch.equal(two[1].image, tensor(clip, range(5, 9)))
    assert torch.equal(every[1].image, tensor(clip, range(4, 8)))
    assert len({*two.fingerprints, *every.fingerprints}) == 1
    assert len(build(folder, frames=10, clips=5)) == 1  # there is one clip of ten frames, not five equal ones


def test_starts_by_hand() -> None:
    """100 frames, clips of 8 each 2 apart: 15 are spanned, 86 possible. Four equal parts have middles 10.75, ..."""
    assert starts(100, 8, 2, 1) == [43]
    assert starts(100, 8, 2, 4) == [10, 32, 53, 75]
    assert starts(100, 8, 2, "all") == [0, 16, 32, 48, 64, 80]
    assert starts(15, 8, 2, 4) == starts(14, 8, 2, 4) == starts(1, 8, 2, "all") == [0]


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 9), st.integers(1, 30))
def test_clips_lie_within_the_video_and_differ(total: int, frames: int, stride: int, clips: int) -> None:
    span = (frames - 1) * stride + 1
    some, every = starts(total, frames, stride, clips), starts(total, frames, stride, "all")
    assert len(some) == min(clips, max(total - span + 1, 1)) == len(set(some))
    for first in (*some, *every):
        assert first == 0 or first + span <= total
    assert all(b - a >= span for a, b in pairwise(every))


def test_a_short_video_is_padded_with_black_as_short_stacks_are(folder: Path) -> None:
    """Frames 0 and 3 of 5, 3 apart, in the middle of 4; every frame, resized on its axis, makes no gap."""
    clip = grey(5)
    write(folder / "a.avi", clip)
    image = build(folder, stride=3)[0].image
    assert torch.equal(image[:, 1:3], tensor(clip, (0, 3)))
    assert not image[:, [0, 3]].any()
    stretched = build(folder, stride=3, fit="resize")[0].image
    assert torch.equal(stretched[:, [0, 3]], tensor(clip, (0, 3)))


def test_colour_is_kept_made_grey_or_refused(folder: Path) -> None:
    """Red has the luma 0.299 * 255 = 76.245."""
    clip = coloured(4)
    clip[:, 0, 0] = (255, 0, 0)
    for path in (write(folder / "v" / "a.avi", clip), dicom(folder / "d" / "a.dcm", clip, "RGB")):
        rgb = build(path.parent, colour="rgb", intensity=Keep())[0].image
        assert torch.equal(rgb, torch.from_numpy(clip).float().permute(3, 0, 1, 2))
        assert build(path.parent)[0].image[0, :, 0, 0] == pytest.approx(76.245)
        with pytest.raises(DataError, match=r"a colour picture: set data.colour to rgb"):
            build(path.parent, colour="grey")


def test_grey_may_be_asked_for_by_any_name(folder: Path) -> None:
    clip = grey(4)
    write(folder / "a.avi", clip)
    assert torch.equal(build(folder, colour="grey")[0].image, tensor(clip, range(4)))
    assert torch.equal(build(folder, colour="rgb")[0].image, tensor(clip, range(4)).expand(3, -1, -1, -1))
    assert VideoConfig(root="", colour="rgb").intensity.name == "window"
    assert VideoConfig(root="").intensity.name == "percentile"


def test_dicom_means_more_by_brighter_and_is_scaled(folder: Path) -> None:
    """MONOCHROME1 of 16 bits: 65535 - v, then times 2 minus 5."""
    clip = grey(6).astype(np.uint16) * 100
    dicom(folder / "a.dcm", clip, "MONOCHROME1", RescaleSlope=2, RescaleIntercept=-5)
    expected = (65535 - clip[1:5].astype(np.float32)) * 2 - 5
    assert torch.equal(build(folder)[0].image[0], torch.from_numpy(expected))


def test_stills_and_other_files_are_left_out_without_a_word(folder: Path) -> None:
    dicom(folder / "still.dcm", grey(1))
    (folder / "notes.txt").write_text("none of our business")
    (folder / "picture.png").write_bytes(b"nor this")
    write(folder / "deep" / "b.mkv", grey(4))
    source = build(folder)
    assert (source.ids, source.bad) == (("deep/b.mkv@0000",), ())


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "mpeg4", "yuv420p"),
        ("a.m4v", "mpeg4", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.mpg", "mpeg1video", "yuv420p"),
        ("a.mpeg", "mpeg2video", "yuv420p"),
        ("a.wmv", "wmv2", "yuv420p"),
        ("a.gif", "gif", "gray"),
        ("A.AVI", "ffv1", "gray"),
    ],
)
def test_common_files_are_read(folder: Path, name: str, codec: str, pixels: str) -> None:
    """Each frame is brighter than the one before; all 12 are there, whatever the header says."""
    clip = np.repeat(np.arange(12, dtype=np.uint8) * 20, 64 * 64).reshape(12, 64, 64)
    write(folder / name, clip, codec, pixels)
    image = build(folder, frames=12)[0].image
    assert image.mean(dim=(0, 2, 3)) == pytest.approx(np.arange(12) * 20.0, abs=4)


def test_a_phone_held_upright_is_turned(folder: Path) -> None:
    """The matrix (0 1; -1 0) of an mp4's track says: a quarter turn clockwise, so the left edge comes to the top."""
    clip = np.zeros((4, 32, 48), np.uint8)
    clip[:, :, :8] = 255
    path = write(folder / "a.mp4", clip, "mpeg4", "yuv420p")
    one = (1 << 16).to_bytes(4)
    upright = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4)
    turned = bytes(4) + one + bytes(4) + (-1 << 16).to_bytes(4, signed=True) + bytes(16) + (1 << 30).to_bytes(4)
    data = path.read_bytes()
    track = data.index(b"tkhd")
    path.write_bytes(data[:track] + data[track:].replace(upright, turned, 1))
    image = (
        VideoConfig(root=str(folder), cache=str(folder / "cache"), intensity=Keep(), fit="crop", colour="luma")
        .build((4, 48, 32))[0]
        .image
    )
    assert image[:, :, :8].min() > 200
    assert image[:, :, 12:].max() < 50


def test_damage_is_refused_wherever_it_is(folder: Path) -> None:
    """The decoder itself conceals all of it, and gives pictures."""
    clip = np.repeat(grey(40).repeat(4, axis=1), 4, axis=2)
    whole = write(folder / "whole.mp4", clip, "mpeg4", "yuv420p", movflags="faststart").read_bytes()
    write(folder / "whole.avi", clip)
    holed = bytearray(whole)
    for at in range(len(whole) // 3, 2 * len(whole) // 3, 97):
        holed[at] ^= 0x55
    avi = (folder / "whole.avi").read_bytes()
    damaged = {
        "cut.mp4": whole[: len(whole) * 2 // 3], "holed.mp4": bytes(holed), "cut.avi": avi[: len(avi) // 2],
        "empty.mp4": b"", "text.avi": b"no video at all", "list.mp4": b"ffconcat version 1.0\nfile whole.avi\n",
    }  # fmt: skip
    for name, data in damaged.items():
        (folder / name).write_bytes(data)
    source = build(folder, max_bad=0.8)
    assert source.ids == ("whole.avi@0018", "whole.mp4@0018")
    assert {Path(error.where).name: error.code for error in source.bad} == dict.fromkeys(damaged, "video")
    assert all("\n" not in str(error) for error in source.bad)
    with pytest.raises(DataError, match=r"6 of 8 items cannot be read"):
        build(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of small videos, by suffix."""
    folder = tmp_path_factory.mktemp("whole")
    lossy = {"codec": "mpeg4", "pixels": "yuv420p"}
    return {
        s: write(folder / f"a{s}", grey(4), **(lossy if s == ".mp4" else {})).read_bytes() for s in (".mp4", ".mkv")
    }


@given(st.sampled_from([".mp4", ".mkv"]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255))), st.floats(0.2, 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_wild_bytes_are_a_video_or_refused(
    whole: dict[str, bytes], suffix: str, changes: list[tuple[float, int]], kept: float
) -> None:
    data = bytearray(whole[suffix])
    for at, byte in changes:
        data[int(at * (len(data) - 1))] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a" + suffix)
        path.write_bytes(data[: int(kept * len(data))])
        with contextlib.suppress(DataError):
            assert 1 <= video_file.count(path) <= 4


def test_damaged_dicom_is_refused(folder: Path) -> None:
    path = dicom(folder / "a.dcm", grey(6))
    path.write_bytes(path.read_bytes()[: -3 * ROWS * COLUMNS])
    (folder / "b.dcm").write_text("no DICOM")
    write(folder / "c.avi", grey(6))
    source = build(folder, max_bad=0.9)
    assert sorted(error.code for error in source.bad) == ["not_dicom", "truncated"]
    assert source.ids == ("c.avi@0001",)


def test_a_file_is_decoded_once_for_all_its_clips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, with the counting; from the start again where a clip lies before the last one."""
    clip = grey(40)
    write(folder / "a.avi", clip)
    opened, really = [], video_decoder._decoded

    def decoded(path: Path) -> Iterator[av.VideoFrame]:
        opened.append(path)
        return really(path)

    monkeypatch.setattr(video_decoder, "_decoded", decoded)
    with disposable():
        source = build(folder, clips="all", cache_gb=0.0)
        assert (len(source), len(opened)) == (10, 2)
        for i in (9, 3, 4, 4):
            assert torch.equal(source[i].image, tensor(clip, range(4 * i, 4 * i + 4)))
    assert len(opened) == 5
    write(folder / "a.avi", grey(40, seed=1))
    with pytest.raises(DataError, match="changed"):
        source[5]


def test_labels_and_the_cache(folder: Path) -> None:
    for i, name in enumerate(("a.avi", "b.mkv")):
        write(folder / "x" / name, grey(8, seed=i))
    dicom(folder / "x" / "c.dcm", grey(8, seed=2))
    table = folder / "labels.csv"
    table.write_text("path,label\nx/b.mkv,sick\nx/a.avi,well\nx/c.dcm,\n")
    source = build(table, clips="all", workers=1)
    assert source.ids == tuple(f"x/{name}@{first:04}" for name in ("a.avi", "b.mkv", "c.dcm") for first in (0, 4))
    assert source.labels == (1, 1, 0, 0, -1, -1)
    again = build(table, clips="all")
    assert all(torch.equal(source[i].image, again[i].image) for i in range(6))
    assert len({source[i].image.sum().item() for i in range(6)}) == 6  # no two clips share a place in the cache
    assert not torch.equal(build(table, clips="all", stride=2)[0].image, source[0].image)


def test_what_was_counted_is_kept_where_no_item_may_be(folder: Path) -> None:
    """With no room for items nothing is left but what was counted."""
    write(folder / "a.avi", grey(8))
    os.utime(folder / "a.avi", (0, 0))
    build(folder, cache_gb=0.0)
    assert [file.suffix for file in (folder.parent / "cache").iterdir() if file.suffix != ".txt"] == [".seen"]


def test_without_pyav_only_dicom_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda _: None)
    dicom(folder / "a.dcm", grey(6))
    assert len(build(folder)) == 1
    write(folder / "b.avi", grey(6))
    for ask in (lambda: build(folder), lambda: count(VideoConfig(root=str(folder)))):
        with pytest.raises(ConfigError, match=r"data.name: video needs .*pip install 'volssl\[video\]'") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_what_names_can_tell_of_the_number_of_items(folder: Path) -> None:
    write(folder / "a.avi", grey(4))
    write(folder / "b.mkv", grey(4))
    assert count(VideoConfig(root=str(folder))) == 2
    assert count(VideoConfig(root=str(folder), clips="all")) is None
    dicom(folder / "c.dcm", grey(4))
    assert count(VideoConfig(root=str(folder))) is None


def test_real_videos(shared_data: Path, tmp_path: Path) -> None:
    """12 clips of lungs in three containers, four without a number of frames in the header, and 30 frames in DICOM."""
    shared: dict[str, Any] = {"cache": str(tmp_path), "stride": 2}
    source = VideoConfig(root=str(shared_data / "video/pocus/labels.csv"), **shared).build((8, 48, 48))
    assert (source.labels, source.bad) == ((0,) * 6 + (1,) * 6, ())
    assert source.ids[-1] == "reg/Reg_pat2Image_134441.mpeg@0100"  # 215 frames, of which 201 can be the first
    for i in range(12):
        image = source[i].image
        moved = (image[:, 1:] - image[:, :-1]).abs()
        assert float(moved.max()) > 0.02
        assert float(moved.mean()) < 0.1  # neighbours in time are alike
    cine = VideoConfig(root=str(shared_data / "dicom/us_cine"), colour="rgb", clips="all", **shared)
    assert cine.build((8, 120, 160)).ids == ("examples_ybr_color.dcm@0000",)


@pytest.mark.parametrize("name", ["a.avi", "a.dcm"])
def test_frames_are_items_of_two_dimensions(folder: Path, name: str) -> None:
    """20 frames in 4 equal parts of 5: the middles are 2.5, 7.5, 12.5 and 17.5."""
    clip = coloured(20)
    write(folder / name, clip) if name == "a.avi" else dicom(folder / name, clip, "RGB")
    source = pick(folder, 4, colour="rgb")
    assert source.ids == tuple(f"{name}#{n:03}" for n in range(4))
    assert (source.channels, source.region, source.labels) == (3, (ROWS, COLUMNS), (-1,) * 4)
    for i, number in enumerate((2, 7, 12, 17)):
        assert torch.equal(source[i].image, torch.from_numpy(clip[number]).float().permute(2, 0, 1))
        assert (source[i].id, source[i].spacing) == (source.ids[i], (1.0, 1.0))


@given(st.integers(1, 400), st.integers(1, 40))
def test_middles_are_spread_evenly(total: int, parts: int) -> None:
    """Against fractions: 0 .. total - 1 is cut into equal parts, and m is the whole number below a part's middle."""
    found = middles(total, parts)
    assert all(m <= (k + 0.5) * total / parts < m + 1 for k, m in enumerate(found))
    assert len(set(found)) == min(total, parts)


@pytest.mark.parametrize("name", ["a.mkv", "a.dcm"])
def test_frames_of_one_colour_are_not_picked(folder: Path, name: str) -> None:
    """Of 10 frames 0..3, 6 and 9 are black, or white: 4, 5, 7, 8 are left. Halves of them: 5 and 8; all: all."""
    clip = grey(10)
    clip[[0, 1, 2, 3, 6]], clip[9] = 0, 255
    (write if name == "a.mkv" else dicom)(folder / name, clip)
    for frames, numbers in ((2, (5, 8)), (4, (4, 5, 7, 8))):
        source = pick(folder, frames)
        assert torch.equal(torch.stack([source[i].image for i in range(frames)], dim=1), tensor(clip, numbers))
    with pytest.raises(
        DataError, match=rf"{folder / name}: frames: 4 of 10 frames show anything, data\.frames asks for 5: lower"
    ):
        pick(folder, 5)
    write(folder / "b.mkv", grey(5))
    source = pick(folder, 5, max_bad=0.5)
    assert ([error.code for error in source.bad], len(source), source.ids[0]) == (["frames"], 5, "b.mkv#000")


def test_a_uniform_frame_in_colour_shows_nothing(folder: Path) -> None:
    clip = coloured(3)
    clip[1] = (0, 0, 255)
    write(folder / "a.avi", clip)
    assert torch.equal(pick(folder, 2, colour="rgb")[1].image, torch.from_numpy(clip[2]).float().permute(2, 0, 1))
    with pytest.raises(DataError, match="2 of 3 frames"):
        pick(folder, 3)


def test_frames_of_a_video_are_scaled_together_and_kept_in_one_file(folder: Path) -> None:
    """Frame n holds 0 and 50 n: of all, 0 is the least and 150 the greatest, so the frames end at 0, 1/3, 2/3, 1."""
    clip = np.zeros((4, ROWS, COLUMNS), np.uint8)
    clip[:, :, : COLUMNS // 2] = 50 * np.arange(4)[:, None, None]
    clip[0, 0, 0] = 1
    write(folder / "a.avi", clip)
    write(folder / "b.avi", clip[:, ::-1].copy())
    (folder / "labels.csv").write_text("path,label\na.avi,well\nb.avi,\n")
    whole: dict[str, Any] = {"name": "percentile", "lower": 0.0, "upper": 100.0}
    source = pick(folder / "labels.csv", 4, intensity=whole)
    assert [float(source[i].image.max()) for i in range(1, 4)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert (source.labels, len(set(source.fingerprints))) == ((0,) * 4 + (-1,) * 4, 2)
    shapes = [tuple(fetch(file)[0].shape) for file in (folder / "cache").glob("*.safetensors")]
    assert [shape for shape in shapes if len(shape) > 1] == [(1, 4, ROWS, COLUMNS)] * 2


def test_frames_exclude_clips_and_make_two_dimensions() -> None:
    config_ = VideoConfig(root="x", frames=8)
    assert (config_.dims, config_.fit, VideoConfig(root="x").dims) == (2, "resize", 3)
    assert VideoConfig.model_validate_json(config_.model_dump_json()) == config_
    assert VideoConfig(root="x", frames=8, fit=("crop", "resize"), region=(8, 8)).fit == ("crop", "resize")
    for wrong, says in (
        ({"stride": 2}, "stride is of clips"),
        ({"clips": "all"}, "clips is of clips"),
        ({"region": (8, 8, 8)}, r"region needs 2 numbers \(rows, columns\)"),
        ({"fit": ("crop", "crop", "crop")}, r"fit needs one word, or 2"),
    ):
        with pytest.raises(ValidationError, match=says):
            VideoConfig.model_validate({"root": "x", "frames": 8, **wrong})


def test_what_names_can_tell_of_the_number_of_frames(folder: Path) -> None:
    path = write(folder / "a.avi", grey(4))
    write(folder / "b.mkv", grey(4))
    (folder / "labels.csv").write_text("path,label\na.avi,1\n")
    for root, items in ((folder, 16), (path, 8), (folder / "labels.csv", 8)):
        assert count(VideoConfig(root=str(root), frames=8)) == items


def test_real_frames(shared_data: Path, tmp_path: Path) -> None:
    """Frames 3, 9, ... 27 of the 30 in DICOM are one clip of 5, 6 apart. Frames of a lung are more alike than lungs."""
    where: dict[str, Any] = {"root": str(shared_data / "dicom/us_cine"), "colour": "rgb", "cache": str(tmp_path)}
    source = VideoConfig(**where, frames=5).build((60, 80))
    clip = VideoConfig(**where, stride=6).build((5, 60, 80))
    assert (source.ids[2], clip.ids) == ("examples_ybr_color.dcm#002", ("examples_ybr_color.dcm@0003",))
    images = torch.stack([source[i].image for i in range(5)], dim=1)
    torch.testing.assert_close(images, clip[0].image, rtol=0, atol=2e-3)  # float16 after other interpolation
    lungs = VideoConfig(root=str(shared_data / "video/pocus/reg"), frames=6, cache=str(tmp_path)).build((48, 48))
    assert (len(lungs), lungs.bad) == (36, ())
    pixels = torch.stack([lungs[i].image for i in range(36)]).flatten(1)
    assert float(pixels.std(1).min()) > 0.02
    apart = torch.cdist(pixels, pixels)
    same = torch.arange(36)[:, None] // 6 == torch.arange(36) // 6
    assert float(apart[same].mean()) < 0.7 * float(apart[~same].mean())


RUN = """\
output: out
data: {name: video, root: %s/video/pocus/reg, region: [8, 32, 32], clips: 2}
views: {size: [4, 32, 32], crop: [0.5, 1.0]}
backbone: {name: resnet, dims: 3, depth: 10, stem: small, width: 4, norm: group}
method: {name: byol, projector: [16, 8], predictor: [16, 8]}
optim: {name: adamw, lr: 1e-3}
loop: {steps: 2, batch: 4, chunk: 2}
"""


def test_two_steps_of_a_run(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN % shared_data)
    run.train(config.load("run.yaml"))
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 2
    card = load_encoder("out/encoder").card
    assert (card.fingerprint and card.fingerprint.count, card.channels) == (12, 1)


def test_two_steps_of_a_run_on_frames(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its encoder takes a frame that was saved as a picture."""
    monkeypatch.chdir(tmp_path)
    flat = {"region: [8, 32, 32], clips: 2": "frames: 4", "[4, 32, 32]": "[32, 32]", "dims: 3": "dims: 2"}
    text = RUN % shared_data
    for old, new in flat.items():
        text = text.replace(old, new)
    Path("run.yaml").write_text(text)
    run.train(config.load("run.yaml"))
    encoder = load_encoder("out/encoder")
    assert (encoder.card.fingerprint and encoder.card.fingerprint.count, encoder.card.dims) == (24, 2)
    Image.fromarray(grey(1)[0]).save("frame.png")
    assert encoder(encoder.preprocess("frame.png")[None]).pooled.shape == (1, encoder.width)
