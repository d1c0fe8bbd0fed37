"""What a row says is what the file says, or nothing; what is left out says whose it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.data.conftest import MakeSlice, SaveAll
from volssl.data.index import index
from volssl.data.index_row import Row
from volssl.data.index_summary import Summary


def rows(root: Path) -> list[Row]:
    out = root.with_name("m.parquet")
    index([root], out)
    table: list[Row] = pq.read_table(out).to_pylist()
    return table


def test_the_bits_of_a_picture_are_those_that_it_stores(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    grey = np.arange(64).reshape(8, 8)
    pictures = {
        "a.png": (Image.fromarray(grey % 2 > 0), 1),
        "b.png": (Image.fromarray(grey.astype(np.uint8)), 8),
        "c.png": (Image.fromarray(grey.astype(np.uint16)), 16),
        "d.tif": (Image.fromarray(grey.astype(np.float32)), 32),
        "e.tif": (Image.fromarray(grey.astype(np.int32)), 32),
        "f.jpg": (Image.fromarray(np.dstack([grey.astype(np.uint8)] * 3)), 8),
        "g.tif": (Image.fromarray(grey.astype(np.uint16)), 16),
        "h.png": (Image.fromarray(np.dstack([grey.astype(np.uint8)] * 3)).quantize(16), None),
    }
    for name, (picture, _) in pictures.items():
        picture.save(root / name)
    assert [row["bits"] for row in rows(root)] == [bits for _, bits in pictures.values()]


def test_what_is_left_out_says_whose_it_was(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:
    root, own = tmp_path / "scans", {"PatientID": "P1", "StudyInstanceUID": "1.2"}
    save_all(root / "a", [make_slice(3.0 * i, **own) for i in range(4)])
    save_all(root / "b", [make_slice(3.0 * i, **own) for i in (0, 1, 2, 5)])
    save_all(root / "c", [make_slice(0.0, Modality="SEG", **own)])
    cut = save_all(root / "d", [make_slice(3.0 * i, **own) for i in range(4)])[1]
    cut.write_bytes(cut.read_bytes()[:-40])
    told = rows(root)
    assert [row["reason"] for row in told] == [None, "gap", "no_image", "pixels"]
    assert [row["modality"] for row in told] == ["MR", "MR", None, "MR"]
    assert [row["kind"] for row in told] == ["volume", "volume", None, "volume"]
    for column in ("patient", "study", "series", "format"):
        assert len({row[column] for row in told}) == 1, column
        assert told[0][column]


def test_images_that_nothing_reads_are_left_out_and_said(tmp_path: Path) -> None:
    root = tmp_path / "others"
    root.mkdir()
    names = ("a.mha", "b.nrrd", "c.MGZ", "d.hdr", "d.img", "e.webp", "f.jp2", "g.nii.bz2", "h.nii.zst", "i.PAR")
    for name in names:
        (root / name).write_bytes(b"not looked at")
    (root / "notes.txt").write_text("nothing")
    assert [row["reason"] for row in rows(root)] == ["format"] * len(names)


def test_a_file_of_several_volumes_is_counted_once() -> None:
    row = {"status": "ok", "kind": "volume", "bytes": 9, "shape": [2, 2, 2], "sha256": "0" * 64, "files": ["a" * 16]}
    summary = Summary()
    list(summary.counted({**row, "id": str(i), "frames": [0, i]} for i in range(3)))
    assert summary.lines()[0].startswith("3 items of 1 file, ")
