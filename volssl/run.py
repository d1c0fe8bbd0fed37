"""The composition root: the one file that knows everybody. A Run becomes objects, and they are put to work."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from rich.console import Console

from volssl import appraisal, names
from volssl import config as configuration
from volssl.config import Run
from volssl.data import PhantomConfig, left_out
from volssl.data.cache_file import make_folder
from volssl.data.identity import identify
from volssl.data.items import PreparedSource, Readers
from volssl.data.quarantine import NAME as QUARANTINE
from volssl.data.seen import KEY, SeenItems, read_key, run_key
from volssl.engine.checkpoint import Checkpoint, free, list_checkpoints, load_latest
from volssl.engine.distributed import Group
from volssl.engine.lock import lock
from volssl.engine.log import BOARD
from volssl.engine.loop import fit
from volssl.engine.metrics import NAME as METRICS
from volssl.engine.processor import emulates_bf16
from volssl.errors import ConfigError, PeerError, RunError
from volssl.evaluation import ACLTearConfig, EvaluateConfig
from volssl.evaluation.acl_tear import run_acl_tear
from volssl.evaluation.card import Card, Fingerprint
from volssl.evaluation.embed import embed as write_features
from volssl.evaluation.embed import key_of
from volssl.evaluation.encoder import Encoder, load_encoder, save_encoder
from volssl.evaluation.export import Format
from volssl.evaluation.export import export as write_export
from volssl.evaluation.leakage import key_beside
from volssl.methods.base import Method
from volssl.models import BackboneConfig
from volssl.models.weights import ImportReport, load_weights
from volssl.names import private
from volssl.progress import progress
from volssl.whole import FULL, replace_file

ENCODER, WEIGHTS, CHECKPOINTS = "encoder", "weights.txt", "checkpoints"
# What is written through, if it is a link: all else is put in place whole.
OURS = (CHECKPOINTS, ENCODER, appraisal.BEST, BOARD, METRICS, f"{QUARANTINE}*.jsonl")
SLOW = "loop.precision: this CPU only emulates bf16: fp32 is many times faster on it (give another output)"
FILES: dict[Format, str] = {"torchscript": "encoder.ts", "onnx": "encoder.onnx", "monai-bundle": "bundle"}


def train(run: Run) -> None:
    """Pre-train as ``run`` says, from where its folder stands; leave ``encoder/`` and what ``evaluate`` asks for.

    Raises:
        UserError: the output belongs to something else, the data cannot be read, or the run cannot go on.
    """
    group, lost = Group.from_environment(_device(run.loop.device), timeout=run.loop.peer_timeout), False
    try:
        _train(run, group, Console(highlight=False))
    except PeerError:
        lost = True  # leaving the others in order would wait for the one that is gone
        raise
    except OSError as problem:
        if problem.errno not in FULL:
            raise
        where, why = problem.filename or run.output, os.strerror(problem.errno)
        raise RunError(f"{where}: not written: {why} ({free(Path(run.output))}); make room and run again") from None
    finally:
        if not lost:
            group.close()


def acl_tear(encoder: Path, config: ACLTearConfig, out: Path) -> None:
    """Evaluate a saved encoder on MRNet's layout and write the results to ``out``."""
    device = _device("auto")
    encoders = {"pre-trained": load_encoder(encoder, device)}
    if key := key_beside(encoder):
        names.use(key)
    run_acl_tear(encoders, config, out, console=Console(highlight=False), device=device)


def evaluate(config: EvaluateConfig) -> None:
    """Work out what ``config`` asks for, and write results and report to its output."""
    appraisal.evaluate(config, _device(config.device, "device"), Console(highlight=False))


def embed(encoder: Path, data: Path, out: Path, *, part: int | None, workers: int) -> None:
    """Write the frozen features of all images under ``data``; those that cannot be read are told and left out."""
    console, device, key = Console(highlight=False), _device("auto"), key_beside(encoder)
    loaded = load_encoder(encoder, device)
    if part is not None:
        loaded = Encoder(loaded.network, loaded.card.part(part)).eval()
    with progress(console, "embedding") as report:
        done = write_features(loaded, data, out, workers=workers, device=device, report=report, key=key)
    for problem in done.left_out:
        console.print(f"left out: {problem}", style="yellow", markup=False)
    left = f", {len(done.left_out)} left out" if done.left_out else ""
    console.print(f"{out}: {loaded.width} features of {done.items} items{left}", markup=False)
    if not names.visible():
        where = "the key of the encoder's run" if key else f"{key_of(out)}, which only you may read"
        console.print(f"its ids are made with {where}: volssl names tells which file one is", markup=False)


def export(encoder: Path, to: Format, out: Path | None) -> None:
    """Write the encoder in another form, once it gives the same numbers."""
    console = Console(highlight=False)
    with console.status(f"exporting to {to}") if console.is_terminal else nullcontext():
        done = write_export(load_encoder(encoder), to, out or encoder.parent / FILES[to])
    console.print(f"{done.path}: {to}, within {done.largest:.1e} of the encoder", markup=False)
    for note in done.notes:
        console.print(note, markup=False)


def make_phantom(out: Path, *, train: int, valid: int, pixels: int, seed: int, workers: int) -> None:
    """Write the synthetic knee cohort, with a progress bar."""
    from volssl.data.phantom import generate

    console = Console(highlight=False)
    with progress(console, "making SYNTHETIC knees") as report:
        generate(out, train=train, valid=valid, pixels=pixels, seed=seed, workers=workers, report=report)
    console.print(f"{out}: a SYNTHETIC knee cohort in MRNet's layout, {train} training and {valid} validation exams")


def _train(run: Run, group: Group, console: Console) -> None:
    folder, first = Path(run.output), group.rank == 0
    with ExitStack() as held:
        with group.together():
            if first:
                held.enter_context(lock(claim(folder, run), [*OURS, *appraisal.folders(run)]))
                replace_file(folder / configuration.FILE, configuration.dump(run))
                if run.loop.precision == "bf16" and group.device.type == "cpu" and emulates_bf16():
                    console.print(SLOW, style="yellow", markup=False)
                names.use(run_key(folder))
        if not first and (key := read_key(folder / KEY)):
            names.use(key)
        made = any(isinstance(part, PhantomConfig) for part in getattr(run.data, "parts", (run.data,)))
        reports: dict[str, ImportReport] = {}
        with group.together():
            if not made:
                appraisal.check(run)
            method = build_method(run, reports, resumed=bool(list_checkpoints(folder / CHECKPOINTS)))
            if first and reports:
                _tell_weights(reports, folder / WEIGHTS, console)
        source = _prepare(run, group, console)
        if made:  # only now
            appraisal.check(run)
        seen = cache(lambda: _seen(source, folder, console))
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
            max_bad=run.data.max_bad,
            evaluations=appraisal.during(run, lambda method, step: _cards(method, run, source, step), seen, console),
        )
        if first:
            cards = _cards(method, run, source, run.loop.steps)
            for place, name in appraisal.places(folder / ENCODER, cards).items():
                save_encoder(place, method.encoders[name], cards[name], seen())
            appraisal.at_end(method, cards, run, seen, console)


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
    replace_file(path, "\n".join(f"{key}.weights\n{r.in_full()}\n" for key, r in reports.items()))


def claim(folder: Path, run: Run) -> Path:
    """The folder, if it is new, empty, or this same run's. A run without a checkpoint may still become another.

    Raises:
        ConfigError: it is a file, or holds something that is no run.
        RunError: it belongs to a run that differs; every difference is listed. Or no checkpoint in it is sound.
    """
    if os.path.exists(folder) and not folder.is_dir():
        raise ConfigError(f"output: {folder} is a file: give a folder")
    make_folder(folder, "output")
    written, found = folder / configuration.FILE, load_latest(folder / CHECKPOINTS)
    if not found and (folder / ENCODER).exists():
        raise RunError(f"output: {folder} holds an encoder whose checkpoints are gone: give another output")
    if found:
        if changed := configuration.differences(_made_by(found, written), run):
            lines = "\n".join(f"  {line}" for line in changed)
            raise RunError(f"output: {folder} belongs to another configuration; give another output, or undo\n{lines}")
        return folder
    held = [] if written.is_file() else sorted(p.name for p in folder.iterdir())
    if other := [
        name for name in held if name not in ("lock", f".{configuration.FILE}.new")
    ]:  # all that a kill may leave here
        raise ConfigError(f"output: {folder} holds {private(other[0])} and no run: give a new or empty folder")
    return folder


def _made_by(found: Checkpoint, written: Path) -> Run:
    """What a sound checkpoint says that it was made by; the file beside it may have been edited since."""
    known = found.meta.get("config")
    if known is None:
        return configuration.load(written)
    try:
        return Run.model_validate_json(json.dumps(known))
    except ValidationError:
        what = f"{written.parent}: step {found.step} was written by another version of volssl, whose configuration has"
        raise RunError(f"{what} other keys: go on with that version, or give another output") from None


def _device(wanted: str, key: str = "loop.device") -> Literal["cpu", "cuda"]:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key}: cuda is asked for and there is none: use auto or cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _prepare(run: Run, group: Group, console: Console) -> PreparedSource:
    """The source; the first rank fills the cache, the others find it full."""
    folder = Path(run.output)
    anew = group.rank == 0 and not list_checkpoints(folder / CHECKPOINTS)

    def readers() -> Readers:
        return Readers(run.loop.workers, run.loop.timeout, frozenset() if anew else left_out.recall(folder))

    with group.together():
        if group.rank == 0:
            with progress(console, "reading") as report:
                source = run.data.build(run.region, readers=readers(), report=report)
            if anew:
                left_out.remember(folder, source)
            check_labels(run.method.label_sets, source)
            for problem in source.bad:
                console.print(f"left out: {problem}", style="yellow", markup=False)
            console.print(f"{len(source)} items of {run.data.name} {run.data.root}", markup=False)
    with group.together():
        if group.rank > 0:
            source = run.data.build(run.region, readers=readers())
    return source


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


def _seen(source: PreparedSource, folder: Path, console: Console) -> SeenItems:
    """The list of the run's items, under its key."""
    with progress(console, "listing what was seen") as report:
        return SeenItems.of(identify(source, report=report), run_key(folder))
