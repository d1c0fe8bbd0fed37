"""The synthetic knee cohort in MRNet's layout: made from a seed, reused if complete, said to be synthetic."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from volssl.data import StackConfig
from volssl.data.items import HERE, Readers, Report, Size
from volssl.data.knee import Knee, draw_knee
from volssl.data.knee_scan import PLANES, acquire, draw_scan
from volssl.errors import DataError
from volssl.regular import read_regular

if TYPE_CHECKING:
    from volssl.data import PhantomConfig
    from volssl.data.cache import CachedSource

VERSION = 1  # of the anatomy and the scans: raise it when the same seed gives other images
CARD = "phantom.json"
TASKS: dict[str, Callable[[Knee], bool]] = {
    "acl": lambda knee: knee.torn,
    "meniscus": lambda knee: knee.meniscus != 0,
    "abnormal": lambda knee: knee.abnormal,
}
_GOLDEN = 0.6180339887498949
_NOTICE = """SYNTHETIC DATA. No patient was scanned: every image here was computed by `volssl phantom`.

A cohort of drawn knees in the layout of MRNet (Bien et al. 2018), for trying and testing. It is not MRNet, it
resembles MRI only roughly, and no number measured on it says anything about patients. phantom.json holds the
seed and the parameters it was made from.
"""


@dataclass(frozen=True)
class Recipe:
    """All that a cohort depends on, as written to ``phantom.json``."""

    seed: int
    train: int
    valid: int
    pixels: int
    prevalence: float
    version: int = VERSION
    synthetic: bool = True


def make_knee(seed: int, exam: int, prevalence: float) -> Knee:
    """The patient of an exam: a function of these three numbers alone.

    Whether the ACL is torn follows a low-discrepancy sequence, so that any run of n consecutive exams holds
    n times the prevalence of tears to within about two.
    """
    start = float(np.random.default_rng([seed, 0]).random())
    return draw_knee(np.random.default_rng([seed, 1, exam]), torn=(start + exam * _GOLDEN) % 1 < prevalence)


def make_exam(folder: Path, pixels: int, seed: int, prevalence: float, exam: int) -> Knee:
    """Write the three series of an exam to ``folder/<plane>/<exam>.npy`` and return its patient."""
    knee = make_knee(seed, exam, prevalence)
    for number, plane in enumerate(PLANES):
        rng = np.random.default_rng([seed, 2 + number, exam])
        np.save(folder / plane / f"{exam:04d}.npy", acquire(knee, draw_scan(rng, plane), pixels, rng))
    return knee


def generate(
    out: Path,
    *,
    train: int,
    valid: int,
    pixels: int = 256,
    seed: int = 0,
    prevalence: float = 0.35,
    workers: int = 0,
    report: Report | None = None,
) -> None:
    """Write a synthetic cohort in MRNet's layout to ``out``, whole or not at all.

    ``{train,valid}/{axial,coronal,sagittal}/0000.npy`` hold uint8 slices x pixels x pixels; the headerless
    ``{train,valid}-{acl,meniscus,abnormal}.csv`` hold ``id,label``; the ids of valid follow those of train.
    A complete cohort made from the same parameters is left as it is. ``workers``: processes; 0 works in this
    one.

    Raises:
        DataError: ``out`` holds something else, or a cohort made from other parameters.
    """
    recipe = Recipe(seed, train, valid, pixels, prevalence)
    if _is_made(out, recipe):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    try:
        _write_cohort(unfinished, recipe, workers, report)
        unfinished.chmod(0o755)
        os.replace(unfinished, out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def _is_made(out: Path, recipe: Recipe) -> bool:
    """Whether the cohort is there already; an empty folder or none is not a cohort."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads(read_regular(out / CARD))
    except (OSError, ValueError):
        raise DataError(
            "not_a_phantom", f"exists and has no readable {CARD}: choose another folder", str(out)
        ) from None
    wanted = asdict(recipe)
    other = [f"{key} {found.get(key)}, not {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if other:
        raise DataError(
            "other_phantom",
            f"holds a synthetic cohort with {', '.join(other)}: choose another folder or delete this one",
            str(out),
        )
    return True


def _write_cohort(folder: Path, recipe: Recipe, workers: int, report: Report | None) -> None:
    first, total = 0, recipe.train + recipe.valid
    for split, count in (("train", recipe.train), ("valid", recipe.valid)):
        for plane in PLANES:
            (folder / split / plane).mkdir(parents=True)
        exams = range(first, first + count)
        make = partial(make_exam, folder / split, recipe.pixels, recipe.seed, recipe.prevalence)
        knees = []
        for knee in _over(make, exams, workers):
            knees.append(knee)
            if report:
                report(first + len(knees), total, "")
        for task, holds in TASKS.items():
            lines = [f"{exam:04d},{int(holds(knee))}\n" for exam, knee in zip(exams, knees, strict=True)]
            (folder / f"{split}-{task}.csv").write_text("".join(lines))
        first += count
    (folder / "README.txt").write_text(_NOTICE)
    (folder / CARD).write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def _over(make: Callable[[int], Knee], exams: range, workers: int) -> Iterator[Knee]:
    """The exams in order, in this process or in several."""
    if workers == 0:
        yield from map(make, exams)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make, exams, chunksize=4)


def build(
    config: PhantomConfig, region: Size, *, readers: Readers = HERE, report: Report | None = None
) -> CachedSource:
    """Make the cohort at ``config.root`` if it is not there, then open one split of it as slice stacks.

    Raises:
        DataError: as ``generate`` and ``volssl.data.stack.build``.
    """
    from volssl.data.stack import build as build_stack

    root = Path(config.root)
    generate(
        root,
        train=config.train,
        valid=config.valid,
        pixels=config.pixels,
        seed=config.phantom_seed,
        prevalence=config.prevalence,
        workers=readers.workers,
        report=report,
    )
    folder = root / config.split if config.plane == "all" else root / config.split / config.plane
    shared = {key: getattr(config, key) for key in StackConfig.model_fields if key not in ("name", "root", "split")}
    return build_stack(StackConfig(root=str(folder), **shared), region, readers=readers, report=report)
