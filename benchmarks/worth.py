"""Prepare real images with tables of labels, and pre-train what ``configs/worth.yaml`` compares.

    python -m benchmarks.worth --images ../shared/data        # tables under runs/worth, then three methods on four sets
    volssl evaluate configs/worth.yaml                        # what they are worth

A third of the patients of the tiles, the stacks and the hippocampi is the test side, stratified by class, and is left
out of pre-training; the radiographs come with a split. The fraction of the hippocampus that is anterior is counted in
the masks. A run that was stopped goes on; what is finished is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from volssl import config, strict_yaml
from volssl.evaluation.splits import folds
from volssl.run import train

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"  # every component of it is replaced
THIRDS = 3
SETS = {"lc25000_lung": "images", "lidc_nodules": "stacks"}  # with a table of classes and patients, and where it lies


def prepare(images: Path, output: Path) -> None:
    """Copy the sets, each with a ``labels.csv`` that says who is on the test side."""
    for name, folder in SETS.items():
        if not (output / name).exists():
            shutil.copytree(images / folder / name, output / name)
            _split(output / name / "labels.csv")
    if not (output / "hippocampus").exists():
        shutil.copytree(images / "nifti" / "hippocampus", output / "hippocampus")
        _tabulate_hippocampi(output / "hippocampus")
    if not (output / "pneumoniamnist.npz").exists():
        shutil.copy(images / "images" / "pneumoniamnist" / "pneumoniamnist.npz", output)


def _split(table: Path) -> None:
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    classes, patients = (np.array([row[key] for row in rows]) for key in ("label", "patient"))
    _, test = folds(np.unique(classes, return_inverse=True)[1], patients, THIRDS, 0)[0]
    sides = np.full(len(rows), "train")
    sides[test] = "test"
    _write(table, [{**row, "split": side} for row, side in zip(rows, sides, strict=True)])


def _tabulate_hippocampi(folder: Path) -> None:
    """``anterior``: voxels of value 1 in all that are not 0. Every third, in order of that fraction, is a test item."""
    found = []
    for image in sorted((folder / "images").glob("*.nii.gz")):
        mask = np.asanyarray(nib.load(folder / "labels" / image.name).dataobj)
        anterior = float((mask == 1).sum() / (mask > 0).sum())
        found.append((anterior, image.name))
    rows = [
        {
            "path": f"images/{name}",
            "mask": f"labels/{name}",
            "anterior": f"{anterior:.6f}",
            "label": "",
            "patient": name.split(".")[0],
            "split": "test" if i % THIRDS == 1 else "train",
        }
        for i, (anterior, name) in enumerate(sorted(found))
    ]
    _write(folder / "labels.csv", rows)


def _write(table: Path, rows: Sequence[dict[str, str]]) -> None:
    with table.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def overrides(wanted: dict[str, Any], data: str, method: str, root: Path, share: float) -> dict[str, Any]:
    """Everything that makes the run what it is, by dotted key. share: of the steps that the file says."""
    given = {**wanted["common"], **wanted["data"][data], **wanted["methods"][method]}
    steps = max(30, round(given["loop.steps"] * share))
    return {
        **given,
        "data.root": str(root / given["data"]["root"]),
        "data.cache": str(root / "cache"),
        "loop.steps": steps,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, prepare, pre-train."""
    wanted = strict_yaml.parse(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"), "worth.yaml").data
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"), help="folder of the real images")
    parser.add_argument("--output", type=Path, default=Path("runs/worth"))
    parser.add_argument("--data", nargs="+", choices=wanted["data"], default=list(wanted["data"]))
    parser.add_argument("--methods", nargs="+", choices=wanted["methods"], default=list(wanted["methods"]))
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of pre-training")
    args = parser.parse_args(arguments)
    prepare(args.images, args.output)
    for data in args.data:
        for method in args.methods:
            given = overrides(wanted, data, method, args.output, args.share)
            written = [f"{key}={json.dumps(value)}" for key, value in given.items()]
            train(config.load(CONFIG, [*written, f"output={args.output / data}-{method}"]))


if __name__ == "__main__":
    main()
