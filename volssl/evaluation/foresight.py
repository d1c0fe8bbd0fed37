"""What a study would be refused for, told from tables and folders alone (torch-free): before training, not after."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from volssl.data import table
from volssl.data.archive import label_columns, names
from volssl.data.image_config import ImageConfig
from volssl.data.items import PreparedSource
from volssl.errors import ConfigError, DataError
from volssl.evaluation import EncoderConfig, LabelsConfig, MasksConfig, SetConfig, StudyConfig
from volssl.evaluation.card import read_card
from volssl.evaluation.rules import fusion_faults, name_fault
from volssl.evaluation.splits import check_sides, require_disjoint, require_foldable
from volssl.evaluation.table import Rows, read_targets
from volssl.evaluation.target import Ints, Target
from volssl.names import private, typed


@dataclass(frozen=True, slots=True)
class _Named:
    """Of a source, what a table is joined with."""

    ids: tuple[str, ...]


def check_study(config: StudyConfig, given: Collection[str], dims: int, key: str) -> None:
    """Refuse what could not be evaluated beside encoders of images of ``dims`` dimensions, without reading an image.

    Args:
        given: what those encoders are called. key: of the study, such as ``evaluate.0``.

    Raises:
        DataError: a set has other images; it, a file of it or an encoder is not there; or as ``check_table``.
        ConfigError: a name is there twice, or a fusion names an encoder that is not there.
    """
    for told in fusion_faults(config, given):
        raise ConfigError(f"{key}.{told}")
    for name, one in config.sets.items():
        where = typed(f"{key}.sets.{name}")
        if one.data.dims != dims:
            what = f"holds {one.data.dims}D images, and the run's encoder takes {dims}D: leave it out"
            raise DataError("encoder", what, where)
        if fault := name_fault(config.encoders, one.encoders, given):
            raise ConfigError(f"{where}.{fault}")
        _check_encoders(config.encoders, one, key)
        _check_encoders(one.encoders, one, where)
        check_table(one, where)


def check_table(config: SetConfig, where: str) -> None:
    """Refuse a set for what its table says: columns, answers, splits, who is on which side, files that are not there.

    Raises:
        DataError: as ``read_targets`` and ``require_sides``, or ``missing``.
    """
    root = Path(config.data.root)
    if not os.path.exists(root):  # of a name too long Path.exists raises
        raise DataError("missing", f"{root} is not there: look at data.root", where)
    if isinstance(config.data, ImageConfig) and config.data.archive:
        _require_column(config.data, config, where)
        ids = names(root)
    else:
        ids = tuple(row.path for row in table.rows(root, "all")) if table.is_table(root) else ()
        _require_files(root, ids, config, where)
    found = read_targets(config, cast(PreparedSource, _Named(ids)), where)
    require_sides(config, found, found.target or sizes(np.zeros(len(found.rows))), where)


def require_sides(config: SetConfig, rows: Rows, target: Target, where: str) -> None:
    """No patient is on both sides, and there is something to train on and to tell apart; of masks, something.

    Args:
        target: of the rows, a stand-in of masks.

    Raises:
        DataError: as ``require_disjoint``, ``check_sides`` and ``require_foldable``.
    """
    masks = isinstance(config.target, MasksConfig)
    if rows.split is None:
        require_foldable(target, rows.patients, where)
        return
    train, test = sides(config, rows)
    require_disjoint(rows.patients[train], rows.patients[test], where)
    if not masks:
        check_sides(target.at(train), target.at(test), where)
    elif not len(test) or len(np.unique(rows.patients[train])) < 2:
        have = f"{len(test)} masks to test and {len(np.unique(rows.patients[train]))} patients to train on"
        raise DataError("labels", f"there are {have}, and one and two are needed: look at the column split", where)


def sides(config: SetConfig, rows: Rows) -> tuple[Ints, Ints]:
    """Positions of the rows that the column split gives to train and to test."""
    assert rows.split is not None
    train, test = (np.flatnonzero(np.isin(rows.split, side)) for side in (config.train, config.test))
    return train, test


def sizes(voxels: np.ndarray) -> Target:
    """(N,) voxels that each mask holds as a number to stratify by: their places, which differ where sizes do not."""
    return Target("number", np.argsort(np.argsort(voxels, kind="stable")).astype(np.float64), ("voxels",))


def _check_encoders(encoders: Mapping[str, EncoderConfig], config: SetConfig, where: str) -> None:
    for name, one in encoders.items():
        key = typed(f"{where}.encoders.{name}")
        if one.path is not None:
            try:
                card = read_card(one.path)
            except DataError as error:
                raise at_key(error, key) from None
            if card.dims != config.data.dims:
                what = f"takes {card.dims}D images, and these are {config.data.dims}D ({config.data.name})"
                raise DataError("encoder", f"{what}: give it to another set", key)
        weights = one.backbone.weights if one.backbone else None
        if weights is not None and not os.path.exists(weights.path):
            raise ConfigError(f"{key}.backbone.weights.path: {weights.path} does not exist: give the path of a file")


def at_key(error: DataError, key: str) -> DataError:
    """The same with the key that names the folder in front."""
    return DataError(error.code, f"{error.where}: {error.message}", key)


def _require_column(data: ImageConfig, config: SetConfig, where: str) -> None:
    if isinstance(config.target, LabelsConfig) or data.label_column is not None:
        return
    if (columns := label_columns(Path(data.root))) > 1:
        what = f"{Path(data.root).name} has {columns} columns of labels: say which, data.label_column of 0 to"
        raise DataError("labels", f"{what} {columns - 1}, or use target: {{name: labels}}", where)


def _require_files(root: Path, paths: tuple[str, ...], config: SetConfig, where: str) -> None:
    """As many as the reading would refuse; it refuses every one unless ``max_bad`` says otherwise."""
    allowed = config.data.max_bad if "max_bad" in config.data.model_fields_set else 0.0
    gone = [path for path in paths if not os.path.exists(root.parent / path)]
    if gone and len(gone) > allowed * len(paths):
        more = f" and {len(gone) - 1} more, which are" if len(gone) > 1 else ", which is"
        raise DataError("missing", f"{root.name} names {private(gone[0])}{more} not there: mend the column path", where)
