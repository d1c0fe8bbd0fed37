"""What one folder holds: every file of it is of an item, or has a reason, or is none of our business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pydicom import Dataset

from volssl.data import nifti
from volssl.data.dicom import Series, find_series
from volssl.data.door import Found, Kind, holds_dicom, kind_of
from volssl.data.header import is_colour, is_image, is_mosaic
from volssl.data.index_row import Candidate, Row, coded
from volssl.data.manifest import LEFT_OUT, Ids, below
from volssl.data.preflight import check_regular, guard
from volssl.data.suffixes import SLIDES, TIFF, UNREAD, VIDEOS
from volssl.errors import DataError
from volssl.reasons import ReasonCode


@dataclass(frozen=True, slots=True)
class Place:
    """A folder below one of the roots. base: that root, or the folder of a root that is a file."""

    folder: Path
    base: Path
    number: int
    roots: int

    def text(self, path: Path) -> str:
        """What a path in it is called before it is keyed."""
        return below(self.roots, self.number, path.relative_to(self.base).as_posix())

    def candidate(self, kind: str, made_of: Kind, *files: Path) -> Candidate:
        """Of one file, or of several that go with the first."""
        text = self.text(files[0])
        return Candidate(Found(text, made_of, files), kind, text, tuple(map(self.text, files)))


@dataclass(slots=True)
class Held:
    """What is in a folder. passed: files that are no images and do not say that they are."""

    candidates: list[Candidate] = field(default_factory=list)
    refused: list[Row] = field(default_factory=list)
    passed: int = 0


def look(place: Place, files: Sequence[Path], ids: Ids) -> Held:
    """All that a folder holds, by names and headers alone, in an order that depends on nothing else."""
    held, dicom = Held(), list[Path]()
    for file in files:
        try:
            if is_dicom_or_unknown(file):
                check_regular(file)
                known = holds_dicom(file)
                if not known and file.name.lower().endswith(UNREAD):
                    raise DataError("format", "an image of a format that is not read: convert it", str(file))
                dicom += [file] * known
                held.passed += not known
            else:
                held.candidates += [_by_name(place, file)]
        except DataError as error:
            held.refused.append({**refused(place, error.code, [file], ids), "format": _format(file)})
    if dicom:
        _dicom(place, dicom, ids, held)
    held.candidates.sort(key=lambda one: one.text)
    return held


def is_dicom_or_unknown(file: Path) -> bool:
    """Whether the name says nothing else."""
    return kind_of(file) == "dicom" and file.suffix.lower() not in (*SLIDES, *VIDEOS)


def _format(file: Path) -> Kind | None:
    """What a file is by its name, as far as that tells."""
    kind = kind_of(file)
    return None if kind == "dicom" else kind


def _by_name(place: Place, file: Path) -> Candidate:
    check_regular(file)
    suffix, kind = file.suffix.lower(), kind_of(file)
    if suffix in SLIDES and (suffix not in TIFF or _is_slide(file)):
        _need("openslide", "slides", file)
        beside = file.with_suffix("")
        others = sorted(beside.iterdir()) if suffix == ".mrxs" and beside.is_dir() else []
        return place.candidate("slide", "slide", file, *others)
    if suffix in VIDEOS:
        _need("av", "video", file)
        return place.candidate("video", "video", file)
    if kind == "npz":
        raise DataError("archive", "an archive: let data.root name it", str(file))
    if kind == "nifti":
        nifti.shape(file)
        return place.candidate("volume", "nifti", file)
    return place.candidate("stack", "npy", file) if kind == "npy" else place.candidate("image", "images", file)


def _need(module: str, extra: str, file: Path) -> None:
    if find_spec(module) is None:
        raise DataError("extra", f"needs the package {module}: pip install 'volssl[{extra}]'", str(file))


def _is_slide(file: Path) -> bool:
    if find_spec("openslide") is None:
        return False
    from openslide import OpenSlide

    with guard("slide", file):
        return OpenSlide.detect_format(file) is not None


@dataclass(frozen=True, slots=True)
class _Header:
    """What tells images and clips from slices. flat: one frame that is no volume; clip: several that are none."""

    image: bool
    flat: bool
    clip: bool
    position: tuple[float, ...]

    @classmethod
    def of(cls, ds: Dataset) -> _Header:
        frames = int(ds.get("NumberOfFrames") or 1)
        several = "PerFrameFunctionalGroupsSequence" in ds
        position = () if is_colour(ds) else tuple(ds.get("ImagePositionPatient") or ())
        return cls(is_image(ds), frames == 1 and not is_mosaic(ds), frames > 1 and not several, position)


def _dicom(place: Place, files: Sequence[Path], ids: Ids, held: Held) -> None:
    headers: dict[Path, _Header] = {}

    def note(file: Path, ds: Dataset) -> None:
        headers[file] = _Header.of(ds)

    found, errors = find_series(files, note)
    known = {str(file): file for file in files}
    held.refused += [refused(place, error.code, [known.get(error.where, place.folder)], ids) for error in errors]
    for file in (file for file, one in headers.items() if not one.image):
        told = {"format": "dicom", **coded(file, ids)}
        held.refused.append({**refused(place, ReasonCode.NO_IMAGE, [file], ids), **told})
    several = len(errors) + sum(len(one.volumes) + len(one.errors) for one in found) > 1
    name = place.text(place.folder)
    for one in found:
        for volume in one.volumes:
            text = f"{name}#{volume.suffix}" if several else name
            made_of = Found(text, "dicom", volume.files, "", volume.frames)
            held.candidates.append(Candidate(made_of, "volume", text, tuple(map(place.text, volume.files))))
        _beside(place, one, headers, ids, held)


def _beside(place: Place, one: Series, headers: dict[Path, _Header], ids: Ids, held: Held) -> None:
    """The files of a series that are of no volume: images, clips, or left out with the reason that the series has."""
    used = {file for volume in one.volumes for file in volume.files}
    rest = [file for file in one.files if file not in used]
    clips = [file for file in rest if headers[file].clip]
    flats = [file for file in rest if headers[file].flat]
    positions = {headers[file].position for file in flats} - {()}
    if one.volumes or len(positions) > 1:
        flats = []
    held.candidates += [place.candidate("video", "video", file) for file in clips]
    held.candidates += [place.candidate("image", "dicom", file) for file in flats]
    rest = sorted(set(rest) - {*clips, *flats})
    if not rest:
        return
    told = {"kind": "volume", "format": "dicom", **coded(rest[0], ids)}
    codes = list(dict.fromkeys(error.code for error in one.errors)) or [ReasonCode.BESIDE]
    for i, code in enumerate(codes):
        files = [] if i else rest
        held.refused.append({**refused(place, code, files, ids, f"#{one.suffix} {code}"), **told})


def refused(place: Place, code: ReasonCode, files: Sequence[Path], ids: Ids, series: str = "") -> Row:
    """The row of a file or folder, or of a series of this folder."""
    texts = [place.text(file) if file.is_relative_to(place.base) else place.text(place.folder) for file in files]
    own = place.text(place.folder) + series if series else texts[0]
    row: Row = {"id": ids("item" if series else "file", own), "status": LEFT_OUT, "reason": str(code)}
    return {**row, "kind": None, "files": [ids("file", text) for text in texts]}
