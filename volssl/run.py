"""The composition root: the one file that knows everybody. A Run becomes objects, and they are put to work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from volssl import config as configuration
from volssl.config import Run
from volssl.data import PhantomConfig
from volssl.data.items import PreparedSource, Report
from volssl.engine.checkpoint import list_checkpoints
from volssl.engine.distributed import Group
from volssl.engine.lock import lock
from volssl.engine.loop import Evaluation, fit
from volssl.errors import ConfigError, RunError
from volssl.evaluation import ACLTearConfig
from volssl.evaluation.acl_tear import run_acl_tear
from volssl.evaluation.card import Card, Fingerprint
from volssl.evaluation.cohort import check_acl_tear
from volssl.evaluation.encoder import Encoder, load_encoder, save_encoder
from volssl.methods.base import Method
from volssl.models import BackboneConfig
from volssl.models.weights import ImportReport, load_weights

CONFIG, ENCODER, WEIGHTS, CHECKPOINTS = "config.yaml", "encoder", "weights.txt", "checkpoints"


def train(run: Run) -> None:
    """Pre-train as ``run`` says, from where its folder stands; leave ``encoder/`` and what ``evaluate`` asks for.

    Raises:
        UserError: the output belongs to something else, the data cannot be read, or the run cannot go on.
    """
    group = Group.from_environment(_device(run.loop.device))
    try:
        _train(run, group, Console(highlight=False))
    finally:
        group.close()


def acl_tear(encoder: Path, config: ACLTearConfig, out: Path) -> None:
    """Evaluate a saved encoder on MRNet's layout and write the results to ``out``."""
    console = Console(highlight=False)
    _acl_tear({"pre-trained": load_encoder(encoder, _device("auto"))}, config, out, console)


def make_phantom(out: Path, *, train: int, valid: int, pixels: int, seed: int, workers: int) -> None:
    """Write the synthetic knee cohort, with a progress bar."""
    from volssl.data.phantom import generate

    console = Console(highlight=False)
    with _progress(console, "making SYNTHETIC knees") as report:
        generate(out, train=train, valid=valid, pixels=pixels, seed=seed, workers=workers, report=report)
    console.print(f"{out}: a SYNTHETIC knee cohort in MRNet's layout, {train} training and {valid} validation exams")


def _train(run: Run, group: Group, console: Console) -> None:
    folder, first = Path(run.output), group.rank == 0
    with ExitStack() as held:
        with group.together():
            if first:
                held.enter_context(lock(claim(folder, run)))
                _write_config(folder / CONFIG, run)
        made = any(isinstance(part, PhantomConfig) for part in getattr(run.data, "parts", (run.data,)))
        reports: dict[str, ImportReport] = {}
        with group.together():
            if not made:
                _check_evaluations(run)
            method = build_method(run, reports, resumed=bool(list_checkpoints(folder / CHECKPOINTS)))
            if first and reports:
                _tell_weights(reports, folder / WEIGHTS, console)
        source = _prepare(run, group, console)
        if made:  # only now
            _check_evaluations(run)
        fit(
            method=method,
            optim=run.optim,
            loop=run.loop,
            source=source,
            views=run.views.build(),
            seed=run.seed,
            folder=folder,
            group=group,
            console=console,
            meta={"config": run.model_dump(mode="json")},
            evaluations=_evaluations(run, source, console),
        )
        if first:
            encoders = _save(method, run, source, folder)
            for wanted, out in _wanted(run):
                _acl_tear(encoders, wanted, out, console)


def check_labels(classes: Sequence[int], source: PreparedSource) -> None:
    """Refuse labels that a method with so many classes per set of labels could not learn from.

    Raises:
        ConfigError: a label is beyond the classes, or no item has one.
    """
    labels = iter(source.labels)
    largest = [max(islice(labels, size), default=-1) for size in source.label_sets]
    for k, (count, most) in enumerate(zip(classes, largest, strict=False)):
        if most >= count:
            fits = max(most + 1, 2)
            raise ConfigError(f"method.classes.{k}: {count}, but an item of part {k} has class {most}: give {fits}")
    if classes and max(largest) < 0:
        raise ConfigError("method: learns from labels, and no item has one: let data.root name a labels.csv")


def build_method(run: Run, reports: dict[str, ImportReport] | None = None, *, resumed: bool = False) -> Method:
    """The method with weights that are a function of ``run.seed`` and of published files.

    What the files gave goes into ``reports``, by the keys of the encoders. resumed: a checkpoint is to replace all
    weights, so no file is read. No global generator is touched.

    Raises:
        ConfigError: published weights do not fit, or cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        networks = [backbone.build(run.data.channels) for backbone in run.backbones.values()]
        for (key, backbone), network in zip(run.backbones.items(), networks, strict=True):
            try:
                report = None if resumed else load_weights(network, backbone, run.data.channels)
            except ConfigError as error:
                raise ConfigError(f"{key}.weights: {error}") from error
            if report and reports is not None:
                reports[key] = report
        return run.method.build(*networks)


def _tell_weights(reports: dict[str, ImportReport], path: Path, console: Console) -> None:
    """A line for each encoder; every key in the file."""
    for key, report in reports.items():
        console.print(f"{key}.weights: {report} (every key: {path})", markup=False)
    path.write_text("\n".join(f"{key}.weights\n{r.in_full()}\n" for key, r in reports.items()), encoding="utf-8")


def claim(folder: Path, run: Run) -> Path:
    """The folder, if it is new, empty, or this same run's. A run without a checkpoint may still become another.

    Raises:
        ConfigError: it is a file, or holds something that is no run.
        RunError: it belongs to a run that differs; every difference is listed.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {folder} is a file: give a folder")
    written = folder / CONFIG
    trained = bool(list_checkpoints(folder / CHECKPOINTS))
    if not trained and (folder / ENCODER).exists():
        raise RunError(f"output: {folder} holds an encoder whose checkpoints are gone: give another output")
    if trained:
        if changed := configuration.differences(configuration.load(written), run):
            lines = "\n".join(f"  {line}" for line in changed)
            raise RunError(f"output: {folder} belongs to another configuration; give another output, or undo\n{lines}")
        return folder
    held = [] if written.is_file() or not folder.is_dir() else sorted(p.name for p in folder.iterdir())
    if other := [name for name in held if name != "lock"]:
        raise ConfigError(f"output: {folder} holds {other[0]} and no run: give a new or empty folder")
    return folder


def _write_config(path: Path, run: Run) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(configuration.dump(run), encoding="utf-8")
    os.replace(temporary, path)


def _device(wanted: str) -> Literal["cpu", "cuda"]:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("loop.device: cuda is asked for and there is none: use auto or cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _prepare(run: Run, group: Group, console: Console) -> PreparedSource:
    """The source; the first rank fills the cache, the others find it full."""
    with group.together():
        if group.rank == 0:
            with _progress(console, "reading") as report:
                source = run.data.build(run.region, workers=run.loop.workers, report=report)
            check_labels(run.method.label_sets, source)
            for problem in source.bad:
                console.print(f"left out: {problem}", style="yellow", markup=False)
            console.print(f"{len(source)} items of {run.data.name} {run.data.root}", markup=False)
    with group.together():
        if group.rank > 0:
            source = run.data.build(run.region, workers=run.loop.workers)
    return source


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Report]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int, line: str) -> None:
            bar.update(task, completed=done, total=total)
            if line:
                console.print(line, style="yellow", markup=False)

        yield report


def _cards(method: Method, run: Run, source: PreparedSource, step: int) -> dict[str, Card]:
    """The card of every encoder that the method keeps, by its name."""
    digest = hashlib.sha256("\n".join(sorted(source.fingerprints)).encode()).hexdigest()
    fingerprint = Fingerprint(digest=digest, count=len(source))

    def card(backbone: BackboneConfig) -> Card:
        return Card(
            backbone=backbone,
            channels=run.data.channels,
            region=run.region,
            size=run.views.size,
            data=run.data,
            method=run.method.name,
            step=step,
            seed=run.seed,
            fingerprint=fingerprint,
        )

    return {name: card(one) for name, one in zip(method.encoders, run.backbones.values(), strict=True)}


def _save(method: Method, run: Run, source: PreparedSource, folder: Path) -> dict[str, Encoder]:
    cards, encoders = _cards(method, run, source, run.loop.steps), method.encoders
    alone = len(encoders) == 1
    for name, network in encoders.items():
        save_encoder(folder / ENCODER if alone else folder / ENCODER / name, network, cards[name])
    return {"pre-trained" if alone else name: Encoder(network, cards[name]) for name, network in encoders.items()}


def _wanted(run: Run) -> list[tuple[ACLTearConfig, Path]]:
    """Every evaluation and the folder of its results: its name, numbered from the second of a name on."""
    names = [wanted.name for wanted in run.evaluate]
    count = [names[:i].count(name) for i, name in enumerate(names)]
    folders = [name if n == 0 else f"{name}-{n + 1}" for name, n in zip(names, count, strict=True)]
    return [(_with_data(w, run), Path(run.output) / f) for w, f in zip(run.evaluate, folders, strict=True)]


def _check_evaluations(run: Run) -> None:
    """Refuse what could not be evaluated, while training or at the end.

    Raises:
        DataError, ConfigError: as ``check_acl_tear``.
    """
    for wanted, _ in _wanted(run):
        check_acl_tear(wanted, wanted.data or "", channels=run.data.channels, dims=run.data.dims)


def _evaluations(run: Run, source: PreparedSource, console: Console) -> list[Evaluation]:
    """What runs every so many steps: its scores go into the metrics, its tables into a folder per step."""

    def during(wanted: ACLTearConfig, out: Path) -> Callable[[Method, int], dict[str, float]]:
        def evaluate(method: Method, step: int) -> dict[str, float]:
            cards = _cards(method, run, source, step)
            encoders = {name: Encoder(network, cards[name]) for name, network in method.encoders.items()}
            return _acl_tear(encoders, wanted, out / f"step-{step}", console)

        return evaluate

    return [(wanted.every, during(wanted, out)) for wanted, out in _wanted(run) if wanted.every]


def _with_data(wanted: ACLTearConfig, run: Run) -> ACLTearConfig:
    """The evaluation with its data, cache and workers named: the run's own where it names none."""
    given = wanted.model_fields_set
    own = {"cache": run.data.cache, "workers": run.loop.workers}
    wanted = wanted.model_copy(update={key: value for key, value in own.items() if key not in given})
    if wanted.data is not None:
        return wanted
    root = Path(run.data.root)
    cohort = next((p for p in (root, *root.parents) if (p / "train").is_dir() and (p / "valid").is_dir()), None)
    if cohort is None:
        raise ConfigError(f"evaluate.data: {root} is not inside a folder with train and valid: name one")
    return wanted.model_copy(update={"data": str(cohort)})


def _acl_tear(encoders: dict[str, Encoder], config: ACLTearConfig, out: Path, console: Console) -> dict[str, float]:
    """Evaluate, write, print; returns the AUCs of the planes combined, by name."""
    device = next(next(iter(encoders.values())).parameters()).device
    results = run_acl_tear(encoders, config, out, console=console, device=device)
    return {
        f"{config.name}.{row.protocol}.{row.fraction:g}.{row.encoder}": row.metrics["auc"].value
        for row in results.combined()
    }
