"""What names the rows of a labelled set for answers that are kept: everything that they depend on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
import torch

from volssl.data.image_config import ImageConfig
from volssl.data.items import PreparedSource
from volssl.evaluation import MasksConfig, SetConfig
from volssl.evaluation.card import Card
from volssl.evaluation.labelled import LabelledSet, Part, _prepared
from volssl.evaluation.ledger import Ledger
from volssl.evaluation.statistics import bootstrap_of
from volssl.evaluation.table import Rows
from volssl.evaluation.target import Target
from volssl.models import ResNetConfig

CARD = Card(
    backbone=ResNetConfig(dims=2, depth=10, stem="small", width=4),
    channels=1,
    region=(4, 4),
    size=(4, 4),
    data=ImageConfig(root="", cache=""),
    method="simclr",
    step=1,
    seed=0,
)
PATIENTS = np.array(["a", "b", "c", "d"])


def labelled(**changed: Any) -> LabelledSet:
    """Four items, two to train on. changed: patients, names, classes, mask, fingerprint."""
    items = SimpleNamespace(ids=list("wxyz"), fingerprints=["1", "2", "3", changed.get("fingerprint", "4")])
    target = Target("classes", np.array([0, 1, 0, 1]), changed.get("names", ("no", "yes")))
    rows = Rows(np.arange(4), target, (), changed.get("patients", PATIENTS), True, None, ())
    classes = changed.get("classes", ("one", "two"))
    config = SetConfig(data=ImageConfig(root="t.csv"), target=MasksConfig(classes=classes))
    masks = tuple(torch.tensor(changed.get("mask", [0, 1, 2])) for _ in range(4))
    resamples = bootstrap_of(target, rows.patients, 100, 0)
    part = Part(np.array([0, 1]), np.array([2, 3]))
    prepared, source = _prepared(CARD), cast(PreparedSource, items)
    return LabelledSet("s", config, (), {prepared: source}, rows, target, {prepared: masks}, (part,), resamples)


@pytest.mark.parametrize(
    "changed",
    [
        {"patients": np.array(["a", "a", "c", "d"])},
        {"names": ("yes", "no")},
        {"classes": ("two", "one")},
        {"mask": [0, 2, 1]},
        {"fingerprint": "5"},
    ],
    ids=["patients", "label names", "classes", "mask", "item"],
)
def test_whatever_the_answers_depend_on_is_in_their_key(changed: dict[str, Any]) -> None:
    assert labelled(**changed).key(CARD) != labelled().key(CARD)
    assert labelled().key(CARD) == labelled().key(CARD)


def test_features_depend_on_the_items_alone() -> None:
    """They are not worked out again for other patients; an item more, which may have no row, is another set."""
    assert labelled(patients=PATIENTS[::-1]).items_key(CARD) == labelled().items_key(CARD)
    assert labelled(fingerprint="5").items_key(CARD) != labelled().items_key(CARD)
    more = replace(labelled(), sources={_prepared(CARD): cast(Any, SimpleNamespace(ids=["v"], fingerprints=["0"]))})
    assert more.items_key(CARD) != labelled().items_key(CARD)


def test_answers_of_another_algorithm_are_worked_out_again(tmp_path: Path) -> None:
    def recall(value: int) -> int:
        return int(Ledger(tmp_path).recall(["key"], lambda: {"x": np.array([value])})["x"][0])

    assert (recall(1), recall(2)) == (1, 1)
    with patch("volssl.evaluation.ledger.ALGORITHM", -1):
        assert recall(3) == 3
    with patch("volssl.evaluation.ledger.__version__", "another"):
        assert recall(4) == 4
    assert recall(5) == 1


def test_an_answer_that_is_no_file_counts_as_not_there(tmp_path: Path) -> None:
    for value in (1, 2):
        assert Ledger(tmp_path).recall(["key"], lambda: {"x": np.array([value])})["x"] == value  # noqa: B023
        [path] = tmp_path.iterdir()
        path.unlink()
        os.mkfifo(path)
