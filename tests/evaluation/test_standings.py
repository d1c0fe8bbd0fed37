"""Who is best, what differs from random, and what the page says of it first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.evaluation.plausible import leaked, plausible
from volssl.evaluation.findings import Audit, Difference, Findings, Overlap, Score, SetCard
from volssl.evaluation.standings import (
    BETTER,
    FEW,
    NOISE,
    WORSE,
    answer,
    blocks,
    is_floor,
    not_floor,
    usual,
    verdict,
    warnings,
)
from volssl.evaluation.statistics import Estimate

NAN = float("nan")


def score(encoder: str, value: float, *, data: str = "tiles", protocol: str = "linear", budget: str = "100 %") -> Score:
    labels = {"10 %": 12.0, "100 %": 120.0}[budget]
    return Score(data, encoder, protocol, budget, labels, 1, {"auroc": Estimate(value, value - 0.1, value + 0.1)})


def gap(encoder: str, low: float, high: float, *, data: str = "tiles", other: str = "random") -> Difference:
    e = Estimate((low + high) / 2, low, high)
    return Difference(data, encoder, other, "linear", "100 %", "auroc", e, f"{encoder} and {other}")


def findings(*scores: Score, differences: tuple[Difference, ...] = ()) -> Findings:
    return Findings("t", {}, (), {}, scores, differences)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.01, 0.1, BETTER), (-0.1, -0.01, WORSE), (-0.01, 0.1, NOISE), (0.0, 0.1, NOISE)]
)
def test_an_interval_that_holds_zero_is_noise(low: float, high: float, said: str) -> None:
    assert verdict(Estimate(0.0, low, high)) == said
    assert verdict(Estimate(NAN, NAN, NAN)) is None


def test_floors_are_known_by_their_names() -> None:
    names = ("random", "random simclr", "pixels", "randomised", "pixels2", "simclr")
    assert [is_floor(name) for name in names] == [True, True, True, False, False, False]


def test_floors_come_last_and_budgets_by_their_labels() -> None:
    given = [score("random", 0.5), score("b", 0.7), score("a", 0.8), score("a", 0.6, budget="10 %")]
    (block,) = blocks(findings(*given))
    assert block.encoders == ("b", "a", "random")
    assert block.budgets == ("10 %", "100 %")
    assert block.labels("10 %") == 12
    assert block.best("100 %", not_floor) == "a"
    assert block.best("100 %", is_floor) == "random"
    assert block.best("10 %", is_floor) is None
    assert block.estimate("b", "10 %") is None


def test_the_answer_names_the_best_what_it_gains_and_where_it_is_noise() -> None:
    scores = (
        score("a", 0.8),
        score("b", 0.9),
        score("random", 0.6),
        score("pixels", 0.7),
        score("b", 0.7, data="knees"),
        score("random", 0.69, data="knees"),
    )
    differences = (
        gap("a", 0.1, 0.3),
        gap("b", 0.2, 0.4),
        gap("b", 0.1, 0.3, other="pixels"),
        gap("b", -0.1, 0.12, data="knees"),
    )
    said = answer(findings(*scores, differences=differences))
    headline = "At the largest label budget, the best encoder is better than a random one on 1 of 2 data sets, by 0.300"
    assert said[0] == ("", f"{headline}; within noise on knees.")
    line = (
        "b, linear probe, 100 % of the labels: AUROC 0.900 [0.800, 1.000]; better than random, +0.300 [+0.200, +0.400]"
    )
    assert said[1] == ("tiles", f"{line}. Best floor: pixels, 0.700.")
    assert "within noise of random, +0.010 [-0.100, +0.120]. Best floor: random, 0.690." in said[2][1]
    assert "2 of 3 comparisons with random are better, 0 worse and 1 within noise" in said[3][1]


def test_nothing_is_claimed_where_nothing_is_shown() -> None:
    worse = answer(findings(score("a", 0.5), score("random", 0.6), differences=(gap("a", -0.2, -0.05),)))
    assert worse[0][1].startswith("No encoder is shown to be better than a random one on the data set tiles")
    assert "worse than random" in worse[1][1]
    assert answer(findings(score("random", 0.6))) == (("", "No encoder was evaluated beside the floors."),)
    alone = answer(findings(score("a", 0.5)))
    assert alone[0] == ("", "No encoder was compared with a random one at the largest label budget.")


def test_a_headline_of_several_sets_of_which_none_shows_anything() -> None:
    """It once read "on 0 of 2 data sets"."""
    scores = (score("a", 0.5), score("a", 0.5, data="knees"), score("a", 0.5, data="lungs"))
    gaps = (gap("a", -0.1, 0.1), gap("a", -0.3, -0.1, data="knees"))
    start = "No encoder is shown to be better than a random one on any of the 2 data sets at the largest label budget"
    assert answer(findings(*scores[:2], differences=gaps))[0][1] == f"{start}; within noise on tiles; worse on knees."
    assert answer(findings(*scores, differences=gaps))[0][1].endswith("worse on knees; not compared on lungs.")


def card(kind: str, tested: float, data: str = "tiles") -> SetCard:
    return SetCard(data, "", 10, 10, 4, kind, "auroc", {}, (), tested=tested)


def test_a_handful_of_test_patients_shows_nothing() -> None:
    """Of four patients AUROC is 1.000 [1.000, 1.000] by luck: no verdict, and a caution where the answer stands."""
    perfect = (score("a", 1.0), score("random", 0.5))
    for kind, tested, says in (
        ("classes", 2, "2 test patients of its rarest class. With fewer than 8,"),
        ("labels", 2, "2 test patients on the rarer side of the label in the middle. With fewer than 8,"),
        ("number", 3.5, "7 test patients. With fewer than 16,"),
    ):
        found = replace(findings(*perfect, differences=(gap("a", 0.3, 0.6),)), sets=(card(kind, tested),))
        said = answer(found)
        assert said[0][1].endswith("on the data set tiles at the largest label budget; too few test patients on tiles.")
        assert "too few test patients to tell, +0.450" in said[1][1]
        assert said[2][0] == "tiles"
        assert said[2][1].startswith(f"CAUTION: {says}")
        assert not any(BETTER in line or "is better" in line for _, line in said)
        assert blocks(found)[0].verdict("a", "100 %") == FEW
        enough = answer(replace(found, sets=(card(kind, 8),)))
        assert BETTER in enough[1][1]
        assert not any("CAUTION" in line for _, line in enough)


def test_a_backbone_without_weights_is_the_floor_by_another_name() -> None:
    """It is drawn as the random encoder is: to differ from it by nothing is no comparison, and no encoder's success."""
    gaps = (gap("scratch", 0.0, 0.0), gap("a", 0.1, 0.2), gap("a", 0.1, 0.2, other="scratch"))
    given = findings(score("scratch", 0.9), score("a", 0.8), score("random", 0.9), differences=gaps)
    found = replace(given, encoders={"scratch": {"method": "random"}, "a": {"method": "dino"}})
    said = answer(found)
    assert said[1][1].startswith("a, linear probe")
    assert len(said) == 2  # of one comparison there is nothing to count
    assert blocks(found)[0].verdict("scratch", "100 %") is None
    assert [d.other for d in blocks(found)[0].differences] == ["random", "scratch"]
    assert answer(given)[1][1].startswith("scratch")


def test_an_undefined_score_is_never_the_best() -> None:
    (block,) = blocks(findings(score("a", NAN), score("b", 0.4)))
    assert block.best("100 %", not_floor) == "b"
    assert block.estimate("a", "100 %") is None


def test_an_encoder_is_compared_with_the_random_one_of_its_own_shape() -> None:
    given = (gap("a", 0.1, 0.2, other="random a"), gap("b", -0.2, -0.1, other="random b"))
    (block,) = blocks(findings(score("a", 0.5), score("b", 0.5), differences=given))
    assert (block.verdict("a", "100 %"), block.verdict("b", "100 %")) == (BETTER, WORSE)


def test_a_warning_is_of_test_items_alone() -> None:
    """Nine test items are a warning; training items that two encoders saw are one line elsewhere."""
    leak = Overlap("tiles", "simclr", "image", 9, 2, tuple(f"t{i}" for i in range(7)), ("x", "y"))
    train = [Overlap("tiles", name, "file", 0, 1200, (), ("x",)) for name in ("simclr", "dino")]
    found = replace(findings(), audit=Audit(overlaps=(leak, *train)))
    (line,) = warnings(found)
    assert "9 test items and 2 training items of tiles" in line
    assert "t0, t1, t2, t3, t4 and 4 more" in line
    assert usual(found) == (
        "pre-training of simclr and dino saw 1,200 training items of tiles (the same bytes), as is usual",
    )
    assert warnings(leaked(plausible(("simclr", "random"), ("tiles",), 4)))
    assert not warnings(findings())
