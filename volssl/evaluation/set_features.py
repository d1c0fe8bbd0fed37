"""What the report draws of features and images of one data set: a map, nearest neighbours, views."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from volssl.evaluation import pictures, plots
from volssl.evaluation.document import (
    Beside,
    Key,
    Numbered,
    Panel,
    Panels,
    Picture,
    Section,
    Strip,
    Strips,
    each,
    folded,
    section,
)
from volssl.evaluation.drawing import Drawing
from volssl.evaluation.findings import Pictured
from volssl.evaluation.plots import Style
from volssl.evaluation.target import Ints, Target

QUERIES, OPEN, NEAREST = 4, 2, 5  # OPEN: of the queries, those that are not folded
ITEMS, VIEWS = 3, 6  # of what the model sees
KINDS = 7  # classes told apart on a map


def embedding_map(drawing: Drawing) -> tuple[Section, ...]:
    """A map per encoder, coloured by class or number."""
    says = (
        "Each dot is a test item, placed by t-SNE so that items with similar features lie close together. Which dots "
        "are neighbours means something; distances between far groups, their sizes and the axes mean little."
    )
    panels: list[Panel] = []
    legend: tuple[Key, ...] = ()
    for seen in drawing.pictured:
        if seen.features is not None and (found := pictures.projection(seen.features)):
            rows, xy = found
            colour, names, kinds = _kinds(seen.target, rows)
            svg = plots.embedding(xy, colour, kinds, f"{drawing.key} map {seen.encoder}")
            panels.append(Panel(seen.encoder, svg, f"Map of {len(rows)} items, coloured by {_of(seen.target)}"))
            legend = tuple(Key(n, plots.dot(k)) for n, k in zip(names, kinds, strict=True))
    return section("Embedding map", says, each(Panels, panels, legend, True))


def _of(target: Target) -> str:
    return {"number": target.names[0], "classes": "class", "labels": "label"}[target.kind]


def _kinds(target: Target, rows: Ints) -> tuple[Ints, list[str], list[Style]]:
    """Which kind each of the rows is of, what the kinds are called, and how they are drawn."""
    if target.kind == "number":
        colour, names = _bands(target)
        scale = np.linspace(0, plots.SHADES - 1, len(names)).round().astype(int)
        return colour[rows], names, [Style(plots.shade(i), "o", "") for i in scale]
    colour, names = _classes(target) if target.kind == "classes" else _commonest(target)
    markers = [plots.MARKERS[i % len(plots.MARKERS)] for i in range(len(names))]
    return colour[rows], names, [Style(plots.series(i), marker, "") for i, marker in enumerate(markers)]


def _bands(target: Target) -> tuple[Ints, list[str]]:
    """Bands of a number that hold about as many rows each."""
    edges = np.unique(np.quantile(target.values, np.linspace(0, 1, plots.SHADES + 1)))
    colour = np.searchsorted(edges[1:-1], target.values, side="right")
    names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return colour, names or [f"{edges[0]:.3g}"]


def _classes(target: Target) -> tuple[Ints, list[str]]:
    """Classes as they are; of many, the last ones together."""
    if len(target.names) <= KINDS:
        return target.values, list(target.names)
    return np.minimum(target.values, KINDS - 1), [*target.names[: KINDS - 1], f"{len(target.names) - KINDS + 1} others"]


def _commonest(target: Target) -> tuple[Ints, list[str]]:
    """With and without the label that most rows have."""
    which = int((target.values == 1).sum(axis=0).argmax())
    name = target.names[which]
    return 1 - np.clip(target.values[:, which], 0, 1), [name, f"not {name}, or unknown"]


def neighbours(drawing: Drawing) -> tuple[Section, ...]:
    """Test items, and beside each encoder those that it finds most alike."""
    shown = [seen for seen in drawing.pictured if len(pictures.drawn(seen.thumbnails)) > 1]
    if not shown:
        return ()
    target = shown[0].target
    queries = pictures.queries(target, pictures.drawn(shown[0].thumbnails), QUERIES)
    says = (
        "A test item, and for each encoder the five of other patients whose features are nearest to it by cosine, "
        "nearest first, among those that have a picture."
    )
    found = tuple(_query(shown, int(query)) for query in queries)
    parts = (each(Beside, found[:OPEN]), folded("Of other items", each(Beside, found[OPEN:])))
    if target.kind == "number":
        return section("Nearest neighbours", says, *parts)
    what = "class" if target.kind == "classes" else "labels"
    says += f" ✓ in a solid frame: of the same {what}; ✗ in a dashed frame: of others, by number."
    return section("Nearest neighbours", says, Numbered(target.names), *parts)


def _query(shown: list[Pictured], query: int) -> Strips:
    first = shown[0]
    name = _name(first.target, query)
    lead = Picture(pictures.png(first.thumbnails[query]), f"{first.ids[query]}, {name}")
    return Strips(name, lead, tuple(_nearest(seen, query) for seen in shown))


def _nearest(seen: Pictured, query: int) -> Strip:
    found = pictures.neighbours(seen.features, seen.groups, query, pictures.drawn(seen.thumbnails), NEAREST)
    images = tuple(_neighbour(seen, query, row) for row in found)
    right = sum(one.mark == "right" for one in images)
    return Strip(seen.encoder, "" if seen.target.kind == "number" else f"{right} of {len(images)}", images)


def _neighbour(seen: Pictured, query: int, row: int) -> Picture:
    name = _name(seen.target, row)
    source, alt = pictures.png(seen.thumbnails[row]), f"{seen.ids[row]}, {name}"
    if seen.target.kind == "number":
        return Picture(source, alt, name)
    same = _alike(seen.target, query, row)
    mark, words = ("right", "the same") if same else ("wrong", "another")
    return Picture(source, f"{alt}, {words}", "" if same else _code(seen.target, row), mark)


def _alike(target: Target, a: int, b: int) -> bool:
    """Whether two rows are of one class, or have the same labels as far as they are known of both."""
    both = np.stack([target.values[a], target.values[b]])
    return bool((both[0] == both[1])[(both >= 0).all(axis=0)].all())


def _name(target: Target, row: int) -> str:
    """What a row is."""
    if target.kind == "number":
        return f"{target.values[row]:.3g}"
    return ", ".join(target.names[i] for i in _of_row(target, row)) or "none"


def _code(target: Target, row: int) -> str:
    """The same by number."""
    return ", ".join(str(i + 1) for i in _of_row(target, row)) or "none"


def _of_row(target: Target, row: int) -> list[int]:
    """Its class, or its labels."""
    value = target.values[row]
    return [int(value)] if target.kind == "classes" else np.flatnonzero(value == 1).tolist()


def views(drawing: Drawing) -> tuple[Section, ...]:
    """Items after preprocessing, and views of them."""
    parts = tuple(_views(seen) for seen in drawing.pictured if seen.views is not None and len(seen.views))
    return section("What the model sees", "Views of test items, a row each.", each(Beside, parts))


def outlines(drawing: Drawing) -> tuple[Section, ...]:
    """Slices of test volumes, each with two outlines."""
    says = (
        "Of test volumes the slice that holds most of the mask: its outline is solid and blue, that of what the probe "
        "of voxels calls dashed and orange; of the first encoder, first seed, at the largest label budget."
    )
    parts = tuple(_outlines(seen) for seen in drawing.pictured if seen.outlines is not None)
    return section("Segmentations", says, each(Beside, parts))


def _outlines(seen: Pictured) -> Strips:
    each_one = zip(seen.outlines, seen.ids, strict=True)
    shown = tuple(Picture(pictures.png(one, pictures.LARGE), name, name) for one, name in each_one)
    return Strips(seen.encoder, None, (Strip("", "", shown),), large=True)


def _views(seen: Pictured) -> Strips:
    strips = tuple(
        Strip("", "", tuple(Picture(pictures.png(one), f"item {i}, view {j}") for j, one in enumerate(item[:VIEWS], 1)))
        for i, item in enumerate(seen.views[:ITEMS], 1)
    )
    return Strips(seen.encoder, None, strips)
