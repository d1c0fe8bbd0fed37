"""Who stands where: encoders x label budgets, the floors among them, and the answer in plain words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from volssl.evaluation.findings import PIXELS, RANDOM, Difference, Findings, Score, SetCard
from volssl.evaluation.leakage import in_words, is_leak
from volssl.evaluation.statistics import LEAST, Estimate

PROTOCOLS = {
    "knn": "k nearest neighbours",
    "linear": "linear probe",
    "finetune": "fine-tuning",
    "finetune head": "fine-tuning of the head",
    "voxels": "linear probe of voxels",
}
METRICS = {
    "auroc": "AUROC",
    "f1": "macro F1",
    "kappa": "quadratic kappa",
    "brier": "Brier score (lower is better)",
    "calibration_error": "calibration error (lower is better)",
    "dice": "Dice",
    "r2": "R²",
    "mae": "mean absolute error (lower is better)",
    "rmse": "root mean square error (lower is better)",
}
KINDS = {"file": "the same bytes", "image": "the same image", "patient": "the same patient", "study": "the same study"}
BETTER, WORSE, NOISE = "better than random", "worse than random", "within noise of random"
FEW = "too few test patients to tell"


@dataclass(frozen=True, slots=True)
class Block:
    """One data set under one protocol. encoders: floors last; budgets: fewest labels first.

    against: of an encoder at a budget, its difference to the random encoder, where there is one. drawn: encoders that
    are random themselves, under another name. few: whether too few were tested for anything to be called better.
    """

    data: str
    protocol: str
    metric: str
    encoders: tuple[str, ...]
    budgets: tuple[str, ...]
    scores: Mapping[tuple[str, str], Score]
    against: Mapping[tuple[str, str], Difference]
    differences: tuple[Difference, ...]
    drawn: frozenset[str] = frozenset()
    few: bool = False

    @property
    def title(self) -> str:
        """The protocol in words and the metric that decides."""
        return f"{protocol_in_words(self.protocol)}, {metric_in_words(self.metric)}"

    def estimate(self, encoder: str, budget: str) -> Estimate | None:
        """The deciding metric; None where it was not measured or is undefined."""
        score = self.scores.get((encoder, budget))
        found = score.metrics.get(self.metric) if score else None
        return None if found is None or math.isnan(found.value) else found

    def best(self, budget: str, among: Callable[[str], bool]) -> str | None:
        """The encoder of the highest score; the first of equals."""
        found = {name: self.estimate(name, budget) for name in self.encoders if among(name)}
        measured = {name: e.value for name, e in found.items() if e is not None}
        return max(measured, key=measured.__getitem__) if measured else None

    def labels(self, budget: str) -> float:
        """Training items that the budget came to, the mean over encoders."""
        found = [score.labels for (_, one), score in self.scores.items() if one == budget]
        return sum(found) / len(found)

    def verdict(self, encoder: str, budget: str) -> str | None:
        """How it compares with random initialisation: by the interval of the paired difference."""
        difference = self.against.get((encoder, budget))
        return self.said(difference.value) if difference else None

    def said(self, difference: Estimate) -> str | None:
        """In words; None where the interval is undefined."""
        found = verdict(difference)
        return FEW if found and self.few else found

    def competes(self, name: str) -> bool:
        """Whether it is there to beat the floors."""
        return not_floor(name) and name not in self.drawn


def verdict(difference: Estimate) -> str | None:
    """In words; None where the interval is undefined."""
    if math.isnan(difference.low) or math.isnan(difference.high):
        return None
    return BETTER if difference.low > 0 else WORSE if difference.high < 0 else NOISE


def is_random(name: str) -> bool:
    """Whether a name is that of a random encoder; there may be one for each shape."""
    return name.split(" ")[0] == RANDOM


def is_floor(name: str) -> bool:
    """Whether a name is of what encoders must beat."""
    return name == PIXELS or is_random(name)


def not_floor(name: str) -> bool:
    """The others."""
    return not is_floor(name)


def ranked(names: Iterator[str]) -> tuple[str, ...]:
    """Each once, as they come, floors last."""
    return tuple(sorted(dict.fromkeys(names), key=is_floor))


def blocks(findings: Findings) -> tuple[Block, ...]:
    """Of each data set and protocol, in the order in which they were found."""
    pairs = dict.fromkeys((score.data, score.protocol) for score in findings.scores)
    return tuple(_block(findings, data, protocol) for data, protocol in pairs)


def _block(findings: Findings, data: str, protocol: str) -> Block:
    scores = [s for s in findings.scores if (s.data, s.protocol) == (data, protocol)]
    drawn = frozenset(name for name, card in findings.encoders.items() if card.get("method") == RANDOM)
    mine = [d for d in findings.differences if (d.data, d.protocol) == (data, protocol)]
    differences = [d for d in mine if not (d.encoder in drawn and is_random(d.other))]  # to itself
    mean = {s.budget: [one.labels for one in scores if one.budget == s.budget] for s in scores}
    return Block(
        data,
        protocol,
        next(iter(scores[0].metrics)),
        ranked(s.encoder for s in scores),
        tuple(sorted(mean, key=lambda budget: sum(mean[budget]) / len(mean[budget]))),
        {(s.encoder, s.budget): s for s in scores},
        {(d.encoder, d.budget): d for d in reversed(differences) if is_random(d.other)},
        tuple(differences),
        drawn,
        any(card.name == data and few(card) for card in findings.sets),
    )


def few(card: SetCard) -> bool:
    """Whether a set has too few test patients for its intervals to be trusted."""
    return card.tested is not None and card.tested < LEAST


def answer(findings: Findings) -> tuple[tuple[str, str], ...]:
    """What is better than random, by how much, and what is within noise, each with the data set it is about.

    The first, the headline, and the last, cautions, are about all.
    """
    by_set: dict[str, list[Block]] = {}
    for block in blocks(findings):
        by_set.setdefault(block.data, []).append(block)
    leaders = {data: leader for data, found in by_set.items() if (leader := _leader(found))}
    if not leaders:
        return (("", "No encoder was evaluated beside the floors."), *_too_few(findings))
    lines = [("", _headline(leaders)), *((data, _line(*leader)) for data, leader in leaders.items())]
    return (*lines, *_too_few(findings), *(("", line) for line in _caution(findings)))


def _leader(found: list[Block]) -> tuple[Block, str] | None:
    """The protocol and the encoder that score highest at the largest budget."""
    best = [(block, name) for block in found if (name := block.best(block.budgets[-1], block.competes))]
    return max(best, key=lambda one: _value(*one), default=None)


def _value(block: Block, name: str) -> float:
    found = block.estimate(name, block.budgets[-1])
    assert found is not None
    return found.value


def _headline(leaders: Mapping[str, tuple[Block, str]]) -> str:
    says = {data: block.verdict(name, block.budgets[-1]) for data, (block, name) in leaders.items()}
    if set(says.values()) == {None}:
        return "No encoder was compared with a random one at the largest label budget."
    better = [data for data, said in says.items() if said == BETTER]
    several, where = len(says) > 1, f"the data set {next(iter(says))}"
    if better:
        gains = sorted(_gain(*leaders[data]) for data in better)
        by = f"{gains[0]:.3f}" if len(gains) == 1 else f"{gains[0]:.3f} to {gains[-1]:.3f}"
        where = f"{len(better)} of {len(says)} data sets" if several else where
        start = f"At the largest label budget, the best encoder is better than a random one on {where}, by {by}"
    else:
        where = f"any of the {len(says)} data sets" if several else where
        start = f"No encoder is shown to be better than a random one on {where} at the largest label budget"
    rest = {NOISE: "within noise on", WORSE: "worse on", FEW: "too few test patients on", None: "not compared on"}
    told = rest if several else {FEW: rest[FEW]}
    ends = [f"{text} {listed([d for d in says if says[d] == s])}" for s, text in told.items() if s in says.values()]
    return "; ".join([start, *ends]) + "."


def _gain(block: Block, name: str) -> float:
    return block.against[name, block.budgets[-1]].value.value


def _line(block: Block, name: str) -> str:
    """One data set: the best encoder, and what it is worth beside the floors."""
    budget = block.budgets[-1]
    metric = metric_in_words(block.metric)
    labels = f"{budget} of the labels" if budget.endswith("%") else budget
    line = f"{name}, {protocol_in_words(block.protocol)}, {labels}: {metric} "
    line += with_interval(block.estimate(name, budget))
    if difference := block.against.get((name, budget)):
        line += f"; {block.said(difference.value) or 'not comparable with random'}, {signed(difference.value)}"
    floor = block.best(budget, is_floor)
    return f"{line}. Best floor: {floor}, {number(block.estimate(floor, budget))}." if floor else f"{line}."


def _too_few(findings: Findings) -> Iterator[tuple[str, str]]:
    """Where an interval cannot be trusted: of perfect scores of four patients it has no width at all."""
    for card in findings.sets:
        if card.tested is not None and few(card):
            each = {"classes": "of its rarest class", "labels": "on the rarer side of the label in the middle"}
            count, least = (card.tested, LEAST) if card.kind in each else (2 * card.tested, 2 * LEAST)
            who = f"{count:g} test patient{'' if count == 1 else 's'} {each.get(card.kind, '')}".rstrip()
            yield (
                card.name,
                f"CAUTION: {who}. With fewer than {least}, intervals are too narrow to be trusted, so that nothing "
                "is called better or worse.",
            )


def _caution(findings: Findings) -> Iterator[str]:
    """How often anything was compared: of many intervals some exclude zero by chance."""
    against = [(b, d) for b in blocks(findings) for d in b.against.values() if not (is_floor(d.encoder) or b.few)]
    said = Counter(block.said(difference.value) for block, difference in against)
    if len(against) > 1:
        yield (
            f"Over all encoders, protocols and budgets, {said[BETTER]} of {len(against)} comparisons with random are "
            f"better, {said[WORSE]} worse and {said[NOISE]} within noise. Of comparisons between equals one in twenty "
            "excludes zero by chance, and to name the best of several by its test score flatters it a little."
        )


def warnings(findings: Findings) -> tuple[str, ...]:
    """A line for each overlap between an encoder's pre-training and the items that it is tested on."""
    return tuple(in_words(overlap) for overlap in findings.audit.overlaps if is_leak(overlap))


def usual(findings: Findings) -> tuple[str, ...]:
    """A line for training items that encoders saw in pre-training, without labels: no fault, but to be known."""
    saw: dict[tuple[str, str, int], list[str]] = {}
    for found in findings.audit.overlaps:
        if not is_leak(found):
            saw.setdefault((found.data, found.kind, found.train_count), []).append(found.encoder)
    return tuple(
        f"pre-training of {listed(names)} saw {count:,} training items of {data} ({KINDS[kind]}), as is usual"
        for (data, kind, count), names in saw.items()
    )


def protocol_in_words(name: str) -> str:
    """As a reader knows it."""
    return PROTOCOLS.get(name, name)


def metric_in_words(name: str) -> str:
    """As a reader knows it."""
    return METRICS.get(name, name.replace("_", " "))


def number(e: Estimate | None, digits: int = 3) -> str:
    """The value alone, a dash where there is none."""
    return "-" if e is None or math.isnan(e.value) else f"{e.value:.{digits}f}"


def interval(e: Estimate | None, digits: int = 3) -> str:
    """In brackets; nothing where there is none."""
    return "" if e is None or math.isnan(e.low) else f"[{e.low:.{digits}f}, {e.high:.{digits}f}]"


def with_interval(e: Estimate | None, digits: int = 3) -> str:
    """Both."""
    return f"{number(e, digits)} {interval(e, digits)}".rstrip()


def signed(e: Estimate) -> str:
    """A difference with its sign and interval."""
    return f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"


def listed(names: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
