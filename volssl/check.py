"""What follows from a configuration: the numbers that ``volssl check`` prints, by arithmetic alone."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from volssl.config import Run
from volssl.data.count import count
from volssl.data.mixture_config import MixtureConfig
from volssl.engine.processor import emulates_bf16
from volssl.errors import ConfigError
from volssl.evaluation import StudyConfig
from volssl.models.cost import Cost

GIB = 2**30
SLOW = "bf16, which this machine's CPU only emulates, many times slower than fp32: without a GPU, loop.precision=fp32"


def derived(run: Run) -> list[tuple[str, str]]:
    """(name, value) rows for a person.

    Raises:
        DataError: ``data.root`` does not exist, or as ``check_study``.
        ConfigError: a file of weights does not.
    """
    _check_weights(run)
    _check_studies(run)
    parts = run.data.members if isinstance(run.data, MixtureConfig) else (run.data,)
    counts = [count(part) for part in parts]
    items = sum(filter(None, counts)) if all(counts) else None
    costs = _costs(run)
    loop = run.loop
    return [
        (
            "data",
            f"{run.data.name} {run.data.root}: {_items(items)} of {_size(run.region)}, {_channels(run)}",
        ),
        ("views", _views(run)),
        *(("encoder", _encoder(run, key)) for key in run.backbones),
        ("effective batch", f"{loop.batch} items a step in chunks of {loop.chunk}"),
        *_epochs(run, counts, items),
        ("gradient", _gradient(run)),
        ("batch norm", _norm(run)),
        ("memory", _memory(run, costs)),
        ("time", _time(run, costs)),
        *([("precision", SLOW)] if run.loop.precision == "bf16" and emulates_bf16() else []),
    ]


def _check_weights(run: Run) -> None:
    named = {key: backbone.weights.path for key, backbone in run.backbones.items() if backbone.weights}
    missing = [(key, path) for key, path in named.items() if not Path(path).exists()]
    if missing:
        lines = (f"{key}.weights.path: {path} does not exist: give the path of a file" for key, path in missing)
        raise ConfigError("\n".join(lines))


def _check_studies(run: Run) -> None:
    """Data that are made when they are first wanted have no table yet."""
    if any(part.name == "phantom" for part in getattr(run.data, "parts", (run.data,))):
        return
    from volssl.evaluation.foresight import check_study  # what reads tables is loaded where there are any

    for i, one in enumerate(run.evaluate):
        if isinstance(one, StudyConfig):
            check_study(one, run.encoder_names, run.data.dims, f"evaluate.{i}")


def _epochs(run: Run, counts: Sequence[int | None], items: int | None) -> list[tuple[str, str]]:
    """How often the data are seen: of several data sets each by itself, unless all items are drawn alike."""
    samples = run.loop.steps * run.loop.batch
    if not isinstance(run.data, MixtureConfig) or run.data.weights is None:
        unknown = "known once the data have been read"
        return [
            ("steps per epoch", f"{items / run.loop.batch:.1f}" if items else unknown),
            ("epochs", f"{samples / items:.1f}" if items else unknown),
        ]
    weights, rows = run.data.weights, []
    for i, (part, weight, own) in enumerate(zip(run.data.parts, weights, counts, strict=True)):
        seen = f", {samples * weight / sum(weights) / own:.1f} epochs" if own else ""
        told = f"{part.name} {part.root}: {_items(own)}, {weight} of every {sum(weights)} drawn{seen}"
        rows.append((f"part {i}", told))
    return rows


def _items(items: int | None) -> str:
    return "items" if items is None else f"{items} items"


def _channels(run: Run) -> str:
    return f"{run.data.channels} channel" + ("s" if run.data.channels > 1 else "")


def _size(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _gradient(run: Run) -> str:
    if not run.method.coupled:
        return "plain accumulation, which is exact here: no item's gradient depends on another item"
    return "cached at the encoder's output: the same as one pass over the effective batch"


def _costs(run: Run) -> dict[str, list[Cost]]:
    """Of every view of one item, by its name, in every encoder."""
    sizes = {name: recipe.size for name, recipe in run.views.recipes().items()}
    return {name: [b.cost(run.data.channels, size) for b in run.backbones.values()] for name, size in sizes.items()}


def _views(run: Run) -> str:
    local = run.views.local
    small = f" and {local.count} of {_size(local.size)}" if local else ""
    return f"{run.views.count} of {_size(run.views.size)}{small} per item"


def _encoder(run: Run, key: str) -> str:
    backbone = run.backbones[key]
    cost = backbone.cost(run.data.channels, run.views.size)
    return f"{backbone.title}, {cost.parameters:,} parameters, {cost.width} features"


def _norm(run: Run) -> str:
    norms = {backbone.norm for backbone in run.backbones.values()}
    if "batch" not in norms:
        return f"none in the encoder ({' and '.join(sorted(norms))} norm): the step does not depend on loop.chunk"
    what = f"in the encoder over one view of {run.loop.chunk} items (ghost batch norm)"
    return f"{what}; running statistics move once a step"


def _memory(run: Run, costs: dict[str, list[Cost]]) -> str:
    """Weights, gradient, two optimiser slots and a teacher in fp32; what is held of the batch; one chunk's graph."""
    encoders = [backbone.cost(run.data.channels, run.views.size) for backbone in run.backbones.values()]
    weights = (4 + run.method.teacher) * 4 * sum(cost.parameters for cost in encoders)
    pixels = math.prod(run.region) + sum(math.prod(recipe.size) for recipe in run.views.recipes().values())
    held = 4 * run.loop.batch * run.data.channels * pixels
    number = 2 if run.loop.precision == "bf16" else 4
    kept = run.method.seen * sum(cost.activations for view in costs.values() for cost in view)
    graph = number * run.loop.chunk * kept
    total = weights + held + graph
    return (
        f"about {total / GIB:.1f} GiB: weights and optimiser {weights / GIB:.2f}, the batch held {held / GIB:.2f}, "
        f"one chunk's activations {graph / GIB:.2f}"
    )


def _time(run: Run, costs: dict[str, list[Cost]]) -> str:
    """There and back is three passes; there once more if cached; a teacher's is one, of the global views."""
    student = 3 + (run.method.coupled and run.loop.chunk < run.loop.batch)
    passes = {name: student + (run.method.teacher and name.isdecimal()) for name in costs}
    once = sum(passes[name] * cost.multiply_adds for name, view in costs.items() for cost in view)
    operations = 2.0 * run.method.seen * once * run.loop.batch
    seconds = operations / _cpu_rate()
    return (
        f"{operations / 1e12:.2f} TFLOP a step in the encoders; on this machine's CPU about "
        f"{_duration(seconds)} a step, {_duration(seconds * run.loop.steps)} in all "
        "(fp32 matrix rate; a GPU is not looked at)"
    )


def _cpu_rate() -> float:
    """Floating-point operations a second of an fp32 matrix product on this CPU, the best of three."""
    a = np.ones((1024, 1024), np.float32)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
