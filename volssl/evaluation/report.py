"""What an evaluation leaves behind: ``results.csv``, ``results.json`` and ``report.html``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from volssl.evaluation.document import render
from volssl.evaluation.findings import Curve, Findings
from volssl.evaluation.page import page, versions
from volssl.evaluation.results import plain
from volssl.evaluation.statistics import Estimate
from volssl.whole import replace_file

HEAD = ("data", "encoder", "protocol", "budget", "labels", "metric", "value", "low", "high", "sd")
Cells = tuple[object, ...]


def write(findings: Findings, folder: str | Path, *, html: bool = True) -> None:
    """All three, each replaced whole; ``report.html`` where ``html``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "results.csv", table(findings))
    replace_file(folder / "results.json", document(findings))
    if html:
        replace_file(folder / "report.html", render(page(findings)))


def document(findings: Findings) -> str:
    """All but the pictures as JSON, with the versions it was made with; null for what is undefined."""
    content = {**asdict(replace(findings, pictured=())), "versions": versions()}
    del content["pictured"]
    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def table(findings: Findings) -> str:
    """CSV, one line per number: scores under the metric's name, everything else under a name that says what it is."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(HEAD)
    lines.writerows(_scores(findings))
    lines.writerows(_differences(findings))
    lines.writerows(_fusions(findings))
    metric = {card.name: card.metric for card in findings.sets}
    for curve in (*findings.robustness, *findings.convergence):
        lines.writerows(_curve(curve, metric.get(curve.data, "score")))
    lines.writerows(_savings(findings))
    return out.getvalue()


def _scores(findings: Findings) -> Iterator[Cells]:
    for s in findings.scores:
        for name, e in s.metrics.items():
            yield s.data, s.encoder, s.protocol, s.budget, s.labels, name, *_numbers(e)


def _differences(findings: Findings) -> Iterator[Cells]:
    for d in findings.differences:
        yield d.data, d.encoder, d.protocol, d.budget, "", f"{d.metric} minus {d.other}", *_numbers(d.value)


def _fusions(findings: Findings) -> Iterator[Cells]:
    for f in findings.fusions:
        named = {f"attention to {name}": share for name, share in f.weights.items()}
        named |= {f"fall without {name}": fall for name, fall in f.without.items()}
        for name, value in named.items():
            yield f.data, f.name, "", f.budget, "", name, *_alone(value)


def _curve(curve: Curve, metric: str) -> Iterator[Cells]:
    for x, e in zip(curve.x, curve.estimates, strict=True):
        yield curve.data, curve.encoder, curve.protocol, "", "", f"{metric} at {curve.name} {x:.10g}", *_numbers(e)


def _savings(findings: Findings) -> Iterator[Cells]:
    for s in findings.savings:
        start = (s.data, s.encoder, "", "", "")
        yield *start, f"best {s.metric} from scratch", *_numbers(s.best)
        yield *start, "saving in percent of steps", *_numbers(s.percent)
        for name in ("steps", "scratch_steps", "seconds", "scratch_seconds", "reached", "seeds"):
            yield *start, name, *_alone(getattr(s, name))


def _numbers(e: Estimate) -> Cells:
    return plain(e.value), plain(e.low), plain(e.high), plain(e.sd)


def _alone(value: float) -> Cells:
    return plain(value), "", "", ""
