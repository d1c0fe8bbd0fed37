"""The three files: every number is in them, text is text, and the page is one that nothing else is needed for."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.plausible import leaked, plausible
from volssl.evaluation.findings import Findings, Pictured, Score
from volssl.evaluation.report import write
from volssl.evaluation.statistics import Estimate

SMALL = plausible(("simclr", "dvme", "random"), ("tiles", "findings", "hippocampus", "masks"), 14)
TINY = plausible(("simclr", "random"), ("radiographs",), 12)
RESULTS = ("scores", "differences", "fusions", "robustness", "convergence", "savings")
ORDER = (
    "Score against labels",
    "Differences",
    "All metrics",
    "ROC",
    "Calibration",
    "Confusion",
    "Embedding map",
    "Nearest neighbours",
    "What the model sees",
    "Robustness",
    "Convergence",
    "What the fusion made of each encoder",
)


class Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.tags and len(self.tags[-1][0]) == 2 and self.tags[-1][0][0] == "h" and data.strip():
            self.headings.append((int(self.tags[-1][0][1]), data.strip()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was written of the small findings."""
    folder = tmp_path_factory.mktemp("report")
    write(SMALL, folder)
    return folder


def page_of(findings: Findings, folder: Path) -> str:
    write(findings, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for child in value.values():
            yield from numbers(child)
    elif isinstance(value, list):
        for child in value:
            yield from numbers(child)
    elif isinstance(value, int | float):
        yield float(value)


def test_three_files_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.csv", "results.json"]


def test_every_number_of_the_json_is_in_the_csv(folder: Path) -> None:
    """Those of axes are part of a metric's name, seeds are how scores were made."""
    found = json.loads((folder / "results.json").read_text())
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = {float(row[key]) for row in rows for key in ("labels", "value", "low", "high", "sd") if row[key]}
    wanted = [n for name in RESULTS for one in found[name] for n in numbers({**one, "x": [], "seeds": 0})]
    assert len(wanted) > 500
    assert {n for n in wanted if n} <= cells
    assert not {n + 1e-9 for n in wanted if n} & cells  # the comparison can fail


def test_a_line_of_the_csv_says_what_it_is(folder: Path) -> None:
    lines = (folder / "results.csv").read_text().splitlines()
    assert lines[0] == "data,encoder,protocol,budget,labels,metric,value,low,high,sd"
    score = SMALL.scores[0]
    e = score.metrics["auroc"]
    assert lines[1] == f"tiles,simclr,linear,1 %,12.0,auroc,{e.value},{e.low},{e.high},{e.sd}"
    metrics = {line.split(",")[5] for line in lines[1:]}
    assert {"auroc", "auroc minus random", "attention to simclr", "fall without random"} <= metrics
    assert {"saving in percent of steps", "best auroc from scratch", "scratch_seconds"} <= metrics
    rows = list(csv.DictReader(lines))
    assert "auroc at rotation, degrees 15" in {row["metric"] for row in rows}
    plain = [row for row in rows if row["metric"] == "auroc"]
    assert len(plain) == sum("auroc" in score.metrics for score in SMALL.scores)  # nothing else goes by this name


def test_undefined_numbers_and_numpy_are_plain_json(tmp_path: Path) -> None:
    odd = Score("t", "a", "linear", "100 %", 9.0, 1, {"auroc": Estimate(math.nan, math.nan, math.inf)})
    config = {"rate": np.float32(0.5), "sizes": np.arange(2), "count": np.int64(7)}
    write(replace(plausible(("a",), ("masks",)), scores=(odd,), differences=(), config=config), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found["scores"][0]["metrics"]["auroc"] == {"value": None, "low": None, "high": None, "sd": 0.0}
    assert found["config"] == {"rate": 0.5, "sizes": [0, 1], "count": 7}
    assert "t,a,linear,100 %,9.0,auroc,,,,0.0" in (tmp_path / "results.csv").read_text()


def test_two_writes_are_the_same_to_the_byte(tmp_path: Path) -> None:
    write(TINY, tmp_path / "one")
    write(TINY, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_what_cannot_be_written_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def full(_path: Path, _text: str, encoding: str) -> None:
        raise OSError(f"no space left for {encoding}")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write(TINY, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_without_a_page_there_are_two_files(tmp_path: Path) -> None:
    write(TINY, tmp_path, html=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]


def test_the_page_says_every_score_and_every_sentence_on_random(folder: Path) -> None:
    text = " ".join(Reader((folder / "report.html").read_text(encoding="utf-8")).text)
    for score in SMALL.scores:
        for e in score.metrics.values():
            assert f"{e.value:.3f}" in text
            assert f"[{e.low:.3f}, {e.high:.3f}]" in text
    for difference in SMALL.differences:
        assert (difference.sentence in text) == (difference.budget == "100 %")


def test_nothing_is_fetched_and_nothing_runs(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    reader = Reader(page)
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#" if name == "href" else "data:image/png;base64,"), (tag, value)


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    small = plausible((evil, "random"), ("tiles", "findings"), 12)
    pictured = tuple(_renamed(one, evil) for one in small.pictured)
    card = replace(small.sets[0], what=evil, left_out=(evil,), notes=(evil,), counts={evil: 3.0})
    audit = replace(small.audit, compared={evil: (evil,)}, notes=(evil,))
    config = {evil: evil}
    found = replace(
        small, title=evil, sets=(card,), notes=(evil,), config=config, encoders={evil: {evil: evil}}, audit=audit
    )
    reader = Reader(page_of(replace(found, pictured=pictured, history={evil: ({"step": 1, "loss": 1.0},)}), tmp_path))
    assert not [tag for tag, _ in reader.tags if tag == "script"]
    assert " ".join(reader.text).count(evil) > 20
    assert [a["alt"] for t, a in reader.tags if t == "img" and evil in (a["alt"] or "")]


def _renamed(one: Pictured, name: str) -> Pictured:
    target = replace(one.target, names=(name, *one.target.names[1:]))
    return replace(one, target=target, ids=tuple(f"{name}/{i}" for i in range(len(one.ids))))


def test_sections_come_in_their_order_and_headings_step_by_one(folder: Path) -> None:
    headings = Reader((folder / "report.html").read_text(encoding="utf-8")).headings
    levels = [level for level, _ in headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    chapters = [text for level, text in headings if level == 2]
    ends = ["Pre-training", "Data card", "Leakage audit", "Encoders", "Configuration and versions"]
    assert chapters == ["Summary", "tiles", "findings", "hippocampus", "masks", *ends]
    start = headings.index((2, "tiles"))
    of_tiles = [text for level, text in headings[start : headings.index((2, "findings"))] if level == 3]
    assert tuple(of_tiles) == ORDER


def test_scores_of_evaluations_during_the_run_are_drawn(tmp_path: Path) -> None:
    """Of what was trained, not of the floors; a run without any has no such section."""
    small = plausible(("simclr", "random"), ("masks",), 4)
    lines = tuple(
        {"step": s, "loss": 1.0} | ({"evaluate.knees.linear.0.1.pre-trained": s / 100} if s % 30 == 0 else {})
        for s in range(10, 100, 10)
    )
    lines = ({**lines[0], "evaluate.knees.linear.0.1.random": 0.77}, *lines[1:])
    page = page_of(replace(small, history={"simclr": lines}), tmp_path)
    assert "Scores while it trained" in page
    assert "Score of knees.linear.0.1 over steps, first to last: simclr pre-trained 0.300 to 0.900" in page
    assert "simclr random" not in page
    assert "Scores while it trained" not in page_of(small, tmp_path)


def test_masks_are_shown_with_their_outlines(folder: Path) -> None:
    reader = Reader((folder / "report.html").read_text(encoding="utf-8"))
    shown = [a["alt"] for tag, a in reader.tags if tag == "img" and "Dice" in (a["alt"] or "")]
    assert shown == [f"masks/{i:02d}.nii.gz, Dice 0.8{i}" for i in range(6)]
    start = reader.headings.index((2, "masks"))
    assert (3, "Segmentations") in reader.headings[start:]


def test_what_was_not_found_has_no_section(tmp_path: Path) -> None:
    scores = tuple(s for s in SMALL.scores if s.data == "masks" and s.budget == "100 %")
    headings = Reader(page_of(Findings("t", {}, (), {}, scores, ()), tmp_path)).headings
    chapters = ["Summary", "Scores that decide", "masks", "All metrics", "Configuration and versions", "Versions"]
    assert [text for _, text in headings[1:]] == chapters


def test_leakage_is_boxed_before_the_answer_and_only_if_there_is_any(tmp_path: Path) -> None:
    small = plausible(("simclr", "random"), ("masks",))
    page = page_of(leaked(small), tmp_path)
    assert page.index('class="warning"') < page.index('class="lead"')
    assert "lung/0007.png" in page
    clean = page_of(small, tmp_path)
    assert 'class="warning"' not in clean
    assert "No test item was seen in pre-training." in clean


def test_every_picture_says_what_it_shows_and_every_table_has_scopes(folder: Path) -> None:
    reader = Reader((folder / "report.html").read_text(encoding="utf-8"))
    assert dict(reader.tags)["html"] == {"lang": "en"}
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    figures = [attributes for _, attributes in reader.tags if attributes.get("role") == "img"]
    assert len(images) > 20
    assert len(figures) > 20
    assert all(one["alt"] for one in images)
    assert all(one["aria-label"] for one in figures)
    assert all(attributes.get("scope") for tag, attributes in reader.tags if tag == "th")
    hidden = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert all(one.get("aria-hidden") == "true" for one in hidden)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    linked = {str(a["href"])[1:] for tag, a in reader.tags if tag == "a"}
    assert linked <= set(ids)


def test_an_id_is_used_once_but_in_legends(folder: Path) -> None:
    """The swatch of an encoder is the same wherever it is shown, and so are its ids."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    outside = re.sub(r'<span class="swatch">.*?</span>', "", page)
    ids = re.findall(r' id="([^"]+)"', outside)
    assert len(ids) > 50
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(
        re.findall(r' id="([^"]+)"', "".join(re.findall(r'<span class="swatch">.*?</span>', page)))
    )


def test_a_typical_page_is_below_three_megabytes(folder: Path) -> None:
    assert (folder / "report.html").stat().st_size < 3e6
