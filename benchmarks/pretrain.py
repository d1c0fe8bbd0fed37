"""Does pre-training on real images beat a random encoder of the same shape? Prints the table of the README.

    python -m benchmarks.pretrain                                # everything, five minutes of two cores a run
    python -m benchmarks.pretrain --methods byol --seeds 0       # one at a time; several may run side by side
    python -m benchmarks.pretrain --table                        # what is there already
    python -m benchmarks.pretrain --calibrate --methods byol     # how many steps fit into the minutes

A run is ``volssl train`` of what ``pretrain.yaml`` says, then a linear probe of the frozen features and, on the
same labels, folds and patients, of those of a randomly initialised encoder of the same shape and seed. Each leaves one
line in ``results.jsonl``; what has a line is not done again, and a run that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.outcomes import Line, append, packed, read, unpacked
from volssl import config, strict_yaml
from volssl.config import Run
from volssl.evaluation.card import CARD
from volssl.evaluation.encoder import Encoder, load_encoder, random_encoder
from volssl.evaluation.features import extract
from volssl.evaluation.linear import linear_probe
from volssl.evaluation.probe import Scores, Worth, cross_fit, measure
from volssl.evaluation.splits import folds, subset
from volssl.evaluation.statistics import Estimate
from volssl.evaluation.target import Floats, Groups, Ints
from volssl.run import ENCODER, train

ALL, TENTH = "all labels", "10 % of the labels"
PRETRAINED, RANDOM = "pre-trained", "random"
CORES, MINUTES, THIRDS = 2, 5.0, 3
COLUMNS = ("seeds", "pre-trained", "random", "difference", "of each seed", "so it is")
BATCH = 64  # items whose features are computed at once
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"  # every component of it is replaced


@dataclass(frozen=True)
class Examined:
    """Rows that were tested: y (N,), their patients, and by how many labels were used, the scores."""

    y: Ints
    patients: Groups
    scores: dict[str, Scores]


@dataclass(frozen=True)
class Images:
    """How an encoder is examined on a data set, and how that is told.

    thirds: whether each seed has another third of the patients held out, so that its rows are its own.
    """

    examine: Callable[[Encoder, Run], Examined]
    told: str
    thirds: bool = False


def hold_out(table: Path, folder: Path, seed: int) -> Path:
    """Write ``train.csv`` and ``test.csv``, the latter of one of three stratified thirds of the patients."""
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    classes, patients = (np.array([row[key] for row in rows]) for key in ("label", "patient"))
    train, test = folds(np.unique(classes, return_inverse=True)[1], patients, THIRDS, 0)[seed % THIRDS]
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("train.csv", train), ("test.csv", test)):
        lines = [(os.path.relpath(table.parent / rows[i]["path"], folder), classes[i], patients[i]) for i in chosen]
        text = "".join(f"{','.join(line)}\n" for line in [("path", "label", "patient"), *lines])
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "train.csv"


def read_table(encoder: Encoder, run: Run, table: Path) -> tuple[Floats, Ints, Groups]:
    """Features, classes and patients of the items that a table lists."""
    source = run.data.model_copy(update={"root": str(table)}).build(run.region)
    patient = {row["path"]: row["patient"] for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())}
    features: Floats = extract(encoder, source, batch=BATCH).astype(np.float64)
    return features, np.array(source.labels), np.array([patient[item] for item in source.ids])


def by_patient(encoder: Encoder, run: Run) -> Examined:
    """Each item is scored once, by a probe that has seen none of its patient's."""
    x, y, patients = read_table(encoder, run, Path(run.data.root))
    return Examined(y, patients, {ALL: cross_fit(x, y, groups=patients, seed=run.seed)})


def by_new_patient(encoder: Encoder, run: Run) -> Examined:
    """The items of the patients that neither pre-training nor the probe has seen."""
    tables = (Path(run.data.root).with_name(f"{split}.csv") for split in ("train", "test"))
    (x, y, patients), (new_x, new_y, new_patients) = (read_table(encoder, run, table) for table in tables)
    found = linear_probe(x, y, new_x, groups=patients, seed=run.seed)
    return Examined(new_y, new_patients, {ALL: Scores(found.scores)})


def by_split(encoder: Encoder, run: Run) -> Examined:
    """The archive's own test split, after training on all labels of its training split and on a fixed tenth."""
    x, y = {}, {}
    for split in ("train", "test"):
        source = run.data.model_copy(update={"split": split}).build(run.region)
        x[split], y[split] = extract(encoder, source, batch=BATCH).astype(np.float64), np.array(source.labels)
    each = np.arange(len(y["train"]))
    scores = {}
    for told, rows in ((ALL, each), (TENTH, subset(y["train"], each, 0.1, seed=0))):
        found = linear_probe(x["train"][rows], y["train"][rows], x["test"], groups=rows, seed=run.seed)
        scores[told] = Scores(found.scores)
    return Examined(y["test"], np.arange(len(y["test"])), scores)


DATA = {
    "lc25000_lung": Images(
        by_patient,
        "lung tiles, 3 classes, macro AUROC of one class against the rest. Pre-training sees all tiles without labels; "
        "five folds of the probe by patient, so that each tile is scored once; intervals over patients",
    ),
    "lc25000_new_patients": Images(
        by_new_patient,
        "of the same tiles: each seed has another third of the patients held out from pre-training and probe alike",
        thirds=True,
    ),
    "pneumoniamnist": Images(
        by_split,
        "radiographs of 28 x 28, pneumonia or none, AUROC; pre-trained and probed on `train`, tested on `test`; "
        "patients are not known, so intervals are over images",
    ),
    "lidc_nodules": Images(
        by_patient, "stacks of lung nodules, benign or malignant, AUROC; five folds of the probe by patient"
    ),
}


@cache
def wanted() -> dict[str, Any]:
    """``common``, ``data`` and ``methods`` of the file beside this one."""
    path = Path(__file__).with_suffix(".yaml")
    found: dict[str, Any] = strict_yaml.parse(path.read_text(encoding="utf-8"), path.name).data
    return found


def overrides(data: str, method: str, seed: int, minutes: float, images: Path) -> dict[str, Any]:
    """Everything that makes the run what it is, by dotted key: later ones over earlier ones."""
    own = {key: value for key, value in wanted()["methods"][method].items() if key != "saw"}
    here = {name: own.pop(name, {}) for name in DATA}[data]
    steps = max(2, round(own.pop("steps")[data] * minutes / MINUTES))
    given = {**wanted()["data"][data], **wanted()["common"], **own, **here, "seed": seed, "loop.steps": steps}
    return {**given, "data.root": str(images / given["data"]["root"])}


def shown(data: str, run: Run, images: Path) -> Run:
    """The run as far as an examination looks at it: the data set itself, whatever else was trained on."""
    if run.data.name != "mixture":
        return run
    alone = {**wanted()["data"][data], **wanted()["common"], "method": {"name": "simclr"}}
    alone |= {"data.root": str(images / alone["data"]["root"]), "seed": run.seed, "loop.steps": run.loop.steps}
    return build(alone, Path(run.output))


def build(given: dict[str, Any], output: Path) -> Run:
    """The run of these overrides, in a folder of the configuration's own, so that a changed one starts anew."""
    written = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    return config.load(CONFIG, [*written, f"output={output}"])


def digest(given: dict[str, Any]) -> str:
    """What the run is, wherever its images lie."""
    kept = {key: value for key, value in given.items() if key != "data.root"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def pretrain(run: Run) -> float:
    """Pre-train, or go on with it; the processor seconds that it took in all, without filling the cache."""
    run.data.build(run.region)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory from here on
    clock = Path(run.output).with_suffix(".seconds")
    before, start = float(clock.read_text()) if clock.exists() else 0.0, time.process_time()
    try:
        train(run)
    finally:
        clock.parent.mkdir(parents=True, exist_ok=True)
        clock.write_text(str(before + time.process_time() - start))
    return float(clock.read_text())


def examine(run: Run, images: Images) -> tuple[Examined, dict[str, dict[str, Examined]]]:
    """The rows, and by encoder that the run kept and by whether it is the trained or a random one, its scores."""
    found = {}
    for card in sorted(Path(run.output, ENCODER).rglob(CARD)):
        trained = load_encoder(card.parent)
        pair = {PRETRAINED: trained, RANDOM: random_encoder(trained.card, run.seed)}
        found[card.parent.name] = {name: images.examine(encoder, run) for name, encoder in pair.items()}
    return next(iter(found.values()))[PRETRAINED], found


def peak() -> float:
    """GB of memory that this process held at most, since ``pretrain`` began."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def line(data: str, method: str, run: Run, key: str, seconds: float) -> Line:
    """One run's outcome as plain JSON; scores are kept to six digits."""
    memory = peak()
    rows, found = examine(run, DATA[data])
    scores = {
        encoder: {name: {told: packed(s) for told, s in one.scores.items()} for name, one in pair.items()}
        for encoder, pair in found.items()
    }
    told = {"data": data, "method": method, "seed": run.seed, "key": key, "steps": run.loop.steps}
    told |= {"seconds": seconds, "memory": memory}
    return {**told, "y": rows.y.tolist(), "patients": rows.patients.tolist(), "scores": scores}


def tables(lines: list[Line], resamples: int = 1000) -> Iterator[str]:
    """Markdown: for each data set and number of labels, a row per method and encoder, means over seeds."""
    for data in dict.fromkeys(entry["data"] for entry in lines):
        here = [entry for entry in lines if entry["data"] == data]
        rows = {entry["seed"]: len(entry["y"]) for entry in here}
        yield f"`{data}`: {sum(rows.values()) if DATA[data].thirds else max(rows.values())} {DATA[data].told}."
        for labels in next(iter(here[0]["scores"].values()))[PRETRAINED]:
            head = (f"{data}, {labels}", "steps", "minutes", "GB", *COLUMNS)
            yield f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
            for method in dict.fromkeys(entry["method"] for entry in here):
                if wanted()["methods"].get(method, {}).get("saw", labels) != labels:
                    continue  # it would be compared with what saw fewer
                yield from _rows([entry for entry in here if entry["method"] == method], labels, resamples)
        yield ""


def _rows(runs: list[Line], labels: str, resamples: int) -> Iterator[str]:
    minutes = mean(run["seconds"] for run in runs) / 60 / CORES
    for encoder in runs[0]["scores"]:
        name = runs[0]["method"] if len(runs[0]["scores"]) == 1 else f"{runs[0]['method']} ({encoder})"
        compared = _compared(runs, encoder, labels, resamples)
        cost = f"{runs[0]['steps']} | {minutes:.1f} | {max(run['memory'] for run in runs):.1f}"
        yield f"| {name} | {cost} | {len(runs)} | {compared} |"


def _compared(runs: list[Line], encoder: str, labels: str, resamples: int) -> str:
    worth = _worth(runs, encoder, labels, resamples)
    gain = worth.difference(PRETRAINED, RANDOM)
    alone = [_worth([run], encoder, labels, 2).difference(PRETRAINED, RANDOM).value for run in runs]
    verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "within noise"
    numbers = [_with_interval(worth.estimate(name), "") for name in (PRETRAINED, RANDOM)]
    return " | ".join([*numbers, _with_interval(gain, "+"), " ".join(f"{value:+.3f}" for value in alone), verdict])


def _worth(runs: list[Line], encoder: str, labels: str, resamples: int) -> Worth:
    """Seeds on the same rows count as seeds; where each has rows of its own, they count as folds of one whole."""
    scores = {name: [unpacked(run["scores"][encoder][name][labels]) for run in runs] for name in (PRETRAINED, RANDOM)}
    if DATA[runs[0]["data"]].thirds:
        fold = np.repeat(np.arange(len(runs)), [len(run["y"]) for run in runs])
        scores = {name: [Scores(np.concatenate([s.score for s in each]), fold)] for name, each in scores.items()}
        rows = [np.concatenate([run[key] for run in runs]) for key in ("y", "patients")]
    else:
        rows = [np.array(runs[0][key]) for key in ("y", "patients")]
    return measure(scores, rows[0], groups=rows[1], resamples=resamples)


def _with_interval(e: Estimate, sign: str) -> str:
    return f"{e.value:{sign}.3f} [{e.low:{sign}.3f}, {e.high:{sign}.3f}]"


def calibrate(data: str, method: str, args: argparse.Namespace) -> str:
    """Steps that fit into the minutes, from the processor time of 10 and of 40: what starting costs drops out."""
    spent = {}
    for steps in (10, 40):
        given = {**overrides(data, method, 0, args.minutes, args.images), "optim.warmup": 1, "loop.steps": steps}
        with TemporaryDirectory() as folder:
            spent[steps] = pretrain(build(given, Path(folder) / "run"))
    step = (spent[40] - spent[10]) / 30
    fit = int((60 * CORES * args.minutes - spent[10]) / step) + 10
    return f"{data} {method}: {step:.3f} processor seconds a step, {fit} steps in {args.minutes:g} minutes"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse; calibrate, or do what has no line yet; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=wanted()["methods"], default=list(wanted()["methods"]))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of {CORES} cores; steps change with it")
    parser.add_argument("--images", type=Path, default=Path("../shared/data/images"), help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/pretrain"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--calibrate", action="store_true", help="only say how many steps fit into the minutes")
    args = parser.parse_args(arguments)
    lines = []
    for data in args.data:
        for method in args.methods:
            if data not in wanted()["methods"][method]["steps"]:
                continue
            if args.calibrate:
                print(calibrate(data, method, args), flush=True)
                continue
            lines += [found for seed in args.seeds if (found := _one(data, method, seed, args))]
    print("\n".join(tables(lines)))


def _one(data: str, method: str, seed: int, args: argparse.Namespace) -> Line | None:
    """The line of one run, made now where there is none and making is asked for."""
    given, results = overrides(data, method, seed, args.minutes, args.images), args.output / "results.jsonl"
    key = f"{data}-{method}-{seed}-{digest(given)}"
    if key not in read(results) and not args.table:
        if DATA[data].thirds:
            table = hold_out(Path(given["data.root"]), args.output / data / f"third-{seed % THIRDS}", seed)
            given = {**given, "data.root": str(table)}
        run = build(given, args.output / data / f"{method}-{seed}-{digest(given)}")
        seconds = pretrain(run)
        append(results, line(data, method, shown(data, run, args.images), key, seconds))
    return read(results).get(key)


if __name__ == "__main__":
    main()
