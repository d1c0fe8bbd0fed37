"""Drawing a synthetic knee's tissues into a volume, from the skin inwards, later ones over earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volssl.data.implicit import Array, Canvas, Frame, Region, Triple, blend, capsule, ellipsoid, rotation
from volssl.data.knee import Bruise, Knee

_HINGE = (0.0, -5.0, 24.0)  # the axis of flexion runs through the condyles


@dataclass(frozen=True)
class Tissue:
    """The signal of each tissue in one contrast."""

    fat: float
    muscle: float
    marrow: float
    cortex: float
    cartilage: float
    meniscus: float
    ligament: float
    fluid: float
    oedema: float
    synovium: float
    vessel: float


def paint_knee(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue, texture: Array) -> None:
    """Draw the knee. ``texture``: a random field of the image's shape, for marrow, muscle and fibres."""
    half = knee.translation / 2
    femur = frame.moved(rotation((knee.flexion, 0, 0)), _HINGE, (0, -half, 0))
    tibia = frame.moved(np.eye(3), (0, 0, 0), (0, half, 0))
    _paint_leg(canvas, frame, knee, tissue, texture)
    _paint_muscles(canvas, frame, knee, tissue, texture)
    _paint_joint_space(canvas, frame, knee, tissue, texture)
    _paint_femur(canvas, femur, knee, tissue, texture)
    _paint_tibia(canvas, tibia, knee, tissue, texture)
    _paint_patella(canvas, femur, tibia, frame, knee, tissue, texture)
    _paint_menisci(canvas, tibia, knee, tissue)
    _paint_pcl(canvas, frame, knee, tissue)
    _paint_acl(canvas, frame, knee, tissue, texture)


def _cylinder(r: Region, radii: tuple[float, float], middle: float, growth: float) -> Array:
    """About the distance to the leg's outline, wider by ``growth`` per mm upwards."""
    u = r.x * (1 / radii[0])
    v = (r.y - middle) * (1 / radii[1])
    u *= u
    v *= v
    u += v
    np.sqrt(u, out=u)
    u -= 1
    u -= r.z * growth
    u *= min(radii)
    return u


def _paint_leg(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue, texture: Array) -> None:
    shape = canvas.image.shape
    r = frame.region(shape, (-75, -85, -110), (75, 75, 130))
    if r is None:
        return
    outline = _cylinder(r, (57 + knee.fat / 2, 60 + knee.fat / 3), -5, 0.0012)
    canvas.paint(r, outline.copy(), 0.5 * (tissue.fat + tissue.muscle))
    outline += 1.6
    canvas.paint(r, outline, tissue.fat * (1 + 0.06 * texture[r.where]))


def _paint_muscles(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue, texture: Array) -> None:
    """Calf and thigh, the vessels behind the knee."""
    m = knee.muscle
    muscles: list[tuple[Triple, Triple, float, float]] = [
        ((-19, -38, 20), (-20, -36, -90), 14 * m, 1.2),
        ((20, -37, 16), (18, -36, -90), 13 * m, 1.2),
        ((2, -26, -95), (4, -24, -36), 14 * m, 2.0),
        ((27, 10, -90), (27, 6, -38), 11 * m, 1.0),
        ((2, -34, 125), (0, -37, 68), 15 * m, 2.2),
        ((-24, -42, 80), (-27, -36, 12), 11 * m, 1.0),
        ((28, -36, 80), (32, -26, 4), 10 * m, 1.0),
        ((-31, 0, 110), (-33, 12, 46), 18 * m, 1.0),
        ((31, 2, 115), (32, 12, 54), 16 * m, 1.0),
        ((0, 26, 125), (0, 29, 86), 11 * m, 2.6),
    ]
    for start, end, radius, wide in muscles:
        r = _around(canvas, frame, start, end, radius * max(wide, 1))
        if r is not None:
            value = tissue.muscle * (1 + 0.12 * texture[r.where])
            canvas.paint(r, capsule(r, start, end, (radius, 0.8 * radius), wide), value)
    vessels: list[tuple[Triple, Triple, float]] = [
        ((0, -44, -90), (2, -38, 100), 3.5),
        ((7, -47, -90), (9, -42, 100), 4),
    ]
    for start, end, radius in vessels:
        r = _around(canvas, frame, start, end, radius)
        if r is not None:
            canvas.paint(r, capsule(r, start, end, (radius, radius)), tissue.vessel)


def _around(canvas: Canvas, frame: Frame, start: Triple, end: Triple, radius: float) -> Region | None:
    low = [min(a, b) - radius - 1.5 for a, b in zip(start, end, strict=True)]
    high = [max(a, b) + radius + 1.5 for a, b in zip(start, end, strict=True)]
    return frame.region(canvas.image.shape, (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _ball(canvas: Canvas, frame: Frame, centre: Triple, radii: Triple, value: float) -> None:
    """Paint one ellipsoid."""
    low = [c - n - 1.5 for c, n in zip(centre, radii, strict=True)]
    high = [c + n + 1.5 for c, n in zip(centre, radii, strict=True)]
    r = frame.region(canvas.image.shape, (low[0], low[1], low[2]), (high[0], high[1], high[2]))
    if r is not None:
        canvas.paint(r, ellipsoid(r, centre, radii), value)


def _paint_joint_space(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue, texture: Array) -> None:
    """Synovium between the bones, and fluid in the notch, the recesses and the pouch above the patella."""
    e = knee.effusion
    wet = tissue.synovium + (tissue.fluid - tissue.synovium) * 0.55 * e
    r = frame.region(canvas.image.shape, (-42, -34, -10), (42, 34, 30))
    if r is not None:
        canvas.paint(r, ellipsoid(r, (0, -1, 8), (38, 28, 17)), wet * (1 + 0.15 * texture[r.where]))
    _ball(canvas, frame, (0, 31, 60), (17 + 8 * e, 1.0 + 6.5 * e, 18 + 6 * e), tissue.fluid)
    _ball(canvas, frame, (-27, 22, 36), (3 + 6 * e, 9, 16), tissue.fluid)
    _ball(canvas, frame, (27, 22, 36), (3 + 6 * e, 9, 16), tissue.fluid)
    if knee.cyst:
        _ball(canvas, frame, (-14, -38, 8), (0.7 * knee.cyst, 0.7 * knee.cyst, 1.4 * knee.cyst), tissue.fluid)


def _paint_bone(
    canvas: Canvas, r: Region, distance: Array, bruises: tuple[Bruise, ...], tissue: Tissue, texture: Array
) -> None:
    """Cortex, then marrow with its texture and bruises."""
    canvas.paint(r, distance.copy(), tissue.cortex)
    grain = texture[r.where]
    marrow = grain * (0.10 * tissue.marrow) + tissue.marrow
    for bruise in bruises:
        glow = ellipsoid(r, bruise.centre, (bruise.radius,) * 3)
        glow *= -1.6 / bruise.radius
        glow += 0.25 * grain
        np.clip(glow, 0, 1, out=glow)
        glow *= bruise.strength
        glow *= tissue.oedema - marrow
        marrow += glow
    distance += 1.5
    canvas.paint(r, distance, marrow)


def _point(p: NDArray[np.float64]) -> Triple:
    x, y, z = p.tolist()
    return x, y, z


def _near(bruises: tuple[Bruise, ...], low: float, high: float) -> tuple[Bruise, ...]:
    return tuple(b for b in bruises if low < b.centre[2] <= high)


def _paint_femur(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue, texture: Array) -> None:
    r = frame.region(canvas.image.shape, (-42, -40, -2), (42, 36, 130))
    if r is None:
        return
    a, b, c = knee.condyle
    n = knee.notch
    medial = ellipsoid(r, (-22 - n, -6, 26), (14.5 + 0.3 * a, 29 + b, 22 + c))
    lateral = ellipsoid(r, (22 + n, -5, 26.5), (14 - 0.3 * a, 27 + b, 21.5 + c))
    shaft = capsule(r, (0, 2, 48), (0, 9, 140), (19, 14), 1.15)
    front = ellipsoid(r, (0, 9, 38), (33 + a, 17, 20))
    bone = blend(blend(medial, lateral, 3), blend(front, shaft, 10), 4)
    layer = np.maximum(bone - knee.cartilage, (r.z - 34 - 0.5 * r.y) * 0.9)
    canvas.paint(r, layer, tissue.cartilage)
    _paint_bone(canvas, r, bone, _near(knee.bruises, 0, 99), tissue, texture)


def _paint_tibia(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue, texture: Array) -> None:
    """Plateau with spines and slope, shaft, tuberosity; the fibula beside it."""
    r = frame.region(canvas.image.shape, (-43, -32, -115), (43, 36, 9))
    if r is None:
        return
    top = np.abs(r.x)
    top -= 5
    top *= 1 / 3.5
    top *= top
    hump = (r.y + 2) * (1 / 8)
    hump *= hump
    top += hump
    top += 1
    np.divide(6.5, top, out=top)
    top += knee.slope * r.y
    top -= 2.3
    taper = np.clip((r.z + 10) * (-1 / 42), 0, 1)
    taper = 1 - 0.58 * taper * (2 - taper)
    u, v = r.x * (1 / 37), (r.y + 2 - 5 * (1 - taper)) * (1 / 25)
    side = np.sqrt(u * u + v * v)
    side -= taper
    side *= 25
    plateau = np.maximum(side, (r.z - top) * 0.95)
    tuberosity = capsule(r, (0, 19, -40), (0, 15, -20), (6, 8), 1.4)
    bone = blend(plateau, tuberosity, 6)
    layer = np.maximum(bone - knee.cartilage, np.maximum(-4 - r.z, 9 - np.abs(r.x)))
    canvas.paint(r, layer, tissue.cartilage)
    _paint_bone(canvas, r, bone, _near(knee.bruises, -99, 0), tissue, texture)
    q = frame.region(canvas.image.shape, (22, -34, -115), (48, -4, -8))
    if q is not None:
        head = ellipsoid(q, (35, -19, -20), (9, 9, 11))
        neck = capsule(q, (35, -19, -24), (33, -17, -120), (6.5, 6), 1.0)
        _paint_bone(canvas, q, blend(head, neck, 4), (), tissue, texture)


def _paint_patella(
    canvas: Canvas, femur: Frame, tibia: Frame, frame: Frame, knee: Knee, tissue: Tissue, texture: Array
) -> None:
    """The kneecap with its cartilage, the tendons above and below."""
    height = 37 + knee.patella
    half = knee.translation / 2
    tendon = ((0.0, 47.0, height - 16), (0.0, 25.0 + half, -32.0))
    r = _around(canvas, tibia, *tendon, 16)
    if r is not None:
        canvas.paint(r, capsule(r, *tendon, (2.4, 2.4), 5.0), tissue.ligament)
    quad = ((0.0, 46.0, height + 16), (0.0, 36.0, 130.0))
    r = _around(canvas, frame, *quad, 18)
    if r is not None:
        canvas.paint(r, capsule(r, *quad, (3.0, 3.5), 4.5), tissue.ligament)
    r = femur.region(canvas.image.shape, (-26, 26, height - 24), (26, 60, height + 24))
    if r is None:
        return
    bone = ellipsoid(r, (0, 43.5, height), (22, 9.5, 19.5))
    layer = np.maximum(bone - 2.6, r.y - 42)
    canvas.paint(r, layer, tissue.cartilage)
    _paint_bone(canvas, r, bone, (), tissue, texture)


def _paint_menisci(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue) -> None:
    """Two crescents, wedges in section, open towards the middle; a torn one has a bright cleft behind."""
    for side, outer, long in ((-1, 17.5, 1.3), (1, 16.0, 1.15)):
        r = frame.region(canvas.image.shape, (min(2 * side, 42 * side), -30, -6), (max(2 * side, 42 * side), 24, 10))
        if r is None:
            continue
        u, v = r.x - 20 * side, (r.y + 3) * (1 / long)
        rho = np.sqrt(u * u + v * v)
        height = np.clip((rho - (outer - 9.5)) * (1 / 9.5), 0, 1) * 3.4
        level = np.abs(r.z - 1.6 - knee.slope * r.y)
        wedge = np.maximum(np.maximum((level - height) * 0.9, rho - outer), 8.0 - r.x * side)
        cleft = np.maximum(wedge + 0.3, np.abs(level - 0.25 * (rho - outer)) - 0.9)
        canvas.paint(r, wedge, tissue.meniscus)
        if knee.meniscus == side:
            canvas.paint(r, np.maximum(cleft, r.y + 6), tissue.fluid)


def _paint_pcl(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue) -> None:
    """The posterior cruciate: an arc that bends more when the tibia stands forward."""
    half = knee.translation / 2
    start = np.array([-4.0, 4.0 - half, 19.0])
    crest = np.array([-3.0, -20.0 - 0.3 * half, 24.0 + 0.8 * half])
    end = np.array([0.0, -25.0 + half, -9.0])
    r = frame.region(canvas.image.shape, (-14, -38, -15), (10, 16, 26))
    if r is None:
        return
    steps = np.linspace(0, 1, 5)[:, None]
    a, b, c, d, e = ((1 - t) ** 2 * start + 2 * t * (1 - t) * crest + t * t * end for t in steps)
    arc = [capsule(r, _point(p), _point(q), (4.2, 4.2), 1.1) for p, q in ((a, b), (b, c), (c, d), (d, e))]
    canvas.paint(r, np.minimum.reduce(arc), tissue.ligament)


def _paint_acl(canvas: Canvas, frame: Frame, knee: Knee, tissue: Tissue, texture: Array) -> None:
    """A striated band; torn, it is thick, bright, wavy, hangs down and has a gap.

    t runs from 0 at the tibia to 1 at the femur; q and p are mm from the middle line, forward and sideways.
    """
    half, acl = knee.translation / 2, knee.ligament
    tail = np.array([-1.0, 10.0 + half, 2.0])
    head = np.array([8.0, -15.0 - half, 24.0])
    r = frame.region(canvas.image.shape, (-14, -30, -8), (20, 26, 36))
    if r is None:
        return
    along = head - tail
    length = float(np.linalg.norm(along))
    along /= length
    across = np.array([0.0, along[2], -along[1]]) / np.hypot(along[1], along[2])  # forward and up
    beside = np.cross(along, across)
    u, v, w = r.x - float(tail[0]), r.y - float(tail[1]), r.z - float(tail[2])
    t, q, p = (u * float(d[0]) + v * float(d[1]) + w * float(d[2]) for d in (along, across, beside))
    t *= 1 / length
    inside = np.clip(t, 0, 1)
    bow = inside * (1 - inside) * 4
    q += bow * (acl.sag + acl.wave * np.sin(inside * 14 + acl.phase))
    p += bow * (0.7 * acl.wave) * np.sin(inside * 11 + 1.7 * acl.phase)
    ends = (t - inside) * length
    radius = acl.radius * (1.25 - 0.35 * bow)
    radius -= (acl.radius * 1.3) * np.clip(1 - np.abs(inside - acl.tear) * (2 / max(acl.gap, 1e-3)), 0, 1)
    band = np.sqrt(q * q + p * p * 0.6 + ends * ends) - radius
    stripes = np.sin(q * 3.2 + p * 1.3) * 0.5 + 0.5
    share = np.clip(acl.oedema * (0.85 + 0.35 * texture[r.where]) + 0.16 * stripes, 0, 1)
    canvas.paint(r, band, tissue.ligament + (tissue.oedema - tissue.ligament) * share)
