"""The source of videos: multi-frame DICOM and video files, cut into clips or single frames."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from volssl.data.cache_build import build_cache
from volssl.data.cache_file import Spacing
from volssl.data.dicom_pixels import read_frames
from volssl.data.door import Found, holds_dicom, kind_of
from volssl.data.fingerprint import stamp
from volssl.data.header import is_image, read_dataset
from volssl.data.items import HERE, PreparedSource, Readers, Report, Size
from volssl.data.listing import Listed, listing_by
from volssl.data.picture import flat
from volssl.data.preflight import check_shape, guard
from volssl.data.recipe import Entry
from volssl.data.slices import Slices, middles
from volssl.data.suffixes import VIDEOS
from volssl.data.survey import Seen, one_per_file, survey
from volssl.data.video_config import VideoConfig
from volssl.errors import DataError

FORMAT = 1  # raise it when frames are counted in another way


def build(
    config: VideoConfig, region: Size, *, readers: Readers = HERE, report: Report | None = None
) -> PreparedSource:
    """Find the videos that ``config.root`` names, look at their frames, and make and cache every clip.

    The frames of a video that are items of their own are cached in one file.

    Raises:
        ConfigError: there are videos that are no DICOM, and PyAV is not installed.
        DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
    """
    what = f"video ({', '.join(VIDEOS)}, or DICOM of several frames)"
    listed, bad = listing_by(
        config.root, config.name, partial(one_per_file, kind="video", wanted=_is_video, what=what), config.split
    )
    if any(_by_name(one.found.files[0]) for one in listed):
        config.require()
    look = _count if config.frames is None else partial(_pick, config.frames)
    settings = json.dumps(["video", FORMAT] if config.frames is None else ["frames", FORMAT, config.frames])
    seen = survey([one.found for one in listed], look, settings, config.cache, readers=readers, report=report)
    known = [(one, s.values) for one, s in zip(listed, seen, strict=True) if isinstance(s, Seen)]
    entries = [entry for one, values in known for entry in _entries(config, region, one, values)]
    left_out = [*bad, *(s for s in seen if isinstance(s, DataError))]
    read, cached = partial(_read, config), region if config.frames is None else (config.frames, *region)
    source = build_cache(entries, read, config, cached, readers=readers, report=report, bad=left_out)
    return source if config.frames is None else Slices(source)


def _by_name(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def _is_video(path: Path) -> bool:
    """By name, or a DICOM image of several frames; of one frame it is a still, and none of our business."""
    if _by_name(path):
        return True
    if kind_of(path) != "dicom" or not holds_dicom(path):
        return False
    ds = read_dataset(path)
    with guard("header", path):
        return is_image(ds) and int(ds.get("NumberOfFrames") or 1) > 1


def _count(found: Found) -> tuple[Tensor, Spacing]:
    """How many frames it has.

    Raises:
        DataError: it cannot be read to its end.
    """
    path = found.files[0]
    if _by_name(path):
        from volssl.data.video_file import count

        return torch.tensor(count(path)), ()
    frames = int(read_dataset(path).NumberOfFrames)
    next(read_frames(path, [frames - 1]))
    return torch.tensor(frames), ()


def _pick(count: int, found: Found) -> tuple[Tensor, Spacing]:
    """The numbers of ``count`` evenly spaced frames among those that are not of one colour: the middles of equal parts.

    Raises:
        DataError: it cannot be read to its end, or has too few of them.
    """
    path = found.files[0]
    with guard("video", path):
        shows = [not _uniform(frame) for frame in _every(path)]
    numbers = [number for number, shown in enumerate(shows) if shown]
    if len(numbers) < count:
        what = f"{len(numbers)} of {len(shows)} frames show anything, data.frames asks for {count}"
        raise DataError("frames", f"{what}: lower it, or leave the video out", str(path))
    return torch.tensor([numbers[i] for i in middles(len(numbers), count)]), ()


def _every(path: Path) -> Iterator[np.ndarray]:
    if _by_name(path):
        from volssl.data.video_file import every

        return every(path)
    return read_frames(path, range(int(read_dataset(path).NumberOfFrames)))


def _uniform(frame: np.ndarray) -> bool:
    """All rows are alike, and all pixels of the first: told thirty times as fast as pixel by pixel."""
    return np.array_equal(frame[1:], frame[:-1]) and np.array_equal(frame[0, 1:], frame[0, :-1])


def _entries(config: VideoConfig, region: Size, one: Listed, seen: Tensor) -> Iterator[Entry]:
    """One of the frames that were picked; or one per clip, called by its first frame. The part tells the frames."""
    if config.frames is not None:
        part = _part(one.found, seen.tolist())
        yield Entry(one.found.id, (part,), label=one.label, patient=one.patient)
        return
    total = int(seen)
    for first in starts(total, region[0], config.stride, config.clips):
        part = _part(one.found, range(first, total, config.stride)[: region[0]])
        name = f"{one.found.id}@{first:0{max(4, len(str(total - 1)))}}"
        yield Entry(name, (part,), label=one.label, patient=one.patient)


def _part(found: Found, frames: Sequence[int]) -> Found:
    return replace(found, frames=tuple((0, frame) for frame in frames))


def starts(total: int, frames: int, stride: int, clips: int | str) -> list[int]:
    """The first frames of the clips of a video of ``total`` frames.

    The possible first frames are cut into ``clips`` equal parts, and each gives its middle. A video too short for
    one clip gives one that starts at 0.
    """
    possible = max(total - (frames - 1) * stride, 1)
    if clips == "all":
        return list(range(0, possible, frames * stride))
    assert isinstance(clips, int)
    return sorted(set(middles(possible, clips)))


def _read(config: VideoConfig, entry: Entry) -> MetaTensor:
    """(C, frames, rows, columns) of voxels of 1 mm."""
    part = entry.parts[0]
    path, wanted = part.files[0], [frame for _, frame in part.frames]
    with guard("unreadable", entry.id):
        if _by_name(path):
            from volssl.data.video_file import read

            frames = read(path, stamp([path]).digest, wanted)
        else:
            frames = read_frames(path, wanted)
        pictures = []
        for frame in frames:
            check_shape((len(wanted), *frame.shape), entry.id)
            pictures.append(flat(frame.astype(np.float32), config, entry.id).as_tensor())
        return MetaTensor(torch.stack(pictures, dim=1), affine=torch.eye(4, dtype=torch.float64))
