"""Tables of evaluation sets: every item finds its row, every value is what it says, and every fault is one line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from volssl.data import StackConfig, VolumeConfig
from volssl.data.image_config import ImageConfig
from volssl.data.items import PreparedSource
from volssl.data.table import rows as data_rows
from volssl.errors import DataError
from volssl.evaluation import ClassesConfig, LabelsConfig, MasksConfig, NumberConfig, SetConfig, TargetConfig
from volssl.evaluation.table import Rows, read_targets


@dataclass
class Named:
    """A source of which only the names are asked."""

    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)


def table(folder: Path, text: str, ids: Sequence[str] = ("a", "b", "c", "d"), **config: Any) -> Rows:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8", newline="")
    given = SetConfig(data=StackConfig(root=str(path)), **config)
    return read_targets(given, cast(PreparedSource, Named(ids)), "sets.x")


def fault(folder: Path, text: str, **config: Any) -> str:
    with pytest.raises(DataError) as raised:
        table(folder, text, **config)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def values(found: Rows) -> list[Any]:
    assert found.target is not None
    return cast(list[Any], found.target.values.tolist())


def test_classes(tmp_path: Path) -> None:
    """Names in the order of the alphabet; b's unknown is left out; patients are named, and d's is nobody else's."""
    text = "path,label,patient,split\na,torn,p1,train\nb,,p1,train\nc,intact,p2,test\nd,torn,,test\n"
    found = table(tmp_path, text)
    assert found.target is not None
    assert (found.target.kind, found.target.names, values(found)) == ("classes", ("intact", "torn"), [1, 0, 1])
    assert found.rows.tolist() == [0, 2, 3]
    assert found.patients.tolist() == ["patient p1", "patient p2", "item 3"]
    assert found.split is not None
    assert (found.has_patients, found.split.tolist(), found.masks) == (True, ["train", "test", "test"], ())
    assert found.notes == (
        "1 items without an answer are left out",
        "1 items name no patient: each row is taken as one of its own",
    )


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ("10 9 9.0 1e1", ("9", "10"), [1, 0, 0, 1]),
        ("0 -1 1 NaN", ("0", "1"), [0, 1]),
        ("b NA a b", ("a", "b"), [1, 0, 1]),
        ("x x x x", ("x",), [0, 0, 0, 0]),  # one class: told by those who compare the sides
    ],
)
def test_classes_are_numbered_as_elsewhere(labels: str, names: Any, expected: list[int], tmp_path: Path) -> None:
    """By value where all are numbers, and the same indices as the data door gives."""
    text = "path,label\n" + "".join(f"{p},{label}\n" for p, label in zip("abcd", labels.split(), strict=True))
    found = table(tmp_path, text)
    assert found.target is not None
    assert (found.target.names, values(found)) == (names, expected)
    door = [row.label for row in data_rows(tmp_path / "labels.csv", None) if row.label >= 0]
    assert door == expected


def test_grades_in_words_have_the_order_that_they_are_given(tmp_path: Path) -> None:
    """Not the alphabet's, in which mild comes before none; numbers have their own, other names none."""
    text = "path,label\na,severe\nb,none\nc,mild\nd,NA\n"
    plain = table(tmp_path, text).target
    assert plain is not None
    assert (plain.names, plain.ordered) == (("mild", "none", "severe"), False)
    found = table(tmp_path, text, target=ClassesConfig(order=("none", "mild", "severe"))).target
    assert found is not None
    assert (found.names, found.values.tolist(), found.ordered) == (("none", "mild", "severe"), [2, 0, 1], True)
    numbers = table(tmp_path, "path,label\na,0\nb,2\nc,10\nd,NA\n").target
    assert numbers is not None
    assert numbers.ordered
    for order, says in (
        (("none", "mild"), "target.order none, mild lacks severe, which label holds: give it its place"),
        (("none", "mild", "sever", "severe"), "names sever, which no row is, or twice: label holds mild, none, severe"),
        (("none", "mild", "severe", "mild"), "names mild, which no row is, or twice"),
    ):
        assert says in fault(tmp_path, text, target=ClassesConfig(order=order))
    with pytest.raises(DataError, match=r"an \.npz numbers its classes: leave target\.order out"):
        of_archive(archive(tmp_path), target=ClassesConfig(order=("0", "1")))


def test_labels_of_minus_one_and_one_are_told_apart_from_missing_ones(tmp_path: Path) -> None:
    """Below zero is unknown: where that leaves one class, the message says whom it left out."""
    told = "all 2 labelled rows are 1, and 2 below zero are left out as unknown: write 0 for what is absent, not -1"
    assert told in fault(tmp_path, "path,label\na,1\nb,-1\nc,1\nd,-1.0\n")
    note = "2 items without an answer are left out (1 of them have a label below zero, which stands for unknown)"
    assert table(tmp_path, "path,label\na,1\nb,-1\nc,0\nd,\n").notes[0] == note


def test_labels_that_may_hold_together(tmp_path: Path) -> None:
    """1, 1.0, true are 1; 0, 0.0, False 0; empty, NA, -1 unknown. A row of which nothing is known is left out."""
    text = "path,effusion,mass\na,1,0\nb,True,\nc,0.0,-1\nd,NA,nan\n"
    found = table(tmp_path, text, target=LabelsConfig(columns=("mass", "effusion")))
    assert found.target is not None
    assert (found.target.kind, found.target.names) == ("labels", ("mass", "effusion"))
    assert values(found) == [[0, 1], [-1, 1], [-1, 0]]
    assert found.rows.tolist() == [0, 1, 2]


def test_a_number(tmp_path: Path) -> None:
    found = table(tmp_path, "path,age\na,63\nb, -1.5 \nc,NaN\nd,1e2\n", target=NumberConfig(column="age"))
    assert found.target is not None
    assert (found.target.kind, found.target.names, values(found)) == ("number", ("age",), [63.0, -1.5, 100.0])
    assert found.rows.tolist() == [0, 1, 3]


def test_masks(tmp_path: Path) -> None:
    """Relative to the table; a row without one is left out."""
    for name in ("m1.nii", "m3.nii"):
        (tmp_path / name).touch()
    target = MasksConfig(classes=("lesion",))
    text = "path,mask\na,m1.nii\nb,\nc,./m3.nii\nd,NA\n"
    found = table(tmp_path, text, target=target)
    assert (found.target, found.rows.tolist()) == (None, [0, 2])
    assert found.masks == (tmp_path / "m1.nii", tmp_path / "m3.nii")
    lost = fault(tmp_path, text.replace("b,", "b,gone.nii").replace("NA", "x" * 300), target=target)
    assert lost.endswith("gone.nii and 1 more: the table names it, but it is not there")


def test_several_items_of_one_row(tmp_path: Path) -> None:
    """Volumes of a folder, slices, time points, series: the longest row that a name begins with. Where no patient is
    named they are one patient's all the same, so that no fold has slices of one volume on both sides."""
    ids = ["p1#000", "p1#001", "p1/late.nii", "p1/t2@3.nii@0", "p1/t2@3.nii@1", "p1x", "./z.nii"]
    found = table(tmp_path, "path,label\np1,0\n./p1/t2@3.nii,1\np1x,2\n.,3\n", ids)
    assert values(found) == [0, 0, 0, 1, 1, 2, 3]
    assert found.patients.tolist() == [f"item {row}" for row in (0, 0, 0, 1, 1, 2, 3)]
    assert not found.has_patients
    assert found.notes == ("no column patient: each row is taken as a patient of its own",)


def test_items_that_could_not_be_read_just_miss(tmp_path: Path) -> None:
    """In the order of the source, not of the table; and a name of its own for the group."""
    text = "path,label,who\na,0,\nb,1,NA\nc,2,k\nd,3,k\n"
    found = table(tmp_path, text, ["d", "b", "c"], group="who")
    assert (values(found), found.rows.tolist()) == ([3, 1, 2], [0, 1, 2])
    assert found.patients.tolist() == ["who k", "item 1", "who k"]


def test_a_group_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    """A typo would deal one patient's items to both sides; a column that may be meant is named where none is asked."""
    text = "path,label,subject\na,0,k\nb,1,k\nc,0,l\nd,1,l\n"
    assert "labels.csv has no column subjct: did you mean subject?" in fault(tmp_path, text, group="subjct")
    assert "labels.csv has no column patient: there is path" in fault(tmp_path, text, group="patient")
    meant = table(tmp_path, text.replace("subject", "patient_id")).notes[0]
    assert meant.endswith("a patient of its own (if patient_id says whose an item is, write group: patient_id)")
    assert len(set(table(tmp_path, text, group="subject").patients.tolist())) == 2
    with pytest.raises(DataError, match=r"an \.npz names no patients: leave group \(subject\) out"):
        of_archive(archive(tmp_path), group="subject")


def test_a_split_that_nobody_asks_for_is_told(tmp_path: Path) -> None:
    text = "path,label,split\na,0,train\nb,1,test\nc,0,dev\nd,1,\n"
    assert table(tmp_path, text).notes[-1] == "2 items are of no split that train or test names"
    found = table(tmp_path, text, train=("train", "dev", ""))
    assert not any("split" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "config", "message"),
    [
        ("path;label\na;1\n", {}, "has no column path: separate its columns by commas"),
        ("path\tlabel\na\t1\n", {}, "has no column path: separate its columns by commas"),
        ("file,label\na,1\n", {}, "has no column path"),
        ("", {}, "has no column path"),
        ("path,label,label\na,1,2\n", {}, "has two columns label: rename one"),
        ("path,label\na,1\n,2\n", {}, "row 2 names no path"),
        ("path,label\na,1\n", {}, "labels.csv has no row for b"),
        ("path,labels\na,1\nb,1\nc,1\nd,1\n", {}, "labels.csv has no column label: did you mean labels?"),
        ("path,age\na,1\nb,1\nc,1\nd,1\n", {}, "labels.csv has no column label: there is path, age"),
        ("path,label\na,\nb,NA\nc,-1\nd,\n", {}, "no row of labels.csv says what its item is"),
        (
            "path,age\na,1\nb,abc\nc,1\nd,1\n",
            {"target": NumberConfig(column="age")},
            "labels.csv, row 2, column age: 'abc' is not a number",
        ),
        ("path,age\na,1\nb,1\nc,inf\nd,1\n", {"target": NumberConfig(column="age")}, "row 3, column age: 'inf'"),
        (
            "path,mass\na,1\nb,0\nc,2\nd,1\n",
            {"target": LabelsConfig(columns=("mass",))},
            "labels.csv, row 3, column mass: '2' is not 0, 1 or empty",
        ),
        ("path,mass\na,1\nb,0\nc,1\nd,1\n", {"target": LabelsConfig()}, "target.columns is missing: name the columns"),
        (
            "path,label,split\na,0,train\nb,1,train\nc,0,valid\nd,1,\n",
            {},
            "test: no row has split test but (empty) (1), train (2), valid (1): write test: [...]",
        ),
        (
            "path,label,split\na,0,train\nb,1,train\nc,0,test\nd,1,test\n",
            {"train": ("train", "test")},
            "leak: split test is in train and in test: leave it in one",
        ),
    ],
)
def test_faults_in_one_line(text: str, config: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in fault(tmp_path, text, **config)


def test_what_is_no_table(tmp_path: Path) -> None:
    """A folder, a file that is missing, and other encodings: Excel's UTF-16, a German Windows."""
    for root in (tmp_path, tmp_path / "lost.csv"):
        config = SetConfig(data=StackConfig(root=str(root)))
        with pytest.raises(DataError, match=r"is no table: let data\.root name a labels.csv with a column path"):
            read_targets(config, cast(PreparedSource, Named(["a"])), "sets.x")
    path = tmp_path / "labels.csv"
    config = SetConfig(data=StackConfig(root=str(path)))
    for content in ("path,label\na,1\n".encode("utf-16"), "path,label\nknöchel,1\n".encode("latin-1")):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is no table in UTF-8"):
            read_targets(config, cast(PreparedSource, Named(["a"])), "sets.x")


@pytest.mark.parametrize("marks", ["\ufeff{}", "{}\r\n\r\n", " {} "])
def test_what_excel_and_hands_leave_in_a_file(marks: str, tmp_path: Path) -> None:
    """A byte-order mark, line ends of Windows and an empty line; spaces after commas; columns without a name."""
    text = "path, label ,patient,\r\n" + 'a, 1,p1,\r\nb,0,"p, 2",\r\nc,1,p3\r\nd,0,p3,,,\r\n'
    found = table(tmp_path, marks.format(text.rstrip()) if "{}" in marks else text)
    assert values(found) == [1, 0, 1, 0]
    assert found.patients.tolist() == ["patient p1", "patient p, 2", "patient p3", "patient p3"]


def test_quoted_line_breaks_are_part_of_a_value(tmp_path: Path) -> None:
    """As the data door reads them: the two would otherwise disagree on which row is which."""
    found = table(tmp_path, 'path,label,patient\na,1,"one\ntwo"\nb,0,\x0bx\u2028y\nc,1,p\nd,0,p\n')
    assert found.patients.tolist()[0] == "patient one\ntwo"
    assert values(found) == [1, 0, 1, 0]


# Names without what csv itself would not write back alike.
letters = st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\x00\r\n")
cells = st.one_of(
    st.sampled_from(
        ["", "NA", "nan", "0", "1", "1.0", "-1", "true", "2", "inf", "1e400", "x", "train", "test", "m.nii"]
    ),
    st.text(letters, max_size=6),
    st.floats().map(str),
)
targets: list[TargetConfig] = [
    ClassesConfig(),
    LabelsConfig(columns=("label", "mask")),
    NumberConfig(column="label"),
    MasksConfig(classes=("lesion",)),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    columns=st.lists(st.sampled_from(["label", "patient", "split", "mask", "", "label"]), max_size=5),
    body=st.lists(st.lists(cells, max_size=6), min_size=1, max_size=6),
    target=st.sampled_from(targets),
)
def test_wild_tables(tmp_path: Path, columns: list[str], body: list[list[str]], target: TargetConfig) -> None:
    """An answer that agrees with a slow reading, cell by cell, or one line; never another exception."""
    (tmp_path / "m.nii").touch()
    ids = [f"p{i}" for i in range(len(body))]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["path", *columns], *([name, *cells] for name, cells in zip(ids, body, strict=True))])
    try:
        found = table(tmp_path, text.getvalue(), ids, target=target)
    except DataError:
        fault(tmp_path, text.getvalue(), ids=ids, target=target)
        return
    header = [*columns, *[""] * 9]
    for position, row in enumerate(found.rows.tolist()):
        line = {name: cell.strip() for name, cell in zip(header, [*body[row], *[""] * 9], strict=False) if name}
        patient, unnamed = line.get("patient", ""), line.get("patient", "").lower() in ("", "na", "nan")
        assert found.patients[position] == (f"item {row}" if unnamed else f"patient {patient}")
        if found.split is not None:
            assert found.split[position] == line["split"]
        if found.target is None:
            assert found.masks[position] == tmp_path / line["mask"]
        elif found.target.kind == "number":
            assert found.target.values[position] == float(line["label"])
        elif found.target.kind == "classes":
            name = found.target.names[found.target.values[position]]
            assert name == line["label"] or float(name) == float(line["label"])
        else:
            meant = {"true": 1, "false": 0, "": -1, "na": -1, "nan": -1}
            read = [meant.get(cell.lower(), cell) for cell in (line["label"], line["mask"])]
            assert found.target.values[position].tolist() == [float(cell) for cell in read]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_wild_files(tmp_path: Path, content: bytes) -> None:
    """Bytes that are a table only by chance: one line, or rows."""
    path = tmp_path / "labels.csv"
    path.write_bytes(b"path,label\n" + content)
    config = SetConfig(data=StackConfig(root=str(path)))
    try:
        ids = [row.path for row in data_rows(path, "all")]
        found = read_targets(config, cast(PreparedSource, Named(ids)), "sets.x")
    except DataError:
        return
    assert 0 < len(found.rows) <= len(ids)


def test_a_field_beyond_measure(tmp_path: Path) -> None:
    """The csv module refuses fields of over 131,072 characters."""
    assert "is no table in UTF-8 (field larger than field limit" in fault(tmp_path, f"path,label\na,{'x' * 140_000}\n")


def archive(folder: Path, **arrays: Any) -> Path:
    images = {f"{split}_images": np.zeros((3, 4, 4), np.uint8) for split in ("train", "val", "test")}
    labels = {f"{split}_labels": np.array([[0], [1], [1]]) for split in ("train", "val", "test")}
    np.savez(folder / "set.npz", **images | labels | arrays)
    return folder / "set.npz"


def of_archive(path: Path, **config: Any) -> Rows:
    ids = [f"{split}/{i:06}" for split in ("test", "train", "val") for i in range(3)]
    given = SetConfig(data=ImageConfig(root=str(path), split="all"), **config)
    return read_targets(given, cast(PreparedSource, Named(ids)), "sets.x")


def test_an_archive(tmp_path: Path) -> None:
    """MedMNIST's layout: its splits are the sides, nobody is named, and numbers below zero are unknown."""
    path = archive(tmp_path, train_labels=np.array([[5], [-1], [0]]), test_labels=np.array([0, 5, 5]))
    found = of_archive(path)
    assert found.target is not None
    assert (found.target.names, values(found)) == (("0", "1", "5"), [0, 2, 2, 2, 0, 0, 1, 1])
    assert found.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert found.split is not None
    assert found.split.tolist() == ["test"] * 3 + ["train"] * 2 + ["val"] * 3
    assert (found.has_patients, len(set(found.patients.tolist()))) == (False, 8)
    assert found.notes[1] == "1 items without an answer are left out"


def test_an_archive_of_several_labels(tmp_path: Path) -> None:
    """By number, or by the names that the config gives in their order."""
    held = np.array([[0, 1], [1, 1], [-1, -1]])
    path = archive(tmp_path, train_labels=held, val_labels=held, test_labels=held)
    found = of_archive(path, target=LabelsConfig())
    assert found.target is not None
    assert (found.target.names, values(found)[:2], len(found.rows)) == (("label 0", "label 1"), [[0, 1], [1, 1]], 6)
    named = of_archive(path, target=LabelsConfig(columns=("mass", "node"))).target
    assert named is not None
    assert named.names == ("mass", "node")
    with pytest.raises(DataError, match=r"target\.columns names 1, the archive has 2: name each, or none"):
        of_archive(path, target=LabelsConfig(columns=("mass",)))
    with pytest.raises(DataError, match=r"an \.npz has no masks: use a labels.csv of volumes"):
        of_archive(path, target=MasksConfig(classes=("lesion",)))
    with pytest.raises(DataError, match="holds more than 0, 1 and -1: use target: classes"):
        of_archive(archive(tmp_path, test_labels=np.array([[0], [2], [1]])), target=LabelsConfig())
    with pytest.raises(DataError, match=r"the splits of set\.npz have labels of several widths: mend the file"):
        of_archive(archive(tmp_path, test_labels=held))
    with pytest.raises(DataError, match=r"test: no row has split valid but test \(3\)"):
        of_archive(archive(tmp_path), test=("valid",))


def test_real_sources_find_their_rows(tmp_path: Path) -> None:
    """Pictures in folders, through the data door: each item gets the label that its folder's row has."""
    for i, name in enumerate(("b/deep", "b", "a")):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for j in range(2):
            pixels = np.random.default_rng(10 * i + j).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{j}.png")
    (tmp_path / "labels.csv").write_text("path,label\na,7\nb/deep,8\nb/0.png,9\nb/1.png,10\n")
    data = ImageConfig(root=str(tmp_path / "labels.csv"), split="all", cache=str(tmp_path / "cache"))
    source = data.build((8, 8))
    found = read_targets(SetConfig(data=data), source, "sets.x")
    assert source.ids == ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/deep/0.png", "b/deep/1.png")
    assert found.target is not None
    assert [found.target.names[k] for k in values(found)] == ["7", "7", "9", "10", "8", "8"]
    assert len(set(found.patients.tolist())) == 4


def test_real_tiles(shared_data: Path) -> None:
    """The histology tiles' own table: three classes, 36 groups, every item in its row."""
    root = shared_data / "images" / "lc25000_lung" / "labels.csv"
    lines = list(csv.DictReader(root.read_text().splitlines()))
    data = VolumeConfig(root=str(root))  # which names it finds is all that is asked
    found = read_targets(SetConfig(data=data), cast(PreparedSource, Named([row["path"] for row in lines])), "sets.x")
    assert found.target is not None
    assert [found.target.names[k] for k in values(found)] == [row["label"] for row in lines]
    assert [name.removeprefix("patient ") for name in found.patients] == [row["patient"] for row in lines]
    assert (len(found.target.names), len(np.unique(found.patients))) == (3, 36)
