"""What the report draws of predictions on one data set: ROC, calibration, confusion, numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from volssl.evaluation import diagnostics, plots
from volssl.evaluation.document import Matrices, Matrix, Panel, Panels, Section, each, section
from volssl.evaluation.drawing import Drawing, capital
from volssl.evaluation.findings import Pictured
from volssl.evaluation.metrics import BINS
from volssl.evaluation.plots import Line
from volssl.evaluation.standings import protocol_in_words, ranked
from volssl.evaluation.target import Ints, Target

Draw = Callable[[Drawing, Pictured, str], Panel | None]


def roc(drawing: Drawing) -> tuple[Section, ...]:
    """A panel per protocol, a line per encoder."""
    panels, names = [], []
    for protocol in drawing.protocols:
        found = {p.encoder: diagnostics.roc(p.target, p.predicted[protocol]) for p in drawing.under(protocol)}
        lines = {name: Line(drawing.styles[name], diagnostics.GRID, y) for name, y in found.items() if y is not None}
        names += list(lines)
        if lines:
            areas = "; ".join(f"{name} {np.trapezoid(line.y, line.x):.3f}" for name, line in lines.items())
            svg = plots.roc(list(lines.values()), f"{drawing.key} roc {protocol}")
            panels.append(Panel(capital(protocol_in_words(protocol)), svg, f"ROC curves; areas below: {areas}"))
    says = "First seed, at the largest label budget. Of several classes or labels, the mean of each one's curve."
    return section("ROC", says, each(Panels, panels, drawing.legend(ranked(iter(names)))))


def calibration(drawing: Drawing) -> tuple[Section, ...]:
    """A reliability diagram per encoder."""
    says = (
        f"How often what was predicted with a probability came true, in {diagnostics.BINS} bins of equal width (those "
        "without predictions are left out), with 95 % intervals, and below it how many predictions each bin holds. On "
        f"the diagonal, probabilities mean what they say. The calibration error is over {BINS} bins."
    )
    return section("Calibration", says, *drawing.by_protocol(partial(_by_encoder, drawing, _reliability)))


def numbers(drawing: Drawing) -> tuple[Section, ...]:
    """Of a number, what was predicted over what is true."""
    name = next((p.target.names[0] for p in drawing.pictured if p.target.kind == "number"), "")
    says = f"{capital(name)} of each test item, first seed, at the largest label budget."
    parts = drawing.by_protocol(partial(_by_encoder, drawing, _scatter))
    return section("Predicted against true", says, *parts) if name else ()


def confusion(drawing: Drawing) -> tuple[Section, ...]:
    """A matrix per encoder."""
    says = (
        "Test items by what they are (rows) and what they were called (columns), first seed, at the largest label "
        "budget. The stronger the colour, the larger the share of the row."
    )
    return section("Confusion", says, *drawing.by_protocol(partial(_matrices, drawing)))


def _by_encoder(drawing: Drawing, draw: Draw, protocol: str) -> Panels | None:
    found = [draw(drawing, seen, protocol) for seen in drawing.under(protocol)]
    kept = tuple(one for one in found if one is not None)
    return Panels(kept, small=True) if kept else None


def _reliability(drawing: Drawing, seen: Pictured, protocol: str) -> Panel | None:
    found = diagnostics.reliability(seen.target, seen.predicted[protocol])
    if found is None:
        return None
    bins = zip(found.predicted, found.observed, found.count, strict=True)
    told = ", ".join(f"{p:.2f}: {y:.2f} of {n}" for p, y, n in bins)
    svg = plots.reliability(found, drawing.styles[seen.encoder], f"{drawing.key} reliability {protocol} {seen.encoder}")
    return Panel(seen.encoder, svg, f"Predicted probability and share that came true: {told}")


def _scatter(drawing: Drawing, seen: Pictured, protocol: str) -> Panel | None:
    if seen.target.kind != "number":
        return None
    true, predicted = seen.target.values, seen.predicted[protocol].score
    key = f"{drawing.key} numbers {protocol} {seen.encoder}"
    svg = plots.predicted_numbers(true, predicted, drawing.styles[seen.encoder], key)
    error = np.abs(true - predicted).mean()
    return Panel(seen.encoder, svg, f"Predicted over true values of {len(true)} items, {error:.3g} apart in the mean")


def _matrices(drawing: Drawing, protocol: str) -> Matrices | None:
    found = [(seen, diagnostics.confusion(seen.target, seen.predicted[protocol])) for seen in drawing.under(protocol)]
    kept = tuple(_matrix(seen.encoder, seen.target, counts) for seen, counts in found if counts is not None)
    return Matrices(kept, drawing.pictured[0].target.names) if kept else None


def _matrix(title: str, target: Target, counts: Ints) -> Matrix:
    flat = counts.reshape(-1, counts.shape[-1])
    shares = flat / np.maximum(flat.sum(axis=1, keepdims=True), 1)
    classes = tuple((str(i), name) for i, name in enumerate(target.names, 1))
    one_of_many = target.kind == "classes"
    rows = classes if one_of_many else tuple(_with_and_without(target.names))
    columns = classes if one_of_many else (("no", ""), ("yes", ""))
    return Matrix(title, rows, columns, tuple(map(tuple, flat.tolist())), tuple(map(tuple, shares.tolist())))


def _with_and_without(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(names, 1):
        yield from ((f"{i} no", name), (f"{i} yes", name))
