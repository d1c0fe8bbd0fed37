"""The source of volumes: DICOM series and NIfTI files, their sequences and their time points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from volssl.data import VolumeConfig
from volssl.data.cache_build import build_cache
from volssl.data.door import Found, load, time_points
from volssl.data.items import HERE, PreparedSource, Readers, Report, Size
from volssl.data.listing import Listed, listing
from volssl.data.recipe import Entry
from volssl.data.slices import Slices
from volssl.errors import DataError
from volssl.names import private


def build(
    config: VolumeConfig, region: Size, *, readers: Readers = HERE, report: Report | None = None
) -> PreparedSource:
    """Find, read, preprocess and cache every item that ``config`` makes of the volumes under its root.

    The slices of a volume are cached in one file.

    Raises:
        DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
    """
    listed, bad = listing(config.root, config.name, frozenset({"dicom", "nifti"}), config.split)
    entries, unfit = arrange(config, listed)
    reader = partial(read, config.non_finite)
    cached = region if config.slices is None else (config.slices, *region)
    source = build_cache(entries, reader, config, cached, readers=readers, report=report, bad=[*bad, *unfit])
    return source if config.slices is None else Slices(source)


def arrange(config: VolumeConfig, listed: Sequence[Listed]) -> tuple[list[Entry], list[DataError]]:
    """Which volumes make which item, as ``sequences``, ``sequences_as`` and ``time`` say.

    Returns:
        the entries, and one error per folder whose sequences are incomplete or ambiguous.

    Raises:
        DataError: there are volumes, but none matches ``sequences``.
    """
    matching = [one for one in listed if not config.sequences or _which(config, one.found)]
    if listed and not matching:
        patterns, seen = ", ".join(config.sequences), ", ".join(private(one.found.id) for one in listed[:3])
        message = f"data.sequences ({patterns}) match none of {len(listed)} volumes, such as {seen}"
        raise DataError("sequences", message, config.root)
    if config.sequences_as == "channels":
        return _exams(config, matching)
    if config.time == "items":
        return _frames(matching)
    time = None if config.time == "channels" else config.time
    return [Entry(one.found.id, (one.found,), time, one.label, patient=one.patient) for one in matching], []


def _which(config: VolumeConfig, found: Found) -> list[int]:
    """The sequences that a volume may be.

    A series that shares its folder with others (``folder#suffix``) has only its description to be known by.
    """
    alone = "#" not in found.id or found.kind != "dicom"
    path = PurePosixPath(found.id)
    return [
        i
        for i, pattern in enumerate(config.sequences)
        if (alone and path.match(pattern)) or fnmatchcase(found.description, pattern)
    ]


def _folder(found: Found) -> str:
    """The folder that holds an exam: that of the file, of the series' folder, or the one the series share."""
    if found.kind == "dicom" and "#" in found.id:
        return found.id.rpartition("#")[0]
    return PurePosixPath(found.id).parent.as_posix()


def _exams(config: VolumeConfig, matching: Sequence[Listed]) -> tuple[list[Entry], list[DataError]]:
    """One entry per folder, its parts in the order of the patterns."""
    folders: dict[str, list[Listed]] = {}
    for one in matching:
        folders.setdefault(_folder(one.found), []).append(one)
    entries: list[Entry] = []
    bad = []
    for folder, members in folders.items():
        name = Path(config.root).resolve().name if folder == "." else folder
        try:
            parts = tuple(_only(config, i, members, name) for i in range(len(config.sequences)))
            first = members[0]
            entries.append(Entry(name, parts, _index(config), first.label, patient=first.patient))
        except DataError as error:
            bad.append(error)
    return entries, bad


def _index(config: VolumeConfig) -> int | None:
    return config.time if isinstance(config.time, int) else None


def _only(config: VolumeConfig, sequence: int, members: Sequence[Listed], folder: str) -> Found:
    fits = [one.found for one in members if sequence in _which(config, one.found)]
    if len(fits) == 1:
        return fits[0]
    what = f"data.sequences: {config.sequences[sequence]} matches"
    if not fits:
        raise DataError("sequences", f"{what} nothing here: this exam lacks it", folder)
    names = ", ".join(private(one.description or PurePosixPath(one.id).name) for one in fits[:4])
    raise DataError("sequences", f"{what} {len(fits)} volumes ({names}): make it narrower", folder)


def _frames(listed: Sequence[Listed]) -> tuple[list[Entry], list[DataError]]:
    """One entry per time point, ``id@time``; a volume without time stays as it is."""
    entries: list[Entry] = []
    bad = []
    for one in listed:
        try:
            count = time_points(one.found)
        except DataError as error:
            bad.append(error)
            continue
        entries += [
            Entry(name, (one.found,), t, one.label, patient=one.patient) for t, name in _names(one.found.id, count)
        ]
    return entries, bad


def _names(name: str, count: int) -> Iterator[tuple[int, str]]:
    """Time points numbered with zeros in front, so that their order is that of the names."""
    width = len(str(count - 1))
    for t in range(count):
        yield t, f"{name}@{t:0{width}}" if count > 1 else name


def read(non_finite: Literal["refuse", "zero"], entry: Entry) -> MetaTensor:
    """The parts as channels on the grid of the first: linear, zero outside of a part's field of view."""
    first, *others = (load(part, non_finite=non_finite, time=entry.time) for part in entry.parts)
    if not others:
        return first
    resample = ResampleToMatch(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    moved = [one if _same_grid(one, first) else resample(one, first) for one in others]
    channels = torch.cat([one.as_tensor() for one in (first, *moved)])
    return MetaTensor(channels, affine=first.affine)


def _same_grid(one: MetaTensor, other: MetaTensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.affine, other.affine, rtol=0, atol=1e-4)
