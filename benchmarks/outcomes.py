"""Outcomes of runs as lines of JSON, which survive a process that is killed while it writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from volssl.evaluation.probe import Scores
from volssl.evaluation.target import Floats

Line = dict[str, Any]


def packed(scores: Scores) -> Line:
    """As plain JSON, to six digits."""
    rounded = [float(f"{value:.6g}") for value in scores.score.ravel()]
    fold = None if scores.fold is None else scores.fold.tolist()
    return {"shape": scores.score.shape, "score": rounded, "fold": fold}


def unpacked(given: Line) -> Scores:
    """What ``packed`` was given, but for the rounding."""
    score: Floats = np.array(given["score"]).reshape(given["shape"])
    return Scores(score, None if given["fold"] is None else np.array(given["fold"]))


def append(path: Path, entry: Line) -> None:
    """Add a line in one write, after one that a killed process may have left torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (("\n" if torn else "") + json.dumps(entry) + "\n").encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> dict[str, Line]:
    """The whole lines, by key."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(text)
        except json.JSONDecodeError:  # torn
            continue
        found[entry["key"]] = entry
    return found
