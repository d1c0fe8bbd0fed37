"""CASS beside DINO on the same encoders, batch and images, in one process: time per step, and what a probe says.

    python -m benchmarks.cass_dino [--steps 200] [--local 8] [--images ../shared/data/images]

CASS trains a CNN and a Transformer at once, on one view of each image; DINO trains one of them, so it is run twice. The
three take turns, step by step, on the same images. Times are of all cores of this process. DINO sees two global views,
and with ``--local 8`` the published recipe's eight small ones beside them. The probe's folds are by patient.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pretrain import ALL, by_patient
from volssl import config
from volssl.config import Run
from volssl.data.loader import Loader
from volssl.engine.distributed import Group
from volssl.engine.optim import build_optimizer
from volssl.engine.trainer import Trainer
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import Encoder, random_encoder
from volssl.evaluation.probe import measure
from volssl.run import build_method
from volssl.types import Progress

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "cass.yaml"
CNN = {"name": "resnet", "dims": 2, "depth": 18, "stem": "small", "width": 16}
VIT = {"name": "vit", "dims": 2, "patch": [8, 8], "size": [64, 64], "width": 96, "depth": 4, "heads": 3}
DINO = {"name": "dino", "projector": [256, 256, 64], "prototypes": 1024, "momentum": [0.98, 0.996]}


def load(options: argparse.Namespace, **given: Any) -> Run:
    """The recipe of CASS, made small, with other components put in."""
    small = {
        "data.root": str(options.images / "lc25000_lung" / "labels.csv"),
        "data.region": [96, 96],
        "views.size": [64, 64],
        "backbone": CNN,
        "loop.steps": options.steps,
        "loop.batch": options.batch,
        "loop.chunk": options.batch,
        "loop.precision": "fp32",
        "optim.warmup": min(10, options.steps // 2),
    }
    return config.load(CONFIG, [f"{key}={json.dumps(value)}" for key, value in {**small, **given}.items()])


def encoders_of(trainer: Trainer, run: Run) -> list[Encoder]:
    """The trained networks, each with what a probe needs to know of it."""
    told: dict[str, Any] = {
        "channels": run.data.channels,
        "region": run.region,
        "size": run.views.size,
        "data": run.data,
    }
    told |= {"method": run.method.name, "step": run.loop.steps, "seed": run.seed}
    networks = zip(trainer.method.encoders.values(), run.backbones.values(), strict=True)
    return [Encoder(network, Card(backbone=backbone, **told)) for network, backbone in networks]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train in turns, then print times and probes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--local", type=int, default=0, help="small views of DINO beside its two")
    parser.add_argument("--images", type=Path, default=Path("../shared/data/images"))
    options = parser.parse_args(arguments)

    views = {"method": {**DINO, "freeze": min(10, options.steps // 2)}, "views.count": 2}
    if options.local:
        views["views.local"] = {"count": options.local, "size": [32, 32], "crop": [0.05, 0.4]}
    runs = {
        "CASS, both encoders": load(options, **{"method.partner": VIT}),
        "DINO, CNN": load(options, **views),
        "DINO, ViT": load(options, **views, backbone=VIT),
    }
    first = next(iter(runs.values()))
    source = first.data.build(first.region)
    trainers = {}
    for name, run in runs.items():
        method = build_method(run)
        method.train()
        optimizer = build_optimizer(run.optim, method)
        trainers[name] = Trainer(method, optimizer, run.optim, run.loop, source, run.views.build(), Group())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    loader = Loader(source, batch=options.batch, seed=0, start=0, stop=options.steps, pin=False)
    for step, samples in enumerate(loader):
        for name, trainer in trainers.items():
            start = time.process_time()
            trainer.step(samples, Progress(step, options.steps))
            seconds[name].append(time.process_time() - start)

    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in median.items():
        print(f"{name:<22}{1e3 * value:8.0f} ms of processor time a step")
    cass, both = median["CASS, both encoders"], median["DINO, CNN"] + median["DINO, ViT"]
    print(f"CASS takes {cass / both:.2f} of DINO's time for the two encoders: {1 - cass / both:.0%} less")
    for name, encoder in _examined(runs, trainers).items():
        rows = by_patient(encoder, first)
        worth = measure({name: [rows.scores[ALL]]}, rows.y, groups=rows.patients)
        auc = worth.estimate(name)
        print(f"{name:<34} macro AUROC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]")


def _examined(runs: dict[str, Run], trainers: dict[str, Trainer]) -> dict[str, Encoder]:
    """Every trained encoder, and random ones of the same shapes."""
    found = {}
    for name, run in runs.items():
        for encoder in encoders_of(trainers[name], run):
            found[f"{name.split(',')[0]}, {type(encoder.network).__name__}"] = encoder.eval()
    randoms = [random_encoder(encoder.card, seed=0) for encoder in list(found.values())[:2]]
    return found | {f"random, {type(encoder.network).__name__}": encoder for encoder in randoms}


if __name__ == "__main__":
    main()
