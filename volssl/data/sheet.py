"""The contact sheet of a manifest: one page, no scripts, nothing fetched; what was found, at a glance."""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from volssl.data.cache_work import run
from volssl.data.dicom_pixels import read_frames, read_image
from volssl.data.door import Found, load
from volssl.data.index_row import every_frame, slide_overview
from volssl.data.items import Report
from volssl.data.located import whereabouts
from volssl.data.manifest import OK, Manifest, open_manifest
from volssl.data.picture import LUMA, read_picture
from volssl.data.preflight import check_regular, guard, opened
from volssl.data.slices import middles
from volssl.data.suffixes import VIDEOS
from volssl.errors import ConfigError, DataError, RunError
from volssl.reasons import ReasonCode
from volssl.whole import replace_file

MOST = 500  # items that are drawn
SIDE = 128  # pixels of a thumbnail's longer side
SUFFIX = ".html"
MARK = b'<meta name="generator" content="volssl index">'  # by which a sheet is known
HEAD = 256  # bytes in which it stands
QUALITY = 75  # of a JPEG: a few kB each


@dataclass(frozen=True)
class _Thumbnail:
    """The middle slice of an item, as a data URI; "" where it cannot be read any more."""

    found: Found
    kind: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    def id(self) -> str:
        return self.found.id

    def __call__(self) -> str | DataError:
        try:
            with guard("unreadable", self.id):
                return _drawn(self._middle(), self.spacing[-2:])
        except DataError as error:
            return error

    def _middle(self) -> np.ndarray:
        path = self.found.files[0]
        if self.kind == "slide":
            return slide_overview(path)[0]
        if self.kind == "image":
            return read_picture(path) if self.found.kind == "images" else read_image(path)
        middle = self.shape[0] // 2
        if self.kind == "video" and path.suffix.lower() in VIDEOS:
            return next(itertools.islice(every_frame(path), middle, None))
        if self.kind == "video":
            return next(read_frames(path, [middle]))
        if self.found.kind == "dicom" and len(self.found.files) == len(self.found.frames):
            return read_image(self.found.files[self.found.frames[middle][0]])  # one file of many
        return np.asarray(load(self.found, time=0)[0, middle])


def check_sheet(out: Path) -> None:
    """Before the work of an index: a sheet can be written there, and takes the place of nothing but a sheet.

    Raises:
        ConfigError: it cannot, or would.
    """
    if out.suffix.lower() != SUFFIX:
        raise ConfigError(f"--html: {out} is not called {SUFFIX}: call it so")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ConfigError(f"--html: {out.parent} is no folder that may be written to: name another, or make it")
    if os.path.lexists(out) and not _is_sheet(out):
        raise ConfigError(f"--html: {out} is there and is no contact sheet of volssl index: name another file")


def _is_sheet(path: Path) -> bool:
    try:
        check_regular(path)
        with opened(path) as file:
            return MARK in file.read(HEAD)
    except (DataError, OSError):
        return False


def write_sheet(manifest: Path, out: Path, *, workers: int = 0, report: Report | None = None) -> None:
    """Draw the items of a manifest, at most ``MOST`` of them, evenly over it; of each its middle slice is read.

    Raises:
        DataError: the manifest or files that it lists are gone. RunError: ``out`` cannot be written.
    """
    opened = open_manifest(manifest)
    left_out: Counter[str] = Counter()
    total = 0
    for row in opened:
        total += row["status"] == OK
        left_out[row["reason"]] += row["status"] != OK
    chosen = _chosen(opened, total)
    tasks = dict(enumerate(_tasks(opened, chosen)))
    pictures: dict[int, str] = {}
    for i, drawn in run(tasks, workers):
        pictures[i] = drawn if isinstance(drawn, str) else ""
        if report:
            report(len(pictures), len(tasks), "")
    items = [{"id": row["id"], "about": list(_about(row)), "picture": pictures[i]} for i, row in enumerate(chosen)]
    reasons = [(code, count, ReasonCode(code).meaning) for code, count in left_out.most_common() if count]
    _write(out, _page().render(items=items, total=total, reasons=reasons, most=MOST))


def _chosen(manifest: Manifest, total: int) -> list[dict[str, Any]]:
    wanted = set(middles(total, min(total, MOST))) if total else set()
    good = (row for row in manifest if row["status"] == OK)
    return [row for i, row in enumerate(good) if i in wanted]


def _tasks(manifest: Manifest, rows: Sequence[dict[str, Any]]) -> Iterator[_Thumbnail]:
    for row, found in zip(rows, whereabouts(manifest, rows), strict=True):
        yield _Thumbnail(found, row["kind"], tuple(row["shape"]), tuple(row["spacing"] or ()))


def _about(row: dict[str, Any]) -> Iterator[str]:
    """What stands under a picture, line by line."""
    yield " ".join(filter(None, (row["kind"], row["modality"], row["sequence"])))
    times = f" x {row['times']} times" if (row["times"] or 1) > 1 else ""
    yield " x ".join(map(str, row["shape"])) + times + (" in colour" if row["channels"] == 3 else "")
    if row["spacing"]:
        yield " x ".join(f"{mm:.3g}" for mm in row["spacing"]) + " mm"
    if row["orientation"]:
        yield f"{row['plane']}, {row['orientation']}" + (f", tilted {row['tilt']:.1f}°" if row["tilt"] >= 0.05 else "")
    yield f"{row['low']:.4g} to {row['high']:.4g}, foreground {row['foreground']:.0%}"


def _drawn(pixels: np.ndarray, spacing: Sequence[float]) -> str:
    """A small JPEG of (rows, columns) or (rows, columns, 3): grey between the percentiles 1 and 99, pixels square."""
    if pixels.ndim == 3:
        colour = bool((pixels != pixels[..., :1]).any())
        pixels = pixels if colour else pixels @ LUMA
    low, high = (0.0, 255.0) if pixels.ndim == 3 else np.percentile(pixels, [1, 99])
    grey = np.clip((pixels - low) / ((high - low) or 1.0), 0, 1) * 255
    picture = Image.fromarray(grey.astype(np.uint8))
    tall, wide = (spacing[0], spacing[1]) if len(spacing) == 2 else (1.0, 1.0)
    height, width = picture.height * tall, picture.width * wide
    scale = SIDE / max(height, width)
    picture = picture.resize((max(round(width * scale), 1), max(round(height * scale), 1)), Image.Resampling.BOX)
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"


def _page() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("sheet.html.jinja")


def _write(out: Path, page: str) -> None:
    try:
        replace_file(out, page)
    except OSError as error:
        raise RunError(f"--html: {out} cannot be written ({error.strerror}): name another file") from error
