"""The index: every file is of an item, has a reason, or is passed by; killed, it goes on; it tells no names."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from tests.data.conftest import MakeSlice, SaveAll
from volssl.cli import app
from volssl.data import index_work, sheet
from volssl.data.cache_work import run_as_they_come
from volssl.data.crew import Next
from volssl.data.door import find
from volssl.data.index import index
from volssl.data.index_folder import look
from volssl.data.index_row import Candidate, Row, statistics
from volssl.data.index_work import AHEAD, FILES, Outcome, Task, portions
from volssl.data.journal import Journal
from volssl.data.manifest import OK
from volssl.errors import ConfigError, DataError, RunError, UserError
from volssl.names import SHOW, identifier

CANARY = "ZZPHI"
SETTLED = 2.1  # seconds: younger files are not remembered


def rows(manifest: Path) -> list[Row]:
    table: list[Row] = pq.read_table(manifest).to_pylist()
    return table


def reasons(manifest: Path) -> dict[str, int]:
    return dict(Counter(row["reason"] for row in rows(manifest) if row["status"] != OK))


def kinds(manifest: Path) -> dict[str, int]:
    return dict(Counter(row["kind"] for row in rows(manifest) if row["status"] == OK))


def command(*args: str | Path) -> str:
    """What the command says, in this process."""
    done = CliRunner().invoke(app, ["index", *map(str, args), "--workers", "0"])
    if done.exception is not None:
        raise done.exception
    return done.output


def nifti(path: Path, seed: int = 0, shape: tuple[int, int, int] = (6, 5, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(seed).integers(0, 200, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(numbers, np.diag([1.5, 2.0, 3.0, 1.0])), path)
    return path


@pytest.fixture
def ward(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> Path:
    """A folder with something of every kind, and every kind of trouble."""
    root = tmp_path / "ward"
    good = {"PatientID": "P1", "StudyInstanceUID": "1.2.9", "ScanningSequence": ["GR", "IR"], "MRAcquisitionType": "3D"}
    save_all(root / "knee", [make_slice(3.0 * i, **good) for i in range(6)])
    save_all(root / "two", [make_slice(3.0 * i, SeriesInstanceUID=f"1.{n}", **good) for n in (1, 2) for i in range(4)])
    save_all(root / "gap", [make_slice(3.0 * i) for i in (0, 1, 2, 5)])
    save_all(root / "report", [make_slice(0.0, Modality="SEG")])
    stray = make_slice(0.0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    save_all(root / "stray", [*(make_slice(3.0 * i) for i in range(5)), stray])
    save_all(root / "chest", [make_slice(0.0, Modality="CR", SeriesInstanceUID=generate_uid()) for _ in range(2)])
    cut = save_all(root / "cut", [make_slice(3.0 * i) for i in range(5)])
    cut[2].write_bytes(cut[2].read_bytes()[:-40])
    nifti(root / "brain" / "t1.nii.gz")
    whole = bytearray(nifti(root / "brain" / "bad.nii.gz", 1).read_bytes())
    whole[-6] ^= 1  # of the checksum
    (root / "brain" / "bad.nii.gz").write_bytes(whole)
    (root / "brain" / "not.nii.gz").write_bytes(gzip.compress(b"nothing of the sort" * 40))
    (root / "stacks").mkdir()
    stack = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    np.save(root / "stacks" / "a.npy", stack)
    np.save(root / "stacks" / "copy.npy", stack)
    np.save(root / "stacks" / "nan.npy", np.where(stack > 1, np.nan, stack))
    np.save(root / "stacks" / "flat.npy", np.ones((3, 8, 9)))
    np.savez(root / "stacks" / "many.npz", train_images=stack)
    (root / "stacks" / "notes.txt").write_text("nothing to see")
    (root / "stacks" / "gone.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "stacks" / "pipe.dcm")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(root / "photo.png")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    return root


def test_every_file_is_of_an_item_or_has_a_reason_or_is_passed_by(ward: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    summary = index([ward], out)
    assert kinds(out) == {"volume": 5, "image": 3, "stack": 2}
    assert reasons(out) == {
        **{"gap": 1, "no_image": 1, "beside": 1, "pixels": 1, "gzip": 1, "not_nifti": 1, "non_finite": 1},
        **{"constant": 1, "archive": 1, "missing": 1, "not_a_file": 1, "image": 1},
    }
    named = [file for row in rows(out) for file in row["files"]]
    assert len(named) == len(set(named)), "a file is of two rows"
    assert len(named) + summary.passed == sum(len(files) for _, _, files in os.walk(ward))
    assert summary.passed == 1
    assert summary.copies == 1


def test_a_row_says_what_an_item_is(ward: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    index([ward / "knee"], out)
    (row,) = rows(out)
    (found,), _ = find(ward / "knee")
    assert (row["kind"], row["format"], row["modality"], row["sequence"]) == ("volume", "dicom", "MR", "GR+IR 3D")
    assert (row["shape"], row["slices"], row["bits"], row["channels"]) == ([6, 6, 8], 6, 16, 1)
    assert row["spacing"] == pytest.approx([3.0, 2.0, 1.5])
    assert row["plane"] == "coronal"
    assert row["tilt"] == pytest.approx(20.0)
    assert len(row["files"]) == len(found.files)
    assert row["bytes"] == sum(file.stat().st_size for file in found.files)
    assert row["frames"] is None
    ids = [row[name] for name in ("id", "patient", "study", "series")]
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in (*ids, *row["files"]))
    assert len(set(ids)) == 4


def test_statistics_by_hand() -> None:
    """0 0 0 10: mean 2.5, variance (3 * 6.25 + 56.25) / 4 = 18.75; a quarter is foreground; parts change nothing."""
    numbers = np.array([0, 0, 0, 10], np.float32)
    told = statistics([numbers])
    assert told["mean"] == 2.5
    assert told["sd"] == pytest.approx(18.75**0.5)
    assert (told["low"], told["median"], told["high"], told["foreground"]) == (0, 0, 10, 0.25)
    assert statistics([numbers[:2], numbers[2:]]) == told
    assert statistics([np.full(4, 2.0, np.float32)])["sd"] == 0


@pytest.mark.parametrize("name", ["geometry_edge_cases", "vendor_cases", "enhanced", "siemens_mosaic", "us_cine"])
def test_real_series_are_what_the_door_finds(shared_data: Path, tmp_path: Path, name: str) -> None:
    root, out = shared_data / "dicom" / name, tmp_path / "m.parquet"
    index([root], out)
    found, _ = find(root, kinds=frozenset({"dicom", "nifti"}))
    listed = [row for row in rows(out) if row["kind"] == "volume" and row["status"] == OK]
    assert len(listed) == len(found)
    assert sorted(len(row["files"]) for row in listed) == sorted(len(one.files) for one in found)
    named = sum(len(row["files"]) for row in rows(out))
    assert named >= len({file for one in found for file in one.files})


def test_workers_change_neither_rows_nor_their_order(ward: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    index([ward], one)
    two.with_name("two.parquet.key").write_bytes(one.with_name("one.parquet.key").read_bytes())
    index([ward], two, workers=2)
    assert rows(one) == rows(two)
    other = tmp_path / "other.parquet"
    index([ward], other)
    assert rows(one) != rows(other), "another key gives other ids"


def test_what_crashes_costs_itself_alone(ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies over one item of a portion, one header, or headers together, loses nothing else."""
    whole, out = tmp_path / "whole.parquet", tmp_path / "m.parquet"
    index([ward], whole)
    out.with_name("m.parquet.key").write_bytes(whole.with_name("whole.parquet.key").read_bytes())
    culprit = next((ward / "chest").iterdir())

    def doomed(task: Task) -> bool:
        held = task.portion if task.portion or not task.at_once else sum(portions(_candidates(task))[:1], ())
        together = task.place.folder.name == "two" and len(task.files) > 1
        return any(one.text.endswith("a.npy") for one in held) or culprit in task.files or together

    def crashing(following: Next[Outcome], workers: int) -> Iterator[tuple[int, Outcome | DataError]]:
        del workers
        while (task := following()) is not None:
            assert isinstance(task[1], Task)
            yield task[0], DataError("crashed", "...") if doomed(task[1]) else task[1]()

    monkeypatch.setattr(index_work, "run_as_they_come", crashing)
    index([ward], out)
    lost = {row["id"]: row for row in rows(whole)}
    for row in rows(out):
        if row["reason"] != "crashed":
            assert lost.pop(row["id"]) == row
    assert sum(row["reason"] == "crashed" for row in rows(out)) == 3  # the array, the header, and the folder
    assert len(lost) == 4  # the array, the image, and the two volumes of the folder
    crashed = {file for row in rows(out) if row["reason"] == "crashed" for file in row["files"]}
    key = bytes.fromhex(out.with_name("m.parquet.key").read_text())
    assert {identifier(key, name, "file") for name in (f"chest/{culprit.name}", "stacks/a.npy", "two")} == crashed


def _candidates(task: Task) -> list[Candidate]:
    return look(task.place, task.files, task.ids).candidates if task.files else []


def test_many_folders_and_wide_ones_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More folders than are begun at once, and one whose candidates are several portions."""
    monkeypatch.setattr(index_work, "FILES", 3)
    root = tmp_path / "scans"
    for i in range(AHEAD + 5):
        folder = root / (f"{i:04}" if i % 50 else "wide")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{i}.npy", np.arange(8, dtype=np.int16).reshape(2, 2, 2) + i)
    out = tmp_path / "m.parquet"
    index([root], out)
    assert [row["low"] for row in rows(out) if row["low"] % 50] == [i for i in range(AHEAD + 5) if i % 50]
    assert len(rows(out)) == AHEAD + 5
    assert FILES > 3


KILLED = """
import os, signal, sys
from pathlib import Path
from volssl.data import index_work
from volssl.data.index import index
from volssl.data.index_folder import look
look, count = index_work.look, [0]
def dying(place, files, ids):
    count[0] += 1
    if count[0] > 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return look(place, files, ids)
index_work.look = dying
index([Path(sys.argv[1])], Path(sys.argv[2]))
"""


def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many items are read from now on."""
    read: list[str] = []
    own = Candidate.row

    def row(self: Candidate, ids: Any) -> Row:
        read.append(self.text)
        return own(self, ids)

    monkeypatch.setattr(Candidate, "row", row)

    def so_far() -> int:
        count = len(read)
        read.clear()
        return count

    return so_far


def test_killed_in_the_middle_it_reads_only_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "scans", tmp_path / "m.parquet"
    for i in range(20):
        for j in range(2):
            nifti(root / f"{i:02}" / f"{j}.nii.gz", 2 * i + j)
    time.sleep(SETTLED)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, root, out], env=env, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    for path in tmp_path.glob("m.parquet*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    read = counted(monkeypatch)
    index([root], out)
    assert read() == 40 - 14, "seven folders had been verified"
    fresh = tmp_path / "fresh.parquet"
    fresh.with_name("fresh.parquet.key").write_bytes(out.with_name("m.parquet.key").read_bytes())
    index([root], fresh)
    assert read() == 40
    assert rows(out) == rows(fresh)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_later_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "scans", tmp_path / "m.parquet"
    for i in range(4):
        nifti(root / f"{i}" / "a.nii.gz", i)
    time.sleep(SETTLED)
    read = counted(monkeypatch)
    index([root], out)
    before = rows(out)
    assert read() == 4
    index([root], out)
    assert read() == 0
    assert rows(out) == before
    nifti(root / "1" / "a.nii.gz", 9)
    nifti(root / "2" / "b.nii.gz", 8)
    (root / "3" / "a.nii.gz").unlink()
    index([root], out)
    assert read() == 1 + 2
    assert [row["id"] for row in rows(out)].count(before[1]["id"]) == 1
    assert len(rows(out)) == 4
    assert rows(out)[1]["sha256"] != before[1]["sha256"]
    assert before[3]["id"] not in {row["id"] for row in rows(out)}


def test_a_large_folder_is_remembered_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_work, "FILES", 4)
    root, out = tmp_path / "scans", tmp_path / "m.parquet"
    for i in range(16):
        nifti(root / f"{i:02}.nii.gz", i)
    time.sleep(SETTLED)
    index([root], out)
    nifti(root / "zz.nii.gz", 99)
    read = counted(monkeypatch)
    index([root], out)
    assert read() == 4 + 1, "the first portion, which comes with the headers, and what is new"


def test_a_journal_believes_only_what_it_has_sealed(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def recalled(state: str, key: bytes = b"k") -> Any:
        with closing(Journal(path, key)) as journal:
            return journal.recall(state)

    def keep(state: str, value: Any) -> None:
        with closing(Journal(path, b"k")) as journal:
            journal.keep(state, value)

    keep("aa", [1, "é", 0.1])
    keep("bb", {"x": None})
    assert recalled("aa") == [1, "é", 0.1]
    assert recalled("aa", b"other") is None
    path.write_bytes(path.read_bytes().replace(b"[1,", b"[2,"))
    assert recalled("aa") is None
    assert recalled("bb") == {"x": None}
    path.write_bytes(path.read_bytes().rstrip()[:-3])
    assert recalled("bb") is None
    keep("bb", 7)
    assert recalled("bb") == 7


def test_two_do_not_write_one_manifest(ward: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    with closing(Journal(tmp_path / "m.parquet.journal", b"")), pytest.raises(RunError, match="another volssl index"):
        index([ward / "knee"], out)


def planted(root: Path, make_slice: MakeSlice, save_all: SaveAll) -> list[str]:
    """Words wherever a header or a name may have one, and the files that carry them."""
    words = iter(f"{CANARY}{i:02}" for i in range(100))
    text = (
        *("PatientName", "PatientID", "SeriesDescription", "StudyDescription", "ProtocolName", "InstitutionName"),
        *("ReferringPhysicianName", "AccessionNumber", "Modality", "ScanningSequence", "Manufacturer", "StudyID"),
        *("MRAcquisitionType", "ImageComments", "StationName", "OperatorsName", "PatientAddress", "SequenceName"),
    )
    folder = root / next(words) / next(words)
    values: Mapping[str, str] = {keyword: next(words) for keyword in text}
    save_all(folder, [make_slice(3.0 * i, **values) for i in range(4)])
    save_all(folder / next(words), [make_slice(3.0 * i, **values) for i in (0, 1, 5, 9)])
    save_all(folder / next(words), [make_slice(0.0, **values, NumberOfFrames=2)])
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header["descrip"], image.header["db_name"], image.header["aux_file"] = next(words), next(words), next(words)
    nib.save(image, folder / f"{next(words)}.nii.gz")
    (folder / f"{next(words)}.nii").write_bytes(b"no header")
    (folder / f"{next(words)}.dcm").write_bytes(bytes(128) + b"DICM" + next(words).encode())
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / f"{next(words)}.png")
    (folder / f"{next(words)}.png").symlink_to("/etc/passwd")
    return [f"{CANARY}{i:02}" for i in range(100)]


def leaked(words: list[str], *texts: bytes) -> list[str]:
    forms = {w: (w.encode(), w.encode("utf-16-le"), w.encode().hex().encode()) for w in words}
    return [word for word, found in forms.items() if any(form in text for form in found for text in texts)]


def test_nothing_of_a_name_or_a_header_is_told(
    tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHOW, "")
    root, out, html = tmp_path / "scans", tmp_path / "m.parquet", tmp_path / "sheet.html"
    words = planted(root, make_slice, save_all)
    time.sleep(SETTLED)
    said = command(root, "-o", out, "--html", html)
    kept = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.name for path in kept} == {"m.parquet", "m.parquet.key", "m.parquet.journal", "sheet.html"}
    texts = [*(path.read_bytes() for path in kept), said.encode(), str(rows(out)).encode()]
    assert len(rows(out)) == 8
    assert kinds(out) == {"volume": 2, "image": 1}
    assert leaked(words, *texts, str(pq.read_metadata(out).metadata).encode()) == []
    assert leaked(words, f"seen: {root}/{words[0]}".encode()) == [words[0]], "the scan finds what is there"


def test_the_key_is_the_owners_and_stays(ward: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    index([ward / "knee"], out)
    key = out.with_name("m.parquet.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before, held = rows(out), key.read_bytes()
    index([ward / "knee"], out)
    assert key.read_bytes() == held
    assert rows(out) == before
    key.write_text("no key\n")
    with pytest.raises(DataError, match="key: is no key"):
        index([ward / "knee"], out)


def test_several_roots_keep_apart(tmp_path: Path) -> None:
    a, b = nifti(tmp_path / "a" / "x.nii", 1).parent, nifti(tmp_path / "b" / "x.nii", 2).parent
    out = tmp_path / "m.parquet"
    index([a, b], out)
    assert len({row["id"] for row in rows(out)}) == len({row["files"][0] for row in rows(out)}) == 2


def test_what_it_says(ward: Path, tmp_path: Path) -> None:
    said = command(ward, "-o", tmp_path / "m.parquet")
    assert "10 items of 25 files" in said
    assert "  5 volumes: 4 MR; 4..6 x 5..6 x 6..8; 3 x 2 x 1.5 mm\n" in said
    assert "  1 patient, 1 study\n" in said
    assert "  1 copy of other items (the same SHA-256)\n" in said
    assert "left out: 12, of 19 files\n" in said
    assert re.search(r"  1 gap \(4 files, such as gap/.*\): distances between slices .* missing\n", said)
    assert "passed by: 1 file that neither are images nor are called so\n" in said


def test_what_it_refuses(ward: Path, tmp_path: Path) -> None:
    other = tmp_path / "features.parquet"
    other.write_text("mine")
    for arguments, told in (
        ((ward, "-o", other), "features.parquet is there and is no manifest"),
        ((tmp_path / "nowhere",), "nowhere does not exist"),
        ((ward, ward / "knee"), "knee would be walked twice"),
        ((ward, "-o", tmp_path / "no" / "m.parquet"), "no is no folder"),
    ):
        with pytest.raises(ConfigError, match=told) as refused:
            command(*arguments)
        assert "\n" not in str(refused.value)
        assert isinstance(refused.value, UserError)
    assert other.read_text() == "mine"


def test_the_sheet_is_one_page_and_holds_what_fits(ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, html = tmp_path / "m.parquet", tmp_path / "sheet.html"
    command(ward, "-o", out, "--html", html)
    page = html.read_text()
    assert page.count('src="data:image/jpeg;base64,') == 10
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert all(row["id"] in page for row in rows(out) if row["status"] == OK)
    assert "<b>1 gap</b>: distances between slices" in page
    assert max(map(len, re.findall('src="([^"]+)"', page))) < 8000
    assert "are shown" not in page
    monkeypatch.setattr(sheet, "MOST", 4)
    sheet.write_sheet(out, html)
    assert html.read_text().count("<img ") == 4
    assert "4 of them are shown, drawn evenly" in html.read_text()


def test_what_was_replaced_after_it_was_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a later portion is another when its row comes back: it is not remembered as the new one's."""
    monkeypatch.setattr(index_work, "FILES", 4)
    root, out = tmp_path / "scans", tmp_path / "m.parquet"
    for i in range(10):
        nifti(root / f"{i:02}.nii", i)
    time.sleep(SETTLED)

    def slow(following: Next[Outcome], workers: int) -> Iterator[tuple[int, Outcome | DataError]]:
        for i, (number, outcome) in enumerate(run_as_they_come(following, workers)):
            if i == 1:
                nifti(root / "05.nii", 99)
                time.sleep(SETTLED)
            yield number, outcome

    monkeypatch.setattr(index_work, "run_as_they_come", slow)
    index([root], out)
    monkeypatch.setattr(index_work, "run_as_they_come", run_as_they_come)
    index([root], out)
    assert hashlib.sha256((root / "05.nii").read_bytes()).hexdigest() in {row["sha256"] for row in rows(out)}
