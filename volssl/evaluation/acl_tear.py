"""The ACL-tear evaluation: encoders x protocols x label fractions x seeds on MRNet's three planes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from volssl import strict_yaml
from volssl.errors import ConfigError, UserError
from volssl.evaluation import ACLTearConfig, FinetuneConfig
from volssl.evaluation.card import Card
from volssl.evaluation.cohort import Cohort, Report, check_shape
from volssl.evaluation.encoder import Encoder, build_network, load_encoder, random_encoder
from volssl.evaluation.features import extract
from volssl.evaluation.findings import RANDOM
from volssl.evaluation.finetune import TEARS, finetune
from volssl.evaluation.linear import linear_probe
from volssl.evaluation.mrnet import SPLITS, Rows, is_synthetic, names_patients
from volssl.evaluation.results import COMBINED, Difference, Results, Row
from volssl.evaluation.splits import subset
from volssl.evaluation.statistics import (
    METRICS,
    Resamples,
    binary_metrics,
    bootstrap,
    estimate,
    in_words,
    patients_tested,
    youden,
)
from volssl.evaluation.target import Floats, Groups, Ints, Target
from volssl.models.weights import load_kinetics_r3d18
from volssl.silence import quieten
from volssl.types import Features

KINETICS = "kinetics"
Key = tuple[str, str, float, str]  # encoder, protocol, fraction, plane


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of the test exams and held-out scores of the training exams used."""

    test: Floats
    held_out: Floats


@dataclass(slots=True)
class Found:
    """What one key gave, one entry per seed: each metric over the resamples, and the threshold."""

    labels: int
    metrics: list[dict[str, Floats]] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)


class ZScored(nn.Module):
    """A network that was trained on images of zero mean and unit variance, given images in other units."""

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.network, self.width = network, width

    def forward(self, images: Tensor) -> Features:
        """(B, C, *size) in any unit; each channel of each item is standardised."""
        space = tuple(range(2, images.ndim))
        sd, mean = torch.std_mean(images, dim=space, keepdim=True)
        features: Features = self.network((images - mean) / sd.clamp_min(1e-6))
        return features


def evaluate_acl_tear(
    config: ACLTearConfig,
    encoders: Mapping[str, Encoder],
    data: str | Path,
    *,
    device: str | torch.device = "cpu",
    report: Report = lambda _line: None,
) -> Results:
    """What the encoders are worth for ``config.task``, beside a random one and, if given, Kinetics weights.

    The training exams are MRNet's ``train``, the test exams its ``valid``. Every encoder gets its exams
    preprocessed as its card says, and the same label subsets, folds and resamples. The random encoder (and
    one with Kinetics weights) takes the preprocessing of the first of ``encoders``; it is drawn anew for each
    seed. Encoders of several shapes get a random one per shape, each of them compared with its own.

    Args:
        encoders: name to encoder, one at least; they are not changed. report: gets lines on the progress.

    Raises:
        DataError, ConfigError: the layout, the labels, an exam or the Kinetics file cannot be used.
    """
    if config.part is not None:
        encoders = {name: Encoder(one.network, one.card.part(config.part)) for name, one in encoders.items()}
    for name, encoder in encoders.items():
        check_shape(encoder.card.channels, encoder.card.backbone.dims, name)
    cohort = Cohort(config, Path(data), report)
    resamples = bootstrap(cohort.test.y, cohort.test.patients, config.bootstrap, seed=0)
    card = next(iter(encoders.values())).card
    found: dict[Key, Found] = {}
    for name, encoder in _contestants(cohort, encoders, card).items():
        _evaluate(name, encoder, cohort, range(config.seeds), resamples, found, device)
    floors = _floors(encoders)
    cards = {floor: encoders[name].card for name, floor in reversed(floors.items())}  # of the first of each shape
    for floor, seed in product(dict.fromkeys(floors.values()), range(config.seeds)):
        _evaluate(floor, random_encoder(cards[floor], seed), cohort, (seed,), resamples, found, device)
    return _results(cohort, resamples, found, {KINETICS: floors[next(iter(encoders))]} | floors)


def run_acl_tear(
    encoders: Mapping[str, Encoder],
    config: ACLTearConfig,
    out: str | Path,
    *,
    console: Console,
    device: str | torch.device,
) -> Results:
    """Evaluate on ``config.data``, write the results to ``out`` and show the tables; progress is a status line.

    Raises:
        DataError, ConfigError: as ``evaluate_acl_tear``; ``config.data`` is missing.
    """
    if config.data is None:
        raise ConfigError("data: is missing: give a folder in MRNet's layout")
    with console.status("evaluating") if console.is_terminal else nullcontext() as status:
        report = (lambda line: status.update(escape(line))) if status else _silent
        results = evaluate_acl_tear(config, encoders, config.data, device=device, report=report)
    results.write(out)
    results.show(console)
    console.print(f"written to {out}", markup=False)
    return results


def _silent(_line: str) -> None:
    """Tell nobody."""


def _floors(encoders: Mapping[str, Encoder]) -> dict[str, str]:
    """Which random encoder each is compared with: of several shapes, each is called after its first encoder."""
    shapes = [encoder.card.backbone for encoder in encoders.values()]
    first = [list(encoders)[shapes.index(shape)] for shape in shapes]
    several = len(set(first)) > 1
    return {name: f"{RANDOM} {other}" if several else RANDOM for name, other in zip(encoders, first, strict=True)}


def _contestants(cohort: Cohort, encoders: Mapping[str, Encoder], card: Card) -> dict[str, Encoder]:
    if cohort.config.kinetics is None:
        return dict(encoders)
    backbone, state, imported = load_kinetics_r3d18(cohort.config.kinetics, card.channels)
    cohort.note(f"{KINETICS}: {imported}")
    update = {"backbone": backbone, "method": KINETICS, "step": 0, "fingerprint": None, "sha256": ""}
    own = card.model_copy(update=update)
    network = build_network(own, seed=0)
    network.load_state_dict(state)
    return {**encoders, KINETICS: Encoder(ZScored(network, Encoder(network, own).width), own)}


def _evaluate(
    name: str,
    encoder: Encoder,
    cohort: Cohort,
    seeds: Iterable[int],
    resamples: Resamples,
    found: dict[Key, Found],
    device: str | torch.device,
) -> None:
    """Every protocol, fraction and seed of one encoder; its features are computed once."""
    config, y, patients = cohort.config, cohort.train.y, cohort.train.patients
    features = _features(name, encoder, cohort, device) if "frozen" in config.protocols else {}
    for protocol, fraction, seed in product(config.protocols, config.fractions, seeds):
        cohort.report(f"{name}: {protocol}, {fraction:.0%} of the labels, seed {seed}")
        rows = subset(y, patients, fraction, seed)
        scored: dict[str, Scored] = {}
        for plane in config.planes:
            if protocol == "frozen":
                scored[plane] = _frozen(features, cohort, plane, rows, seed)
            else:
                scored[plane] = _finetuned(encoder, cohort, plane, rows, seed, device)
        scored[COMBINED] = _combine(list(scored.values()), y[rows], patients[rows], seed)
        for what, scores in scored.items():
            entry = found.setdefault((name, protocol, fraction, what), Found(len(rows)))
            entry.thresholds.append(youden(y[rows], scores.held_out))
            metrics = binary_metrics(cohort.test.y, scores.test, entry.thresholds[-1], resamples.weight)
            entry.metrics.append(metrics)


def _features(name: str, encoder: Encoder, cohort: Cohort, device: str | torch.device) -> dict[tuple[str, str], Floats]:
    found: dict[tuple[str, str], Floats] = {}
    for plane, split in product(cohort.config.planes, SPLITS):
        source = cohort.source(split, plane, encoder.card)
        cohort.report(f"{name}: features of {split}/{plane}")
        found[split, plane] = extract(encoder, source, device=device).astype(np.float64)
    return found


def _frozen(features: dict[tuple[str, str], Floats], cohort: Cohort, plane: str, rows: Ints, seed: int) -> Scored:
    train, test = features["train", plane][rows], features["valid", plane]
    probe = linear_probe(train, cohort.train.y[rows], test, groups=cohort.train.patients[rows], seed=seed)
    return Scored(probe.scores, probe.oof_scores)


def _finetuned(
    encoder: Encoder, cohort: Cohort, plane: str, rows: Ints, seed: int, device: str | torch.device
) -> Scored:
    config = cohort.config
    tuned = finetune(
        encoder,
        Rows(cohort.source("train", plane, encoder.card), rows),
        cohort.train.y[rows],
        cohort.source("valid", plane, encoder.card),
        groups=cohort.train.patients[rows],
        most=config.folds,
        config=FinetuneConfig(steps=config.steps, lr=config.lr, batch=config.batch),
        seed=seed,
        device=device,
    )
    return Scored(tuned.scores, tuned.oof_scores)


def _combine(planes: list[Scored], y: Ints, patients: Groups, seed: int) -> Scored:
    """Logistic regression over the planes, fitted on training scores whose models had not seen the exam."""
    if len(planes) == 1:
        return planes[0]
    held_out, test = (np.column_stack([getattr(p, side) for p in planes]) for side in ("held_out", "test"))
    probe = linear_probe(held_out, y, test, groups=patients, seed=seed)
    return Scored(probe.scores, probe.oof_scores)


def _results(cohort: Cohort, resamples: Resamples, found: dict[Key, Found], floors: Mapping[str, str]) -> Results:
    stacked = {key: {m: np.stack([per_seed[m] for per_seed in f.metrics]) for m in METRICS} for key, f in found.items()}
    tested = patients_tested(Target("classes", cohort.test.y, TEARS), cohort.test.patients)
    rows, differences = [], []
    for (name, protocol, fraction, plane), f in found.items():
        values = stacked[name, protocol, fraction, plane]
        metrics = {m: estimate(v) for m, v in values.items()}
        rows.append(Row(name, protocol, fraction, f.labels, plane, tuple(f.thresholds), metrics))
        if plane == COMBINED and name in floors:
            floor = floors[name]
            gain = estimate(values["auc"] - stacked[floor, protocol, fraction, COMBINED]["auc"])
            words = in_words(gain, name, floor, "AUC", tested)
            differences.append(Difference(name, floor, protocol, fraction, gain, words))
    return Results(
        task=cohort.config.task,
        synthetic=is_synthetic(cohort.root),
        patients=names_patients(cohort.root),
        train=str(cohort.train),
        test=str(cohort.test),
        planes=cohort.config.planes,
        seeds=cohort.config.seeds,
        bootstrap=cohort.config.bootstrap,
        redrawn=resamples.redrawn,
        notes=tuple(cohort.notes),
        rows=tuple(rows),
        differences=tuple(differences),
    )


def beside(encoder: str | Path, data: str | Path) -> Path:
    """Where results go that no other place is named for; of the data the name that was typed, not what it links to."""
    return Path(encoder).parent / f"acl_tear-{Path(os.path.abspath(data)).name}"


def main(arguments: Sequence[str]) -> int:
    """python -m volssl.evaluation.acl_tear ENCODER DATA [KEY=VALUE ...], keys as in ACLTearConfig."""
    if len(arguments) < 2:
        print(main.__doc__, file=sys.stderr)
        return 2
    quieten()
    encoder, data, *overrides = arguments
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        config = _parse(data, overrides)
        encoders = {"pre-trained": load_encoder(encoder)}
        run_acl_tear(encoders, config, beside(encoder, data), console=Console(highlight=False), device=device)
    except UserError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    return 0


def _parse(data: str, overrides: Sequence[str]) -> ACLTearConfig:
    given: dict[str, object] = {"data": data}
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign:
            raise ConfigError(f"{override}: is no override: write KEY=VALUE")
        given[key] = strict_yaml.parse(value, key).data
    try:
        return ACLTearConfig.model_validate(given)
    except ValidationError as e:
        faults = [f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in e.errors(include_url=False)]
        raise ConfigError("\n".join(faults)) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
