"""Findings as an evaluation of several sets might leave them: made up from a seed, consistent in themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volssl.evaluation.findings import (
    Audit,
    Curve,
    Difference,
    Findings,
    Fusion,
    Overlap,
    Pictured,
    Saving,
    Score,
    SetCard,
)
from volssl.evaluation.outlines import picture
from volssl.evaluation.statistics import Estimate, in_words
from volssl.evaluation.target import Floats, Predicted, Target, binary_probability

ENCODERS = ("simclr", "mocov3", "dino", "dvme", "concatenation", "random", "pixels")
SKILL = {"simclr": 0.9, "mocov3": 0.7, "dino": 0.75, "dvme": 1.0, "concatenation": 0.9, "random": 0.35, "pixels": 0.4}
BUDGETS = {"1 %": 12.0, "10 %": 118.0, "100 %": 1180.0}
AXES = {"rotation, degrees": (0.0, 5.0, 15.0, 30.0, 45.0), "noise, sd": (0.0, 0.05, 0.1, 0.2)}
OTHERS = ("average_precision", "accuracy", "balanced_accuracy", "f1", "kappa", "sensitivity", "specificity", "brier")
EFFECT = {"tiles": 0.45, "radiographs": 0.3, "findings": 0.12, "hippocampus": 0.02, "masks": 0.25}
SETS = {
    "tiles": ("classes", ("adenocarcinoma", "benign tissue", "squamous cell carcinoma"), "auroc", ("linear", "knn")),
    "radiographs": ("classes", ("normal", "pneumonia"), "auroc", ("linear", "finetune")),
    "findings": ("labels", ("effusion", "mass", "pneumothorax"), "auroc", ("linear",)),
    "hippocampus": ("number", ("anterior fraction",), "r2", ("linear",)),
    "masks": ("masks", ("anterior", "posterior"), "dice", ("voxels",)),
}


def plausible(encoders: tuple[str, ...] = ENCODERS, sets: tuple[str, ...] = tuple(SETS), rows: int = 90) -> Findings:
    """Everything a report can show. encoders: names; the first of ``SKILL`` where unknown."""
    rng = np.random.default_rng(5)
    scores = tuple(s for data in sets for s in _scores(data, encoders, rng))
    return Findings(
        title="What the encoders are worth",
        config={
            "sets": {data: {"target": {"name": SETS[data][0]}} for data in sets},
            "seeds": 5,
            "output": "runs/worth",
        },
        sets=tuple(_card(data, rows) for data in sets),
        encoders={name: _encoder(name) for name in encoders if name not in ("pixels", "dvme", "concatenation")},
        scores=scores,
        differences=tuple(_differences(scores)),
        fusions=tuple(_fusion(data, budget, encoders[:3]) for data in sets[:2] for budget in ("10 %", "100 %")),
        audit=Audit(
            {"simclr": ("file", "image", "patient"), "dino": ("file",)}, (), ("dino: its card has no patients",)
        ),
        robustness=tuple(_robust(sets[0], name, axis, rng) for axis in AXES for name in (*encoders[:1], "random")),
        convergence=tuple(_learning(sets[0], name) for name in ("simclr", "random")),
        savings=(_saving(sets[0]),),
        history={name: _history(name) for name in encoders[:3]},
        pictured=tuple(p for data in sets for p in _pictured(data, encoders, rows)),
        notes=("The random encoder is drawn anew for each seed.",),
    )


def leaked(findings: Findings) -> Findings:
    """The same with items that the pre-training has seen."""
    overlaps = (
        Overlap(
            "tiles", "simclr", "file", 3, 12, ("lung/0007.png", "lung/0008.png", "lung/0013.png"), ("lung/0100.png",)
        ),
        Overlap("radiographs", "dino", "patient", 1, 0, ("p-17",), ()),
    )
    return replace(findings, audit=replace(findings.audit, overlaps=overlaps))


def _skill(name: str) -> float:
    return SKILL.get(name, 0.8)


def _scores(data: str, encoders: tuple[str, ...], rng: np.random.Generator) -> list[Score]:
    kind, _, metric, protocols = SETS[data]
    found = []
    for protocol in protocols:
        for i, (budget, labels) in enumerate(BUDGETS.items()):
            for name in encoders:
                value = 0.66 + EFFECT[data] * (_skill(name) - 0.4) * (0.5 + 0.25 * i) + 0.06 * i + rng.normal(0, 0.01)
                value = min(value, 0.985)
                wide = 0.09 / (1 + 0.4 * i)
                metrics = {metric: Estimate(value, value - wide, min(value + wide * 0.8, 1.0), 0.02)}
                if kind == "classes":
                    for other, shift in zip(OTHERS, np.linspace(-0.2, 0, len(OTHERS)).tolist(), strict=True):
                        metrics[other] = Estimate(value + shift, value + shift - wide, value + shift + wide, 0.01)
                found.append(Score(data, name, protocol, budget, labels, 5, metrics))
    return found


def _differences(scores: tuple[Score, ...]) -> list[Difference]:
    by = {(s.data, s.protocol, s.budget, s.encoder): s for s in scores}
    found = []
    for s in scores:
        for other in ("random", "pixels", "concatenation"):
            theirs = by.get((s.data, s.protocol, s.budget, other))
            apart = s.encoder not in ("random", "pixels", other) and (other != "concatenation" or s.encoder == "dvme")
            if theirs and apart:
                metric, mine = next(iter(s.metrics.items()))
                gap = mine.value - theirs.metrics[metric].value
                e = Estimate(gap, gap - 0.05, gap + 0.045)
                words = in_words(e, s.encoder, other, metric)
                found.append(Difference(s.data, s.encoder, other, s.protocol, s.budget, metric, e, words))
    return found


def _card(data: str, rows: int) -> SetCard:
    kind, names, metric, _ = SETS[data]
    counts = {"mean": 0.58, "sd": 0.07} if kind == "number" else {name: 400.0 - 50 * i for i, name in enumerate(names)}
    left = ("scan-014.nii.gz: damaged", "scan-020.nii.gz: gap") if data == "hippocampus" else ()
    return SetCard(data, f"{data} of {kind}, made up", 1270, 640, rows, kind, metric, counts, left)


def _encoder(name: str) -> Mapping[str, object]:
    return {
        "backbone": {"name": "resnet", "depth": 18, "norm": "batch"},
        "method": name,
        "step": 300,
        "size": [64, 64],
        "sha256": "3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b",
    }


def _fusion(data: str, budget: str, encoders: tuple[str, ...]) -> Fusion:
    shares = np.arange(len(encoders), 0, -1) / np.arange(len(encoders) + 1).sum()
    falls = np.linspace(0.05, -0.004, len(encoders))
    weights, without = (dict(zip(encoders, x.tolist(), strict=True)) for x in (shares, falls))
    return Fusion(data, "dvme", budget, weights, without)


def _robust(data: str, name: str, axis: str, rng: np.random.Generator) -> Curve:
    x = AXES[axis]
    values = [
        0.5 + 0.45 * _skill(name) * np.exp(-1.5 * i / len(x) * (1.4 - _skill(name))) + rng.normal(0, 0.005)
        for i in range(len(x))
    ]
    return Curve(
        data, name, "linear", axis, x, tuple(Estimate(float(v), float(v) - 0.04, float(v) + 0.035) for v in values)
    )


def _learning(data: str, name: str) -> Curve:
    steps = tuple(float(s) for s in range(10, 210, 10))
    values = [0.5 + 0.42 * (1 - np.exp(-s * _skill(name) ** 2 / 60)) for s in steps]
    return Curve(
        data,
        name,
        "finetune",
        "steps",
        steps,
        tuple(Estimate(float(v), float(v) - 0.03, float(v) + 0.03) for v in values),
    )


def _saving(data: str) -> Saving:
    percent = Estimate(62.0, 48.0, 71.0, 8.0)
    words = "simclr reaches the best score from scratch in 62 % fewer steps (95 % interval 48 to 71 %)"
    return Saving(
        data, "simclr", "auroc", Estimate(0.88, 0.86, 0.9, 0.01), 72.0, 190.0, 14.1, 37.5, percent, 5, 5, words
    )


def _history(name: str) -> tuple[Mapping[str, float], ...]:
    rng = np.random.default_rng(len(name))
    return tuple(
        {
            "step": step,
            "loss": 5 * np.exp(-step / 120) + 0.6 * _skill(name) + rng.normal(0, 0.05),
            "lr": 1e-3,
            "spread": 0.3 + 0.4 * (1 - np.exp(-step / 90)) * _skill(name),
            "rank": 2 + 9 * (1 - np.exp(-step / 70)) * _skill(name),
        }
        for step in range(10, 310, 10)
    )


def _pictured(data: str, encoders: tuple[str, ...], rows: int) -> list[Pictured]:
    rng = np.random.default_rng(len(data))
    if data == "masks":
        sizes = Target("number", rng.integers(90, 200, 6).astype(np.float64), ("voxels",))
        ids = tuple(f"masks/{i:02d}.nii.gz, Dice 0.8{i}" for i in range(6))
        return [Pictured(data, encoders[0], sizes, np.arange(6), {}, None, ids, outlines=np.stack([_slice(rng)] * 6))]
    target, truth = _target(data, rows, rng)
    images = np.stack([_image(z, data == "tiles", rng) for z in truth])
    ids = tuple(f"{data}/{i:04d}.png" for i in range(rows))
    found = []
    for name in encoders:
        noise = 1.3 - _skill(name)
        features = truth @ rng.normal(size=(truth.shape[1], 24)) + 5 * noise * rng.normal(size=(rows, 24))
        predicted = {protocol: _predicted(target, truth, noise, rng) for protocol in SETS[data][3]}
        views = np.stack([[np.roll(images[i], 3 * v, axis=0) for v in range(4)] for i in range(3)])
        seen = views if name in encoders[:1] else None
        found.append(Pictured(data, name, target, np.arange(rows) // 2, predicted, features, ids, images, seen))
    return found


def _slice(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise with two discs, one of which is nearly what the other is."""
    grey = torch.from_numpy(rng.normal(size=(1, 1, 24, 24)))
    apart = [np.hypot(*(np.indices((24, 24)) - place)) < 6 for place in (11, 12.5)]
    return picture(grey, *(torch.from_numpy(disc.astype(np.int64))[None] for disc in apart))


def _target(data: str, rows: int, rng: np.random.Generator) -> tuple[Target, NDArray[Any]]:
    """What each row is, and a few numbers that know it."""
    kind, names, _, _ = SETS[data]
    if kind == "classes":
        y = rng.integers(0, len(names), rows)
        return Target("classes", y, names), np.eye(len(names))[y] * 2
    if kind == "labels":
        bits = (rng.random((rows, len(names))) < 0.35).astype(np.int64)
        shown = np.where(rng.random(bits.shape) < 0.05, -1, bits)
        return Target("labels", shown, names), bits * 2.0
    number = rng.normal(0.58, 0.07, rows)
    return Target("number", number, names), (number[:, None] - 0.58) * 15


def _predicted(target: Target, truth: Floats, noise: float, rng: np.random.Generator) -> Predicted:
    seen = truth + 2 * noise * rng.normal(size=truth.shape)
    if target.kind == "number":
        return Predicted(0.58 + seen[:, 0] / 20)
    if target.kind == "labels":
        logit = 2 * seen - 2
        return Predicted(logit, 1 / (1 + np.exp(-logit)), logit >= 0.2)
    if target.binary:
        logit = 1.5 * (seen[:, 1] - seen[:, 0])
        return Predicted(logit, binary_probability(logit, float(target.values.mean())), logit >= 0.1)
    p = np.exp(seen)
    return Predicted(seen, p / p.sum(axis=1, keepdims=True))


def _image(z: Floats, colour: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A blob whose size and place say what it is, under noise; in colour, a stain."""
    rows, columns = np.mgrid[-1:1:32j, -1:1:32j]
    place = 0.5 * np.tanh(z[:2] if len(z) > 1 else np.array([z[0], 0])) + rng.normal(0, 0.15, 2)
    blob = np.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (0.08 + 0.05 * abs(z[0])))
    grey = np.clip(0.25 + 0.6 * blob + rng.normal(0, 0.06, blob.shape), 0, 1)
    tint = np.array([0.95, 0.75, 0.88]) - 0.12 * np.array([0.3, 0.9, 0.25]) * z[0]
    stained = np.clip(tint - 0.5 * grey[..., None] * np.array([0.5, 0.8, 0.3]), 0, 1)
    return np.asarray(255 * (stained if colour else grey)).astype(np.uint8)
