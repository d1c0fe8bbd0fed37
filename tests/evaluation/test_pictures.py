"""Neighbours, queries and maps by hand; pictures come back as they were."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from volssl.evaluation import pictures
from volssl.evaluation.target import Floats, Target


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_picture_comes_back() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(np.asarray(decoded(pictures.png(grey))), grey)
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[:2, :, 0] = 200
    assert np.array_equal(np.asarray(decoded(pictures.png(colour)).convert("RGB")), colour)


def test_a_large_picture_is_made_small_and_keeps_its_shape() -> None:
    assert decoded(pictures.png(np.zeros((400, 200), np.uint8))).size == (36, 72)


def test_neighbours_are_of_other_patients_and_by_direction_not_length() -> None:
    """Row 1 is nearest to row 0 but its patient's; then come row 3 (same direction, long), row 2 (45 degrees), 4."""
    features = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [90.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    groups = np.array(["a", "a", "b", "c", "d", "e"])
    assert pictures.neighbours(features, groups, 0, np.arange(6), 3).tolist() == [3, 2, 4]
    assert pictures.neighbours(features, groups, 0, np.array([0, 1, 4]), 3).tolist() == [4]
    assert pictures.cosine(features, 0, np.array([2, 5])).tolist() == pytest.approx([0.5**0.5, 0.0])


def test_queries_cover_classes_values_and_labels() -> None:
    rows = np.array([1, 2, 3, 5])
    classes = Target("classes", np.array([9, 0, 0, 2, 9, 1]), ("a", "b", "c"))
    assert pictures.queries(classes, rows, 4).tolist() == [1, 5, 3]
    number = Target("number", np.array([0.0, 3.0, 1.0, 2.0, 0.0, 9.0]), ("age",))
    assert pictures.queries(number, rows, 2).tolist() == [2, 5]
    labels = Target("labels", np.array([[0, 0], [0, 1], [-1, 0], [1, 1], [0, 0], [0, 1]]), ("a", "b"))
    assert pictures.queries(labels, rows, 4).tolist() == [1, 3]  # of row 2 a label is unknown


def test_rows_without_a_picture_are_not_drawn() -> None:
    picture = np.zeros((2, 2), np.uint8)
    assert pictures.drawn([picture, None, picture]).tolist() == [0, 2]
    assert not len(pictures.drawn(None))


def test_a_map_keeps_neighbours_together_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(1)
    features = np.vstack([rng.normal(0, 1, (20, 8)), rng.normal(9, 1, (20, 8))])
    found, again = pictures.projection(features), pictures.projection(features)
    assert found is not None
    assert again is not None
    rows, xy = found
    assert rows.tolist() == list(range(40))
    assert np.array_equal(xy, again[1])
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + np.diag(np.full(40, np.inf))
    assert ((apart.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()


@pytest.mark.parametrize("features", [np.zeros((9, 4)), np.ones((30, 4)), np.full((30, 4), np.nan)])
def test_there_is_no_map_of_what_has_no_shape(features: Floats) -> None:
    assert pictures.projection(features) is None


def test_a_large_set_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAPPED", 12)
    found = pictures.projection(np.random.default_rng(0).normal(size=(40, 2)))
    assert found is not None
    rows, xy = found
    assert len(set(rows.tolist())) == len(xy) == 12
