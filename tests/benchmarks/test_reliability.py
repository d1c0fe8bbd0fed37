"""The table of gates: its rows, and where they are put."""

from __future__ import annotations

from benchmarks.reliability import END, PAGE, START, table, written


def test_rows_are_in_order_and_a_bar_in_a_name_breaks_none() -> None:
    lines = [
        {"gate": "b | c", "result": "1/1", "bar": "all", "seconds": 2.6},
        {"gate": "a", "result": "0", "bar": "none", "seconds": 0.2},
    ]
    assert table(lines).splitlines()[2:] == ["| a | 0 | none | 0 |", "| b \\| c | 1/1 | all | 3 |"]


def test_what_stands_around_the_table_stays() -> None:
    page = PAGE.read_text(encoding="utf-8")
    once = written(page, "rows")
    before, _, rest = page.partition(START)
    assert once == f"{before}{START}\n\nrows\n{END}{rest.partition(END)[2]}"
    assert written(once, "rows") == once
