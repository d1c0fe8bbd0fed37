"""The report as a tree: the answer, the summary, a chapter per data set, and what it all rests on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import yaml

from volssl import __version__
from volssl.evaluation import plots
from volssl.evaluation.document import (
    Beside,
    Cell,
    Chapter,
    Code,
    Key,
    Lines,
    Page,
    Panel,
    Panels,
    Section,
    Table,
    each,
    folded,
    section,
)
from volssl.evaluation.findings import Findings, SetCard
from volssl.evaluation.plots import Line, Style
from volssl.evaluation.results import plain
from volssl.evaluation.set_chapter import SIGNS, set_chapter
from volssl.evaluation.standings import (
    Block,
    answer,
    blocks,
    interval,
    is_floor,
    metric_in_words,
    not_floor,
    number,
    ranked,
    usual,
    warnings,
)

PACKAGES = ("torch", "monai", "scikit-learn", "scipy", "numpy", "matplotlib")
GAUGES = {  # of a pre-training run's metrics.jsonl
    "loss": "Loss",
    "spread": "Spread of the embeddings (0: all point the same way)",
    "rank": "Effective rank of the embeddings (1: they lie on a line)",
    "gradient_norm": "Norm of the gradient",
}
POINTS = 200  # of a curve
LISTED = 20  # of what a data card leaves out
SUMMARY = (
    "Means over seeds with 95 % intervals over resampled test patients; columns are label budgets and, in brackets, "
    "the labels used. By the interval of the paired difference to a random encoder: ▲ better, ▼ worse, ≈ within noise, "
    "? too few test patients to tell."
)


def page(findings: Findings) -> Page:
    """Everything that was found, in the order in which it is read."""
    found = blocks(findings)
    styles = plots.styles(_names(findings), is_floor)
    names = dict.fromkeys([*(card.name for card in findings.sets), *(block.data for block in found)])
    chapters = [set_chapter(findings, found, styles, data, i) for i, data in enumerate(names, 1)]
    every = (
        _summary(found, styles),
        *chapters,
        Chapter("pretraining", "Pre-training", "", _runs(findings, styles)),
        Chapter("data", "Data card", "", _cards(findings)),
        Chapter("audit", "Leakage audit", "", _audit(findings)),
        Chapter("encoders", "Encoders", "", _encoders(findings)),
        Chapter("configuration", "Configuration and versions", "", _configuration(findings)),
    )
    kept = tuple(chapter for chapter in every if chapter.sections)
    return Page(findings.title, answer(findings), warnings(findings), findings.notes, kept)


def versions() -> dict[str, str]:
    """Of what the numbers and figures were made with."""
    found = {"volssl": __version__, "Python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _names(findings: Findings) -> tuple[str, ...]:
    """Of all encoders that are drawn anywhere, in one order, so that each has one colour."""
    several = (findings.scores, findings.pictured, findings.robustness, findings.convergence)
    return ranked(iter([*(one.encoder for found in several for one in found), *findings.history]))


def _summary(found: tuple[Block, ...], styles: Mapping[str, Style]) -> Chapter:
    tables = tuple(_standing(block, styles) for block in found)
    return Chapter("summary", "Summary", SUMMARY, section("Scores that decide", "", each(Beside, tables)))


def _standing(block: Block, styles: Mapping[str, Style]) -> Table:
    head = ("encoder", *(f"{b} ({block.labels(b):,.0f})" for b in block.budgets))
    rows = tuple((name, tuple(_cell(block, name, b) for b in block.budgets)) for name in block.encoders)
    swatches = tuple(plots.swatch(styles[name]) for name in block.encoders)
    return Table(f"{block.data}: {block.title}", head, rows, swatches)


def _cell(block: Block, name: str, budget: str) -> Cell:
    found = block.estimate(name, budget)
    best = name == block.best(budget, lambda _: True)
    floor = name == block.best(budget, is_floor)
    said = block.verdict(name, budget) if not_floor(name) else None
    sign = (SIGNS[said][0], said) if said else ("", "")
    return Cell(number(found), interval(found), sign, "best floor" if floor else "best" if best else "", best)


def _runs(findings: Findings, styles: Mapping[str, Style]) -> tuple[Section, ...]:
    panels = []
    for key, title in GAUGES.items():
        lines = {name: _steps(lines, key, styles[name]) for name, lines in findings.history.items()}
        kept = {name: line for name, line in lines.items() if line is not None}
        if kept:
            ends = "; ".join(f"{name} {line.y[0]:.3g} to {line.y[-1]:.3g}" for name, line in kept.items())
            svg = plots.curves(list(kept.values()), "step", key.replace("_", " "), f"history {key}", markers=False)
            panels.append(Panel(title, svg, f"{title}, first to last: {ends}"))
    legend = tuple(Key(name, plots.swatch(styles[name])) for name in findings.history)
    says = "Of evaluations during the run, by data set, protocol and share of the labels, of what was being trained."
    return (
        *section("Curves of the runs", "", each(Panels, panels, legend)),
        *section("Scores while it trained", says, each(Panels, tuple(_scores(findings, styles)), legend)),
    )


def _scores(findings: Findings, styles: Mapping[str, Style]) -> Iterator[Panel]:
    """A panel per evaluation of ``metrics.jsonl``, whose keys end with the name of an encoder; floors are left out."""
    keys = dict.fromkeys(key for lines in findings.history.values() for line in lines for key in line if "." in key)
    for what in dict.fromkeys(key.rpartition(".")[0] for key in keys):
        mine = [key for key in keys if key.rpartition(".")[0] == what and not_floor(key.rpartition(".")[2])]
        found = [
            (f"{name} {key.rpartition('.')[2]}", line)
            for name, lines in findings.history.items()
            for key in mine
            if (line := _steps(lines, key, styles[name])) is not None
        ]
        if found:
            title = what.removeprefix("evaluate.")
            ends = "; ".join(f"{name} {line.y[0]:.3f} to {line.y[-1]:.3f}" for name, line in found)
            svg = plots.curves([line for _, line in found], "step", "score", f"history {what}")
            yield Panel(title, svg, f"Score of {title} over steps, first to last: {ends}")


def _steps(lines: tuple[Mapping[str, float], ...], key: str, style: Style) -> Line | None:
    """One value over the steps, thinned; None where it was not recorded."""
    found = np.array([(line["step"], line[key]) for line in lines if line.get(key) is not None], dtype=np.float64)
    if not len(found):
        return None
    x, y = found[np.unique(np.linspace(0, len(found) - 1, POINTS).round().astype(int))].T
    return Line(style, x, y)


def _cards(findings: Findings) -> tuple[Section, ...]:
    """A table of all, and below it of each how many there are of what, and what is left out."""
    head = ("data set", "items", "patients", "tested", "target", "decided by")
    rows = tuple((card.name, tuple(map(Cell, _sizes(card)))) for card in findings.sets)
    table = Table("Items that were used", head, rows) if rows else None
    return (*section("Data sets", "", table), *(Section(card.name, card.what, _card(card)) for card in findings.sets))


def _sizes(card: SetCard) -> tuple[str, ...]:
    sizes = (card.items, card.patients, card.test)
    return (*(f"{size:,}" for size in sizes), card.kind, metric_in_words(card.metric))


def _card(card: SetCard) -> tuple[Any, ...]:
    counts = [f"{name}: {count:,.6g}" for name, count in card.counts.items()]
    left = card.left_out[:LISTED]
    more = (f"and {len(card.left_out) - len(left)} more",) if len(card.left_out) > len(left) else ()
    parts = (
        each(Lines, ["; ".join(counts)] if counts else []),
        each(Lines, card.notes),
        folded(f"Left out: {len(card.left_out)}", each(Lines, (*left, *more))),
    )
    return tuple(part for part in parts if part is not None)


def _facts(caption: str, facts: Mapping[str, str]) -> Table:
    return Table(caption, ("", ""), tuple((name, (Cell(value),)) for name, value in facts.items()))


def _audit(findings: Findings) -> tuple[Section, ...]:
    audit = findings.audit
    kinds = [f"{name}: compared by {', '.join(by)}" for name, by in audit.compared.items() if by]
    seen = warnings(findings)
    clean = () if seen or not kinds else ("No test item was seen in pre-training.",)
    says = "Whether items of the evaluation, or their patients, were in the pre-training of an encoder."
    lines = (*seen, *clean, *usual(findings), *kinds, *audit.notes)
    return section("What was compared", says, each(Lines, lines))


def _encoders(findings: Findings) -> tuple[Section, ...]:
    """The card of each, folded."""
    cards = {name: dict(_flat(card)) for name, card in findings.encoders.items()}
    return section("Cards", "", *(folded(name, _facts(name, card)) for name, card in cards.items() if card))


def _flat(card: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Values by dotted key; empty ones are left out."""
    for key, value in card.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value not in (None, "", [], ()):
            yield f"{above}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _configuration(findings: Findings) -> tuple[Section, ...]:
    text = yaml.safe_dump(plain(findings.config), sort_keys=False, allow_unicode=True)
    return (
        *section("Configuration", "As it was run.", folded("Show it", Code(text)) if findings.config else None),
        *section("Versions", "", _facts("Made with", versions())),
    )
