"""What a run says, line by line: metrics.jsonl, the bar at 80 columns, the plain lines, the warning."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from volssl.engine.log import Collapse, Log, describe, duration
from volssl.engine.metrics import Metrics, truncate
from volssl.errors import RunError

HEALTHY = {"loss": 1.2345678, "lr": 0.0123, "spread": 0.31, "rank": 12.7}


def plain() -> Console:
    return Console(file=io.StringIO(), width=80)


def told(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder: Path, done: int, *steps: int, **values: float) -> Console:
    console = plain()
    with Log(folder, console=console, done=done, steps=9, batch=4) as log:
        for step in steps:
            log.record(step, HEALTHY | values)
    return console


def test_no_step_appears_twice_after_a_resume(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, 3, 4, 5)
    write(tmp_path, 3, 4, 5, 6)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert lines(tmp_path)[0] == HEALTHY | {"step": 1, "items_per_second": lines(tmp_path)[0]["items_per_second"]}


HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    "torn",
    [
        *('{"step": 4, "lo', '{"step": 3}', "\0\0\0", "{}\n", "7\n"),
        *(f'{{"step": {HUGE}}}\n', '{"step": "3"}\n', "[" * 100_000 + "\n"),
    ],
)
def test_a_torn_line_goes(tmp_path: Path, torn: str) -> None:
    write(tmp_path, 0, 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    truncate(tmp_path / "metrics.jsonl", 9)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("value", ['"x"', "{}", "1e400", HUGE, "null", '"\udcff"'])
def test_a_gauge_that_is_no_number_is_none(tmp_path: Path, value: str) -> None:
    """A run that was ever as wide as 1e400 would be told that it collapses."""
    text = f'{{"step": 1, "spread": {value}, "rank": {value}}}\n'
    (tmp_path / "metrics.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    console = write(tmp_path, 1, 2, 3, 4, 5, 6, 7)
    assert "collapse" not in " ".join(told(console))


def test_what_is_not_finite_stays_valid_json(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, auc=float("nan"))
    assert lines(tmp_path)[0]["auc"] is None


def test_the_speed_is_items_over_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed at step 2 at second 10, step 3 at second 12, step 4 at second 18: 1 and then 2 steps of 4 items
    in 2 and then 8 seconds: 2 and 1 items per second."""
    clock = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Log(tmp_path, console=plain(), done=2, steps=9, batch=4) as log:
        for step, clock[0] in ((3, 12.0), (4, 18.0)):
            log.record(step, HEALTHY)
    assert [line["items_per_second"] for line in lines(tmp_path)] == [2.0, 1.0]


def test_another_rank_writes_nothing(tmp_path: Path) -> None:
    console = plain()
    with Log(None, console=console, done=0, steps=9, batch=4) as log:
        log.record(1, HEALTHY)
        log.say("x")
        log.flush()
    assert told(console) == []
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_lines_are_few_and_the_last_step_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 steps of one second, recorded every 5: a line every 10 s up to 200 s, which is 20, then each time
    the run is 5 % older, which is log(500) / log(1.05) = 127 times at most; and the last step."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    console = plain()
    with Log(tmp_path, console=console, done=0, steps=100_000, batch=4) as log:
        for step in range(0, 100_001, 5):
            clock[0] = float(step)
            log.record(step, HEALTHY)
    found = told(console)
    assert found[0] == "step 10/100000 loss 1.2346 lr 0.012 4.0 items/s 1.2d left spread 0.31 rank 13"
    assert 130 < len(found) <= 148
    assert found[-1].startswith("step 100000/100000 ")


def test_the_bar_fits_into_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Log(tmp_path, console=console, done=0, steps=10_000, batch=4) as log:
        clock[0] = 300.0
        log.record(9_000, HEALTHY | {"rank": 123.4, "lr": 1.23e-05, "loss": -1.12345})
    shown = "\r".join(told(console)).split("\x1b[2K")[-1].split("\r")[0]
    assert len(shown) == 80
    assert shown.startswith("9000/10000 ━")
    assert shown.endswith(" loss -1.1235 lr 1.2e-05 120 items/s 33s left spread 0.31 rank 123")


def test_another_display_may_take_over_in_between(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with Log(tmp_path, console=console, done=0, steps=9, batch=4) as log:
        log.record(1, HEALTHY)
        with log.paused(), console.status("evaluating"):
            log.say("in between")
        log.record(2, HEALTHY)
    assert "in between" in "".join(told(console))


def test_the_gauge_turns_red() -> None:
    values = HEALTHY | {"items_per_second": 3.0}
    styles = {str(span.style) for span in describe(values, left=5).spans}
    assert "green" in styles
    low = {str(span.style) for span in describe(values, left=5, alarm=True).spans}
    assert "bold red" in low
    assert "spread" not in describe({"loss": 1.0, "lr": 0.1, "items_per_second": 3.0}, left=5)  # of a few items


def test_a_collapse_is_told_once_after_patience_and_again_after_a_recovery() -> None:
    judge = Collapse().judge
    low, fine = {"spread": 0.0, "rank": 1.0}, {"spread": 0.3, "rank": 9.0}
    told = [judge(values) is not None for values in [low] * 4 + [fine] + [low] * 8 + [fine] + [low] * 5]
    assert [i for i, warned in enumerate(told) if warned] == [9, 18]
    assert judge({"loss": 1.0}) is None


def warned(*values: tuple[float, float], collapse: Collapse | None = None) -> bool:
    """Whether the first of ``values`` and then the others, five times each, bring a warning."""
    first, *others = ({"spread": spread, "rank": rank} for spread, rank in values)
    judge = (collapse or Collapse()).judge
    told = [judge(x) is not None for x in (first, *(x for x in others for _ in range(5)))]
    return any(told)


def test_what_was_low_from_the_start_is_no_collapse_until_it_has_fallen() -> None:
    """An untrained ViT has a spread of 0.044 and a rank of 1.1: half of the way to 0 and 1 is 0.022 and 1.05."""
    assert not warned((0.044, 1.1), (0.044, 1.1), (0.023, 1.06))
    assert warned((0.044, 1.1), (0.021, 1.1))
    assert warned((0.044, 1.1), (0.044, 1.04))
    assert warned((0.044, 1.1), (0.3, 5.0), (0.03, 2.0))  # it had risen before
    assert warned((0.6, 6.0), (0.03, 2.0))  # CASS from scratch
    assert warned((0.001, 1.5), (0.001, 1.5))  # there never was anything
    assert not warned((0.6, 6.0), (0.0, 1.0), collapse=Collapse(possible=False))


def test_prototypes_that_fall_are_told() -> None:
    """Under 3, and under a fifth of the most; where there were few from the start, or there are none, nothing is."""

    def told(*used: float) -> list[str]:
        judge = Collapse().judge
        values = [{"spread": 0.3, "rank": 9.0, "prototypes_used": u} for u in used for _ in range(5)]
        return [said for said in map(judge, values) if said]

    assert told(14.0, 3.1, 14.0) == []
    assert told(14.0, 2.7) == [
        "the prototypes collapse: nearly all items fall on 2.7 of them, once 14. Training on will hardly mend it: "
        "stop, and lower optim.lr, lengthen optim.warmup or look at the teacher's temperatures and centre"
    ]
    assert told(14.0, 2.9) == []  # a fifth is 2.8
    assert told(2.0, 1.0, 2.0) == []
    assert len(told(14.0, 1.0, 14.0, 1.0)) == 2


@pytest.mark.parametrize("first", [0.6, 0.04])
def test_a_resumed_run_knows_what_it_fell_from(tmp_path: Path, first: float) -> None:
    write(tmp_path, 0, 1, 2, spread=first)
    console = write(tmp_path, 2, *range(3, 9), spread=0.03)
    assert any("collapse" in line for line in told(console)) is (first == 0.6)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))


def test_the_warning_is_in_plain_words_above_the_bar(tmp_path: Path) -> None:
    console = write(tmp_path, 0, *range(1, 9), spread=0.001)
    (warning,) = [line for line in told(console) if "collapse" in line]
    assert warning.startswith("step 5: the embeddings collapse: all items look nearly the same to the encoder")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (42, "42s"), (60, "1m"), (3599, "60m"), (3600, "1.0h"), (36_000, "10h"), (216_000, "2.5d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_tensorboard_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunError, match=r"pip install 'volssl\[tensorboard\]'"):
        Log(tmp_path, console=plain(), done=0, steps=9, batch=4, board=True)


def test_tensorboard_gets_what_is_recorded(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    with Log(tmp_path, console=plain(), done=0, steps=9, batch=4, board=True) as log:
        log.record(1, HEALTHY)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_machine_is_not_in_the_name_of_tensorboards_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    monkeypatch.setattr(socket, "gethostname", lambda: "janes-laptop")
    with Log(tmp_path, console=Console(quiet=True), done=0, steps=2, batch=4, board=True):
        pass
    assert [path.name.split(".")[4] for path in (tmp_path / "tensorboard").iterdir()] == ["volssl"]
    assert socket.gethostname() == "janes-laptop"


def test_metrics_are_a_file_of_the_runs_own(tmp_path: Path) -> None:
    theirs, place = tmp_path / "theirs", tmp_path / "run/metrics.jsonl"
    theirs.write_text('{"step": 1}\n')
    place.parent.mkdir()
    place.symlink_to(theirs)
    with pytest.raises(RunError, match=r"metrics.jsonl: cannot be used: it is a symbolic link: move it away"):
        Metrics(place.parent, 1)
    assert theirs.read_text() == '{"step": 1}\n'
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(RunError, match=r"metrics.jsonl: cannot be used: it is no regular file: move it away"):
        Metrics(place.parent, 1)
