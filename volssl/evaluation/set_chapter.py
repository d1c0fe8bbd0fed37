"""What the report says of one data set: scores, differences, predictions, features and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from volssl.evaluation import diagnostics, pictures, plots
from volssl.evaluation.document import (
    Cell,
    Chapter,
    Folded,
    Interval,
    Intervals,
    Key,
    Lines,
    Matrices,
    Matrix,
    Panel,
    Panels,
    Picture,
    Section,
    Strip,
    Strips,
    Table,
    each,
    folded,
    section,
)
from volssl.evaluation.findings import Curve, Difference, Findings, Fusion, Pictured
from volssl.evaluation.plots import Line, Style
from volssl.evaluation.standings import (
    Block,
    interval,
    is_floor,
    metric_in_words,
    number,
    protocol_in_words,
    ranked,
    signed,
    verdict,
    with_interval,
)
from volssl.evaluation.target import Ints, Target

MAIN = ("linear", "finetune", "voxels", "knn")  # the first of these is shown, the others are folded
QUERIES, SEEN = 3, (3, 6)  # pictures: queries; items and views
KINDS = 7  # classes told apart on a map


@dataclass(frozen=True, slots=True)
class Drawing:
    """What all figures of a data set share. key: a number of its own in the page."""

    findings: Findings
    data: str
    key: str
    blocks: tuple[Block, ...]
    styles: Mapping[str, Style]
    pictured: tuple[Pictured, ...]

    def legend(self, names: tuple[str, ...]) -> tuple[Key, ...]:
        """Of the encoders that are drawn, where there is more than one."""
        return tuple(Key(name, self.swatch(name)) for name in names) if len(names) > 1 else ()

    def swatch(self, name: str) -> Markup:
        """The line of an encoder."""
        return plots.swatch(self.styles[name], "swatch")

    @property
    def metric(self) -> str:
        """The deciding metric in words."""
        card = next((card.metric for card in self.findings.sets if card.name == self.data), "score")
        return metric_in_words(card)

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those under which predictions are kept, the one that is shown first."""
        found = dict.fromkeys(protocol for p in self.pictured for protocol in p.predicted)
        return tuple(sorted(found, key=lambda name: MAIN.index(name) if name in MAIN else len(MAIN)))


def set_chapter(findings: Findings, blocks: tuple[Block, ...], styles: Mapping[str, Style], data: str, i: int) -> Chapter:
    """Everything on one data set; sections of which nothing was found are left out."""
    mine = tuple(block for block in blocks if block.data == data)
    seen = [p for p in findings.pictured if p.data == data]
    order = ranked(p.encoder for p in seen)
    seen.sort(key=lambda p: order.index(p.encoder))
    drawing = Drawing(findings, data, f"set {i}", mine, styles, tuple(seen))
    sections = (
        *_scores(drawing),
        *_differences(drawing),
        *_metrics(drawing),
        *_roc(drawing),
        *_calibration(drawing),
        *_confusion(drawing),
        *_numbers(drawing),
        *_map(drawing),
        *_neighbours(drawing),
        *_views(drawing),
        *_robustness(drawing),
        *_convergence(drawing),
        *_fusion(drawing),
    )
    what = next((card.what for card in findings.sets if card.name == data), "")
    return Chapter(f"set-{i}", data, what, sections)


def _scores(drawing: Drawing) -> tuple[Section, ...]:
    shown = [block for block in drawing.blocks if len(block.budgets) > 1]
    panels = tuple(_scores_panel(drawing, block) for block in shown)
    names = ranked(name for block in shown for name in block.encoders)
    says = "Bars are 95 % intervals over resampled patients; encoders stand side by side at the same number of labels."
    return section("Score against labels", says, each(Panels, panels, drawing.legend(names)))


def _scores_panel(drawing: Drawing, block: Block) -> Panel:
    lines, told = [], []
    for name in block.encoders:
        found = [(block.scores[name, b].labels, e) for b in block.budgets if (e := block.estimate(name, b))]
        if found:
            x, estimates = zip(*found, strict=True)
            lines.append(_line(drawing.styles[name], x, estimates))
            told.append(f"{name} {', '.join(map(number, estimates))}")
    metric = metric_in_words(block.metric)
    alt = f"{metric} with more labels, fewest first: {'; '.join(told)}"
    key = f"{drawing.key} scores {block.protocol}"
    return Panel(_capital(protocol_in_words(block.protocol)), plots.against_labels(lines, metric, key), alt)


def _line(style: Style, x: Any, estimates: Any) -> Line:
    return Line(style, x, [e.value for e in estimates], [e.low for e in estimates], [e.high for e in estimates])


def _differences(drawing: Drawing) -> tuple[Section, ...]:
    says = (
        "Paired: both encoders saw the same training labels and are scored on the same resampled patients. Where the "
        "interval crosses the middle line, the difference is within noise."
    )
    parts: list[Any] = []
    for block in drawing.blocks:
        last = tuple(d for d in block.differences if d.budget == block.budgets[-1])
        rest = tuple(d for d in block.differences if d.budget != block.budgets[-1])
        if last:
            parts += [Lines((f"{block.title}, {_budget(block, block.budgets[-1])}:",)), _intervals(last)]
        if rest:
            parts.append(Folded(f"At smaller budgets ({len(rest)})", (_smaller(block, rest),)))
    return section("Differences", says, *parts)


def _intervals(found: tuple[Difference, ...]) -> Intervals:
    known = [d for d in found if np.isfinite([d.value.value, d.value.low, d.value.high]).all()]
    scale = max([abs(x) for d in known for x in (d.value.low, d.value.high)], default=1.0) or 1.0
    return Intervals(tuple(Interval(d.sentence, d.value.low, d.value.value, d.value.high) for d in known), scale)


def _smaller(block: Block, found: tuple[Difference, ...]) -> Table:
    budgets = tuple(b for b in block.budgets if any(d.budget == b for d in found))
    pairs = dict.fromkeys((d.encoder, d.other) for d in found)
    by = {(d.encoder, d.other, d.budget): d for d in found}
    rows = tuple((f"{a} - {b}", tuple(_difference(by.get((a, b, budget))) for budget in budgets)) for a, b in pairs)
    head = ("", *(_budget(block, budget) for budget in budgets))
    return Table(f"{metric_in_words(block.metric)}, difference", head, rows)


def _difference(found: Difference | None) -> Cell:
    if found is None:
        return Cell("–")
    value, _, bounds = signed(found.value).partition(" ")
    said = {"better": "better", "worse": "worse", "within": "within noise"}
    word = (verdict(found.value) or "").split(" ")[0]
    return Cell(value, bounds, (said[word],) if word in said else ())


def _metrics(drawing: Drawing) -> tuple[Section, ...]:
    parts = [folded(f"{block.title}: all metrics", *_all_metrics(drawing, block)) for block in drawing.blocks]
    return section("All metrics", "", *parts)


def _all_metrics(drawing: Drawing, block: Block) -> Iterator[Table]:
    for budget in reversed(block.budgets):
        names = [name for name in block.encoders if (name, budget) in block.scores]
        metrics = dict.fromkeys(metric for name in names for metric in block.scores[name, budget].metrics)
        rows = tuple(
            (name, tuple(_metric(block, name, budget, metric) for metric in metrics)) for name in names
        )
        head = ("encoder", *map(metric_in_words, metrics))
        yield Table(_budget(block, budget), head, rows, tuple(map(drawing.swatch, names)))


def _metric(block: Block, name: str, budget: str, metric: str) -> Cell:
    score = block.scores[name, budget]
    found = score.metrics.get(metric)
    sd = (f"sd {found.sd:.3f}",) if found and score.seeds > 1 else ()
    return Cell(number(found), interval(found), sd)


def _roc(drawing: Drawing) -> tuple[Section, ...]:
    panels, names = [], []
    for protocol in drawing.protocols:
        found = {p.encoder: diagnostics.roc(p.target, p.predicted[protocol]) for p in _with(drawing, protocol)}
        lines = {name: Line(drawing.styles[name], diagnostics.GRID, y) for name, y in found.items() if y is not None}
        names += list(lines)
        if lines:
            areas = "; ".join(f"{name} {np.trapezoid(line.y, line.x):.3f}" for name, line in lines.items())
            svg = plots.roc(list(lines.values()), f"{drawing.key} roc {protocol}")
            panels.append(Panel(_capital(protocol_in_words(protocol)), svg, f"ROC curves; areas below: {areas}"))
    says = "At the largest label budget, first seed. Of several classes or labels, the mean curve of each against the rest."
    return section("ROC", says, each(Panels, panels, drawing.legend(ranked(iter(names)))))


def _calibration(drawing: Drawing) -> tuple[Section, ...]:
    says = (
        "How often what was predicted with a probability came true, with 95 % intervals, and how many predictions each "
        "bin holds. On the diagonal, probabilities mean what they say."
    )
    draw = partial(_by_encoder, drawing, _reliability)
    return section("Calibration", says, *_main_first(drawing, draw))


def _reliability(drawing: Drawing, seen: Pictured, protocol: str) -> Panel | None:
    found = diagnostics.reliability(seen.target, seen.predicted[protocol])
    if found is None:
        return None
    told = ", ".join(f"{p:.2f}: {y:.2f} of {n}" for p, y, n in zip(found.predicted, found.observed, found.count, strict=True))
    key = f"{drawing.key} reliability {protocol} {seen.encoder}"
    svg = plots.reliability(found, drawing.styles[seen.encoder], key)
    return Panel(seen.encoder, svg, f"Predicted probability and share that came true: {told}")


def _numbers(drawing: Drawing) -> tuple[Section, ...]:
    name = next((p.target.names[0] for p in drawing.pictured if p.target.kind == "number"), "")
    says = f"{_capital(name)} of each test item, first seed, at the largest label budget."
    draw = partial(_by_encoder, drawing, _scatter)
    return section("Predicted against true", says, *_main_first(drawing, draw)) if name else ()


def _scatter(drawing: Drawing, seen: Pictured, protocol: str) -> Panel | None:
    if seen.target.kind != "number":
        return None
    true, predicted = seen.target.values, seen.predicted[protocol].score
    key = f"{drawing.key} numbers {protocol} {seen.encoder}"
    svg = plots.predicted_numbers(true, predicted, drawing.styles[seen.encoder], key)
    r = np.corrcoef(true, predicted)[0, 1] if len(true) > 1 and true.std() and predicted.std() else float("nan")
    return Panel(seen.encoder, svg, f"Predicted over true values of {len(true)} items; their correlation is {r:.2f}")


def _by_encoder(drawing: Drawing, panel: Any, protocol: str) -> Panels | None:
    found = [panel(drawing, seen, protocol) for seen in _with(drawing, protocol)]
    kept = tuple(one for one in found if one is not None)
    return Panels(kept, small=True) if kept else None


def _main_first(drawing: Drawing, draw: Any) -> Iterator[Any]:
    """What ``draw`` makes of each protocol: the first open, the others folded."""
    made = [(protocol, part) for protocol in drawing.protocols if (part := draw(protocol)) is not None]
    for i, (protocol, part) in enumerate(made):
        title = _capital(protocol_in_words(protocol))
        yield from (Lines((f"{title}:",)), part) if i == 0 else (folded(title, part),)


def _confusion(drawing: Drawing) -> tuple[Section, ...]:
    kind = drawing.pictured[0].target.kind if drawing.pictured else "number"
    what = "label, at a threshold chosen on training data" if kind == "labels" else "class"
    says = f"Test items by true {what} (rows) and what they were called (columns), first seed; darker is a larger share of the row."
    return section("Confusion", says, *_main_first(drawing, partial(_matrices, drawing)))


def _matrices(drawing: Drawing, protocol: str) -> Matrices | None:
    found = [m for seen in _with(drawing, protocol) for m in _matrix(seen, protocol)]
    return Matrices(tuple(found)) if found else None


def _matrix(seen: Pictured, protocol: str) -> Iterator[Matrix]:
    counts = diagnostics.confusion(seen.target, seen.predicted[protocol])
    if counts is None:
        return
    if seen.target.kind == "classes":
        names = tuple(f"{i + 1} {name}" for i, name in enumerate(seen.target.names))
        columns = names if len(names) < 3 else tuple(str(i + 1) for i in range(len(names)))
        yield _shaded(seen.encoder, names, columns, counts)
    else:
        rows = tuple(f"{name}: {word}" for name in seen.target.names for word in ("no", "yes"))
        yield _shaded(seen.encoder, rows, ("no", "yes"), counts.reshape(-1, 2))


def _shaded(title: str, rows: tuple[str, ...], columns: tuple[str, ...], counts: Ints) -> Matrix:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Matrix(title, rows, columns, tuple(map(tuple, counts.tolist())), tuple(map(tuple, shares.tolist())))


def _map(drawing: Drawing) -> tuple[Section, ...]:
    says = (
        "Each dot is a test item, placed by t-SNE so that items with similar features lie close together. Which dots are "
        "neighbours means something; distances between far groups, their sizes and the axes mean little."
    )
    panels, legend = [], ()
    for seen in drawing.pictured:
        if found := pictures.projection(seen.features):
            rows, xy = found
            colour, names, kinds = _kinds(seen.target.at(rows))
            svg = plots.embedding(xy, colour, kinds, f"{drawing.key} map {seen.encoder}")
            panels.append(Panel(seen.encoder, svg, f"Map of {len(rows)} items, coloured by {_of(seen.target)}"))
            legend = tuple(Key(n, plots.dot(k, "dot")) for n, k in zip(names, kinds, strict=True))
    return section("Embedding map", says, each(Panels, panels, legend, True))


def _of(target: Target) -> str:
    return target.names[0] if target.kind == "number" else "class" if target.kind == "classes" else "label"


def _kinds(target: Target) -> tuple[Ints, list[str], list[Style]]:
    """Which kind each row is of, what the kinds are called, and how they are drawn."""
    if target.kind == "number":
        edges = np.unique(np.quantile(target.values, np.linspace(0, 1, plots.SHADES + 1)))
        colour = np.searchsorted(edges[1:-1], target.values, side="right")
        names = [f"{a:.3g} to {b:.3g}" for a, b in zip(edges[:-1], edges[1:], strict=True)] or [f"{edges[0]:.3g}"]
        return colour, names, [Style(plots.shade(i), "o", "") for i in range(len(names))]
    colour, names = _classes(target) if target.kind == "classes" else _commonest(target)
    return colour, names, [Style(plots.series(i), plots.MARKERS[i % len(plots.MARKERS)], "") for i in range(len(names))]


def _classes(target: Target) -> tuple[Ints, list[str]]:
    """Classes as they are; of many, the last ones together."""
    if len(target.names) <= KINDS:
        return target.values, list(target.names)
    return np.minimum(target.values, KINDS - 1), [*target.names[: KINDS - 1], f"{len(target.names) - KINDS + 1} others"]


def _commonest(target: Target) -> tuple[Ints, list[str]]:
    """With and without the label that most rows have."""
    which = int((target.values == 1).sum(axis=0).argmax())
    name = target.names[which]
    return 1 - np.clip(target.values[:, which], 0, 1), [name, f"not {name}, or unknown"]


def _neighbours(drawing: Drawing) -> tuple[Section, ...]:
    parts = [_nearest(seen) for seen in drawing.pictured if len(pictures.drawn(seen.thumbnails)) > 1]
    says = "On the left a test item, then the five of other patients whose features are nearest to it by cosine, nearest first."
    kinds = {seen.target.kind for seen in drawing.pictured}
    marks = " ✓ and a solid frame: the same; ✗ and a dashed frame: another." if kinds - {"number"} else ""
    return section("Nearest neighbours", says + marks, *(part for part in parts if part.strips))


def _nearest(seen: Pictured) -> Strips:
    rows = pictures.drawn(seen.thumbnails)
    strips = []
    for query in pictures.queries(seen.target, rows, QUERIES):
        found = pictures.neighbours(seen.features, seen.groups, int(query), rows)
        first = Picture(pictures.png(seen.thumbnails[query]), f"{seen.ids[query]}, {_called(seen.target, query)}", _called(seen.target, query))
        strips.append(Strip((first, *(_neighbour(seen, query, row) for row in found)), led=True))
    return Strips(seen.encoder, tuple(strips))


def _neighbour(seen: Pictured, query: int, row: int) -> Picture:
    name = _called(seen.target, row)
    same = bool(np.array_equal(seen.target.values[row], seen.target.values[query]))
    mark = "" if seen.target.kind == "number" else "right" if same else "wrong"
    alt = f"{seen.ids[row]}, {name}{f', {mark}' if mark else ''}"
    return Picture(pictures.png(seen.thumbnails[row]), alt, name, mark)


def _called(target: Target, row: int) -> str:
    """What a row is, in a few letters."""
    value = target.values[row]
    if target.kind == "number":
        return f"{value:.3g}"
    if target.kind == "classes":
        return target.names[value]
    return ", ".join(name for name, on in zip(target.names, value, strict=True) if on == 1) or "none"


def _views(drawing: Drawing) -> tuple[Section, ...]:
    parts = [_seen(seen) for seen in drawing.pictured if seen.views is not None and len(seen.views)]
    return section("What the model sees", "Items after preprocessing and views of them, a row each.", *parts)


def _seen(seen: Pictured) -> Strips:
    items, views = SEEN
    strips = tuple(
        Strip(tuple(Picture(pictures.png(view), f"item {i + 1}, view {j + 1}") for j, view in enumerate(item[:views])))
        for i, item in enumerate(seen.views[:items])
    )
    return Strips(seen.encoder, strips)


def _robustness(drawing: Drawing) -> tuple[Section, ...]:
    says = "Models that were fitted to clean images, scored on changed ones."
    return section("Robustness", says, _curves(drawing, drawing.findings.robustness, "robustness"))


def _convergence(drawing: Drawing) -> tuple[Section, ...]:
    says = "Fine-tuning from pre-trained weights and from scratch, scored on validation patients while it trains."
    found = [saving for saving in drawing.findings.savings if saving.data == drawing.data]
    rows = tuple(
        (
            s.encoder,
            (
                Cell(with_interval(s.best)),
                Cell(f"{s.steps:,.0f}", f"of {s.scratch_steps:,.0f}"),
                Cell(f"{s.seconds:,.1f}", f"of {s.scratch_seconds:,.1f}"),
                Cell(with_interval(s.percent, 0)),
                Cell(f"{s.reached} of {s.seeds}"),
            ),
        )
        for s in found
    )
    head = ("encoder", "best from scratch", "steps", "seconds", "saving, %", "seeds that reach it")
    table = Table("Until the best score from scratch is reached", head, rows) if rows else None
    figures = _curves(drawing, drawing.findings.convergence, "convergence")
    return section("Convergence", says, figures, table, each(Lines, [s.sentence for s in found]))


def _curves(drawing: Drawing, found: tuple[Curve, ...], what: str) -> Panels | None:
    mine = [curve for curve in found if curve.data == drawing.data]
    names = ranked(curve.encoder for curve in mine)
    panels = []
    for protocol, axis in dict.fromkeys((curve.protocol, curve.name) for curve in mine):
        group = sorted((c for c in mine if (c.protocol, c.name) == (protocol, axis)), key=lambda c: names.index(c.encoder))
        lines = [_line(drawing.styles[c.encoder], c.x, c.estimates) for c in group]
        svg = plots.curves(lines, axis, drawing.metric, f"{drawing.key} {what} {protocol} {axis}")
        told = "; ".join(f"{c.encoder} {', '.join(map(number, c.estimates))}" for c in group)
        title = f"{_capital(axis.split(',')[0])}, {protocol_in_words(protocol)}"
        panels.append(Panel(title, svg, f"{drawing.metric} over {axis}: {told}"))
    return Panels(tuple(panels), drawing.legend(names)) if panels else None


def _fusion(drawing: Drawing) -> tuple[Section, ...]:
    says = (
        "Attention: the share that each encoder got from the others. Fall without: how much the score loses where an "
        "encoder's features are replaced by their mean."
    )
    found = [fusion for fusion in drawing.findings.fusions if fusion.data == drawing.data]
    return section("What the fusion made of each encoder", says, *(_weights(fusion, drawing.metric) for fusion in found))


def _weights(fusion: Fusion, metric: str) -> Table:
    names = dict.fromkeys([*fusion.weights, *fusion.without])
    worst = max([abs(fall) for fall in fusion.without.values()], default=0.0) or 1.0
    rows = tuple((name, (_share(fusion.weights.get(name)), _fall(fusion.without.get(name), worst))) for name in names)
    return Table(f"{fusion.name}, {fusion.budget}", ("encoder", "attention", f"fall of {metric} without"), rows)


def _share(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.2f}", bar=min(max(value, 0.0), 1.0))


def _fall(value: float | None, worst: float) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:+.3f}", bar=max(value, 0.0) / worst)


def _with(drawing: Drawing, protocol: str) -> list[Pictured]:
    return [seen for seen in drawing.pictured if protocol in seen.predicted]


def _budget(block: Block, budget: str) -> str:
    return f"{budget} ({block.labels(budget):,.0f} labels)"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
