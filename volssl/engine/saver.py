"""Between a trainer and its folder of checkpoints, for all ranks."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from volssl.data.items import NamedSource
from volssl.engine.checkpoint import Checkpoint, load_latest, save, sweep
from volssl.engine.distributed import Group
from volssl.engine.log import Log
from volssl.engine.trainer import Trainer
from volssl.errors import PeerError, RunError

if TYPE_CHECKING:
    from volssl.types import Tensors


class FixedSource(NamedSource, Protocol):
    """A source that can tell whether its items are still the same: one hash per item, of what it is made from."""

    @property
    def fingerprints(self) -> Sequence[str]: ...


@dataclass
class Saver:
    """Moves a trainer between memory and its folder. Rank 0 writes, every rank reads.

    saved: steps that the newest checkpoint holds. pending: what there is to log of the last step, where its evaluations
    were broken off, so that they are yet to be made; a checkpoint keeps it.
    """

    folder: Path
    trainer: Trainer
    meta: Mapping[str, Any]
    saved: int = 0
    pending: dict[str, float] = field(default_factory=dict)

    def resume(self) -> tuple[list[str], int]:
        """Go to the newest sound checkpoint; returns what a person should know, and the steps done.

        Raises:
            RunError: there are checkpoints, but none that can be used, or the ranks see different ones, or the
                data are not those that the checkpoint was trained on.
        """
        group = self.trainer.group
        with group.together():
            if group.rank == 0:
                sweep(self.folder)
        found = load_latest(self.folder)
        steps, _ = group.gather({"step": torch.tensor([found.step if found else 0], device=group.device)})
        if len(torch.unique(steps["step"])) > 1:
            raise RunError(f"{self.folder}: the ranks see different checkpoints: put output on a shared disk")
        if not found:
            return [], 0
        self._require_same_data(found)
        self.trainer.load_state(found.tensors)
        self.saved, self.pending = found.step, found.meta.get("pending", {})
        going_on = f"going on after step {found.step} of {self.trainer.loop.steps}"
        return [*found.damaged, going_on, *self._changed(found)], found.step

    def _require_same_data(self, found: Checkpoint) -> None:
        before, now = found.meta.get("data"), self.meta["data"]
        if before and before != now:  # checkpoints of early versions do not say
            raise RunError(
                f"data: {now['count']} items now, {before.get('count')} when {self.folder} was written, and not the "
                "same: restore the data, or give another output to start anew"
            )

    def _changed(self, found: Checkpoint) -> list[str]:
        """What of the environment is not as it was: the numbers then agree to rounding only."""
        before, now = found.meta.get("environment", {}), self.meta["environment"]
        changed = [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key, now[key]) != now[key]]
        return [f"not bit for bit as before, because of {', '.join(changed)}"] if changed else []

    def save(self, step: int, log: Log) -> None:
        """Save, unless the newest checkpoint holds this step already. All ranks wait for it.

        Raises:
            RunError: it could not be written, or what the run has become is not finite; the checkpoints before it are
                untouched.
        """
        if problem := self._save(step, log):
            raise problem

    def try_to_save(self, step: int, log: Log) -> list[str]:
        """Save; if that fails, say so: the run goes on and tries again at the next interval.

        Raises:
            RunError: what the run has become is not finite.
        """
        problem = self._save(step, log)
        return [str(problem)] if problem else []

    def _save(self, step: int, log: Log) -> RunError | None:
        """Returns what the disk had against it, or that of another rank."""
        if step == self.saved:
            return None
        tensors, group = self.trainer.state(), self.trainer.group
        _require_finite(tensors, step)
        try:
            with group.together():
                if group.rank == 0:
                    log.flush()
                    meta, keep = {**self.meta, "pending": self.pending}, self.trainer.loop.keep
                    save(self.folder, step=step, tensors=tensors, meta=meta, keep=keep)
        except PeerError:
            raise
        except RunError as problem:
            return problem
        self.saved = step
        return None


def _require_finite(tensors: Tensors, step: int) -> None:
    """The same on every rank, as all have moved alike."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            what = f"step {step}: {name} is not finite, so nothing was saved"
            raise RunError(f"{what}: lower optim.lr or set optim.clip; the same command goes on from before")


def identity(source: FixedSource) -> dict[str, Any]:
    """What says whether two sources hold the same items in the same order."""
    digest = hashlib.sha256()
    for piece in _as_json(source.ids, source.fingerprints):  # there may be millions, made one by one
        digest.update(piece.encode())
    return {"count": len(source), "sha256": digest.hexdigest()}


def _as_json(*lists: Sequence[str]) -> Iterator[str]:
    """The pieces of ``json.dumps(lists)``."""
    for i, items in enumerate(lists):
        yield ", [" if i else "[["
        for j, item in enumerate(items):
            yield (", " if j else "") + json.dumps(item)
        yield "]"
    yield "]"


def require_one_source(found: dict[str, Any], group: Group) -> None:
    """A file that only some ranks can read would shift the items of the others.

    Args:
        found: what ``identity`` says on this rank.

    Raises:
        RunError: on every rank: it says something else on another.
    """
    mine = torch.tensor([[found["count"], *bytes.fromhex(found["sha256"])]], device=group.device)
    said = group.gather({"said": mine})[0]["said"]
    if other := [rank for rank in range(group.world) if not torch.equal(said[rank], said[0])]:
        counts = f"{int(said[0, 0])} and {int(said[other[0], 0])}"
        raise RunError(f"data: ranks 0 and {other[0]} find other items ({counts}): every rank must read the same files")


def environment(group: Group) -> dict[str, Any]:
    """What the last bits of the numbers depend on beside the configuration."""
    cuda = group.device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("volssl", "torch", "numpy", "monai")},
        "device": torch.cuda.get_device_name(group.device) if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "ranks": group.world,
    }
