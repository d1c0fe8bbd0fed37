"""One row of a manifest: an item decoded once to its last number, and what its header, place and values are like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from volssl.data import nifti
from volssl.data.array_file import array_header
from volssl.data.dicom_pixels import read_frames, read_image
from volssl.data.door import Found, load
from volssl.data.fingerprint import fingerprint, stamp
from volssl.data.header import read_dataset
from volssl.data.identity import WHOSE, whose
from volssl.data.inspect import geometry
from volssl.data.manifest import LEFT_OUT, OK, Ids
from volssl.data.picture import picture_bits, read_picture
from volssl.data.preflight import finite, guard, opened
from volssl.data.suffixes import VIDEOS
from volssl.data.tissue import otsu
from volssl.errors import DataError
from volssl.reasons import ReasonCode

Row = dict[str, Any]

SAMPLE = 2**16  # numbers of an item, evenly spaced, that its percentiles are of
OVERVIEW = 512  # pixels of a slide's longer side
MICRON = 1e-3  # mm
# Codes of the standard (PS3.3 C.7.3.1 and C.8.3.1) are told; whatever else a header has in their place is not.
_MODALITIES = {
    *("BI", "BMD", "CR", "CT", "DG", "DX", "EM", "ES", "FID", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM"),
    *("OCT", "OP", "OPT", "OPTENF", "OPV", "OT", "PA", "PT", "PX", "RF", "RG", "RTIMAGE", "SM", "SRF", "TG", "US"),
    *("VA", "XA", "XC"),
}
_SCANS = {
    **{"SE": "SE", "IR": "IR", "GR": "GR", "EP": "EP", "RM": "RM"},
    **{"SPIN": "SE", "GRADIENT": "GR", "BOTH": "GR+SE"},  # of enhanced images
}
_ACQUIRED = ("1D", "2D", "3D")
_CODED = ["SeriesInstanceUID", "Modality", "ScanningSequence", "EchoPulseSequence", "MRAcquisitionType"]
_CODED += ["BitsStored", "SliceThickness"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be an item. kind: the ``data.name`` that reads it; text: what it is called, files: and its files."""

    found: Found
    kind: str
    text: str
    files: tuple[str, ...]

    def row(self, ids: Ids) -> Row:
        """Its row: all that is known once it has been read to its end, or the reason why it cannot be.

        Raises nothing but a request to stop.
        """
        try:
            before = stamp(self.found.files)
            with guard("unreadable", self.found.id):
                told = {**self._measured(), **self._about(ids)}
                told["sha256"] = fingerprint(self.found.files)
                told["bytes"] = sum(file.stat().st_size for file in self.found.files)
            if stamp(self.found.files).digest != before.digest:
                raise DataError("changed", "changed while it was read: run again", self.found.id)
        except DataError as error:
            told = coded(self.found.files[0], ids) if self._of_dicom else {}
            return {**self.refused(error.code, ids), **told}
        if told["low"] == told["high"]:
            return {**self.refused(ReasonCode.CONSTANT, ids), **told}
        return {**self._named(ids), "status": OK, **told}

    def refused(self, reason: ReasonCode, ids: Ids) -> Row:
        """Its row where it cannot be used."""
        return {**self._named(ids), "status": LEFT_OUT, "reason": str(reason)}

    def _named(self, ids: Ids) -> Row:
        frames = [number for pair in self.found.frames for number in pair]
        plain = frames == [number for i in range(len(self.files)) for number in (i, 0)]
        return {
            "id": ids("item", self.text),
            "kind": self.kind,
            "format": self.found.kind,
            "files": [ids("file", file) for file in self.files],
            "frames": None if plain else frames,
        }

    @property
    def _of_dicom(self) -> bool:
        clip = self.found.kind == "video" and self.found.files[0].suffix.lower() not in VIDEOS
        return self.found.kind == "dicom" or clip

    def _about(self, ids: Ids) -> Row:
        path = self.found.files[0]
        if self.found.kind == "nifti":
            return {"bits": 8 * nifti.header(path).get_data_dtype().itemsize}
        if self.found.kind == "npy":
            with opened(path) as file:
                return {"bits": 8 * array_header(file)[2].itemsize}
        if self.found.kind == "images":
            return {"bits": picture_bits(path)}
        return _coded(read_dataset(path, tags=[*WHOSE, *_CODED]), ids) if self._of_dicom else {}

    def _measured(self) -> Row:
        path, where = self.found.files[0], self.found.id
        if self.kind in ("volume", "stack"):
            volume = load(self.found)
            matrix = tuple(volume.shape[1:])
            several = self.found.kind == "nifti" and len(volume) > 1
            lies = _lies(matrix, volume.affine.numpy()) if self.kind == "volume" else {}
            shape = {"shape": list(matrix), "slices": matrix[0], "channels": 1, "times": len(volume) if several else 1}
            return {**shape, **lies, **statistics([volume.numpy()])}
        if self.kind == "image":
            pixels = read_picture(path) if self.found.kind == "images" else read_image(path)
            pixels = finite(pixels, "refuse", where)
            return {"shape": list(pixels.shape[:2]), "channels": _channels(pixels), **statistics([pixels])}
        if self.kind == "slide":
            return _slide(path)
        return _video(path, where)


def statistics(parts: Iterable[np.ndarray]) -> Row:
    """Of all numbers of an item, part by part; percentiles and foreground of some of them.

    foreground: the share above Otsu's threshold between the percentiles 1 and 99.
    """
    count, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    samples: list[np.ndarray] = []
    for part in parts:
        flat = part.reshape(-1)
        count += flat.size
        total += float(flat.sum(dtype=np.float64))
        squares += float(np.dot(flat, flat)) if flat.size < SAMPLE else float(np.square(flat, dtype=np.float64).sum())
        low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        samples.append(flat[:: max(flat.size // SAMPLE, 1) | 1])
    sample = np.concatenate(samples)
    sample = sample[:: max(sample.size // SAMPLE, 1) | 1].astype(np.float64)
    p1, median, p99 = np.percentile(sample, [1, 50, 99])
    span = p99 - p1
    grey = (np.clip((sample - p1) / span, 0, 1) * 255).astype(np.uint8) if span else np.zeros(1, np.uint8)
    mean = total / count
    return {
        "mean": mean,
        "sd": math.sqrt(max(squares / count - mean**2, 0.0)),
        **{"low": low, "p1": float(p1), "median": float(median), "p99": float(p99), "high": high},
        "foreground": float((grey > otsu(grey)).mean()),
    }


def coded(path: Path, ids: Ids) -> Row:
    """What a DICOM header says in codes, and whose it is; nothing where it cannot be read."""
    try:
        with guard("header", path):
            return _coded(read_dataset(path, tags=[*WHOSE, *_CODED]), ids)
    except DataError:
        return {}


def _coded(ds: Dataset, ids: Ids) -> Row:
    """What the device writes in codes, and keyed ids."""
    patient, study = whose(ds)
    series = str(ds.get("SeriesInstanceUID") or "")
    modality = str(ds.get("Modality") or "")
    thickness = float(ds.get("SliceThickness") or 0)
    return {
        "modality": modality if modality in _MODALITIES else None,
        "sequence": _sequence(ds),
        "bits": int(ds.get("BitsStored") or 0) or None,
        "thickness": thickness if 0 < thickness < 1e3 else None,
        "patient": ids("patient", patient) if patient else None,
        "study": ids("study", study) if study else None,
        "series": ids("series", series) if series else None,
    }


def _sequence(ds: Dataset) -> str | None:
    """Such as ``GR+IR 3D``: kinds of MR sequence and of acquisition, each by its code."""
    given = ds.get("ScanningSequence") or ds.get("EchoPulseSequence") or ()
    codes = sorted(
        {_SCANS[code] for code in ([given] if isinstance(given, str) else map(str, given)) if code in _SCANS}
    )
    acquired = str(ds.get("MRAcquisitionType") or "")
    return " ".join(filter(None, ["+".join(codes), acquired if acquired in _ACQUIRED else ""])) or None


def _lies(matrix: Sequence[int], affine: np.ndarray) -> Row:
    where = geometry(tuple(matrix), affine)
    told = {"spacing": list(where.spacing), "orientation": where.orientation}
    return {**told, "plane": where.plane, "tilt": where.tilt}


def _channels(pixels: np.ndarray) -> int:
    return pixels.shape[2] if pixels.ndim == 3 else 1


def _video(path: Path, where: str) -> Row:
    shape: list[int] = []
    channels: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        count = 0
        for count, frame in enumerate(every_frame(path), start=1):  # noqa: B007 - how many there were
            channels[:], shape[1:] = [_channels(frame)], frame.shape[:2]
            yield finite(frame.astype(np.float32), "refuse", where)
        shape[:1] = [count]

    shape.append(0)
    with guard("video", path):
        told = statistics(frames())
    return {"shape": shape, "slices": shape[0], "channels": channels[0], "bits": 8, **told}


def every_frame(path: Path) -> Iterator[np.ndarray]:
    """The frames of a clip, (rows, columns) or (rows, columns, 3), decoded one by one."""
    if path.suffix.lower() in VIDEOS:
        from volssl.data.video_file import every

        return every(path)
    return read_frames(path, range(int(read_dataset(path).NumberOfFrames)))


def _slide(path: Path) -> Row:
    """Its coarsest resolution is decoded; of the others the bytes are known."""
    image, mpp, size = slide_overview(path)
    spacing = None if mpp is None else [mpp[1] * MICRON, mpp[0] * MICRON]
    return {"shape": list(size), "spacing": spacing, "channels": 3, "bits": 8, **statistics([image.astype(np.float32)])}


def slide_overview(path: Path) -> tuple[np.ndarray, tuple[float, float] | None, tuple[int, int]]:
    """The whole slide small, (rows, columns, 3); its microns per pixel where it states them; its full size."""
    from volssl.data.slide_file import Slide

    try:
        slide, stated = Slide(path), True
    except DataError as error:
        if error.code != "mpp":
            raise
        slide, stated = Slide(path, assume_mpp=1.0), False
    try:
        longest = max(slide.rows * slide.mpp[1], slide.columns * slide.mpp[0])
        image, _ = slide.overview(longest / OVERVIEW)
        return image, slide.mpp if stated else None, (slide.rows, slide.columns)
    finally:
        slide.close()
