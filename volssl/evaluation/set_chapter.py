"""What the report says of one data set: scores, differences, curves and what a fusion made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from volssl.evaluation import plots, set_features, set_predictions
from volssl.evaluation.document import (
    Beside,
    Cell,
    Chapter,
    Heading,
    Interval,
    Intervals,
    Lines,
    Panel,
    Panels,
    Section,
    Table,
    each,
    folded,
    section,
)
from volssl.evaluation.drawing import Drawing, budget_in_words, capital
from volssl.evaluation.findings import PIXELS, Curve, Difference, Findings, Fusion
from volssl.evaluation.plots import Style
from volssl.evaluation.standings import (
    BETTER,
    FEW,
    NOISE,
    WORSE,
    Block,
    interval,
    is_random,
    metric_in_words,
    number,
    protocol_in_words,
    ranked,
    signed,
    with_interval,
)

SIGNS = {BETTER: ("▲", "better"), WORSE: ("▼", "worse"), NOISE: ("≈", "within noise"), FEW: ("?", FEW)}


def set_chapter(
    findings: Findings, blocks: tuple[Block, ...], styles: Mapping[str, Style], data: str, i: int
) -> Chapter:
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
        *set_predictions.roc(drawing),
        *set_predictions.calibration(drawing),
        *set_predictions.confusion(drawing),
        *set_predictions.numbers(drawing),
        *set_features.embedding_map(drawing),
        *set_features.neighbours(drawing),
        *set_features.views(drawing),
        *set_features.outlines(drawing),
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
    says = (
        "Bars are 95 % intervals over resampled patients; encoders stand side by side at the same number of labels. A "
        "score far below the others is cut off."
    )
    return section("Score against labels", says, each(Panels, panels, drawing.legend(names)))


def _scores_panel(drawing: Drawing, block: Block) -> Panel:
    lines, told = [], []
    for name in block.encoders:
        found = [(block.scores[name, b].labels, e) for b in block.budgets if (e := block.estimate(name, b))]
        if found:
            x, estimates = zip(*found, strict=True)
            lines.append(drawing.line(name, x, estimates))
            told.append(f"{name} {', '.join(map(number, estimates))}")
    metric = metric_in_words(block.metric)
    svg = plots.against_labels(lines, metric, f"{drawing.key} scores {block.protocol}")
    alt = f"{metric} with more labels, fewest first: {'; '.join(told)}"
    return Panel(capital(protocol_in_words(block.protocol)), svg, alt)


def _differences(drawing: Drawing) -> tuple[Section, ...]:
    says = (
        "Paired: both encoders saw the same training labels and are scored on the same resampled patients. Where the "
        "interval crosses the middle line, drawn hollow, the difference is within noise; where too few patients were "
        "tested, all are hollow."
    )
    fused = {fusion.name for fusion in drawing.findings.fusions}
    return section("Differences", says, *(part for block in drawing.blocks for part in _of_block(block, fused)))


def _of_block(block: Block, fused: set[str]) -> Iterator[Any]:
    """Sentences at the largest budget on random encoders and fusions; folded, the others and a table of all."""
    largest = [d for d in block.differences if d.budget == block.budgets[-1] and _finite(d)]
    told = [d for d in largest if is_random(d.other) or (d.encoder in fused and d.other != PIXELS)]
    if largest:
        yield Heading(capital(f"{protocol_in_words(block.protocol)}, {budget_in_words(block, block.budgets[-1])}"))
        yield _intervals(block, told)
        rest = [d for d in largest if d not in told]
        yield folded(f"All {len(block.differences)} differences", _intervals(block, rest), _all_differences(block))


def _intervals(block: Block, found: list[Difference]) -> Intervals | None:
    scale = max([abs(x) for d in found for x in (d.value.low, d.value.high)], default=0.0) or 1.0
    lines = tuple(Interval(d.sentence, d.value.low, d.value.value, d.value.high, not block.few) for d in found)
    return Intervals(lines, scale) if lines else None


def _finite(found: Difference) -> bool:
    return bool(np.isfinite([found.value.low, found.value.value, found.value.high]).all())


def _all_differences(block: Block) -> Table:
    pairs = dict.fromkeys((d.encoder, d.other) for d in block.differences)
    by = {(d.encoder, d.other, d.budget): d for d in block.differences}
    rows = tuple((f"{a} - {b}", tuple(_difference(block, by.get((a, b, x))) for x in block.budgets)) for a, b in pairs)
    return Table(metric_in_words(block.metric), ("", *(budget_in_words(block, x) for x in block.budgets)), rows)


def _difference(block: Block, found: Difference | None) -> Cell:
    if found is None or not _finite(found):
        return Cell("-")
    value, _, bounds = signed(found.value).partition(" ")
    said = block.said(found.value)
    return Cell(value, bounds, SIGNS[said] if said else ("", ""))


def _metrics(drawing: Drawing) -> tuple[Section, ...]:
    parts = [folded(capital(protocol_in_words(b.protocol)), *_all_metrics(drawing, b)) for b in drawing.blocks]
    return section("All metrics", "With 95 % intervals, and the standard deviation over seeds.", *parts)


def _all_metrics(drawing: Drawing, block: Block) -> Iterator[Table]:
    for budget in reversed(block.budgets):
        names = [name for name in block.encoders if (name, budget) in block.scores]
        metrics = dict.fromkeys(metric for name in names for metric in block.scores[name, budget].metrics)
        rows = tuple((name, tuple(_metric(block, name, budget, metric) for metric in metrics)) for name in names)
        head = ("encoder", *map(metric_in_words, metrics))
        yield Table(budget_in_words(block, budget), head, rows, tuple(map(drawing.swatch, names)))


def _metric(block: Block, name: str, budget: str, metric: str) -> Cell:
    score = block.scores[name, budget]
    found = score.metrics.get(metric)
    sd = f" sd {found.sd:.3f}" if found and score.seeds > 1 else ""
    return Cell(number(found), interval(found) + sd)


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
                Cell(f"{s.steps:,.0f} of {s.scratch_steps:,.0f}"),
                Cell(f"{s.seconds:,.1f} of {s.scratch_seconds:,.1f}"),
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
    mine.sort(key=lambda curve: names.index(curve.encoder))
    panels = []
    for protocol, axis in dict.fromkeys((curve.protocol, curve.name) for curve in mine):
        group = [c for c in mine if (c.protocol, c.name) == (protocol, axis)]
        lines = [drawing.line(c.encoder, c.x, c.estimates) for c in group]
        svg = plots.curves(lines, axis, drawing.metric, f"{drawing.key} {what} {protocol} {axis}")
        told = "; ".join(f"{c.encoder} {', '.join(map(number, c.estimates))}" for c in group)
        title = f"{capital(axis.split(',')[0])}, {protocol_in_words(protocol)}"
        panels.append(Panel(title, svg, f"{drawing.metric} over {axis}: {told}"))
    return Panels(tuple(panels), drawing.legend(names)) if panels else None


def _fusion(drawing: Drawing) -> tuple[Section, ...]:
    says = (
        "Attention: the share that each encoder got from the others. Fall without: how much the score loses where an "
        "encoder's features are replaced by their mean."
    )
    found = [_weights(fusion, drawing.metric) for fusion in drawing.findings.fusions if fusion.data == drawing.data]
    return section("What the fusion made of each encoder", says, each(Beside, found))


def _weights(fusion: Fusion, metric: str) -> Table:
    names = dict.fromkeys([*fusion.weights, *fusion.without])
    worst = max([abs(fall) for fall in fusion.without.values()], default=0.0) or 1.0
    rows = tuple((name, (_share(fusion.weights.get(name)), _fall(fusion.without.get(name), worst))) for name in names)
    return Table(f"{fusion.name}, {fusion.budget}", ("encoder", "attention", f"fall of {metric} without"), rows)


def _share(value: float | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:.2f}", bar=min(max(value, 0.0), 1.0))


def _fall(value: float | None, worst: float) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:+.3f}", bar=max(value, 0.0) / worst)
