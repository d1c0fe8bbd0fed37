"""What a header says of how a volume was made and where it lies, and nothing that could name a patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from pydicom import Dataset
from pydicom.multival import MultiValue

from volssl.data import nifti
from volssl.data.door import Found
from volssl.data.header import read_dataset
from volssl.data.preflight import guard

# What is told, and where DICOM keeps it: classic name before enhanced. The device writes all of these. Names, ids,
# dates, UIDs, private elements and whatever a person types (descriptions, comments, protocols) are never asked for.
ROWS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("modality", ("Modality",), ""),
    ("manufacturer", ("Manufacturer",), ""),
    ("model", ("ManufacturerModelName",), ""),
    ("field strength", ("MagneticFieldStrength",), "T"),
    ("sequence", ("ScanningSequence", "EchoPulseSequence"), ""),
    ("acquisition", ("MRAcquisitionType",), ""),
    ("repetition time", ("RepetitionTime",), "ms"),
    ("echo time", ("EchoTime", "EffectiveEchoTime"), "ms"),
    ("inversion time", ("InversionTime", "InversionTimes"), "ms"),
    ("flip angle", ("FlipAngle",), "degrees"),
    ("b-value", ("DiffusionBValue",), "s/mm²"),
    ("tube voltage", ("KVP",), "kV"),
    ("kernel", ("ConvolutionKernel",), ""),
)
_THICKNESS = "SliceThickness"
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_SPACE = {0: "unknown", 1: "scanner", 2: "aligned to another image", 3: "Talairach", 4: "MNI", 5: "a template"}
_AXES = (("L", "R"), ("P", "A"), ("I", "S"))
_PLANES = ("sagittal", "coronal", "axial")  # by the patient axis that the slices are stacked along


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a volume lies.

    matrix: slices, rows, columns; spacing: mm between their centres. orientation: where each of these axes leads, such
    as ``SPL``. plane: of a slice, the nearest; tilt: degrees between it and that plane. bounds: (3, 2), the lowest and
    highest coordinate in RAS mm (left-right, posterior-anterior, inferior-superior) that any voxel reaches.
    """

    matrix: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    plane: str
    tilt: float
    bounds: np.ndarray


def geometry(matrix: tuple[int, ...], affine: np.ndarray) -> Geometry:
    """What an affine means.

    Args:
        matrix: slices, rows, columns. affine: 4x4 from (slice, row, column) to RAS in mm.
    """
    steps = np.asarray(affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    normal = np.cross(steps[:, 1], steps[:, 2])
    normal = np.abs(normal / np.linalg.norm(normal))
    corners = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in matrix))).reshape(3, -1)
    reached = steps @ corners + np.asarray(affine)[:3, 3:]
    return Geometry(
        matrix=matrix,
        spacing=tuple(spacing.tolist()),
        orientation="".join(nib.aff2axcodes(affine, _AXES)),
        plane=_PLANES[int(normal.argmax())],
        tilt=float(np.degrees(np.arccos(min(normal.max(), 1.0)))),
        bounds=np.stack([reached.min(axis=1), reached.max(axis=1)], axis=1),
    )


def describe(found: Found, volume: MetaTensor) -> dict[str, str]:
    """A table for a person, row name to text with its unit; what is unknown has no row.

    Args:
        found: from ``door.find``. volume: what ``door.load`` gave for it, (C, slices, rows, columns).

    Raises:
        DataError: the header cannot be read.
    """
    made = {"dicom": _dicom, "nifti": _nifti}.get(found.kind, _plain)(found)
    thickness = made.pop(_THICKNESS, None)
    rows = made | {"channels": str(len(volume)) if len(volume) > 1 else "", "matrix": _times(volume.shape[1:])}
    if found.kind in ("dicom", "nifti"):
        where = geometry(tuple(volume.shape[1:]), volume.affine.numpy())
        rows |= _lies(where, float(thickness) if thickness else None)
    low, high = float(volume.min()), float(volume.max())
    return {name: text for name, text in (rows | {"values": f"{low:g} to {high:g}"}).items() if text}


def _lies(where: Geometry, thickness: float | None) -> dict[str, str]:
    """The rows of a geometry; a gap is what the slices leave between them, an overlap what they share."""
    between = "" if thickness is None else _gap(where.spacing[0] - thickness)
    tilt = f", tilted by {where.tilt:.1f} degrees" if where.tilt >= 0.05 else ""
    edges = (
        " to ".join(_edge(axis, mm) for mm in ends) for axis, ends in zip(_AXES, where.bounds.tolist(), strict=True)
    )
    return {
        "voxel": f"{_times(round(s, 3) for s in where.spacing)} mm",
        "slice thickness": "" if thickness is None else f"{thickness:g} mm",
        "between slices": between,
        "plane": where.plane + tilt,
        "orientation": where.orientation,
        "reaches": ", ".join(edges) + " mm",
    }


def _edge(axis: tuple[str, str], mm: float) -> str:
    return f"{axis[mm > 0]} {abs(mm):.0f}"


def _gap(mm: float) -> str:
    if abs(mm) < 0.01:
        return "no gap"
    return f"a gap of {mm:.3g} mm" if mm > 0 else f"an overlap of {-mm:.3g} mm"


def _dicom(found: Found) -> dict[str, str]:
    path, frame = found.files[0], found.frames[0][1]
    wanted = [_THICKNESS, *_GROUPS, *(keyword for _, keywords, _ in ROWS for keyword in keywords)]
    with guard("header", path):
        ds = read_dataset(path, tags=wanted)
        told = {name: _told(ds, frame, keywords, unit) for name, keywords, unit in ROWS}
        encoding = ds.file_meta.TransferSyntaxUID.name
        files = f"{len(found.files)} DICOM file" + ("s" if len(found.files) > 1 else "")
        return {"from": f"{files}, {encoding}", **told, _THICKNESS: _told(ds, frame, (_THICKNESS,), "")}


def _told(ds: Dataset, frame: int, keywords: tuple[str, ...], unit: str) -> str:
    for keyword in keywords:
        for holder in _holders(ds, frame):
            if (value := holder.get(keyword)) not in (
                None,
                "",
                0,
            ):  # a time of 0 is how a header says that there is none
                return f"{_text(value)} {unit}".strip()
    return ""


def _holders(ds: Dataset, frame: int) -> Iterator[Dataset]:
    """Where one frame's attributes may stand: the object, then its own functional groups, then those of all frames."""
    yield ds
    for keyword, i in zip(_GROUPS, (frame, 0), strict=True):
        for group in (ds.get(keyword) or [])[i : i + 1]:
            yield from (element.value[0] for element in group if element.VR == "SQ" and element.value)


def _text(value: Any) -> str:
    if isinstance(value, MultiValue):
        return " + ".join(map(_text, value))
    return str(value) if isinstance(value, str) else f"{float(value):g}"


def _nifti(found: Found) -> dict[str, str]:
    with guard("header", found.files[0]):
        header = nifti.header(found.files[0])
        code = int(header["sform_code"]) or int(header["qform_code"])
        seconds = float(header.get_zooms()[3]) if len(header.get_zooms()) > 3 and header.get_data_shape()[3] > 1 else 0
        return {
            "from": f"a NIfTI file, {header.get_data_dtype().newbyteorder('=')}",
            "space": _SPACE.get(code, "unknown"),
            "between time points": f"{seconds:g} {header.get_xyzt_units()[1]}" if seconds else "",
        }


def _plain(found: Found) -> dict[str, str]:
    what = "an array" if found.kind == "npy" else f"{len(found.files)} pictures"
    return {"from": f"{what}, which knows no millimetres"}


def _times(numbers: Any) -> str:
    return " x ".join(f"{float(n):g}" for n in numbers)
