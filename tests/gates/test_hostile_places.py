"""Pipes, devices and links in the folders of runs, encoders and evaluations: nothing hangs or is written elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gates.ground import Ground
from tests.gates.hostile_places import READ, SPECIAL, WRITTEN, content, link, put
from tests.gates.sizes import size, some

pytestmark = pytest.mark.usefixtures("evaluated")


@pytest.fixture(scope="module")
def evaluated(ground: Ground) -> Iterator[Ground]:
    """Beside the sound run, what an evaluation leaves; both are copied for each case."""
    ground.evaluate("the sound evaluation", {"encoders": {"sound": "sound/encoder"}}, codes=[0])
    shutil.copytree(ground.work / "study", ground.work / "sound study")
    assert not ground.faults, ground.faults
    yield ground
    shutil.rmtree(ground.work / "sound study")


def afresh(ground: Ground) -> None:
    """A run that has a step to do, an encoder that lies alone, and an evaluation that is done."""
    for copy, of in (("case", "sound"), ("theirs", "sound/encoder"), ("study", "sound study")):
        shutil.rmtree(ground.work / copy, ignore_errors=True)
        shutil.copytree(ground.work / of, ground.work / copy)
    (ground.work / "case/checkpoints/step-00000002.safetensors").unlink()
    (ground.work / "case/metrics.jsonl").write_text("")  # of no step, so that none is cut
    for special in ("cache/fingerprints.txt", "case.yaml"):
        (ground.work / special).unlink(missing_ok=True)
    ground.write(json.dumps(ground.base), "case.yaml")


def use(ground: Ground, name: str, how: str, codes: Sequence[int]) -> None:
    embed = ("pictures", "-o", "out.parquet")
    if how == "train":
        ground.case(name, "train", "case.yaml", codes=codes)
    elif how == "weights":
        backbone = ground.base["backbone"] | {"weights": {"path": "theirs"}}
        asked = ground.write(json.dumps(ground.base | {"backbone": backbone, "output": "other"}), "other.yaml")
        ground.case(name, "train", asked, codes=codes)
    elif how == "names":
        ground.case(name, "names", "case", "0123456789abcdef", codes=codes)
    elif how == "evaluate":
        encoder = "theirs" if name.startswith("theirs") else "sound/encoder"
        ground.evaluate(name, {"encoders": {"sound": encoder}}, codes=codes, anew=False)
    else:
        ground.case(name, "embed", "theirs" if how == "embed" else "case/encoder", *embed, codes=codes)


def test_what_is_no_file_hangs_nothing(tried: Ground) -> None:
    cases = [(place, how, codes, kind) for place, how, codes in READ for kind in SPECIAL]
    chosen = some(cases, size(8, len(cases)))
    for place, how, codes, kind in chosen:
        afresh(tried)
        put(kind, tried.work / place)
        use(tried, f"{place} is {kind[0]} ({how})", how, codes)
    afresh(tried)
    tried.conclude(f"{len(chosen)} pipes and devices in folders")


def linked(ground: Ground, place: str, elsewhere: Path) -> dict[str, bytes]:
    """What lies elsewhere before."""
    afresh(ground)
    asked = ground.base | {"loop": ground.base["loop"] | {"tensorboard": True}}
    if place.startswith("case/evaluate"):
        asked |= {"evaluate": [ground.study() | {"name": "evaluate"}]}
    ground.write(json.dumps(asked), "case.yaml")
    link(ground.work / place, elsewhere, folder=place.endswith("/"))
    return content(elsewhere)


def test_links_out_of_the_folder_write_nothing(tried: Ground, tmp_path: Path) -> None:
    """Of a run that goes on and an evaluation; the whole folder may be a link, as to a larger disk."""
    chosen = some(WRITTEN, size(8, len(WRITTEN)))
    for place, how, codes in chosen:
        before = linked(tried, place, tmp_path / "else")
        use(tried, f"{place} is a link ({how})", how, codes)
        if content(tmp_path / "else") != before:
            tried.faults.append(f"{place}: what it leads to has changed")
    afresh(tried)
    shutil.move(tried.work / "case", tried.work / "disk")
    (tried.work / "case").symlink_to("disk")
    use(tried, "the folder is a link", "train", (0,))
    (tried.work / "case").unlink()
    tried.conclude(f"{len(chosen)} links out of folders")


def unguarded(given: dict[str, Any]) -> None:
    """The twin: links are neither looked for nor refused, and an unfinished name is taken as it is."""
    import volssl.engine.lock
    import volssl.engine.metrics
    import volssl.whole
    from tests.gates.watch import watch

    def opened(path: Path, flags: int, mode: int = 0o666) -> int:
        return os.open(path, flags, mode)

    vars(volssl.engine.lock).update(open_own=opened, links=lambda *_: iter(()))
    vars(volssl.engine.metrics).update(open_own=opened)
    vars(volssl.whole).update(remove=lambda _: None)
    watch(given)


@pytest.mark.parametrize("place", ["case/lock", "case/metrics.jsonl", "case/.config.yaml.new", "case/checkpoints/"])
def test_a_run_that_follows_links_is_caught(place: str, tried: Ground, tmp_path: Path) -> None:
    before = linked(tried, place, tmp_path / "else")
    tried.case(place, "train", "case.yaml", codes=[0], before=f"{__name__}:unguarded")
    assert any("did: open" in fault for fault in tried.faults) or place == "case/checkpoints/", tried.faults
    assert content(tmp_path / "else") != before


def test_a_run_that_waits_for_a_pipe_is_caught(tried: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.gates.ground.SECONDS", 3)
    afresh(tried)
    put(SPECIAL[0], tried.work / "case/ids.key")
    tried.case("waits", "train", "case.yaml", before=f"{__name__}:patient")
    assert any("exit -14" in fault for fault in tried.faults), tried.faults


def patient(_: dict[str, Any]) -> None:
    """The other twin: a key is read from whatever is in its place."""
    import volssl.data.seen

    vars(volssl.data.seen).update(open_regular=lambda path: path.open("rb"))
