"""Features as a table: bit for bit what ``extract`` gives, in order, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.tiff import write
from volssl.data import DataConfig, VolumeConfig
from volssl.data.image_config import ImageConfig
from volssl.data.mixture_config import MixtureConfig
from volssl.data.slide_config import SlideConfig
from volssl.errors import ConfigError, DataError, RunError
from volssl.evaluation import embed as embed_file
from volssl.evaluation.card import Card
from volssl.evaluation.embed import embed
from volssl.evaluation.encoder import Encoder, random_encoder
from volssl.evaluation.features import extract
from volssl.models import ResNetConfig

SIZE = (16, 16)


def encoder_of(data: DataConfig) -> Encoder:
    """A random ResNet-10 on 16 x 16."""
    backbone = ResNetConfig(dims=2, depth=10, stem="small", norm="batch", width=4)
    given: dict[str, Any] = {"backbone": backbone, "channels": data.channels, "region": SIZE, "size": SIZE}
    return random_encoder(Card(**given, data=data, method="simclr", step=9, seed=3), 0)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return encoder_of(ImageConfig(root=""))


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven pictures, of which a table names seven in two splits, one of an unknown class."""
    for i in range(11):
        picture(tmp_path / "pictures" / f"{i:02}.png", i)
    labels = ["2.0", "10", "2", "NA", "10", "9", "2"]
    rows = [f"{i:02}.png,{label},{'ab'[i % 2]}" for i, label in enumerate(labels)]
    (tmp_path / "pictures" / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    return tmp_path / "pictures"


def run(encoder: Encoder, root: Path, **given: Any) -> tuple[pa.Table, embed_file.Embedded]:
    out = root.parent / "out" / "features.parquet"
    told = embed(encoder, root, out, cache=str(root.parent / "cache"), **given)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return pq.read_table(out), told


def features(table: pa.Table) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in table.column_names if name.startswith("feature_")], axis=1)


def by_hand(encoder: Encoder, root: Path, batch: int) -> np.ndarray:
    source = encoder.card.source(str(root), str(root.parent / "cache")).build(SIZE)
    return extract(encoder, source, batch=batch)


@pytest.mark.parametrize("group", [4096, 1])
def test_what_is_read_back_is_what_extract_gives(
    encoder: Encoder, folder: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """To the bit and in order, in one row group of 11 or in groups of a batch: 3, 3, 3 and 2."""
    monkeypatch.setattr(embed_file, "GROUP", group)
    told: list[tuple[int, int, str]] = []
    table, found = run(encoder, folder, batch=3, report=lambda *at: told.append(at))
    assert np.array_equal(features(table).view(np.uint32), by_hand(encoder, folder, 3).view(np.uint32))
    assert table["id"].to_pylist() == [f"{i:02}.png" for i in range(11)]
    assert table["label"].to_pylist() == [None] * 11
    assert table.column_names == ["id", "label", *(f"feature_{i:04}" for i in range(encoder.width))]
    assert {str(field.type) for field in table.schema} == {"string", "float"}
    assert (found.items, found.left_out) == (11, ())
    assert told[-4:] == [(3, 11, ""), (6, 11, ""), (9, 11, ""), (11, 11, "")]
    groups = pq.ParquetFile(folder.parent / "out" / "features.parquet").num_row_groups
    assert groups == (1 if group > 11 else 4)


def test_labels_are_those_of_the_table(encoder: Encoder, folder: Path) -> None:
    """All splits. 2.0 and 2 are one class, called as it is first written; NA is unknown."""
    table, _ = run(encoder, folder / "labels.csv")
    assert table["id"].to_pylist() == [f"{i:02}.png" for i in range(7)]
    assert table["label"].to_pylist() == ["2.0", "10", "2.0", None, "10", "9", "2.0"]


def test_the_schema_says_which_encoder_it_was_and_no_folder(encoder: Encoder, folder: Path) -> None:
    signed = Encoder(encoder.network, encoder.card.signed("ab" * 32))
    table, _ = run(signed, folder)
    about = json.loads(table.schema.metadata[b"volssl"])
    assert about["encoder"] == {
        "method": "random",
        "step": 0,
        "seed": 0,
        "region": list(SIZE),
        "size": list(SIZE),
        "sha256": "ab" * 32,
        "versions": signed.card.versions,
    }
    assert (about["features"], set(about["versions"])) == (encoder.width, {"volssl", "torch", "monai"})
    content = (folder.parent / "out" / "features.parquet").read_bytes()
    assert str(folder.parent).encode() not in content
    assert b"00.png" in content  # negative control: it would be seen


def test_an_archive_gives_its_numbers(encoder: Encoder, tmp_path: Path) -> None:
    """Those splits that it has; of several columns of labels none."""
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE), np.uint8)
    train, test = np.array([[1], [0], [2]]), np.array([[5]])
    np.savez(
        tmp_path / "one.npz", train_images=images, train_labels=train, test_images=images[:1] // 2, test_labels=test
    )
    table, _ = run(encoder, tmp_path / "one.npz")
    assert table["id"].to_pylist() == ["test/000000", "train/000000", "train/000001", "train/000002"]
    assert table["label"].to_pylist() == ["5", "1", "0", "2"]
    np.savez(tmp_path / "several.npz", train_images=images, train_labels=np.ones((3, 4), np.int64))
    table, _ = run(encoder, tmp_path / "several.npz")
    assert table["label"].to_pylist() == [None] * 3


def test_what_cannot_be_read_is_left_out_and_told(encoder: Encoder, folder: Path) -> None:
    (folder / "03.png").write_bytes(b"no picture")
    table, found = run(encoder, folder)
    assert (found.items, [Path(error.where).name for error in found.left_out]) == (10, ["03.png"])
    assert "03.png" not in table["id"].to_pylist()
    (tmp := folder.parent / "none").mkdir()
    (tmp / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="1 of 1 items cannot be read"):
        run(encoder, tmp)


def test_a_picture_that_is_lost_while_the_others_are_read(
    encoder: Encoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cached, and two files go when the first item is read: the others of their group are written."""
    monkeypatch.setattr(embed_file, "GROUP", 4)
    opened = embed_file._open

    def then_gone(*given: Any) -> Any:
        source = opened(*given)
        (folder / "01.png").unlink()
        (folder / "09.png").unlink()
        shutil.rmtree(folder.parent / "cache")
        return source

    monkeypatch.setattr(embed_file, "_open", then_gone)
    table, found = run(encoder, folder, batch=2)
    assert [Path(error.where).name for error in found.left_out] == ["01.png", "09.png"]
    assert table["id"].to_pylist() == [f"{i:02}.png" for i in (0, 2, 3, 4, 5, 6, 7, 8, 10)]
    picture(folder / "01.png", 1)
    picture(folder / "09.png", 9)
    monkeypatch.undo()
    whole, _ = run(encoder, folder)
    kept = [i for i in range(11) if i not in (1, 9)]
    np.testing.assert_allclose(features(table), features(whole)[kept], rtol=1e-4, atol=1e-6)


def test_all_lost_is_an_error_and_no_file(encoder: Encoder, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = embed_file._open

    def then_gone(*given: Any) -> Any:
        source = opened(*given)
        shutil.rmtree(folder)
        shutil.rmtree(folder.parent / "cache")
        return source

    monkeypatch.setattr(embed_file, "_open", then_gone)
    with pytest.raises(DataError, match=r"00\.png"):
        run(encoder, folder)
    assert list((folder.parent / "out").iterdir()) == []


def test_a_folder_is_not_overwritten_and_a_file_is(encoder: Encoder, folder: Path) -> None:
    out = folder.parent / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match=r"is a folder: .*out/features\.parquet"):
        embed(encoder, folder, out, cache=str(folder.parent / "cache"))
    (out / "features.parquet").write_text("of before")
    table, _ = run(encoder, folder)
    assert len(table) == 11
    with pytest.raises(RunError, match="cannot be written"):
        embed(encoder, folder, out / "features.parquet" / "x.parquet", cache=str(folder.parent / "cache"))


def test_whoever_dies_leaves_the_file_of_before(
    encoder: Encoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at the second group; and a disk that is full when the file is closed."""
    (out := folder.parent / "out").mkdir()
    (out / "features.parquet").write_text("of before")
    monkeypatch.setattr(embed_file, "GROUP", 1)
    write_table = pq.ParquetWriter.write_table

    def dying(error: BaseException) -> Callable[..., Any]:
        calls = iter(range(9))

        def call(*given: Any, **named: Any) -> Any:
            if next(calls) == 1:
                raise error
            return write_table(*given, **named)

        return call

    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), RunError)):
        monkeypatch.setattr(pq.ParquetWriter, "write_table", dying(error))
        with pytest.raises(expected):
            run(encoder, folder)
        assert [path.name for path in out.iterdir()] == ["features.parquet"]
        assert (out / "features.parquet").read_text() == "of before"


def test_an_encoder_of_slices_embeds_slices_and_pictures(folder: Path, tmp_path: Path) -> None:
    encoder = encoder_of(VolumeConfig(root="", slices=2, fit="resize"))
    noise = np.random.default_rng(0).random((20, 20, 9))
    (tmp_path / "scans").mkdir()
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "scans" / "a.nii.gz")
    table, _ = run(encoder, tmp_path / "scans")
    assert table["id"].to_pylist() == ["a.nii.gz#000", "a.nii.gz#001"]
    for root in (folder, folder / "labels.csv", folder / "00.png"):
        table, _ = run(encoder, root)
        assert table["id"][0].as_py() == "00.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        run(encoder, tmp_path / "empty")


def test_tiles_have_ids_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    (tmp_path / "slides").mkdir()
    write(tmp_path / "slides" / "a.tif", [np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)])
    table, found = run(encoder_of(SlideConfig(root="", mpp=0.5, tissue=0.0)), tmp_path / "slides")
    assert (found.items, len(set(table["id"].to_pylist()))) == (6, 6)
    assert table["id"][0].as_py() == "a.tif#0,0"


def test_of_several_data_sets_one_is_named(folder: Path) -> None:
    parts = (ImageConfig(root=""), ImageConfig(root="", fit="crop"))
    encoder = encoder_of(MixtureConfig(parts=parts, root=""))
    with pytest.raises(DataError, match="prepared in different ways"):
        run(encoder, folder)
    table, _ = run(Encoder(encoder.network, encoder.card.part(1)), folder)
    assert len(table) == 11
