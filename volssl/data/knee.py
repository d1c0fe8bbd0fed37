"""The anatomy of a synthetic knee: what differs from patient to patient, and what a torn ACL does to it.

Millimetres; x lateral, y anterior, z superior; the origin lies in the middle of the joint line. A left knee
is the mirror image, which the acquisition (``knee_scan.py``) takes care of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

Point = tuple[float, float, float]

# Where marrow is bruised. A pivot-shift injury, the usual cause of an ACL tear, leaves the kissing pair.
KISSING: tuple[Point, ...] = ((22.0, 8.0, 14.0), (21.0, -15.0, -9.0))
ELSEWHERE: tuple[Point, ...] = (
    (-22.0, 4.0, 14.0),
    (-22.0, -18.0, 16.0),
    (-20.0, 8.0, -9.0),
    (-18.0, -14.0, -10.0),
    (16.0, 12.0, -10.0),
    (24.0, -18.0, 24.0),
    (0.0, 14.0, 30.0),
    (4.0, 4.0, -14.0),
)


@dataclass(frozen=True)
class Bruise:
    """Marrow oedema: a soft ball. ``strength`` 1 turns the marrow at its centre into plain oedema."""

    centre: Point
    radius: float
    strength: float


@dataclass(frozen=True)
class Ligament:
    """The anterior cruciate ligament from its tibial (0) to its femoral end (1).

    radius: mm, half its thickness. oedema: 0 dark fibres .. 1 as bright as oedema. wave: mm the fibres
    wander. gap: share of the length that is torn away around ``tear``. sag: mm the middle hangs down and
    back. phase: of the waves, radians.
    """

    radius: float
    oedema: float
    wave: float
    gap: float
    tear: float
    sag: float
    phase: float


@dataclass(frozen=True)
class Knee:
    """One patient's knee.

    severity: 0 intact, else how badly the ACL is torn, up to 1. translation: mm the tibia stands forward of
    where it should. effusion: 0..1. meniscus: side of a meniscal tear, -1 medial, 1 lateral, 0 none.
    angles: radians about x, y, z; shift: mm; both of the knee in the scanner. flexion: radians.
    """

    severity: float
    translation: float
    ligament: Ligament
    bruises: tuple[Bruise, ...]
    effusion: float
    meniscus: int
    cyst: float
    size: float
    left: bool
    angles: Point
    shift: Point
    flexion: float
    condyle: Point
    notch: float
    slope: float
    cartilage: float
    fat: float
    muscle: float
    patella: float

    @property
    def torn(self) -> bool:
        """Whether the ACL is torn."""
        return self.severity > 0

    @property
    def abnormal(self) -> bool:
        """Whether anything at all is wrong, as MRNet's third label has it."""
        return self.torn or self.meniscus != 0 or bool(self.bruises) or self.effusion > 0.5


def draw_knee(rng: Generator, *, torn: bool) -> Knee:
    """A patient. Effusion, bruises and meniscal tears come with a torn ACL and without, about alike."""
    severity = float(rng.uniform(0.45, 1.0)) if torn else 0.0
    side = int(rng.choice([-1, 1])) if rng.random() < (0.5 if torn else 0.4) else 0
    return Knee(
        severity=severity,
        translation=float(rng.normal(0.0, 1.0) + 10.0 * severity),
        ligament=_draw_ligament(rng, severity),
        bruises=_draw_bruises(rng, torn=torn),
        effusion=float(rng.beta(1.6, 1.8)),
        meniscus=side,
        cyst=float(rng.uniform(4, 11)) if rng.random() < 0.2 else 0.0,
        size=float(rng.normal(1.0, 0.05)),
        left=bool(rng.random() < 0.5),
        angles=_normals(rng, (0.055, 0.04, 0.08)),
        shift=_normals(rng, (3.2, 4.0, 4.0)),
        flexion=float(rng.uniform(-0.05, 0.22)),
        condyle=_normals(rng, (1.2, 1.5, 1.2)),
        notch=float(rng.normal(0.0, 0.8)),
        slope=float(rng.normal(0.10, 0.04)),
        cartilage=float(rng.uniform(1.6, 2.8)),
        fat=float(rng.uniform(4.5, 12.0)),
        muscle=float(rng.normal(1.0, 0.08)),
        patella=float(rng.normal(0.0, 3.0)),
    )


def _normals(rng: Generator, deviations: Point) -> Point:
    x, y, z = rng.normal(0.0, deviations)
    return float(x), float(y), float(z)


def _draw_ligament(rng: Generator, severity: float) -> Ligament:
    degenerate = float(rng.beta(1.0, 5.0))  # mucoid degeneration brightens an intact ligament too
    return Ligament(
        radius=float(rng.normal(4.2, 0.4)) * (1 + 0.75 * severity),
        oedema=min(1.0, degenerate * 0.6 + 0.85 * severity),
        wave=abs(float(rng.normal(0.0, 0.3))) + 2.8 * severity,
        gap=0.35 * severity,
        tear=float(rng.uniform(0.4, 0.8)),
        sag=abs(float(rng.normal(0.0, 0.5))) + 5.0 * severity,
        phase=float(rng.uniform(0, 2 * np.pi)),
    )


def _draw_bruises(rng: Generator, *, torn: bool) -> tuple[Bruise, ...]:
    """None to three bruises either way: with a tear mostly the kissing pair, without one mostly elsewhere."""
    count = int(rng.integers(0, 4))
    kissing = rng.random() < (0.8 if torn else 0.08)
    others = [ELSEWHERE[i] for i in rng.permutation(len(ELSEWHERE))]
    places = ([*KISSING, *others] if kissing else others)[:count]
    return tuple(
        Bruise(
            (x + float(rng.normal(0, 2)), y + float(rng.normal(0, 2)), z + float(rng.normal(0, 2))),
            float(rng.uniform(9, 15)),
            float(rng.uniform(0.5, 1.0)),
        )
        for x, y, z in places
    )
