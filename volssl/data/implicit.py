"""Painting implicit shapes on a grid of voxels: frames in mm, signed distances, soft edges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Triple = tuple[float, float, float]


class Region(NamedTuple):
    """A box of voxels: where it is in the image, and the coordinates in mm of every voxel in it."""

    where: tuple[slice, slice, slice]
    x: Array
    y: Array
    z: Array


@dataclass(frozen=True)
class Frame:
    """Voxel indices to mm: ``matrix @ index + offset``."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    def moved(self, rotation: NDArray[np.float64], about: Triple, shift: Triple) -> Frame:
        """The frame of a part that was turned about a point (by the inverse of ``rotation``) and shifted."""
        pivot = np.asarray(about)
        return Frame(rotation @ self.matrix, rotation @ (self.offset - pivot - np.asarray(shift)) + pivot)

    def region(self, shape: tuple[int, ...], low: Triple, high: Triple) -> Region | None:
        """The voxels that may lie in the box from ``low`` to ``high`` mm; None where there is none."""
        corners = np.array(list(product(*zip(low, high, strict=True)))) - self.offset
        index = corners @ np.linalg.inv(self.matrix).T
        first = np.clip(np.floor(index.min(0)), 0, shape).astype(int)
        last = np.clip(np.ceil(index.max(0)) + 1, 0, shape).astype(int)
        if (last <= first).any():
            return None
        i, j, k = (np.arange(a, b, dtype=np.float32) for a, b in zip(first, last, strict=True))
        m, o = self.matrix.astype(np.float32), self.offset.astype(np.float32)
        x, y, z = ((m[a, 0] * i + o[a])[:, None, None] + ((m[a, 1] * j)[:, None] + m[a, 2] * k) for a in range(3))
        s = [slice(int(a), int(b)) for a, b in zip(first, last, strict=True)]
        return Region((s[0], s[1], s[2]), x, y, z)


def rotation(angles: Triple) -> NDArray[np.float64]:
    """The rotation matrix of angles (radians) about x, then y, then z."""
    (a, b, c), (d, e, f) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def ellipsoid(r: Region, centre: Triple, radii: Triple) -> Array:
    """About the distance in mm to an ellipsoid, negative inside (exact for a ball)."""
    u, v, w = ((c - m) * (1 / n) for c, m, n in zip((r.x, r.y, r.z), centre, radii, strict=True))
    u *= u
    v *= v
    w *= w
    u += v
    u += w
    np.sqrt(u, out=u)
    u -= 1
    u *= min(radii)
    return u


def capsule(r: Region, start: Triple, end: Triple, radii: tuple[float, float], wide: float = 1.0) -> Array:
    """About the distance to a tapering rod from ``start`` to ``end``; ``wide`` stretches it along x."""
    d = [b - a for a, b in zip(start, end, strict=True)]
    u, v, w = r.x - start[0], r.y - start[1], r.z - start[2]
    t = u * d[0] + v * d[1] + w * d[2]
    t *= 1 / sum(a * a for a in d)
    np.clip(t, 0, 1, out=t)
    u -= t * d[0]
    u *= 1 / wide
    v -= t * d[1]
    w -= t * d[2]
    u *= u
    v *= v
    w *= w
    u += v
    u += w
    np.sqrt(u, out=u)
    t *= radii[1] - radii[0]
    t += radii[0]
    u -= t
    return u


def blend(a: Array, b: Array, width: float) -> Array:
    """The union of two shapes, its crease filled over ``width`` mm (polynomial smooth minimum)."""
    h = np.clip(0.5 + (b - a) * (0.5 / width), 0, 1)
    return np.asarray(b + (a - b) * h - width * h * (1 - h), dtype=np.float32)


@dataclass(frozen=True)
class Canvas:
    """An image under construction. ``edge``: mm over which a shape's border fades, the in-plane blur."""

    image: Array
    edge: float

    def paint(self, r: Region, distance: Array, value: float | Array) -> None:
        """Cover what lies inside (``distance`` < 0) with ``value``. ``distance`` is used up."""
        distance *= -1 / self.edge
        distance += 0.5
        np.clip(distance, 0, 1, out=distance)
        self.mix(r, distance, value)

    def mix(self, r: Region, share: Array, value: float | Array) -> None:
        """Replace the given share of every voxel with ``value``."""
        under = self.image[r.where]
        change = value - under
        change *= share
        under += change
