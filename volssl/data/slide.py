"""The source of whole slide images: which slides there are, where their tissue is, which tiles to draw."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volssl.data.cache_build import check_share
from volssl.data.cache_file import Spacing
from volssl.data.door import Found
from volssl.data.fingerprint import Memory, fingerprint, stamp
from volssl.data.items import HERE, Readers, Report, Size
from volssl.data.listing import Listed, listing_by
from volssl.data.recipe import not_as_listed
from volssl.data.slide_config import SlideConfig
from volssl.data.slide_file import Box, Slide
from volssl.data.slide_source import SlideSource, Tiles, steps
from volssl.data.stream import permutation
from volssl.data.suffixes import SLIDES
from volssl.data.survey import Seen, one_per_file, survey
from volssl.data.tissue import grid, shares, tissue_mask
from volssl.errors import DataError

FORMAT = 1  # raise it when the same configuration and the same slide give other tiles
OVERVIEW_MPP = 8.0  # a tile of 224 pixels at 0.5 microns is 14 x 14 pixels of the mask


def build(config: SlideConfig, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> SlideSource:
    """Find the slides that ``config.root`` names, their tissue and their tiles.

    Raises:
        DataError: nothing found, or more than ``max_bad`` of the slides are unusable.
        RunError: the cache folder cannot be written.
    """
    what = f"slide ({', '.join(SLIDES)})"
    finder = partial(one_per_file, kind="slide", wanted=_is_slide, what=what)
    listed, bad = listing_by(config.root, config.name, finder, config.split)
    listed = sorted((_whole(one) for one in listed), key=lambda one: one.found.id)
    chosen = config.model_dump(mode="json", include={"mpp", "assume_mpp", "stride", "tissue"})
    settings = json.dumps(["slide", FORMAT, chosen, list(region)], sort_keys=True)
    look = partial(_look, config, region)
    outcomes = survey([one.found for one in listed], look, settings, config.cache, readers=readers, report=report)
    memory = _memory(config)
    looked = zip(listed, outcomes, strict=True)
    known = [(one, seen, _content(one.found, seen, memory)) for one, seen in looked if isinstance(seen, Seen)]
    changed = [not_as_listed(one.found.id) for one, _, content in known if one.found.sha256 not in ("", content)]
    kept = [(one, seen, content) for one, seen, content in known if one.found.sha256 in ("", content)]
    slides = [_tiles(config, one, seen, content) for one, seen, content in kept]
    left_out = [*bad, *changed, *(seen for seen in outcomes if isinstance(seen, DataError))]
    check_share(left_out, len(slides), config.max_bad, config.root)
    return SlideSource(slides, config, region, left_out)


def _is_slide(path: Path) -> bool:
    return path.name.lower().endswith(SLIDES)


def _whole(one: Listed) -> Listed:
    """With all files that it consists of: MIRAX keeps the pixels in a folder of the same name."""
    path = one.found.files[0]
    folder = path.with_suffix("")
    if path.suffix.lower() != ".mrxs" or not folder.is_dir():
        return one
    return replace(one, found=replace(one.found, files=(path, *sorted(folder.iterdir()))))


def _memory(config: SlideConfig) -> Memory:
    return Memory(Path(config.cache, "fingerprints.txt"))


def _look(config: SlideConfig, region: Size, found: Found) -> tuple[Tensor, Spacing]:
    """The corners (n, 2) of the tiles that hold tissue, and the microns per pixel along a row and a column.

    The first tile and the last are read, so that a slide of which the end is missing is noticed now.

    Raises:
        DataError: it cannot be read, is too coarse, too small or without tissue.
    """
    where = str(found.files[0])
    slide = Slide(found.files[0], config.assume_mpp)
    try:
        across, down = steps(slide.mpp, config.mpp, where)
        corners = _corners(config, region, slide, where)
        for x, y in corners[[0, -1]].tolist():
            slide.read(Box(x, y, region[1] * across, region[0] * down), *region)
    finally:
        slide.close()
    memory, state = _memory(config), stamp(found.files)
    memory.remember(state, memory.recall(state) or fingerprint(found.files))
    return torch.from_numpy(corners), slide.mpp


def _corners(config: SlideConfig, region: Size, slide: Slide, where: str) -> NDArray[np.int64]:
    """(n, 2): column and row at full resolution of the upper left of every tile with enough tissue, row by row."""
    across, down = steps(slide.mpp, config.mpp, where)
    height, width = region[0] * down, region[1] * across
    stride = config.stride or region
    ys = grid(slide.rows, height, stride[0] * down)
    xs = grid(slide.columns, width, stride[1] * across)
    if not len(ys) or not len(xs):
        told = f"{slide.rows / down:.0f} x {slide.columns / across:.0f} pixels at {config.mpp:g} microns"
        raise DataError("too_small", f"{told} hold no tile of {region[0]} x {region[1]}: leave it out", where)
    enough = np.ones((len(ys), len(xs)), dtype=bool)
    if config.tissue > 0:
        overview, (high, wide) = slide.overview(OVERVIEW_MPP)
        share = shares(tissue_mask(overview), ys / high, xs / wide, (height / high, width / wide))
        enough = share >= config.tissue - 1e-9  # of rounding
    if not enough.any():
        told = f"of {enough.size} tiles none is {config.tissue:.0%} tissue"
        raise DataError("no_tissue", f"{told}: leave the slide out, or lower data.tissue", where)
    rows, columns = np.nonzero(enough)
    return np.stack([xs[columns], ys[rows]], axis=1)


def _content(found: Found, seen: Seen, memory: Memory) -> str:
    return memory.recall(seen.stamp) or fingerprint(found.files)


def _tiles(config: SlideConfig, one: Listed, seen: Seen, content: str) -> Tiles:
    """All tiles of a slide, or ``per_slide`` of them; those of a smaller number are among those of a greater."""
    corners = seen.values.numpy()
    if config.per_slide is not None:
        order = permutation(int(content[:16], 16), 0, len(corners))
        corners = corners[np.sort(order[: config.per_slide])]
    across, down = seen.numbers
    state, mpp = seen.stamp.digest, (across, down)
    return Tiles(one.found.id, one.label, one.found.files, content, state, mpp, corners, one.patient)
