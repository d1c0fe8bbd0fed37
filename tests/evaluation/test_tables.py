"""What the terminal and Markdown show."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from tests.evaluation.plausible import leaked, plausible
from volssl.evaluation.findings import Findings
from volssl.evaluation.standings import blocks, number, warnings
from volssl.evaluation.tables import markdown, show

FINDINGS = leaked(plausible(rows=4))


def shown(findings: Findings, width: int) -> str:
    out = io.StringIO()
    show(findings, Console(file=out, width=width))
    return out.getvalue()


def test_eighty_columns_are_enough_and_forty_too() -> None:
    for width in (80, 40):
        text = shown(FINDINGS, width)
        assert max(map(len, text.splitlines())) <= width
        for block in blocks(FINDINGS):
            for name in block.encoders:
                assert all(number(block.estimate(name, budget)) in text for budget in block.budgets)


def test_leakage_stands_at_the_top() -> None:
    first = shown(FINDINGS, 200).splitlines()[: len(FINDINGS.audit.overlaps)]
    assert [line.strip() for line in first] == [f"LEAKAGE: {line}" for line in warnings(FINDINGS)]
    assert markdown(FINDINGS).index("Leakage") < markdown(FINDINGS).index("|")


def test_what_the_card_of_a_set_notes_is_said_aloud() -> None:
    """That each row counts as a patient of its own must not wait in the report."""
    note = "no column patient: each row is taken as a patient of its own"
    noted = replace(FINDINGS, sets=(replace(FINDINGS.sets[0], notes=(note,)), *FINDINGS.sets[1:]))
    assert f"tiles: {note}" in shown(noted, 120)
    assert f"tiles: {note}" in markdown(noted)
    assert note not in shown(FINDINGS, 120)


def test_markup_in_names_is_text() -> None:
    odd = plausible(("[red]sim[/red]|clr", "random"), ("tiles",), 4)
    assert "[red]sim[/red]|clr" in shown(odd, 120)
    row = next(line for line in markdown(odd).splitlines() if line.startswith("| [red]"))
    assert row.count(" | ") == 3
    assert "sim[/red]\\|clr" in row


def test_a_sentence_follows_for_each_encoder_on_random_at_the_largest_budget() -> None:
    every = {d.sentence for d in FINDINGS.differences}
    told = [part for part in markdown(FINDINGS).split("\n\n") if part in every]
    assert told == [d.sentence for d in FINDINGS.differences if d.other == "random" and d.budget == "100 %"]
