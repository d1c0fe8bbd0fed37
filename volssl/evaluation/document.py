"""A page as a tree of parts, and how it becomes one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

COLUMNS = 5  # of a table that fits a page


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend."""

    name: str
    swatch: Markup


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure. alt: what it shows, for those who cannot see it."""

    title: str
    figure: Markup
    alt: str


@dataclass(frozen=True, slots=True)
class Panels:
    """Figures side by side under one legend."""

    kind: ClassVar[str] = "panels"
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...] = ()
    small: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """small: beneath the text. sign: beside it, and the words for it. mark: a word beside it. bar: 0..1, to scale."""

    text: str
    small: str = ""
    sign: tuple[str, str] = ("", "")
    mark: str = ""
    strong: bool = False
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header, if it is not empty, each with its name first; on a narrow page each row is a card.

    swatches: of rows, where they are drawn in figures.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    swatches: tuple[Markup, ...] = ()

    @property
    def wide(self) -> bool:
        """Whether it may be wider than a page, and is then moved within its own box."""
        return len(self.head) > COLUMNS


@dataclass(frozen=True, slots=True)
class Interval:
    """A sentence on a difference, drawn on an axis from -1 to 1 in the middle of which there is none.

    sure: whether enough was tested for the interval to be trusted.
    """

    sentence: str
    low: float
    value: float
    high: float
    sure: bool = True

    @property
    def noise(self) -> bool:
        """Whether nothing is shown: it holds 0, or cannot be trusted."""
        return not self.sure or self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Intervals:
    """Sentences with their intervals, all drawn to one scale."""

    kind: ClassVar[str] = "intervals"
    lines: tuple[Interval, ...]
    scale: float


@dataclass(frozen=True, slots=True)
class Matrix:
    """Counts of true (rows) by called (columns), and how dark each is: its share of the row.

    rows, columns: short, and what each stands for.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    counts: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Numbered:
    """What the numbers 1, 2, ... stand for in what follows."""

    kind: ClassVar[str] = "numbered"
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrices:
    """Side by side. names: what their numbers stand for."""

    kind: ClassVar[str] = "matrices"
    matrices: tuple[Matrix, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A small image. mark: ``right``, ``wrong`` or nothing."""

    source: str
    alt: str
    caption: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of pictures. note: beside its name."""

    name: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Strips:
    """Rows of pictures under one title, and the picture that they are about. large: twice as wide."""

    kind: ClassVar[str] = "strips"
    title: str
    lead: Picture | None
    strips: tuple[Strip, ...]
    large: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a part."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Beside:
    """Parts beside one another where there is room."""

    kind: ClassVar[str] = "beside"
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Lines:
    """Sentences, a line each."""

    kind: ClassVar[str] = "lines"
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Text as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True, slots=True)
class Folded:
    """What is shown when it is asked for."""

    kind: ClassVar[str] = "folded"
    summary: str
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence on how to read what follows, and it."""

    title: str
    says: str
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Chapter:
    """Sections under one heading, to which the contents lead."""

    anchor: str
    title: str
    says: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything. answer: lines and what each is about; the first is the headline."""

    title: str
    answer: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    chapters: tuple[Chapter, ...]


def section(title: str, says: str, *parts: Any) -> tuple[Section, ...]:
    """One section, or none where every part is empty: ``None``, or without content."""
    kept = tuple(part for part in parts if part is not None)
    return (Section(title, says, kept),) if kept else ()


def folded(summary: str, *parts: Any) -> Folded | None:
    """The parts that there are, folded; None where there are none."""
    kept = tuple(part for part in parts if part is not None)
    return Folded(summary, kept) if kept else None


def each(kind: type[Any], items: Sequence[Any], *arguments: Any) -> Any:
    """``kind(items, ...)``, or None of nothing."""
    return kind(tuple(items), *arguments) if items else None


def render(page: Page) -> str:
    """The HTML. Every text is escaped; only figures, which are drawn here, are put in as they are."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((folder / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.jinja").render(page=page, style=style) + "\n"
