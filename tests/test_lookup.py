"""Whatever an index calls by an id, a person with its key finds again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.data.conftest import MakeSlice, SaveAll, make_slice, save_all
from volssl.cli import app
from volssl.data.index import index
from volssl.data.index_row import Row
from volssl.lookup import look_up
from volssl.names import SHOW

__all__ = ["make_slice", "save_all"]


@pytest.fixture
def ward(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> Path:
    """Two series in a folder, a series that is refused for two reasons, a stack and a file that is none."""
    root = tmp_path / "ward"
    own = {"PatientID": "P1", "StudyInstanceUID": "1.2"}
    save_all(root / "two", [make_slice(3.0 * i, SeriesInstanceUID=f"1.{n}", **own) for n in (1, 2) for i in range(3)])
    gap = [
        make_slice(3.0 * i, EchoTime=echo, PatientID="P2") for echo, gaps in ((1, (0, 1, 5)), (2, (0,))) for i in gaps
    ]
    save_all(root / "gap", gap)
    (root / "stacks").mkdir()
    np.save(root / "stacks" / "a.npy", np.arange(8).reshape(2, 2, 2))
    (root / "stacks" / "b.npy").write_text("no array")
    (root / "stacks" / "out.npy").symlink_to("/etc/passwd")
    return root


def rows(manifest: Path) -> list[Row]:
    table: list[Row] = pq.read_table(manifest).to_pylist()
    return table


def test_every_id_of_an_index_is_found_again(ward: Path, tmp_path: Path) -> None:
    for roots in ([ward], [ward / "two", ward / "gap", ward / "stacks"]):
        out = tmp_path / f"{len(roots)}.parquet"
        index(roots, out)
        assert {row["reason"] for row in rows(out)} == {None, "gap", "single_slice", "npy", "link"}
        ids = [one for row in rows(out) for one in (row["id"], *row["files"])]
        found = look_up(out, ids)
        assert look_up(out.with_name(f"{out.name}.key"), ids) == found
        for row in rows(out):
            for one in row["files"]:
                name = re.sub("^[0-9]/", "", found[one]) if len(roots) > 1 else found[one]
                base = roots[int(found[one][0])] if len(roots) > 1 else ward
                assert (base / name).exists()
            if row["files"]:
                more = len(row["files"]) - 1
                assert found[row["id"]] == found[row["files"][0]] + (f" and {more} more" if more else "")
            else:
                assert found[row["id"]].endswith("and 3 more")


def test_an_id_that_is_left_out_is_found_below_another_root(ward: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    index([ward], out)
    ward.rename(tmp_path / "moved")
    for row in rows(out):
        assert look_up(out, [row["id"]], [tmp_path / "moved"])
    out.unlink()
    (row,) = (row for row in rows_of(tmp_path, ward) if row["reason"] == "npy")
    assert look_up(out.with_name("m.parquet.key"), [row["id"]], [tmp_path / "moved"]) == {row["id"]: "stacks/b.npy"}


def rows_of(folder: Path, root: Path) -> list[Row]:
    """An index under the same key of what is called ``moved`` now."""
    index([folder / "moved"], folder / "m.parquet")
    found = rows(folder / "m.parquet")
    (folder / "m.parquet").unlink()
    assert not root.exists()
    return found


def test_whose_an_item_is_leads_to_all_files(ward: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    index([ward], out)
    (patient,) = {row["patient"] for row in rows(out) if row["status"] == "ok" and row["patient"]}
    assert re.fullmatch(r"two/\S+\.dcm and 5 more", look_up(out, [patient])[patient])


def test_what_is_left_out_is_told_by_an_id_or_by_name(
    ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.parquet"

    def said() -> str:
        done = CliRunner().invoke(app, ["index", str(ward), "-o", str(out), "--workers", "0"])
        assert done.exception is None, done.exception
        return done.output

    monkeypatch.setenv(SHOW, "")
    (example,) = re.findall("1 npy .1 file, such as ([0-9a-f]{16}).: ", said())
    assert look_up(out, [example]) == {example: "stacks/b.npy"}
    monkeypatch.setenv(SHOW, "1")
    assert "1 npy (1 file, such as stacks/b.npy): " in said()
