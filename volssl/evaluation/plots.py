"""Figures as inline SVG: ink, rules and colours are CSS variables of the page, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from volssl.evaluation.diagnostics import Reliability
from volssl.evaluation.target import Floats, Ints

SIZE = (3.4, 2.5)  # inches; a page shows them at 1 to 1.4 times that
COLOURS, SHADES = 8, 6  # of series, and of a scale from low to high
FAR = 5  # of an axis of scores
INK, RULE, GREY = "#010101", "#010102", "#010103"
VARIABLES = {INK: "currentColor", RULE: "var(--rule)", GREY: "var(--grey)"}
DASHES = ("--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "svg.fonttype": "none",
    "savefig.transparent": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True, slots=True)
class Style:
    """How one encoder is drawn throughout the page, told apart by more than colour."""

    colour: str
    marker: str
    dash: str


@dataclass(frozen=True, slots=True)
class Line:
    """One encoder's line; low and high where it has intervals."""

    style: Style
    x: Sequence[float] | Floats
    y: Sequence[float] | Floats
    low: Sequence[float] | Floats = ()
    high: Sequence[float] | Floats = ()


def styles(names: Sequence[str], floors: Callable[[str], bool]) -> dict[str, Style]:
    """A colour and a marker each; floors are grey and dashed."""
    found = {}
    for i, name in enumerate(name for name in names if not floors(name)):
        found[name] = Style(series(i), MARKERS[i % len(MARKERS)], "-")
    for i, name in enumerate(filter(floors, names)):
        found[name] = Style(GREY, MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
    return found


def series(i: int) -> str:
    """The i-th colour of the page, as it stands in a figure before it is put into the page."""
    return f"#0200{i % COLOURS:02x}"


def shade(i: int) -> str:
    """The i-th of ``SHADES`` from low to high."""
    return f"#0300{i:02x}"


@cache
def swatch(style: Style) -> Markup:
    """The line and the marker of a legend."""

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()
        axes.plot([0, 1], [0.5, 0.5], color=style.colour, linestyle=style.dash)
        axes.plot([0.5], [0.5], color=style.colour, marker=style.marker)

    return draw(paint, f"swatch {style}", (0.36, 0.14))


@cache
def dot(style: Style) -> Markup:
    """The marker alone."""

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()
        axes.plot([0.5], [0.5], color=style.colour, marker=style.marker, markersize=5.5)

    return draw(paint, f"dot {style}", (0.14, 0.14))


def against_labels(lines: Sequence[Line], y: str, key: str) -> Markup:
    """Scores with intervals over the number of labels (log); lines stand side by side where intervals would overlap.

    One that is far below the others, as an R² may be, is cut off.
    """
    at = sorted({round(x) for line in lines for x in line.x})

    def paint(figure: Figure) -> None:
        axes = _axes(figure, "labels used", y)
        axes.set_xscale("log")
        width = np.log(max(at) / min(at)) if len(at) > 1 else 1.0
        for i, line in enumerate(lines):
            x = np.asarray(line.x) * np.exp(width * 0.012 * (i - (len(lines) - 1) / 2))
            axes.plot(x, line.y, color=line.style.colour, linestyle=line.style.dash, marker=line.style.marker)
            axes.vlines(x, line.low, line.high, color=line.style.colour, linewidth=1.0)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], _lowest(lines)))
        axes.xaxis.set_major_locator(FixedLocator(_apart(at)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))

    return draw(paint, key)


def curves(
    lines: Sequence[Line], x: str, y: str, key: str, *, markers: bool = True, logarithmic: bool = False
) -> Markup:
    """Lines with bands over one axis."""

    def paint(figure: Figure) -> None:
        axes = _axes(figure, x, y)
        for line in lines:
            marker = line.style.marker if markers else ""
            axes.plot(line.x, line.y, color=line.style.colour, linestyle=line.style.dash, marker=marker)
            if len(line.low):
                axes.fill_between(line.x, line.low, line.high, color=line.style.colour, alpha=0.13, linewidth=0)
        if logarithmic:
            axes.set_yscale("log")

    return draw(paint, key)


def roc(lines: Sequence[Line], key: str) -> Markup:
    """ROC curves beside the diagonal of chance."""

    def paint(figure: Figure) -> None:
        axes = _axes(figure, "1 - specificity", "sensitivity")
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
        for line in lines:
            axes.plot(line.x, line.y, color=line.style.colour, linestyle=line.style.dash)
            at = len(line.x) // 8 * (1 + lines.index(line) % 4)  # a marker each, so that colour is not all
            axes.plot(line.x[at], line.y[at], color=line.style.colour, marker=line.style.marker)
        _square(axes)

    return draw(paint, key, (3.4, 3.1))


def reliability(found: Reliability, style: Style, key: str) -> Markup:
    """Observed over predicted with Wilson intervals, above how many predictions each bin holds."""

    def paint(figure: Figure) -> None:
        ticks = [0, 0.5, 1]
        axes = figure.add_axes((0.2, 0.37, 0.77, 0.6), ylabel="came true", xlim=(0, 1), ylim=(0, 1))
        axes.set(xticks=ticks, yticks=ticks)
        axes.tick_params(labelbottom=False)
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
        axes.plot(found.predicted, found.observed, color=style.colour, marker=style.marker, clip_on=False)
        axes.vlines(found.predicted, found.low, found.high, color=style.colour, linewidth=1)
        most = int(found.count.max())
        below = figure.add_axes((0.2, 0.17, 0.77, 0.14), xlabel="predicted", xlim=(0, 1), ylim=(0, most))
        below.set(xticks=ticks, yticks=[most])
        below.bar(found.predicted, found.count, width=0.05, color=style.colour)

    return draw(paint, key, (2.0, 2.25))


def predicted_numbers(true: Floats, predicted: Floats, style: Style, key: str) -> Markup:
    """A dot per row beside the line on which they would be equal."""

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.235, 0.2, 0.745, 0.78), xlabel="true", ylabel="predicted")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        both = np.concatenate([true, predicted])
        axes.plot([both.min(), both.max()], [both.min(), both.max()], color=RULE, linewidth=1)
        axes.plot(true, predicted, linestyle="none", marker="o", markersize=2.2, color=style.colour, alpha=0.6)

    return draw(paint, key, (2.0, 1.8))


def embedding(xy: Floats, colour: Ints, kinds: Sequence[Style], key: str) -> Markup:
    """A dot per row at its place on a map that has no axes. colour: (M,) which of ``kinds`` each is."""

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98), xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        for i, kind in enumerate(kinds):
            rows = xy[colour == i]
            axes.plot(*rows.T, linestyle="none", marker=kind.marker, markersize=2.4, color=kind.colour, alpha=0.8)

    return draw(paint, key, (2.0, 2.0))


def draw(paint: Callable[[Figure], None], key: str, size: tuple[float, float] = SIZE) -> Markup:
    """What ``paint`` puts on a figure, as an SVG element. key: of its own in the page, from which its ids are made."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": key})
        figure = Figure(size)
        paint(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(text.getvalue())


def _axes(figure: Figure, x: str, y: str) -> Axes:
    axes = figure.add_axes((0.145, 0.165, 0.835, 0.805), xlabel=x, ylabel=y)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    return axes


def _square(axes: Axes) -> None:
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=ticks, yticks=ticks)


def _lowest(lines: Sequence[Line]) -> float:
    """As far below the median score as ``FAR`` times the distance from there to the top."""
    middle = float(np.nanmedian(np.concatenate([line.y for line in lines])))
    top = float(np.nanmax(np.concatenate([each for line in lines for each in (line.y, line.high)])))
    return middle - FAR * (top - middle)


def _apart(values: Iterable[float]) -> list[float]:
    """Those that leave room for a number between them on a logarithmic axis, the largest among them."""
    kept: list[float] = []
    for value in sorted(values, reverse=True):
        if not kept or kept[-1] / value > 1.35:
            kept.append(value)
    return kept


def _inline(svg: str) -> Markup:
    """The SVG for HTML: without namespaces, fonts, ids that nobody refers to and empty groups; colours as variables."""
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r"#(\w+)[\")]", svg))
    for element in root.iter():
        element.tag = element.tag.split("}")[1]
        element.attrib = {name.split("}")[-1]: value for name, value in element.attrib.items()}
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    shape = Element("svg", {"viewBox": root.attrib["viewBox"], "aria-hidden": "true"})
    shape.extend(child for part in root for child in _seen(part))
    return Markup(_tidy(ElementTree.tostring(shape, encoding="unicode")))


def _seen(element: Element) -> list[Element]:
    """The element without what shows nothing, or what is in it where it is a plain group."""
    if element.tag in ("style", "metadata") or element.get("style") == "fill: none":
        return []
    element[:] = [child for part in element for child in _seen(part)]
    if element.tag in ("g", "defs") and not (len(element) and (element.attrib or element.tag == "defs")):
        return list(element)
    return [element]


def _to_a_hundredth(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def _tidy(text: str) -> str:
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", _to_a_hundredth, tag[0]), text)  # not what people read
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"#01010[123]", lambda found: VARIABLES[found[0]], text)
    text = re.sub(r"#0200(..)", lambda found: f"var(--s{int(found[1], 16)})", text)
    text = re.sub(r"#0300(..)", lambda found: f"var(--h{int(found[1], 16)})", text)
    return re.sub(r"\s+", " ", text).replace("> <", "><")
