"""What all figures of one data set share: its findings, the encoders' colours, and keys of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from volssl.evaluation import plots
from volssl.evaluation.document import Heading, Key, folded
from volssl.evaluation.findings import Findings, Pictured
from volssl.evaluation.plots import Line, Style
from volssl.evaluation.standings import Block, metric_in_words, protocol_in_words
from volssl.evaluation.statistics import Estimate

MAIN = ("linear", "finetune", "voxels", "knn")  # the first of these is shown, the others are folded


@dataclass(frozen=True, slots=True)
class Drawing:
    """One data set. key: of its own in the page. blocks, pictured: of this set, encoders in one order."""

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
        return plots.swatch(self.styles[name])

    def line(self, name: str, x: tuple[float, ...], estimates: tuple[Estimate, ...]) -> Line:
        """An encoder's estimates with their intervals."""
        low, high = [e.low for e in estimates], [e.high for e in estimates]
        return Line(self.styles[name], x, [e.value for e in estimates], low, high)

    def under(self, protocol: str) -> list[Pictured]:
        """Those of which predictions are kept."""
        return [seen for seen in self.pictured if protocol in seen.predicted]

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

    def by_protocol(self, draw: Callable[[str], Any]) -> Iterator[Any]:
        """What ``draw`` makes of each protocol: the first open, the others folded."""
        made = [(protocol, part) for protocol in self.protocols if (part := draw(protocol)) is not None]
        for i, (protocol, part) in enumerate(made):
            title = capital(protocol_in_words(protocol))
            yield from (Heading(title), part) if i == 0 else (folded(title, part),)


def capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def budget_in_words(block: Block, budget: str) -> str:
    """As asked for, and what it came to."""
    return f"{budget} ({block.labels(budget):,.0f} labels)"
