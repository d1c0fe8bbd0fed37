"""MRNet's layout: what is read, and one clear line for each piece that is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from volssl.errors import DataError
from volssl.evaluation.card import Card
from volssl.evaluation.mrnet import is_synthetic, open_plane, read_labels

PLANES = ("axial", "coronal", "sagittal")


def refused(root: Path) -> str:
    with pytest.raises(DataError) as e:
        read_labels(root, "train", "acl", PLANES)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.fixture
def own(mrnet: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(mrnet, tmp_path / "mrnet"))


def test_labels_in_the_order_of_ids(own: Path) -> None:
    """Lines in any order, ids with or without leading zeros: every third of 36 exams is positive."""
    path = own / "train-acl.csv"
    lines = [line.lstrip("0") or line for line in reversed(path.read_text().split())]
    path.write_text("\n".join("0" + line if line.startswith(",") else line for line in lines))
    labels = read_labels(own, "train", "acl", PLANES)
    assert labels.ids == tuple(f"{i:04d}" for i in range(36))
    assert labels.y.tolist() == [int(i % 3 == 0) for i in range(36)]
    assert str(labels) == "36 exams, 12 positive"


def test_each_missing_piece_is_one_line(own: Path) -> None:
    """The folder, a plane, an exam of a plane, the CSV."""
    (own / "train" / "coronal" / "0007.npy").unlink()
    assert "1 of 36 exams of train-acl.csv are not here, first 0007.npy" in refused(own)
    shutil.rmtree(own / "train" / "sagittal")
    assert "no such folder" in refused(own)
    (own / "train" / "sagittal").mkdir()
    (own / "train-acl.csv").unlink()
    assert "train-acl.csv: layout: no such file" in refused(own)
    assert "no such folder" in refused(own / "nowhere")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,label\n0000,1\n", "line 1 is 'id,label'"),
        ("0000,1\n0001,2\n", "line 2"),
        ("0000,1\n0000,0\n", "twice, with two values"),
        ("0000,0\n0001,0\n0002,1\n", "3 exams, 1 positive"),
    ],
)
def test_labels_that_cannot_be_used(own: Path, text: str, says: str) -> None:
    """A header, a third class, a contradiction, a single tear."""
    (own / "train-acl.csv").write_text(text)
    assert says in refused(own)


def test_patients_are_read_in_the_order_of_ids(own: Path) -> None:
    """Lines in any order, exams of other splits among them; without the table each exam is its own patient."""
    assert read_labels(own, "train", "acl", PLANES).patients.tolist() == [f"{i:04d}" for i in range(36)]
    (own / "patients.csv").write_text("\n".join(f"{i},p{i // 2}" for i in reversed(range(99))))
    labels = read_labels(own, "train", "acl", PLANES)
    assert labels.patients.tolist() == [f"p{i // 2}" for i in range(36)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exam,patient\n", "line 1 is 'exam,patient'"),
        ("0000,\n", "line 1"),
        ("0000,a\n", "35 exams have no patient, first 0001"),
        ("0000,a\n0000,b\n", "twice"),
        ("\n".join(f"{i},p" for i in range(36)), "36 exams of 1 patients"),
    ],
)
def test_patients_that_cannot_be_used(own: Path, text: str, says: str) -> None:
    """A header, no name, exams left out, a contradiction, one patient for all."""
    (own / "patients.csv").write_text(text)
    assert says in refused(own)


def test_an_exam_with_few_slices_moves_no_other(mrnet: Path, card: Card, tmp_path: Path) -> None:
    """BYOLMed3D defect: a stack with fewer slices than the clip wrapped around and shifted all later ones.

    Exam 0 has 5 slices, the region 8: one empty slice in front, two behind. The others are the middle of
    theirs.
    """
    labels = read_labels(mrnet, "train", "acl", PLANES)
    planes = {
        split: open_plane(mrnet, "train", "axial", ids, card, cache=str(tmp_path), workers=0, report=lambda *_: None)
        for split, ids in (("all", labels.ids), ("others", labels.ids[1:]))
    }
    short = planes["all"][0].image[0]
    empty = [i for i in range(8) if not short[i].any()]
    assert empty in ([0, 6, 7], [0, 1, 7])
    for i in range(1, 36):
        assert planes["all"][i].image[0].flatten(1).any(dim=1).all()
        assert torch.equal(planes["all"][i].image, planes["others"][i - 1].image)


def test_ids_choose_their_exams(mrnet: Path, card: Card, tmp_path: Path) -> None:
    """Asked for exams 5 and 2 in this order, these come, from train/axial as the card prepares them."""
    rows = open_plane(
        mrnet, "train", "axial", ("0005", "0002"), card, cache=str(tmp_path), workers=0, report=lambda *_: None
    )
    assert [item.id for item in (rows[0], rows[1])] == ["0005.npy", "0002.npy"]
    assert len(rows) == 2


def test_an_unreadable_exam_stops_it(own: Path, card: Card, tmp_path: Path) -> None:
    """1 of 36 is over 1 % anyway; in a benchmark even 1 of 1000 would be: the file is named."""
    (own / "train" / "axial" / "0003.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(DataError, match=r"0003\.npy"):
        open_plane(own, "train", "axial", ("0003",), card, cache=str(tmp_path), workers=0, report=lambda *_: None)


def test_synthetic_is_what_the_phantom_wrote(own: Path) -> None:
    assert not is_synthetic(own)
    (own / "phantom.json").write_text("{}")
    assert is_synthetic(own)


def test_stack_arrays_are_bytes(mrnet: Path) -> None:
    """The fixture is MRNet's own kind of file."""
    assert np.load(mrnet / "valid" / "coronal" / "0001.npy").dtype == np.uint8
