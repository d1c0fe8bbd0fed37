"""Training from a manifest is training from the folders it lists; what is none, or no longer true, is refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.data.conftest import MakeSlice, SaveAll
from volssl.data import StackConfig, VolumeConfig, header, nifti
from volssl.data.count import count
from volssl.data.door import Found, find
from volssl.data.image import find_images
from volssl.data.image_config import ImageConfig
from volssl.data.index import index
from volssl.data.items import PreparedSource
from volssl.data.listing import listing_by
from volssl.data.manifest import ABOUT, Seal, open_manifest, schema
from volssl.data.recipe import Entry
from volssl.data.video_config import VideoConfig
from volssl.errors import DataError

Change = Callable[[list[dict[str, Any]]], None]
Files = tuple[tuple[Path, ...], tuple[tuple[int, int], ...]]


def indexed(root: Path, out: Path) -> Path:
    index([root], out)
    return out


def listed(root: Path, name: str) -> list[Found]:
    found, bad = listing_by(str(root), name, find)
    assert not bad
    return [one.found for one in found]


def made_of(found: list[Found]) -> list[Files]:
    return [(one.files, one.frames) for one in found]


def contents(source: PreparedSource) -> list[torch.Tensor]:
    return [source[i].image for i in range(len(source))]


def volumes(folder: Path, number: int = 4) -> Path:
    """Of one exam each: two sequences."""
    for i in range(number):
        for j, name in enumerate(("T1_a", "FLAIR_a")):
            (folder / f"exam{i}").mkdir(parents=True, exist_ok=True)
            numbers = np.random.default_rng(10 * i + j).integers(0, 500, (8, 7, 6)).astype(np.int16)
            nib.save(nib.Nifti1Image(numbers, np.eye(4)), folder / f"exam{i}" / f"{name}.nii.gz")
    return folder


@pytest.mark.parametrize("name", ["knee_mr_t2map", "geometry_edge_cases", "enhanced", "siemens_mosaic"])
def test_the_volumes_of_a_manifest_are_those_of_the_folder(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The same files in the same order of slices, and the volumes in the same order."""
    root = shared_data / "dicom" / name
    found, _ = find(root)
    assert made_of(listed(indexed(root, tmp_path / "m.parquet"), "volume")) == made_of(found)


def test_the_images_of_a_manifest_are_those_of_the_folder(
    tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll
) -> None:
    root = tmp_path / "chests"
    save_all(root / "b", [make_slice(0.0, Modality="CR", SeriesInstanceUID=f"1.{i}") for i in range(3)])
    for i in range(3):
        Image.fromarray(np.full((4, 4), i, np.uint8) + np.eye(4, dtype=np.uint8)).save(root / f"{i}.png")
    found, _ = find_images(root)
    assert made_of(listed(indexed(root, tmp_path / "m.parquet"), "image")) == made_of(found)


def test_a_folder_of_pictures_is_a_stack_where_all_can_be_read(tmp_path: Path) -> None:
    root = tmp_path / "stacks"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(11):  # of which one is black, as the ends of stacks are
            Image.fromarray(np.eye(4, dtype=np.uint8) * i).save(root / name / f"{i}.png")
    manifest = indexed(root, tmp_path / "m.parquet")
    found, _ = find(root, kinds=frozenset({"images"}))
    assert made_of(listed(manifest, "stack")) == made_of(found)
    config = StackConfig(root=str(manifest), cache=str(tmp_path / "cache"), max_bad=0)
    assert len(config.build((11, 4, 4))) == 2
    (root / "b" / "3.png").write_bytes(b"no picture")
    assert [one.id for one in listed(indexed(root, manifest), "stack")] == ["a"]


def test_training_sees_the_same_numbers_from_either(tmp_path: Path) -> None:
    """The same cache files, in the same order: the same bits, whatever reads them."""
    root = volumes(tmp_path / "scans")
    manifest = indexed(root, tmp_path / "m.parquet")
    for fields in ({}, {"sequences": ("T1_*", "FLAIR_*"), "sequences_as": "channels"}, {"slices": 2}):
        region = (7, 6) if "slices" in fields else (8, 7, 6)
        sources = [
            VolumeConfig.model_validate({"root": str(where), "cache": str(tmp_path / name), **fields}).build(region)
            for where, name in ((root, "folder"), (manifest, "manifest"))
        ]
        assert sources[0].ids == sources[1].ids
        assert sources[0].fingerprints == sources[1].fingerprints
        assert all(torch.equal(a, b) for a, b in zip(*map(contents, sources), strict=True))
    names = [sorted(p.name for p in (tmp_path / name).glob("*.safetensors")) for name in ("folder", "manifest")]
    assert names[0] == names[1]
    assert len(names[0]) == 8 + 4 + 8


def test_clips_of_a_manifest_are_those_of_the_folder(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "dicom" / "us_cine"
    manifest = indexed(root, tmp_path / "m.parquet")
    sources = [
        VideoConfig(root=str(where), cache=str(tmp_path / "cache")).build((4, 16, 16)) for where in (root, manifest)
    ]
    assert sources[0].fingerprints == sources[1].fingerprints
    assert torch.equal(sources[0][0].image, sources[1][0].image)


def test_slides_of_a_manifest_are_those_of_the_folder(shared_data: Path, tmp_path: Path) -> None:
    from volssl.data.slide_config import SlideConfig

    root, manifest = shared_data / "wsi", tmp_path / "m.parquet"
    index([root], manifest)
    told: dict[str, Any] = {"assume_mpp": 0.5, "per_slide": 3, "cache": str(tmp_path / "cache"), "max_bad": 0.5}
    ids = [SlideConfig(root=str(where), **told).build((64, 64)).ids for where in (root, manifest)]
    assert list(ids[0]) == list(ids[1])


def test_no_header_is_read_to_list_a_manifest(
    tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = volumes(tmp_path / "scans", 1)
    save_all(root / "knee", [make_slice(3.0 * i) for i in range(4)])
    manifest = indexed(root, tmp_path / "m.parquet")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a header is read")

    for module, name in ((header, "dcmread"), (header, "read_partial"), (header, "check_cost"), (nifti, "_checked")):
        monkeypatch.setattr(module, name, never)
    assert len(listed(manifest, "volume")) == 3
    with pytest.raises(AssertionError, match="a header is read"):
        listed(root / "knee", "volume")


def test_patients_go_by_their_keyed_ids(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:
    """Two exams of one patient and one of another, whose ids are nowhere."""
    for exam, patient in enumerate(("Doe-1", "Doe-1", "Roe-2")):
        own = {"PatientID": patient, "StudyInstanceUID": f"1.2.{exam}", "SeriesInstanceUID": f"1.3.{exam}"}
        save_all(tmp_path / "scans" / str(exam), [make_slice(3.0 * i, **own) for i in range(3)])
    manifest = indexed(tmp_path / "scans", tmp_path / "m.parquet")
    listed_, _ = listing_by(str(manifest), "volume", find)
    a, b, c = (one.patient for one in listed_)
    assert a == b != c
    assert len(a) == len(c) == 16
    source = VolumeConfig(root=str(manifest), cache=str(tmp_path / "cache"), region=(3, 6, 8)).build((3, 6, 8))
    assert [origin.patient for origin in source.origins] == [a, b, c]


def test_what_is_left_out_does_not_count_against_the_run(tmp_path: Path) -> None:
    root = volumes(tmp_path / "scans", 2)
    (root / "bad.nii.gz").write_bytes(b"no")
    manifest = indexed(root, tmp_path / "m.parquet")
    fields: dict[str, Any] = {"cache": str(tmp_path / "cache"), "max_bad": 0}
    assert len(VolumeConfig(root=str(manifest), **fields).build((8, 7, 6))) == 4
    with pytest.raises(DataError, match="max_bad"):
        VolumeConfig(root=str(root), **fields).build((8, 7, 6))


@pytest.mark.parametrize("channels", [False, True])
def test_a_file_that_changed_since_is_refused(tmp_path: Path, channels: bool) -> None:
    """Of the same length and time. Where nothing says what the content was, nobody can tell: the check is not idle."""
    root = volumes(tmp_path / "scans")
    manifest = indexed(root, tmp_path / "m.parquet")
    victim = root / "exam1" / "T1_a.nii.gz"
    before = victim.stat()
    other = np.asarray(nib.load(victim).dataobj)
    nib.save(nib.Nifti1Image(other[::-1].copy(), np.eye(4)), victim)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    fields: dict[str, Any] = {"cache": str(tmp_path / "cache"), "max_bad": 0.3}
    if channels:
        fields |= {"sequences": ("T1_*", "FLAIR_*"), "sequences_as": "channels"}
    source = VolumeConfig(root=str(manifest), **fields).build((8, 7, 6))
    assert [error.code for error in source.bad] == ["changed"]
    assert "exam1" in source.bad[0].where
    assert "run volssl index again" in source.bad[0].message
    with pytest.raises(DataError, match="changed: is not what the manifest lists"):
        VolumeConfig(root=str(manifest), **{**fields, "max_bad": 0.01}).build((8, 7, 6))
    parts = (Found("x", "nifti", (victim,)),)
    Entry("x", parts).check("0" * 64)
    with pytest.raises(DataError, match="changed"):
        Entry("x", (Found("x", "nifti", (victim,), sha256="1" * 64),)).check("0" * 64)
    index([root], manifest)
    assert not VolumeConfig(root=str(manifest), **fields).build((8, 7, 6)).bad


def test_what_is_gone_is_told_in_one_line(tmp_path: Path) -> None:
    root = volumes(tmp_path / "scans")
    manifest = indexed(root, tmp_path / "m.parquet")
    (root / "exam0" / "T1_a.nii.gz").unlink()
    with pytest.raises(DataError, match="missing: 1 of 8 files are no longer where the manifest has them"):
        listed(manifest, "volume")
    key = tmp_path / "m.parquet.key"
    held = key.read_text()
    key.write_text("00" * 32 + "\n")
    with pytest.raises(DataError, match=r"m\.parquet\.key: key: is the key of another manifest"):
        listed(manifest, "volume")
    key.unlink()
    with pytest.raises(DataError, match=r"m\.parquet\.key: key: the key of the manifest is not beside it"):
        listed(manifest, "volume")
    key.write_text(held)
    root.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="missing: a root of the manifest is gone"):
        listed(manifest, "volume")


def test_a_manifest_moves_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots that were typed as relative ones, from any folder, and of a manifest that lies behind a link."""
    volumes(tmp_path / "home" / "scans", 1)
    (tmp_path / "home" / "lists").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home" / "lists")
    monkeypatch.chdir(tmp_path / "home")
    for out in ("m.parquet", "lists/m.parquet", str(tmp_path / "link" / "n.parquet")):
        index([Path("scans")], Path(out))
        assert str(tmp_path).encode() not in pq.read_metadata(out).metadata[ABOUT.encode()]
        assert len(listed(Path(out), "volume")) == 2
    index([Path()], Path("all.parquet"))
    (tmp_path / "home").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for out in ("m.parquet", "lists/m.parquet", "lists/n.parquet", "all.parquet"):
        assert len(listed(tmp_path / "moved" / out, "volume")) == 2
        assert len(listed(Path("moved") / out, "volume")) == 2


def test_another_kind_is_told(tmp_path: Path) -> None:
    manifest = indexed(volumes(tmp_path / "scans"), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"kind: the manifest lists nothing of data\.name: image, but 8 of data"):
        listed(manifest, "image")
    with pytest.raises(DataError, match="split"):
        listing_by(str(manifest), "volume", find, "train")


def test_counting_loads_no_torch(tmp_path: Path) -> None:
    manifest = indexed(volumes(tmp_path / "scans"), tmp_path / "m.parquet")
    assert count(VolumeConfig(root=str(manifest))) == 8
    assert count(VolumeConfig(root=str(manifest), slices=4)) == 32
    assert count(VolumeConfig(root=str(manifest), sequences=("T1*",))) is None
    assert count(ImageConfig(root=str(manifest))) == 0
    code = "import sys; from volssl.data.count import count; from volssl.data import VolumeConfig\n"
    code += f"assert count(VolumeConfig(root={str(manifest)!r})) == 8\n"
    code += "assert not {'torch', 'monai', 'pydicom'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def rewritten(manifest: Path, change: Change, columns: pa.Schema | None = None, **told: Any) -> None:
    """The manifest with other rows, columns or words about itself, sealed as if it had been written so."""
    rows, seal = pq.read_table(manifest).to_pylist(), Seal()
    change(rows)
    table = pa.Table.from_pylist(rows, columns or schema())
    seal.add(table.to_pylist())
    held = json.loads(pq.read_metadata(manifest).metadata[ABOUT.encode()]) | {"seal": str(seal)} | told
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(held)}), manifest, compression="none")


def first(**values: Any) -> Change:
    return lambda rows: rows[0].update(values)


def nothing(rows: list[dict[str, Any]]) -> None:
    del rows


HOSTILE: dict[str, tuple[Change, dict[str, Any]]] = {
    "a path for a file": (first(files=["../../etc/passwd"]), {}),
    "an absolute path": (first(files=["/etc/passwd"]), {}),
    "a file that is none": (first(files=[None]), {}),
    "no file": (first(files=[]), {}),
    "a name for an id": (first(id="Doe^John"), {}),
    "a name for a patient": (first(patient="Doe^John"), {}),
    "a digest that is none": (first(sha256="x" * 64), {}),
    "no digest": (first(sha256=None), {}),
    "an unknown kind": (first(kind="pickle"), {}),
    "an unknown format": (first(format="pickle"), {}),
    "an unknown status": (first(status="fine"), {}),
    "a frame of no file": (first(frames=[7, 0]), {}),
    "a frame below zero": (first(frames=[0, -1]), {}),
    "half a frame": (first(frames=[0]), {}),
    "no time": (first(times=0), {}),
    "a story for a sequence": (first(sequence="x" * 1000), {}),
    "a later format": (nothing, {"format": 99}),
    "a root that is empty": (nothing, {"roots": [""]}),
    "a key that is none": (nothing, {"key": "Doe^John"}),
    "roots that are no texts": (nothing, {"roots": [3]}),
    "a root with a zero": (nothing, {"roots": ["/tmp\0/x"]}),
    "no roots": (nothing, {"roots": []}),
    "roots that are no list": (nothing, {"roots": None}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_is_data_and_is_checked(tmp_path: Path, name: str) -> None:
    manifest = indexed(volumes(tmp_path / "scans", 1), tmp_path / "m.parquet")
    change, told = HOSTILE[name]
    rewritten(manifest, nothing)
    assert len(listed(manifest, "volume")) == 2, "rewritten as it was, it is good"
    rewritten(manifest, change, **told)
    with pytest.raises(DataError) as refused:
        listed(manifest, "volume")
    assert refused.value.code == "manifest"
    assert "\n" not in str(refused.value)


def test_other_columns_and_other_files_are_no_manifest(tmp_path: Path) -> None:
    manifest = indexed(volumes(tmp_path / "scans", 1), tmp_path / "m.parquet")
    whole = manifest.read_bytes()
    kept = manifest.read_bytes()
    more = schema().append(pa.field("path", pa.string()))
    rewritten(manifest, nothing, more)
    with pytest.raises(DataError, match="manifest: of another version"):
        open_manifest(manifest)
    other = tmp_path / "features.parquet"
    pq.write_table(pa.table({"id": ["a"], "f0": [1.0]}), other)
    with pytest.raises(DataError, match="manifest: a Parquet file, but no manifest"):
        open_manifest(other)
    pipe = tmp_path / "pipe.parquet"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="not_a_file"):
        open_manifest(pipe)
    for content in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], b"\x80\x04cos\nsystem\n" + whole):
        other.write_bytes(content)
        with pytest.raises(DataError, match="manifest: cannot be read"):
            list(open_manifest(other))
    manifest.write_bytes(kept)
    assert len(list(open_manifest(manifest))) == 2


def test_a_manifest_that_claims_more_than_it_holds_is_not_read(tmp_path: Path) -> None:
    manifest = indexed(volumes(tmp_path / "scans", 1), tmp_path / "m.parquet")

    def swell(rows: list[dict[str, Any]]) -> None:
        rows[0]["frames"] = [0] * 40_000_000

    rewritten(manifest, swell)
    with pytest.raises(DataError, match="claim to hold"):
        open_manifest(manifest)


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 damaged manifests: refused, or the rows are what they were. Without the seal some would pass: the control."""
    manifest = indexed(volumes(tmp_path / "scans", 2), tmp_path / "m.parquet")
    whole, before = manifest.read_bytes(), list(open_manifest(manifest))
    told, silent = _read_damaged(manifest, whole, before)
    assert (silent, told[1:]) == (0, ["manifest", False])
    assert told[0] > 250
    monkeypatch.setattr(Seal, "__str__", lambda _: "none")
    manifest.write_bytes(whole)
    rewritten(manifest, nothing)
    assert _read_damaged(manifest, manifest.read_bytes(), before)[1] > 0


def _read_damaged(manifest: Path, whole: bytes, before: list[dict[str, Any]]) -> tuple[list[Any], int]:
    """How many are refused, by which code, in how many lines; and how many give other rows in silence."""
    rng, refused, silent = random.Random(0), [], 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        manifest.write_bytes(damaged)
        try:
            silent += list(open_manifest(manifest)) != before
        except DataError as error:
            refused.append((str(error.code), "\n" in str(error)))
    (kind,) = set(refused)
    return [len(refused), *kind], silent
