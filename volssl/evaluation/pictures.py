"""Images and features for the eye: PNG data URIs, nearest neighbours, a map in two dimensions."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from volssl.evaluation.target import Floats, Groups, Ints, Target

SIDE, LARGE = 72, 144  # pixels at most; the page enlarges them
PALETTE = 64
MAPPED, FEWEST = 400, 10  # rows on a map
Pixels = NDArray[np.uint8]


def png(image: Pixels, side: int = SIDE) -> str:
    """(rows, columns[, 3]) as a data URI, at most ``side`` pixels a side and, in colour, of 64 colours."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side), Image.Resampling.BOX)
    if picture.mode == "RGB":
        picture = picture.quantize(PALETTE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def drawn(thumbnails: Any) -> Ints:
    """The rows that have a picture."""
    return np.array(
        [i for i, picture in enumerate(thumbnails if thumbnails is not None else ()) if picture is not None], int
    )


def queries(target: Target, rows: Ints, count: int) -> Ints:
    """At most ``count`` of the rows, evenly spaced over the classes, values, or combinations of labels that occur.

    Rows of which all labels are known, if there are any.
    """
    if target.kind == "labels" and (known := (target.values[rows] >= 0).all(axis=1)).any():
        rows = rows[known]
    _, first = np.unique(target.values[rows], axis=0, return_index=True)
    at = np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)
    chosen: Ints = rows[first[at]]
    return chosen


def neighbours(features: Floats, groups: Groups, query: int, rows: Ints, k: int = 5) -> Ints:
    """The k of the rows that are nearest to the query by cosine and belong to another patient, nearest first."""
    others = rows[groups[rows] != groups[query]]
    nearest: Ints = others[np.argsort(-cosine(features, query, others), kind="stable")[:k]]
    return nearest


def cosine(features: Floats, query: int, rows: Ints) -> Floats:
    """Of one row with others; 0 where one of them is nothing."""
    unit = features[[query, *rows]].astype(np.float64)
    length = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, length, out=np.zeros_like(unit), where=length > 0)
    found: Floats = unit[1:] @ unit[0]
    return found


def projection(features: Floats) -> tuple[Ints, Floats] | None:
    """At most 400 rows, drawn with a fixed seed, and where t-SNE puts them (van der Maaten and Hinton 2008).

    Returns:
        rows (M,) and places (M, 2); None for fewer than ten rows, or where all are the same.
    """
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(features))[:MAPPED])
    x = np.asarray(features, np.float64)[rows]
    x = x - x.mean(axis=0)
    if len(rows) < FEWEST or not np.isfinite(x).all() or not np.abs(x).max() > 0:
        return None
    x = x / np.abs(x).max()
    with threadpool_limits(1):  # sums in another order would give another map
        x = PCA(min(50, *x.shape), svd_solver="full").fit_transform(x)
        start = x[:, :2] if x.shape[1] > 1 else np.column_stack([x, np.zeros(len(x))])
        start = start / start.std(axis=0).max() * 1e-4
        tsne = TSNE(init=start.astype(np.float32), perplexity=min(30, (len(x) - 1) / 3), max_iter=500, random_state=0)
        return rows, np.asarray(tsne.fit_transform(x), np.float64)
