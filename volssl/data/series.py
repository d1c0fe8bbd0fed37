"""Which slices make a volume, in what order, and where it lies: pure functions of the slices' headers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from highdicom.spatial import (
    create_affine_matrix_from_attributes,
    get_normal_vector,
    get_volume_positions,
)

from volssl.data.header import SPLITS, Plane
from volssl.errors import DataError

SPACING_TOLERANCE = 1e-2  # of the mean distance between slices
PERPENDICULAR_TOLERANCE = 1e-3  # 1 - cosine between the stacking direction and the normal: 2.6 degrees
ORIENTATION_TOLERANCE = 1e-3  # per direction cosine
PIXEL_SPACING_TOLERANCE = 1e-3  # relative
SAME_POSITION_MM = 1e-2  # along the normal

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SamePixels = Callable[[Plane, Plane], bool]


def by_geometry(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Groups of equal orientation, rows, columns and pixel spacing, in the order of their first slice."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if _alike(plane, group[0]):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return groups


def without_strays(groups: list[list[Plane]]) -> list[list[Plane]]:
    """Leave out lone slices that cross a volume of three slices or more: localizers that do not say so."""
    main = max(groups, key=len)
    if len(main) < 3:
        return groups
    return [group for group in groups if len(group) > 1 or _parallel(group[0], main[0])]


def volumes(planes: Sequence[Plane], same_pixels: SamePixels) -> list[tuple[str, list[Plane]]]:
    """Split slices of one geometry wherever positions repeat: label and slices of each volume, unordered.

    Copies of one object are dropped. A property of ``header.SPLITS`` splits if it leaves fewer slices at the
    most crowded position and takes no more values than there are slices there. If none is left and every
    position has the same number of slices, the n-th instance at each position belongs to the n-th volume.

    Raises:
        DataError: ``one_position`` or ``duplicate_positions``.
    """
    planes = list({_identity(plane): plane for plane in planes}.values())
    if len(planes) > 1 and _repeats(planes) == len(planes):
        raise DataError("one_position", f"all {len(planes)} slices lie at one position: no volume")
    return _split(planes, range(len(SPLITS)), same_pixels)


def ordered(planes: Sequence[Plane]) -> list[Plane]:
    """The slices of one volume along their normal, evenly spaced within ``SPACING_TOLERANCE``.

    Raises:
        DataError: ``single_slice``, ``gap``, ``irregular_spacing`` or ``gantry_tilt``.
    """
    if len(planes) < 2:
        raise DataError("single_slice", "one slice is no volume: its spacing is unknown")
    _, index = _positions(planes)
    if index is None:
        raise _fault(planes)
    return [planes[i] for i in np.argsort(index)]


def affine(planes: Sequence[Plane]) -> np.ndarray:
    """4x4 from (slice, row, column) of ordered slices to RAS in mm."""
    spacing, _ = _positions(planes)
    lps = create_affine_matrix_from_attributes(
        planes[0].position,
        planes[0].orientation,
        planes[0].spacing,
        spacing,
        index_convention=("D", "R"),
        slices_first=True,
    )
    return np.asarray(_LPS_TO_RAS @ lps)


def _identity(plane: Plane) -> Hashable:
    """Equal for copies of one object; more than the UID, which some anonymisers set to one constant."""
    return (plane.uid or plane.file, plane.instance, plane.frame, plane.position, plane.splits)


def _split(planes: list[Plane], keys: Sequence[int], same_pixels: SamePixels) -> list[tuple[str, list[Plane]]]:
    crowd = _repeats(planes)
    if crowd == 1:
        return [("", planes)]
    for n, key in enumerate(keys):
        parts = _parts(planes, key)
        if 1 < len(parts) <= crowd and max(map(_repeats, parts)) < crowd:
            name = SPLITS[key][0]
            return [
                (f"{name}{i:0{len(str(len(parts)))}}-{label}".rstrip("-"), volume)
                for i, part in enumerate(parts, 1)
                for label, volume in _split(part, keys[n + 1 :], same_pixels)
            ]
    return _split_by_instance(planes, crowd, same_pixels)


def _split_by_instance(planes: list[Plane], crowd: int, same_pixels: SamePixels) -> list[tuple[str, list[Plane]]]:
    stacks = _by_position(planes)
    ranks = {(plane.instance, plane.frame) for plane in planes}
    if len(ranks) == len(planes) and all(len(stack) == crowd for stack in stacks):
        turns = [sorted(stack, key=lambda plane: (plane.instance, plane.frame)) for stack in stacks]
        return [(f"repeat{i + 1:0{len(str(crowd))}}", [turn[i] for turn in turns]) for i in range(crowd)]
    if all(same_pixels(stack[0], plane) for stack in stacks for plane in stack[1:]):
        return [("", [stack[0] for stack in stacks])]
    raise DataError(
        "duplicate_positions",
        f"up to {crowd} different slices at one position, nothing tells them apart: export the series anew",
    )


def _parts(planes: Sequence[Plane], key: int) -> list[list[Plane]]:
    parts: dict[Hashable, list[Plane]] = {}
    for plane in planes:
        parts.setdefault(plane.splits[key], []).append(plane)
    return [parts[value] for value in sorted(parts, key=_rank)]


def _rank(value: Hashable) -> tuple[str, float, str]:
    """A total order over absent values, numbers and texts."""
    return (type(value).__name__, value if isinstance(value, float) else 0.0, str(value))


def _by_position(planes: Sequence[Plane]) -> list[list[Plane]]:
    distances = np.array([plane.position for plane in planes]) @ _normal(planes)
    order = np.argsort(distances, kind="stable")
    starts = np.flatnonzero(np.diff(distances[order]) > SAME_POSITION_MM) + 1
    return [[planes[i] for i in part] for part in np.split(order, starts)]


def _repeats(planes: Sequence[Plane]) -> int:
    return max(len(stack) for stack in _by_position(planes))


def _normal(planes: Sequence[Plane]) -> np.ndarray:
    return np.asarray(get_normal_vector(planes[0].orientation))


def _positions(
    planes: Sequence[Plane], *, tilted: bool = False, missing: bool = False
) -> tuple[float, Sequence[int] | None]:
    spacing, index = get_volume_positions(
        [plane.position for plane in planes],
        planes[0].orientation,
        rtol=SPACING_TOLERANCE,
        perpendicular_tol=2.0 if tilted else PERPENDICULAR_TOLERANCE,
        allow_missing_positions=missing,
    )
    return spacing or 0.0, index


def _fault(planes: Sequence[Plane]) -> DataError:
    if _positions(planes, tilted=True)[1] is not None:
        return DataError("gantry_tilt", "the slices are not stacked along their normal: resample the series")
    distances = np.diff(np.sort(np.array([plane.position for plane in planes]) @ _normal(planes)))
    told = f"distances between slices run from {distances.min():.4g} to {distances.max():.4g} mm"
    if _positions(planes, tilted=True, missing=True)[1] is not None:
        return DataError("gap", f"slices are missing ({told}): export the whole series")
    return DataError("irregular_spacing", f"{told}: resample the series")


def _parallel(a: Plane, b: Plane) -> bool:
    return bool(np.allclose(a.orientation, b.orientation, rtol=0, atol=ORIENTATION_TOLERANCE))


def _alike(a: Plane, b: Plane) -> bool:
    return (
        a.shape == b.shape
        and _parallel(a, b)
        and bool(np.allclose(a.spacing, b.spacing, rtol=PIXEL_SPACING_TOLERANCE, atol=0))
    )
