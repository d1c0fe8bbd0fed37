"""What an evaluation works on: the exams with their labels, checked early, each read once per preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from volssl.data import Volumes
from volssl.errors import ConfigError, DataError
from volssl.evaluation import ACLTearConfig
from volssl.evaluation.card import Card
from volssl.evaluation.mrnet import open_plane, read_splits
from volssl.names import typed
from volssl.types import Source

Report = Callable[[str], None]
NO_MM = "stacks know no millimetres: the encoder's spacing and orientation are not applied"


def check_acl_tear(config: ACLTearConfig, data: str | Path, *, channels: int, dims: int) -> None:
    """Refuse what ``evaluate_acl_tear`` would refuse, without reading an image: to be called before pre-training.

    Args:
        data: the folder in MRNet's layout. channels, dims: of the images that the encoder will take.

    Raises:
        DataError: the encoder is for other images; a folder, an exam, the labels or the patients are not usable.
        ConfigError: the Kinetics file is not there.
    """
    check_shape(channels, dims, "evaluate")
    if config.kinetics is not None and not Path(config.kinetics).is_file():
        raise ConfigError(f"kinetics: {config.kinetics} is no file: give torchvision's R3D-18 weights")
    read_splits(Path(data), config.task, config.planes)


def check_shape(channels: int, dims: int, where: str) -> None:
    """Refuse an encoder of other images than MRNet's.

    Raises:
        DataError: ``encoder``, called ``where``.
    """
    if (channels, dims) != (1, 3):
        shape = f"{dims}D images of {channels} channels"
        raise DataError("encoder", f"takes {shape}, MRNet's stacks are 3D of one channel", typed(where))


class Cohort:
    """MRNet's exams as each encoder wants them; what two encoders want alike is prepared once.

    notes: what a reader of the results should know.
    """

    def __init__(self, config: ACLTearConfig, root: Path, report: Report) -> None:
        self.config, self.root, self.report = config, root, report
        self.train, self.test = read_splits(root, config.task, config.planes)
        self.notes: list[str] = []
        self._sources: dict[str, Source] = {}

    def note(self, line: str) -> None:
        """Tell it now and, once, with the results."""
        self.report(line)
        if line not in self.notes:
            self.notes.append(line)

    def source(self, split: str, plane: str, card: Card) -> Source:
        """One plane of one split, in the order of its labels' ids."""
        key = f"{split} {plane} {card.data.model_dump_json()} {card.region}"
        if key not in self._sources:
            self.report(f"reading {split}/{plane}")
            own = card.preprocessing
            if isinstance(own, Volumes) and (own.spacing or own.orientation):
                self.note(NO_MM)
            ids = (self.train if split == "train" else self.test).ids
            self._sources[key] = open_plane(
                self.root,
                split,
                plane,
                ids,
                card,
                cache=self.config.cache,
                workers=self.config.workers,
                report=lambda _done, _all, line: self.report(line) if line else None,
            )
        return self._sources[key]
