"""The source of slice stacks: ``.npy`` arrays and folders of slice images, which carry no geometry."""

from __future__ import annotations

from functools import partial
from typing import Literal

from monai.data import MetaTensor

from volssl.data import StackConfig
from volssl.data.cache import CachedSource
from volssl.data.cache_build import build_cache
from volssl.data.door import load
from volssl.data.items import HERE, Readers, Report, Size
from volssl.data.listing import listing
from volssl.data.recipe import Entry


def build(config: StackConfig, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> CachedSource:
    """Find, read, preprocess and cache every stack that ``config.root`` names.

    Raises:
        DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
    """
    listed, bad = listing(config.root, "stack", frozenset({"npy", "images"}), config.split)
    entries = [Entry(one.found.id, (one.found,), label=one.label, patient=one.patient) for one in listed]
    read = partial(_read, config.non_finite)
    return build_cache(entries, read, config, region, readers=readers, report=report, bad=bad)


def _read(non_finite: Literal["refuse", "zero"], entry: Entry) -> MetaTensor:
    return load(entry.parts[0], non_finite=non_finite)
