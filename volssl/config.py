"""The Run: everything one training run is, read from YAML and checked before anything heavy is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from volssl import faults, strict_yaml
from volssl.data import DataConfig
from volssl.data.mixture_config import MixtureConfig
from volssl.engine import LoopConfig, OptimConfig
from volssl.errors import ConfigError
from volssl.evaluation import EvaluateConfig, EvaluationConfig
from volssl.methods import MethodConfig
from volssl.models import BackboneConfig
from volssl.regular import read_regular
from volssl.schema import Schema
from volssl.views import ViewsConfig

C = TypeVar("C", bound=Schema)

FILE = "config.yaml"  # in the folder of a run or an evaluation: what it was asked for
MAX_VOXELS = 2**30  # of an item, as the door has it too

# What may differ between the run that wrote a folder and the run that goes on in it: nothing here moves a weight.
# A name stands for what is below it, too; * for one key.
MUTABLE = (
    "data.cache",
    "data.cache_gb",
    "data.max_bad",
    "data.parts.*.max_bad",
    "evaluate",
    "loop.device",  # another one rounds otherwise, and the run says so
    "loop.keep",
    "loop.log_every",
    "loop.peer_timeout",
    "loop.save_every",
    "loop.tensorboard",
    "loop.timeout",
    "loop.workers",
    "output",  # a folder may be moved
)
WHY = {
    "loop.steps": "learning rate and momentum follow a schedule over all steps, so the steps done were other ones",
    "loop.chunk": "sums would be rounded otherwise, and ghost batch norm sees other groups",
}


class Run(Schema):
    """One pre-training run. output: the folder that is written; run again with it, and the run resumes."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    output: str = Field(min_length=1)
    data: DataConfig
    views: ViewsConfig
    backbone: BackboneConfig
    method: MethodConfig
    optim: OptimConfig
    loop: LoopConfig
    evaluate: tuple[EvaluationConfig, ...] = ()

    @property
    def region(self) -> tuple[int, ...]:
        """What is cached per item and handed to the views."""
        return self.data.region or self.views.default_region()

    @property
    def backbones(self) -> dict[str, BackboneConfig]:
        """Every encoder that is trained, by its key: that of ``backbone``, and those that the method adds."""
        return {"backbone": self.backbone} | {f"method.{key}": one for key, one in self.method.partners.items()}

    @property
    def encoder_names(self) -> tuple[str, ...]:
        """What evaluations call them: ``pre-trained``, or of several as the method keeps them."""
        kinds = [backbone.name for backbone in self.backbones.values()]
        if len(kinds) == 1:
            return ("pre-trained",)
        alike = len(set(kinds)) < len(kinds)
        return tuple(f"{kind}-{i + 1}" if alike else kind for i, kind in enumerate(kinds))


def load(path: str | Path, overrides: Sequence[str] = (), *, world: int = 1) -> Run:
    """Read a configuration file, apply ``key=value`` overrides (values are YAML), and check everything.

    Raises:
        ConfigError: every fault at once, one line each: where, which key, what is wrong, what to do.
    """
    document = _read(path, overrides)
    run = _validate(Run, document, str(path))
    if found := list(cross_field_faults(run, world)):
        raise ConfigError("\n".join(_located(document, str(path), key, what) for key, what in found))
    return run


def load_evaluation(path: str | Path, overrides: Sequence[str] = ()) -> EvaluateConfig:
    """The configuration of ``volssl evaluate``.

    Raises:
        ConfigError: as ``load``.
    """
    return _validate(EvaluateConfig, _read(path, overrides), str(path))


def _read(path: str | Path, overrides: Sequence[str]) -> strict_yaml.Document:
    try:
        text = read_regular(Path(path)).decode("utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: {(e.strerror or 'cannot be read').lower()}: give a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file: give a YAML file in UTF-8") from None
    document = strict_yaml.parse(text, str(path))
    if not isinstance(document.data, dict):
        raise ConfigError(f"{path}: not a configuration: the top level must be keys such as data and method")
    for override in overrides:
        _apply(document, override)
    return document


def component(schema: type[C], given: dict[str, Any], overrides: Sequence[str] = ()) -> C:
    """One component's configuration from ``given`` values and ``key=value`` overrides.

    Raises:
        ConfigError: as ``load``.
    """
    document = strict_yaml.Document(dict(given), {})
    for override in overrides:
        _apply(document, override)
    return _validate(schema, document, "command line")


def dump(run: Run) -> str:
    """The resolved configuration as YAML; reading it back gives the same run."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(old: Run, new: Run) -> list[str]:
    """One line per key that differs and must not: ``key: old -> new``, with the reason where it is not plain."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [
        f"{key}: {_show(before, key)} -> {_show(after, key)}" + (f" ({WHY[key]})" if key in WHY else "")
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _may_differ(key)
    ]


def _may_differ(key: str) -> bool:
    keys = key.split(".")
    patterns = (mutable.split(".") for mutable in MUTABLE)
    return any(len(p) <= len(keys) and all(map(fnmatchcase, keys, p)) for p in patterns)


def cross_field_faults(run: Run, world: int = 1) -> Iterator[tuple[str, str]]:
    """(key, what is wrong and what to do) for everything that one component alone cannot see."""
    for key in ("root", "cache"):
        if not getattr(run.data, key, "."):
            yield f"data.{key}", "is empty: name a folder, such as . for the one you are in"
    yield from _batch_faults(run.loop, world)
    if run.method.coupled and run.loop.batch < 2:
        yield "loop.batch", f"1 leaves {run.method.name} nothing to compare an item with: use 2 or more"
    dims = run.data.dims
    other = {key: backbone.dims for key, backbone in run.backbones.items() if backbone.dims != dims}
    for key, given in other.items():
        yield f"{key}.dims", f"{given} does not fit {dims}D data ({run.data.name}): use {dims}"
    for key, value in (("views.size", run.views.size), ("data.region", run.region)):
        if len(value) != dims:
            yield key, f"{list(value)} has {len(value)} numbers, the data are {dims}D: give {dims}"
            return
    if (numbers := math.prod(run.region) * run.data.channels) > MAX_VOXELS:
        yield "data.region", f"{numbers:,} numbers an item, {MAX_VOXELS:,} at most: make it or views.size smaller"
        return
    if problem := run.views.fits(run.region):
        yield "views.size", problem
    if not other:
        yield from _backbone_faults(run)
    fewest, most = run.method.views
    if not fewest <= run.views.count <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} or more"
        yield "views.count", f"{run.views.count} views, but {run.method.name} takes {wanted}"
    if run.views.local is not None and not run.method.local:
        yield "views.local", f"{run.method.name} uses no small views: take it out"
    if (setting := run.views.colour()) and run.data.channels != 3:
        what = f"changes colours, and {run.data.name} has {run.data.channels} channel(s)"
        yield f"views.{setting}", f"{what}: take it out, or use data.colour: rgb"
    yield from _part_faults(run)
    if run.optim.warmup >= run.loop.steps:
        yield (
            "optim.warmup",
            f"{run.optim.warmup} steps of warm-up in a run of {run.loop.steps}: make it shorter",
        )
    yield from run.method.never(run.loop.steps)


def _backbone_faults(run: Run) -> Iterator[tuple[str, str]]:
    """What encoders of the data's dimensions cannot do with these views, or the method with these encoders."""
    for key, size in _sizes(run.views).items():
        problems = {name: backbone.fits(size) for name, backbone in run.backbones.items()}
        yield from ((key, told.replace("backbone.", f"{name}.")) for name, told in problems.items() if told)
        if not any(problems.values()):
            yield from _norm_faults(run, key, size)
    if not run.backbone.fits(run.views.size) and (fault := run.method.fits(run.backbone, run.views.size)):
        yield fault


def _sizes(views: ViewsConfig) -> dict[str, tuple[int, ...]]:
    """The sizes of views that the encoders see, by their keys."""
    return {"views.size": views.size} | ({"views.local.size": views.local.size} if views.local else {})


def _part_faults(run: Run) -> Iterator[tuple[str, str]]:
    """An evaluation prepares its images as those of one data set were; each data set has labels of its own.

    One evaluation chooses ``best/``: scores of two are no one's to compare.
    """
    parts = run.data.parts if isinstance(run.data, MixtureConfig) else ()
    wanted_sets, sets = len(run.method.label_sets), len(parts) or 1
    if wanted_sets and wanted_sets != sets:
        has = f"each of the {sets} parts of data" if parts else "the data"
        without = ", with 0 for a part without labels" if parts else ""
        yield "method.classes", f"{wanted_sets} sets of labels, but there is one for {has}: give {sets}{without}"
    choosing = [i for i, wanted in enumerate(run.evaluate) if wanted.best]
    for i in choosing[1:]:
        yield f"evaluate.{i}.best", f"evaluate.{choosing[0]} chooses best/ already: leave one"
    for i, wanted in enumerate(run.evaluate):
        if parts and wanted.part is None:
            yield f"evaluate.{i}.part", f"is missing: write as which of the parts 0 to {len(parts) - 1} it is prepared"
        elif wanted.part is not None and wanted.part >= len(parts):
            have = f"data has the parts 0 to {len(parts) - 1}: use one" if parts else "data has no parts: leave it out"
            yield f"evaluate.{i}.part", f"{wanted.part} does not exist, {have}"


def _norm_faults(run: Run, key: str, size: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """A normalisation over a single number has no variance."""
    for name, backbone in run.backbones.items():
        last = math.prod(backbone.cost(run.data.channels, size).grid)
        numbers = {"batch": run.loop.chunk * last, "instance": last}.get(backbone.norm, 2)
        if numbers < 2:
            what = f"{backbone.norm} norm would see one number per channel in the last stage"
            other = f" or {name}.norm: group" if "norm" in type(backbone).model_fields else ""
            yield key, f"{what} of views of {list(size)}: use larger views{other}"


def _batch_faults(loop: LoopConfig, world: int) -> Iterator[tuple[str, str]]:
    if loop.batch % world:
        yield "loop.batch", f"{loop.batch} does not divide over {world} ranks: use a multiple of {world}"
        return
    share = loop.batch // world
    if share % loop.chunk:
        fitting = [c for c in range(1, share + 1) if share % c == 0]
        near = sorted(fitting, key=lambda c: abs(c - loop.chunk))[:2]
        what = f"loop.batch {loop.batch}" if world == 1 else f"the {share} items of each of {world} ranks"
        yield "loop.chunk", f"{loop.chunk} does not divide {what}: use {' or '.join(map(str, sorted(near)))}"


def _apply(document: strict_yaml.Document, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override}: an override is key=value, for example loop.steps=100")
    path = _path(key)
    document.data.update(_put(document.data, path, strict_yaml.parse(value, key).data, override))
    stale = [known for known in document.marks if known[: len(path)] == path]
    for known in stale:
        del document.marks[known]


def _put(target: Any, path: strict_yaml.Path, value: Any, override: str) -> Any:
    """``target`` with the value at the path, in which a number is an entry of a list that is there."""
    first, rest = path[0], path[1:]
    entries = dict(enumerate(target)) if isinstance(target, tuple) else target
    key = first if isinstance(target, tuple) else str(first)
    if isinstance(target, tuple) and key not in entries:
        raise ConfigError(f"{override}: {first} is no entry of a list of {len(target)}: the first is 0")
    if rest and not isinstance(entries.get(key, {}), dict | tuple):
        raise ConfigError(f"{override}: {first} is a value, not a group of keys")
    changed = entries | {key: _put(entries.get(key, {}), rest, value, override) if rest else value}
    return tuple(changed.values()) if isinstance(target, tuple) else changed


def _validate(schema: type[C], document: strict_yaml.Document, name: str) -> C:
    try:
        return schema.model_validate(document.data)
    except ValidationError as e:
        found = faults.explain(schema, document.data, e.errors(include_url=False))
        raise ConfigError("\n".join(_located(document, name, key, what) for key, what in found)) from None


def _located(document: strict_yaml.Document, name: str, key: str, what: str) -> str:
    path = _path(key)
    while path and path not in document.marks:
        path = path[:-1]
    place = f"{name}:{document.marks[path][0]}:{document.marks[path][1]}" if path else name
    return f"{place}: {key}: {what}" if key else f"{place}: {what}"


def _path(key: str) -> strict_yaml.Path:
    """Of a dotted key; a number is an entry of a list."""
    numbers = ((part, strict_yaml.natural(part)) for part in key.split("."))
    return tuple(part if number is None else number for part, number in numbers)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(i): entry for i, entry in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, child in value.items() for k, v in _flat(child, f"{prefix}.{key}" if prefix else key).items()}


def _show(values: dict[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "(absent)"
