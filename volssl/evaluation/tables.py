"""What an evaluation found as tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from volssl.evaluation.findings import Findings
from volssl.evaluation.standings import (
    BETTER,
    FEW,
    NOISE,
    WORSE,
    Block,
    answer,
    blocks,
    interval,
    is_floor,
    not_floor,
    number,
    warnings,
    with_interval,
)

SIGNS = {BETTER: "▲", WORSE: "▼", NOISE: "≈", FEW: "?"}
CAPTION = (
    "Means over seeds; in brackets the 95 % interval over resampled test patients. The best of a column is bold, the "
    "best floor has a †. By the interval of the paired difference to a random encoder: ▲ better, ▼ worse, ≈ within "
    "noise, ? too few test patients to tell."
)
CELL, LONGEST = 15, 24  # characters of a column of numbers; of a name


def markdown(findings: Findings) -> str:
    """Warnings, the answer, then a table per data set and protocol, and the differences to random in words."""
    parts = [f"**{findings.title}**"]
    parts += [f"**Leakage.** {line}" for line in warnings(findings)]
    parts.append("\n".join(f"- {_about(*line)}" for line in answer(findings)))
    for block in blocks(findings):
        lines = [_line(block, name) for name in block.encoders]
        head = ["encoder", *(_head(block, budget) for budget in block.budgets)]
        ruled = [head, ["---"] * len(head), *lines]
        table = "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in ruled)
        parts += [f"{block.data}: {block.title}", table, *_sentences(block)]
    return "\n\n".join([*parts, *_notes(findings), CAPTION]) + "\n"


def _about(data: str, line: str) -> str:
    return f"{data}: {line}" if data else line


def _notes(findings: Findings) -> list[str]:
    """Of all, then those of each data set's card."""
    return [*findings.notes, *(f"{card.name}: {note}" for card in findings.sets for note in card.notes)]


def _line(block: Block, name: str) -> list[str]:
    cells = []
    for budget in block.budgets:
        text = f"{with_interval(block.estimate(name, budget))} {_signs(block, name, budget)}".rstrip()
        cells.append(f"**{text}**" if _best(block, name, budget) else text)
    return [name, *cells]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def show(findings: Findings, console: Console) -> None:
    """The same on a terminal, however narrow: budgets that do not fit beside one another come below."""
    for line in warnings(findings):
        console.print(Text(f"LEAKAGE: {line}", style="bold red"))
    console.print(Text(findings.title, style="bold"))
    for about, line in answer(findings):
        console.print(Text(_about(about, line)))
    for block in blocks(findings):
        console.print()
        console.print(Text(f"{block.data}: {block.title}", style="bold"))
        for table in _tables(block, console.width):
            console.print(table)
        for sentence in _sentences(block):
            console.print(Text(sentence))
    console.print()
    for line in (*_notes(findings), CAPTION):
        console.print(Text(line, style="dim"))


def _tables(block: Block, width: int) -> Iterator[Table]:
    longest = min(max(map(len, block.encoders)), LONGEST)
    fit = max((width - longest - 4) // CELL, 1)
    for start in range(0, len(block.budgets), fit):
        budgets = block.budgets[start : start + fit]
        columns = [Column(Text(_head(block, budget).replace(" (", "\n("))) for budget in budgets]
        table = Table(Column("", max_width=LONGEST, overflow="fold"), *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in block.encoders:
            style = "dim" if is_floor(name) else ""
            table.add_row(Text(name, style=style), *(_cell(block, name, budget) for budget in budgets))
        yield table


def _cell(block: Block, name: str, budget: str) -> Text:
    found = block.estimate(name, budget)
    style = "bold" if _best(block, name, budget) else "dim" if is_floor(name) else ""
    value = Text(f"{number(found)} {_signs(block, name, budget)}".rstrip(), style=style)
    return value.append(f"\n{interval(found, 2)}", style="dim not bold")


def _head(block: Block, budget: str) -> str:
    return f"{budget} ({block.labels(budget):,.0f} labels)"


def _signs(block: Block, name: str, budget: str) -> str:
    said = block.verdict(name, budget) if not_floor(name) else None
    return (SIGNS[said] if said else "") + ("†" if name == block.best(budget, is_floor) else "")


def _best(block: Block, name: str, budget: str) -> bool:
    return name == block.best(budget, lambda _: True)


def _sentences(block: Block) -> list[str]:
    """On the differences to random at the largest budget."""
    found = (block.against.get((name, block.budgets[-1])) for name in block.encoders if not_floor(name))
    return [difference.sentence for difference in found if difference]
