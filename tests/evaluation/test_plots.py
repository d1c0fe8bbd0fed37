"""Figures: the same bytes each time, ids of their own, colours of the page, and nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest

from volssl.evaluation import plots
from volssl.evaluation.diagnostics import Reliability
from volssl.evaluation.plots import Line

STYLES = plots.styles(("simclr", "random", "dino", "pixels"), lambda name: name in ("random", "pixels"))
ONE = Line(STYLES["simclr"], (10, 100, 1000), (0.5, 0.6, 0.7), (0.4, 0.5, 0.6), (0.6, 0.7, 0.8))
OTHER = Line(STYLES["random"], (10, 100, 1000), (0.5, 0.5, 0.6), (0.4, 0.4, 0.5), (0.6, 0.6, 0.7))
BINS = Reliability(*(np.array(x) for x in ([0.2, 0.8], [0.1, 0.9], [0.0, 0.7], [0.3, 1.0], [10, 20])))
FIGURES: dict[str, Callable[[str], str]] = {
    "labels": lambda key: plots.against_labels([ONE, OTHER], "AUROC", key),
    "curves": lambda key: plots.curves([ONE, OTHER], "steps", "AUROC", key),
    "roc": lambda key: plots.roc([Line(STYLES["dino"], np.linspace(0, 1, 50), np.linspace(0, 1, 50) ** 0.5)], key),
    "reliability": lambda key: plots.reliability(BINS, STYLES["dino"], key),
    "numbers": lambda key: plots.predicted_numbers(np.arange(5.0), np.arange(5.0) + 1, STYLES["pixels"], key),
    "map": lambda key: plots.embedding(np.eye(2), np.array([0, 1]), list(STYLES.values())[:2], key),
    "swatch": lambda _key: plots.swatch(STYLES["random"]),
    "dot": lambda _key: plots.dot(STYLES["dino"]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_each_time_and_needs_nothing_from_outside(name: str) -> None:
    first = FIGURES[name]("a")
    assert first == FIGURES[name]("a")
    assert first.startswith("<svg viewBox=")
    assert "http" not in first
    assert "xmlns" not in first
    assert "font-family" not in first
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", first)) == set()  # every colour is the page's
    used = set(re.findall(r'(?:url\(|href=")#(\w+)', first))
    assert set(re.findall(r'id="(\w+)"', first)) == used


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("swatch", "dot")])
def test_figures_of_different_keys_share_no_ids(name: str) -> None:
    ids = [set(re.findall(r'id="(\w+)"', FIGURES[name](key))) for key in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_figure_neither_follows_nor_changes_the_readers_settings() -> None:
    plain = FIGURES["labels"]("a")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert FIGURES["labels"]("a") == plain
        assert dict(matplotlib.rcParams) == before


def test_encoders_are_told_apart_by_more_than_colour() -> None:
    names = [f"e{i}" for i in range(10)]
    found = plots.styles(names, lambda _: False)
    assert len({(style.colour, style.marker) for style in found.values()}) == 10
    assert STYLES["random"].colour == STYLES["pixels"].colour == plots.GREY
    assert STYLES["random"].dash != STYLES["pixels"].dash


def test_labels_stand_on_the_axis_as_numbers() -> None:
    text = re.findall(r">([^<>]+)</text>", FIGURES["labels"]("a"))
    assert {"10", "100", "1,000", "labels used", "AUROC"} <= set(text)


def test_what_an_axis_says_is_not_rounded() -> None:
    """0.925 is no 0.93; places in the drawing are rounded to a hundredth, which nobody sees."""
    line = Line(STYLES["simclr"], (10, 100), (0.858, 0.944), (0.83, 0.926), (0.883, 0.96))
    svg = plots.against_labels([line], "AUROC", "a")
    said = [float(text) for text in re.findall(r">(\d\.\d+)<", svg)]
    steps = np.diff(said)
    assert len(said) > 3
    assert np.allclose(steps, steps[0])
    assert not re.search(r'd="[^"]*\d\.\d{3}', svg)


def test_counts_that_are_close_together_share_a_tick() -> None:
    line = Line(STYLES["dino"], (100, 101, 1000), (0.5, 0.6, 0.7), (0.4, 0.5, 0.6), (0.6, 0.7, 0.8))
    text = re.findall(r">([^<>]+)</text>", plots.against_labels([line], "AUROC", "a"))
    assert "101" in text
    assert "100" not in text


def test_one_score_far_below_does_not_flatten_the_others() -> None:
    """Median 0.6, highest 0.8: five times their distance below the median is -0.4; the axis ends there."""
    low = Line(STYLES["dino"], (10,), (-225.0,), (-996.0,), (0.1,))
    numbers = [ticks(plots.against_labels(lines, "R²", "a")) for lines in ([ONE, OTHER], [ONE, OTHER, low])]
    assert min(numbers[0]) >= 0.35
    assert -0.45 < min(numbers[1]) < 0.1


def ticks(figure: str) -> list[float]:
    """The numbers on the axis of scores."""
    text = re.findall(r"text-anchor: end[^>]*>([^<>]+)</text>", figure)
    return [float(number.replace("\N{MINUS SIGN}", "-")) for number in text]
