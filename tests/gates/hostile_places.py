"""The folder of a run, an encoder or an evaluation, in which something is not the file or folder that volssl wrote."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

Kind = tuple[str, Callable[[Path], None]]


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL: tuple[Kind, ...] = (("a pipe", _pipe), ("/dev/zero", _endless))
# In which folder what is special, to whom, and how that may end.
READ = (
    *((f"theirs/{name}", use, (2,)) for name in ("card.json", "model.safetensors") for use in ("embed", "weights")),
    *((f"theirs/{name}.safetensors", "evaluate", (2,)) for name in ("model", "items")),
    ("theirs/card.json", "evaluate", (2,)),
    ("case/checkpoints/step-00000001.safetensors", "train", (2,)),
    ("case/checkpoints/step-00000002.safetensors", "train", (0, 2)),  # passed over, but a link
    ("case/ids.key", "train", (2,)),
    ("case/ids.key", "names", (2,)),
    ("case/ids.key", "embed its encoder", (2,)),
    ("case/config.yaml", "train", (0,)),
    ("case/config.yaml", "names", (2,)),
    ("case/.config.yaml.new", "train", (0,)),
    ("case/.ids.key.new", "train", (0,)),
    ("case/metrics.jsonl", "train", (2,)),
    ("case/quarantine.jsonl", "train", (2,)),
    ("case/left-out.jsonl", "train", (2,)),
    ("case/items.safetensors", "train", (0,)),
    ("case/lock", "train", (2,)),
    ("cache/fingerprints.txt", "train", (2,)),
    ("study/config.yaml", "evaluate", (2,)),
    ("study/ids.key", "evaluate", (2,)),
    ("study/cells/*", "evaluate", (0, 2)),
    ("case.yaml", "train", (2,)),
)
# What is a link to the like elsewhere, to whom: what is put in place whole takes the place of the link.
WRITTEN = (
    *((f"case/{name}", "train", (2,)) for name in ("lock", "metrics.jsonl", "quarantine.jsonl", "quarantine-1.jsonl")),
    *((f"case/{name}/", "train", (2,)) for name in ("checkpoints", "encoder", "tensorboard", "best", "evaluate")),
    ("case/encoder/model.safetensors", "train", (2,)),
    ("case/checkpoints/step-00000001.safetensors", "train", (2,)),
    ("case/checkpoints/.step-00000002.safetensors.tmp", "train", (2,)),
    ("case/ids.key", "train", (0,)),
    ("case/.ids.key.new", "train", (0,)),
    ("case/config.yaml", "train", (0,)),
    ("case/.config.yaml.new", "train", (0,)),
    ("case/.encoder.new/", "train", (0,)),
    ("case/.encoder.old/", "train", (0,)),
    ("case/weights.txt", "train", (0,)),
    ("cache/fingerprints.txt", "train", (0, 2)),
    ("study/lock", "evaluate", (2,)),
    ("study/cells/", "evaluate", (2,)),
    ("study/.config.yaml.new", "evaluate", (0,)),
    ("study/results.json", "evaluate", (0,)),
    ("study/.results.json.new", "evaluate", (0,)),
)


def put(kind: Kind, place: Path) -> None:
    """Instead of what is there; * in the name for all that is."""
    for path in list(place.parent.glob(place.name)) if "*" in place.name else [place]:
        path.unlink(missing_ok=True)
        kind[1](path)


def link(place: Path, elsewhere: Path, *, folder: bool) -> None:
    """To what was there, which now lies elsewhere, or to something of somebody else's."""
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    theirs = elsewhere / "theirs"
    if place.exists():
        shutil.move(place, theirs)
    elif folder:
        theirs.mkdir()
    else:
        theirs.write_text("kept")
    if folder:
        (theirs / "kept.txt").write_text("kept")
    place.symlink_to(theirs)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
