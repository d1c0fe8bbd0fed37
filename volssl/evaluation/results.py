"""What an evaluation found: rows with intervals, paired differences, and the tables that people read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from volssl.evaluation.statistics import METRICS, Estimate

COMBINED = "combined"
CALLED = METRICS[1:]  # those that depend on the threshold


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
class Results:
    """Everything one ACL-tear evaluation found. train, test: in words. redrawn: single-class resamples."""

    task: str
    synthetic: bool
    train: str
    test: str
    planes: tuple[str, ...]
    seeds: int
    bootstrap: int
    redrawn: int
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    def combined(self) -> Iterator[Row]:
        """The rows of the planes combined."""
        return (row for row in self.rows if row.plane == COMBINED)

    def title(self) -> str:
        """One line; it says so when the data are synthetic."""
        what = "SYNTHETIC knees (volssl phantom), not patients" if self.synthetic else "MRNet layout"
        return f"{self.task} on {what}: {self.train} for training; {self.test} for testing"

    def caption(self) -> str:
        """How the numbers were made."""
        seeds = f" Means over {self.seeds} seeds, ± sd over seeds." if self.seeds > 1 else ""
        redrawn = f" ({self.redrawn} with one class drawn again)" if self.redrawn else ""
        return (
            "Planes are combined by logistic regression on out-of-fold training scores. The threshold on the "
            "score (a logit) maximises sensitivity + specificity on such scores; no test exam has a part in "
            f"either.{seeds} In brackets: 95 % interval over {self.bootstrap} resamples of the test "
            f"patients{redrawn}, each exam taken as one patient."
        )

    def write(self, folder: str | Path) -> None:
        """``results.json``, ``results.csv`` (one line per number) and ``table.md``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title(), "caption": self.caption()} | asdict(self)
        _replace(folder / "results.json", json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")
        _replace(folder / "results.csv", self._csv())
        _replace(folder / "table.md", self.markdown())

    def markdown(self) -> str:
        """The two tables and the differences in words."""
        sentences = [f"- {d.protocol}, {d.fraction:.0%} of the labels: {d.sentence}" for d in self.differences]
        parts = [f"**{self.title()}**"]
        for header, lines in self._tables():
            ruled = [header, ["---"] * len(header), *lines]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in ruled))
        return "\n\n".join([*parts, "\n".join(sentences), self.caption()]) + "\n"

    def show(self, console: Console) -> None:
        """The same on a terminal."""
        console.print(self.title(), style="bold")
        for header, lines in self._tables():
            table = Table(*header)
            for line in lines:
                table.add_row(*line)
            console.print(table)
        for d in self.differences:
            console.print(f"{d.protocol}, {d.fraction:.0%} of the labels: {d.sentence}")
        console.print(self.caption(), style="dim")

    def _tables(self) -> Iterator[tuple[list[str], list[list[str]]]]:
        single = {(r.encoder, r.protocol, r.fraction, r.plane): r for r in self.rows}
        planes = self.planes if len(self.planes) > 1 else ()
        header = ["encoder", "protocol", "labels", *(f"AUC {p}" for p in planes), "AUC", "threshold"]
        ranking, calling = [], []
        for row in self.combined():
            key = (row.encoder, row.protocol, row.fraction)
            start = [row.encoder, row.protocol, f"{row.labels} ({row.fraction:.0%})"]
            each = [f"{single[*key, plane].metrics['auc'].value:.3f}" for plane in planes]
            ranking.append([*start, *each, self._cell(row.metrics["auc"]), _mean(row.thresholds)])
            calling.append([*start, *(self._cell(row.metrics[name], digits=2) for name in CALLED)])
        yield header, ranking
        yield ["encoder", "protocol", "labels", *CALLED], calling

    def _cell(self, e: Estimate, digits: int = 3) -> str:
        if math.isnan(e.value):
            return "-"
        sd = f" ± {e.sd:.{digits}f}" if self.seeds > 1 and digits == 3 else ""
        return f"{e.value:.{digits}f}{sd} ({e.low:.{digits}f} to {e.high:.{digits}f})"

    def _csv(self) -> str:
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\n")
        lines.writerow(["encoder", "protocol", "fraction", "labels", "plane", "metric", "value", "low", "high", "sd"])
        for r in self.rows:
            for name, e in r.metrics.items():
                numbers = (e.value, e.low, e.high, e.sd)
                lines.writerow([r.encoder, r.protocol, r.fraction, r.labels, r.plane, name, *numbers])
        return out.getvalue()


def _mean(values: tuple[float, ...]) -> str:
    return f"{sum(values) / len(values):+.2f}"


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is undefined is null."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
