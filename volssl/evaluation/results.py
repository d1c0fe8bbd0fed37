"""What an evaluation found: rows with intervals, paired differences, and the tables that people read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from volssl.evaluation.statistics import METRICS, Estimate
from volssl.whole import replace_file

COMBINED = "combined"
CALLED = METRICS[1:]  # those that depend on the threshold
IN_WORDS = {"acl": "ACL tear", "meniscus": "Meniscal tear", "abnormal": "Abnormality"}
ABBREVIATIONS = {"ppv": "PPV", "npv": "NPV", "f1": "F1"}


@dataclass(frozen=True, slots=True)
class Row:
    """One encoder under one protocol with one share of the labels, on one plane or all combined.

    labels: training exams used. thresholds: one per seed, on the score (a logit). metrics: means over seeds.
    """

    encoder: str
    protocol: str
    fraction: float
    labels: int
    plane: str
    thresholds: tuple[float, ...]
    metrics: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Difference:
    """AUC of the planes combined, ``encoder`` minus ``other``, on the same patients, subsets and seeds."""

    encoder: str
    other: str
    protocol: str
    fraction: float
    auc: Estimate
    sentence: str


@dataclass(frozen=True, slots=True)
class _Block:
    title: str
    lines: list[list[str]]  # the first is the header
    sentences: list[str]


@dataclass(frozen=True, slots=True)
class Results:
    """Everything one ACL-tear evaluation found.

    train, test: in words. patients: whether patients are named, or each exam is one. redrawn: single-class
    resamples. notes: what else a reader should know, a line each.
    """

    task: str
    synthetic: bool
    patients: bool
    train: str
    test: str
    planes: tuple[str, ...]
    seeds: int
    bootstrap: int
    redrawn: int
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    def combined(self) -> Iterator[Row]:
        """The rows of the planes combined."""
        return (row for row in self.rows if row.plane == COMBINED)

    def title(self) -> str:
        """One line; it says so when the data are synthetic."""
        what = "SYNTHETIC knees (volssl phantom), not patients" if self.synthetic else "MRNet layout"
        return f"{IN_WORDS[self.task]} on {what}: {self.train} for training; {self.test} for testing"

    def caption(self) -> str:
        """How the numbers were made."""
        seeds = f" Means over {self.seeds} seeds." if self.seeds > 1 else ""
        redrawn = f" ({self.redrawn} with one class drawn again)" if self.redrawn else ""
        patients = ", as patients.csv names them" if self.patients else ", each exam taken as one patient"
        kept = " Label subsets and folds keep a patient's exams together." if self.patients else ""
        return (
            "AUC is that of the planes combined by logistic regression on out-of-fold training scores. The "
            "threshold on the score (a logit) maximises sensitivity + specificity on such scores; no test exam has "
            f"a part in either.{seeds} In brackets: 95 % interval over {self.bootstrap} resamples of the test "
            f"patients{redrawn}{patients}.{kept}"
        )

    def write(self, folder: str | Path) -> None:
        """``results.json``, ``results.csv`` (one line per number) and ``table.md``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title(), "caption": self.caption()} | asdict(self)
        replace_file(folder / "results.json", json.dumps(plain(content), indent=2, allow_nan=False) + "\n")
        replace_file(folder / "results.csv", self._csv())
        replace_file(folder / "table.md", self.markdown())

    def markdown(self) -> str:
        """A table per protocol and share of the labels, with the differences in words."""
        parts = [f"**{self.title()}**"]
        for block in self._blocks():
            ruled = [block.lines[0], ["---"] * len(block.lines[0]), *block.lines[1:]]
            table = "\n".join("| " + " | ".join(line) + " |" for line in ruled)
            parts += [f"{block.title}:", table, *block.sentences]
        return "\n\n".join([*parts, *self.notes, self.caption()]) + "\n"

    def show(self, console: Console) -> None:
        """The same on a terminal."""
        console.print(self.title(), style="bold", markup=False)
        for block in self._blocks():
            columns = [Column(Text(name), overflow="fold") for name in block.lines[0]]
            table = Table(*columns, title=block.title, title_justify="left", box=SIMPLE_HEAD)
            for line in block.lines[1:]:
                table.add_row(*map(Text, line))  # as text: the brackets of an interval are no markup
            console.print(table)
            for sentence in block.sentences:
                console.print(sentence, markup=False)
        for note in self.notes:
            console.print(note, markup=False)
        console.print(self.caption(), style="dim", markup=False)

    def _blocks(self) -> Iterator[_Block]:
        """Encoders side by side, one block per protocol and share of the labels."""
        for protocol, fraction in dict.fromkeys((r.protocol, r.fraction) for r in self.rows):
            rows = [r for r in self.rows if (r.protocol, r.fraction) == (protocol, fraction)]
            by_plane = {p: [r for r in rows if r.plane == p] for p in (*self.planes, COMBINED)}
            combined = by_plane[COMBINED]
            title = f"{protocol}, {fraction:.0%} of the labels ({combined[0].labels} exams)"
            lines = [["", *(r.encoder for r in combined)]]
            if len(self.planes) > 1:
                lines += [[f"AUC {p}", *(_cell(r.metrics["auc"], 3) for r in by_plane[p])] for p in self.planes]
            lines.append(["AUC", *(_cell(r.metrics["auc"], 3) for r in combined)])
            if self.seeds > 1:
                lines.append(["AUC, sd over seeds", *(f"{r.metrics['auc'].sd:.3f}" for r in combined)])
            lines += [
                [ABBREVIATIONS.get(name, name), *(_cell(r.metrics[name], 2) for r in combined)] for name in CALLED
            ]
            lines.append(["threshold", *(f"{sum(r.thresholds) / len(r.thresholds):+.2f}" for r in combined)])
            words = [d.sentence for d in self.differences if (d.protocol, d.fraction) == (protocol, fraction)]
            yield _Block(title, lines, words)

    def _csv(self) -> str:
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\n")
        lines.writerow(["encoder", "protocol", "fraction", "labels", "plane", "metric", "value", "low", "high", "sd"])
        for r in self.rows:
            for name, e in r.metrics.items():
                numbers = (e.value, e.low, e.high, e.sd)
                lines.writerow([r.encoder, r.protocol, r.fraction, r.labels, r.plane, name, *numbers])
        return out.getvalue()


def _cell(e: Estimate, digits: int) -> str:
    if math.isnan(e.value):
        return "-"
    return f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]"


def plain(value: Any) -> Any:
    """As JSON can hold it: numbers of Python, and null for what is undefined, because JSON has no NaN."""
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
