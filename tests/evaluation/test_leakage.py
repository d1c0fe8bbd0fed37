"""The audit: planted leaks of each kind are found by that kind alone, and disjoint data share nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import MakeSlice, SaveAll, make_slice, save_all  # noqa: F401 - fixtures
from volssl.data import StackConfig, VolumeConfig
from volssl.data.identity import Identity, identify
from volssl.data.image_config import ImageConfig
from volssl.data.seen import SeenItems, run_key
from volssl.errors import DataError
from volssl.evaluation.card import Card, Fingerprint
from volssl.evaluation.encoder import build_network, save_encoder
from volssl.evaluation.findings import Audit, Overlap
from volssl.evaluation.leakage import Known, audit, in_words, is_leak, key_beside, known_of
from volssl.models import ResNetConfig

KEY, SIZE = b"k" * 32, (12, 12)


def card() -> Card:
    backbone = ResNetConfig(dims=2, depth=10, stem="small", norm="batch", width=4)
    return Card(
        backbone=backbone,
        channels=1,
        region=SIZE,
        size=SIZE,
        data=ImageConfig(root=""),
        method="simclr",
        step=1,
        seed=0,
        fingerprint=Fingerprint(digest="ab", count=4),
    )


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)


class Cohort:
    """Pictures of noise in a folder, and a table of their patients."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, [("path", "label", "patient")]
        folder.mkdir()

    def add(self, name: str, seed: int, patient: str = "", compress_level: int = 6) -> None:
        Image.fromarray(pixels(seed)).save(self.folder / name, compress_level=compress_level)
        self.rows.append((name, "0", patient))

    def copy(self, name: str, of: Path, patient: str = "") -> None:
        shutil.copy(of, self.folder / name)
        self.rows.append((name, "0", patient))

    def identity(self, patients: Mapping[int, str] | None = None) -> Identity:
        (self.folder / "labels.csv").write_text("\n".join(map(",".join, self.rows)))
        config = ImageConfig(root=str(self.folder / "labels.csv"), cache=str(self.folder.parent / "cache"))
        return identify(config.build(SIZE), patients=patients)


@pytest.fixture
def past(tmp_path: Path) -> Cohort:
    """Four pictures of two patients."""
    cohort = Cohort(tmp_path / "past")
    for seed in range(4):
        cohort.add(f"old{seed}.png", seed, f"lidc-{seed // 2}")
    return cohort


@pytest.fixture
def present(tmp_path: Path) -> Cohort:
    """Ten others of ten others, ``new0.png`` to ``new9.png``; more may come behind them, from row 10."""
    cohort = Cohort(tmp_path / "present")
    for seed in range(10):
        cohort.add(f"new{seed}.png", 100 + seed, f"other-{seed}")
    return cohort


def compare(
    past: Cohort, present: Cohort, test: Iterable[int] = range(20), train: Iterable[int] = (), key: bytes | None = KEY
) -> Audit:
    identity = present.identity()
    known = Known(card(), SeenItems.of(past.identity(), KEY), key)
    rows = range(len(identity.ids))
    sides = [np.array([row for row in side if row in rows], dtype=np.int64) for side in (test, train)]
    return audit("lung", "simclr", known, identity, test=sides[0], train=sides[1])


def test_disjoint_data_share_nothing(past: Cohort, present: Cohort) -> None:
    found = compare(past, present)
    assert found.overlaps == ()
    assert found.compared == {"simclr": ("file", "image", "patient")}
    assert found.notes == ()


def only(found: Audit) -> Overlap:
    (one,) = found.overlaps
    return one


def test_a_copied_file_is_found_as_a_file(past: Cohort, present: Cohort) -> None:
    """Once: that its image and its patient are the same too is no second leak."""
    present.copy("renamed.png", past.folder / "old3.png", "lidc-1")
    assert only(compare(past, present)) == Overlap("lung", "simclr", "file", 1, 0, ("renamed.png",), ())


def test_a_picture_saved_anew_is_found_as_an_image_alone(past: Cohort, present: Cohort) -> None:
    present.add("renamed.png", seed=3, compress_level=0)
    assert (present.folder / "renamed.png").read_bytes() != (past.folder / "old3.png").read_bytes()
    assert only(compare(past, present)) == Overlap("lung", "simclr", "image", 1, 0, ("renamed.png",), ())


def test_another_picture_of_a_patient_is_found_by_the_patient_alone(past: Cohort, present: Cohort) -> None:
    """However the id is written; without the key it is not found, and a note says why."""
    present.add("renamed.png", seed=77, patient=" LIDC-1 ")
    assert only(compare(past, present)) == Overlap("lung", "simclr", "patient", 1, 0, ("renamed.png",), ())
    blind = compare(past, present, key=None)
    assert (blind.overlaps, blind.compared) == ((), {"simclr": ("file", "image")})
    assert blind.notes == (
        "simclr: ids.key, which stays in the folder of its run, is not here, so patients were not compared",
    )
    assert "another run's" in compare(past, present, key=b"x" * 32).notes[0]


def test_nobody_is_no_patient(past: Cohort, present: Cohort) -> None:
    for cohort, seed in ((past, 50), (present, 60)):
        cohort.add("anonymous.png", seed, "ANON")
        cohort.add("nobody.png", seed + 1, "0")
    assert compare(past, present).overlaps == ()


def test_training_items_are_no_leak(past: Cohort, present: Cohort) -> None:
    for i in range(4):
        present.copy(f"x{i}.png", past.folder / f"old{i}.png")
    found = only(compare(past, present, test=range(10), train=range(10, 14)))
    assert (found.test_count, found.train_count, is_leak(found)) == (0, 4, False)
    assert in_words(found) == (
        "pre-training of simclr saw 4 training items of lung, as is usual: x0.png, x1.png, x2.png, x3.png"
    )
    both = only(compare(past, present, test=range(11), train=range(11, 14)))
    assert (both.test, both.train, is_leak(both)) == (("x0.png",), ("x1.png", "x2.png", "x3.png"), True)
    assert in_words(both) == (
        "pre-training of simclr saw 1 test item and 3 training items of lung; "
        "scores on test items seen before may be too good: x0.png"
    )


def test_rows_of_neither_side_are_not_counted(past: Cohort, present: Cohort) -> None:
    present.copy("x.png", past.folder / "old0.png")
    assert compare(past, present, test=range(5), train=range(5, 10)).overlaps == ()


def test_a_sentence_names_five_of_many(past: Cohort, present: Cohort) -> None:
    for i in range(30):
        present.add(f"x{i:02}.png", 200 + i, "lidc-0")
    found = only(compare(past, present, test=range(40)))
    assert (found.test_count, len(found.test)) == (30, 20)
    assert in_words(found).endswith("too good: x00.png, x01.png, x02.png, x03.png, x04.png and 25 more")
    assert "saw the patients of 30 test items of lung" in in_words(found)


def test_each_kind_reads_as_a_sentence() -> None:
    for kind, told in (
        ("file", "saw 2 test items of lung;"),
        ("image", "saw 2 test items of lung under other names or in other formats;"),
        ("study", "saw the studies of 2 test items of lung;"),
        ("patient", "saw the patients of 2 test items of lung;"),
    ):
        assert told in in_words(Overlap("lung", "simclr", kind, 2, 0, ("a", "b"), ()))


def test_numbers_that_every_data_set_gives_are_told_with_a_doubt(tmp_path: Path) -> None:
    """Patient 3 of both: perhaps two people. Beside a shared file the numbers are of one table, and so are they."""
    past, present = Cohort(tmp_path / "past"), Cohort(tmp_path / "present")
    for seed in range(4):
        past.add(f"old{seed}.png", seed, str(seed + 1))
        present.add(f"new{seed}.png", 100 + seed, str(seed + 3))
    found = compare(past, present)
    assert (only(found).kind, only(found).test) == ("patient", ("new0.png", "new1.png"))
    assert [note for note in found.notes if "may be other people" in note]
    present.copy("new4.png", past.folder / "old0.png", "1")
    found = compare(past, present)
    assert [(one.kind, one.test_count) for one in found.overlaps] == [("file", 1), ("patient", 2)]
    assert not [note for note in found.notes if "may be other people" in note]


def test_what_cannot_be_compared_is_said(past: Cohort, present: Cohort, tmp_path: Path) -> None:
    """No list; a list without patients; a set without patients."""
    identity, nobody = present.identity(), Cohort(tmp_path / "nobody")
    nobody.add("x.png", 300)
    rows = np.arange(10)
    found = audit("lung", "simclr", Known(card()), identity, test=rows, train=rows[:0])
    assert (found.compared, found.overlaps) == ({"simclr": ()}, ())
    assert found.notes == ("simclr keeps no list of its pre-training data: nothing was compared",)
    assert compare(nobody, present).notes == (
        "simclr: its pre-training data named no patients, so patients were not compared",
    )
    assert compare(past, nobody).notes == (
        "lung names no patients as the pre-training data of simclr did, so patients were not compared",
    )


def test_images_that_were_not_compared_are_counted(past: Cohort, present: Cohort) -> None:
    seen = SeenItems.of(past.identity(), KEY)
    fewer = SeenItems({**seen.hashes, "image": seen.hashes["image"][:3]}, 4, 3, seen.key)
    rows = np.arange(10)
    (note,) = audit("lung", "simclr", Known(card(), fewer, KEY), present.identity(), test=rows, train=rows[:0]).notes
    assert note.startswith("simclr: 3 of 4 pre-training items were compared as images")


def test_what_was_prepared_otherwise_is_noticed(past: Cohort, present: Cohort) -> None:
    """The same file with another image: a copy of it would not have been found. Other versions alone may do so."""
    present.copy("x.png", past.folder / "old0.png")
    seen = SeenItems.of(past.identity(), KEY)
    otherwise = SeenItems({**seen.hashes, "image": seen.hashes["image"] ^ np.uint64(1)}, 4, 4, seen.key)
    rows = np.arange(11)
    found = audit("lung", "simclr", Known(card(), otherwise, KEY), present.identity(), test=rows, train=rows[:0])
    assert only(found).kind == "file"
    assert "1 item with the same file as for simclr had another image" in found.notes[0]
    old = card().model_copy(update={"versions": {"torch": "0.4"}})
    found = audit("lung", "simclr", Known(old, seen, KEY), present.identity(), test=rows[:10], train=rows[:0])
    assert "torch 0.4" in found.notes[0]


def test_the_key_of_a_run_is_found_beside_its_encoders(past: Cohort, tmp_path: Path) -> None:
    """One encoder, or two in a folder; copied elsewhere, an encoder has its list and no key."""
    run = tmp_path / "run"
    run.mkdir()
    key = run_key(run)
    seen = SeenItems.of(past.identity(), key)
    for folder in (run / "best", run / "encoder" / "cnn"):
        save_encoder(folder, build_network(card(), 0), card(), seen)
        assert key_beside(folder) == key
        known = known_of(folder)
        assert known.key == key
        assert known.items is not None
        assert known.items.hashes["patient"].tolist() == seen.hashes["patient"].tolist()
    shutil.copytree(run / "best", tmp_path / "elsewhere" / "far" / "best")
    copied = known_of(tmp_path / "elsewhere" / "far" / "best")
    assert (copied.key, copied.items is None) == (None, False)
    (run / "ids.key").write_text("damaged")
    with pytest.raises(DataError, match="no key"):
        known_of(run / "best")


def test_another_series_of_a_study_is_found_by_the_study_alone(
    tmp_path: Path,
    make_slice: MakeSlice,  # noqa: F811
    save_all: SaveAll,  # noqa: F811
) -> None:
    """Two series of one study of a patient without a name; a third is of another study."""
    rng = np.random.default_rng(0)
    for name, study in (("past", "1.2.3"), ("present/a", "1.2.3"), ("present/b", "1.2.4")):
        noise = rng.integers(0, 999, (3, 6, 8)).astype(np.uint16)
        about = {"PatientID": "ANON", "StudyInstanceUID": study}
        save_all(tmp_path / "dicom" / name, [make_slice(3.0 * i, pixels=noise[i], **about) for i in range(3)])
    past, present = (
        identify(VolumeConfig(root=str(tmp_path / "dicom" / name), cache=str(tmp_path / "cache")).build((2, 4, 4)))
        for name in ("past", "present")
    )
    known, rows = Known(card(), SeenItems.of(past, KEY), KEY), np.arange(2)
    found = audit("knee", "byol", known, present, test=rows, train=rows[:0])
    assert found.compared == {"byol": ("file", "image", "study")}
    assert only(found) == Overlap("knee", "byol", "study", 1, 0, ("a",), ())


def test_of_stacks_in_another_layout_the_files_tell(tmp_path: Path) -> None:
    """MRNet: pre-training on one folder of a plane, evaluation of the same exams elsewhere."""
    rng = np.random.default_rng(0)
    for folder in ("train", "elsewhere"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        np.save(tmp_path / "train" / f"{i:04}.npy", rng.integers(1, 255, (4, 8, 8), dtype=np.uint8))
    shutil.copy(tmp_path / "train" / "0001.npy", tmp_path / "elsewhere" / "0007.npy")
    past, present = (
        identify(StackConfig(root=str(tmp_path / name), cache=str(tmp_path / "cache")).build((4, 8, 8)))
        for name in ("train", "elsewhere")
    )
    rows = np.arange(1)
    found = audit("knee", "byol", Known(card(), SeenItems.of(past, KEY), KEY), present, test=rows, train=rows[:0])
    assert [(one.kind, one.test) for one in found.overlaps] == [("file", ("0007.npy",))]
