"""Imaging a synthetic knee: three planes, three contrasts, thick slices, coil bias and Rician noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from volssl.data.implicit import Array, Canvas, Frame, rotation
from volssl.data.knee import Knee
from volssl.data.knee_paint import Tissue, paint_knee

PLANES = ("axial", "coronal", "sagittal")

# Signal of the tissues, 1 = fluid on T2. As in MRNet sagittal T2 and axial PD suppress fat, coronal T1 does not.
CONTRASTS = {
    "sagittal": Tissue(
        fat=0.24, muscle=0.33, marrow=0.27, cortex=0.05, cartilage=0.58, meniscus=0.09, ligament=0.10,
        fluid=0.95, oedema=0.72, synovium=0.46, vessel=0.70,
    ),
    "coronal": Tissue(
        fat=0.92, muscle=0.36, marrow=0.80, cortex=0.08, cartilage=0.52, meniscus=0.13, ligament=0.15,
        fluid=0.30, oedema=0.46, synovium=0.58, vessel=0.28,
    ),
    "axial": Tissue(
        fat=0.22, muscle=0.43, marrow=0.25, cortex=0.05, cartilage=0.72, meniscus=0.11, ligament=0.12,
        fluid=0.92, oedema=0.70, synovium=0.50, vessel=0.62,
    ),
}  # fmt: skip

# The slice, row and column directions in the patient, and mm covered across the slices (mean, deviation).
_DIRECTIONS = {
    "sagittal": ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "axial": ((0, 0, 1), (0, -1, 0), (1, 0, 0)),
}
_EXTENT = {"sagittal": (106.0, 6.0), "coronal": (108.0, 6.0), "axial": (118.0, 6.0)}


@dataclass(frozen=True)
class Scan:
    """One series: its geometry and what the scanner adds.

    slices; spacing: mm between them; field: mm of the square field of view. gain: grey value of signal 1.
    noise: standard deviation of the complex noise, in signal. bias: slope and bend of the coil's sensitivity
    per axis. edge: mm of in-plane blur.
    """

    plane: str
    slices: int
    spacing: float
    field: float
    gain: float
    noise: float
    bias: NDArray[np.float64]
    edge: float


def draw_scan(rng: Generator, plane: str) -> Scan:
    """A series as MRNet's are: 17 to 61 slices, 31 on average."""
    slices = int(np.clip(np.rint(np.exp(rng.normal(3.42, 0.22))), 17, 61))
    return Scan(
        plane=plane,
        slices=slices,
        spacing=float(rng.normal(*_EXTENT[plane])) / slices,
        field=float(rng.normal(148, 7)),
        gain=float(np.exp(rng.normal(np.log(165), 0.18))),
        noise=float(rng.uniform(0.015, 0.06)),
        bias=rng.normal(0.0, ((0.10, 0.15, 0.15), (0.10, 0.10, 0.10))),
        edge=float(rng.uniform(0.8, 1.6)),
    )


def acquire(knee: Knee, scan: Scan, pixels: int, rng: Generator) -> NDArray[np.uint8]:
    """The series as grey values, slices x pixels x pixels."""
    shape = (scan.slices, pixels, pixels)
    image = np.zeros(shape, np.float32)
    texture = smooth_field(rng, shape, (max(4, scan.slices // 2), 28, 28))
    edge = max(scan.edge, 0.9 * scan.field / pixels)
    paint_knee(Canvas(image, edge), locate(knee, scan, pixels), knee, CONTRASTS[scan.plane], texture)
    image *= _coil(scan, shape)
    return _receive(image, scan, rng)


def locate(knee: Knee, scan: Scan, pixels: int) -> Frame:
    """From voxel indices to the knee's own mm; a left knee is mirrored here."""
    steps = np.array([scan.spacing, scan.field / pixels, scan.field / pixels])
    matrix = np.array(_DIRECTIONS[scan.plane], dtype=np.float64).T * steps
    centre = (np.array([scan.slices, pixels, pixels]) - 1) / 2
    middle = np.array([0.0, -4.0, 12.0])  # of the field of view, in the knee
    turn = rotation(knee.angles) @ np.diag([-1.0 if knee.left else 1.0, 1.0, 1.0]) / knee.size
    return Frame(turn @ matrix, turn @ (np.array(knee.shift) - matrix @ centre) + middle)


def smooth_field(rng: Generator, shape: tuple[int, int, int], knots: tuple[int, int, int]) -> Array:
    """A random field of unit knots, interpolated linearly to ``shape``."""
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, (count, size) in enumerate(zip(knots, shape, strict=True)):
        place = np.linspace(0, count - 1, size, dtype=np.float32)
        lower = np.minimum(place.astype(int), count - 2)
        share = (place - lower).reshape([-1 if a == axis else 1 for a in range(3)])
        below = field.take(lower, axis)
        field = field.take(lower + 1, axis)
        field -= below
        field *= share
        field += below
    return field


def _coil(scan: Scan, shape: tuple[int, int, int]) -> Array:
    """Sensitivity: the product over the axes of exp(slope u + bend u^2), u from -1 to 1."""
    lines = []
    for axis, size in enumerate(shape):
        u = np.linspace(-1, 1, size)
        slope, bend = scan.bias[:, axis]
        lines.append(np.exp(slope * u - abs(bend) * u * u).astype(np.float32))
    return np.asarray(lines[0][:, None, None] * (lines[1][:, None] * lines[2]))


def _receive(image: Array, scan: Scan, rng: Generator) -> NDArray[np.uint8]:
    """Rician noise, the magnitude of a signal with complex Gaussian noise, then gain and rounding."""
    real = rng.standard_normal(image.shape, dtype=np.float32)
    real *= scan.noise
    real += image
    real *= real
    imaginary = rng.standard_normal(image.shape, dtype=np.float32)
    imaginary *= scan.noise
    imaginary *= imaginary
    real += imaginary
    np.sqrt(real, out=real)
    real *= scan.gain
    real += 0.5
    np.minimum(real, 255, out=real)
    return real.astype(np.uint8)
