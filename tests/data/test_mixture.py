"""Several data sets in one run: what they share, how they are drawn, whose label is whose."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from volssl.data import StackConfig
from volssl.data.image_config import ImageConfig
from volssl.data.loader import Loader
from volssl.data.mixture_config import MixtureConfig
from volssl.errors import DataError

REGION = (4, 6, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders of stacks: six in ``knees`` with classes 0 and 1, two in ``heads`` without."""
    rng = np.random.default_rng(0)
    for name, count in (("knees", 6), ("heads", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            np.save(tmp_path / name / f"{i}.npy", rng.integers(1, 255, REGION, dtype=np.uint8))
    rows = [f"{i}.npy,{i % 2}" for i in range(6)]
    (tmp_path / "knees" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return tmp_path


def mixture(folder: Path, **fields: Any) -> MixtureConfig:
    parts = [{"name": "stack", "root": "knees/labels.csv"}, {"name": "stack", "root": "heads"}]
    given = {"name": "mixture", "parts": tuple(parts), "root": str(folder), "cache": str(folder / "cache")}
    return MixtureConfig.model_validate(given | fields)


def test_the_items_of_one_part_come_after_those_of_the_other(folder: Path) -> None:
    source = mixture(folder).build(REGION)
    alone = [part.build(REGION) for part in mixture(folder).members]
    assert (len(source), source.parts, source.weights, source.label_sets) == (8, (6, 2), (1, 1), (6, 2))
    assert tuple(source.ids) == (*(f"0/{i}.npy" for i in range(6)), "1/0.npy", "1/1.npy")
    assert tuple(source.labels) == (0, 1, 0, 1, 0, 1, -1, -1)
    assert tuple(source.fingerprints) == (*alone[0].fingerprints, *alone[1].fingerprints)
    assert (source.channels, source.region, source.bad) == (1, REGION, ())
    for i, item in enumerate(source[i] for i in range(8)):
        part, place = (0, i) if i < 6 else (1, i - 6)
        assert (item.id, item.part, item.label) == (source.ids[i], part, source.labels[i])
        assert torch.equal(item.image, alone[part][place].image)
    with pytest.raises(IndexError):
        source[8]


def drawn(folder: Path, balance: Any, steps: int = 12, batch: int = 4) -> tuple[list[list[int]], torch.Tensor]:
    """The parts of the items of each batch, and all labels."""
    source = mixture(folder, balance=balance).build(REGION)
    samples = list(Loader(source, batch=batch, seed=0, start=0, stop=steps))
    return [(s.index >= 6).long().tolist() for s in samples], torch.cat([s.labels for s in samples])


def test_even_parts_fill_every_batch_alike(folder: Path) -> None:
    parts, labels = drawn(folder, "even")
    assert parts == [[0, 1, 0, 1]] * 12
    assert Counter(labels[:, 0].tolist()) == {-1: 24, 0: 12, 1: 12}  # four epochs of six knees
    assert set(labels[:, 1].tolist()) == {-1}


def test_weights_of_three_to_one(folder: Path) -> None:
    assert drawn(folder, (3, 1))[0] == [[0, 0, 0, 1]] * 12


def test_in_proportion_every_item_is_drawn_once_in_an_epoch_and_keeps_its_set_of_labels(folder: Path) -> None:
    """Twelve batches of 4 are six epochs of 8 items: 36 knees and 12 heads, in no fixed pattern."""
    parts, labels = drawn(folder, "proportional")
    assert Counter(part for batch in parts for part in batch) == {0: 36, 1: 12}
    assert len(set(map(tuple, parts))) > 1
    assert Counter(labels[:, 0].tolist()) == {-1: 12, 0: 18, 1: 18}


def test_loader_processes_give_the_same(folder: Path) -> None:
    source = mixture(folder).build(REGION)
    here, there = (list(Loader(source, batch=4, seed=1, start=0, stop=3, workers=w)) for w in (0, 1))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert list(pickle.loads(pickle.dumps(source)).ids) == list(source.ids)


def test_every_part_has_a_folder_of_its_own_and_an_equal_share_of_the_cache(folder: Path) -> None:
    """Or the second part would push the first one out, run after run."""
    config = mixture(folder, cache_gb=4.0)
    config.build(REGION)
    assert [len(list((folder / "cache" / name).glob("*.safetensors"))) for name in ("part-0", "part-1")] == [6, 2]
    assert [part.model_dump()["cache_gb"] for part in config.members] == [2.0, 2.0]


def test_a_part_that_cannot_be_read_says_so(folder: Path) -> None:
    (folder / "heads" / "2.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"heads: max_bad: 1 of 3 items"):
        mixture(folder).build(REGION)


def test_a_part_that_is_missing_is_told_before_any_is_read(folder: Path) -> None:
    parts = ({"name": "stack", "root": "knees/labels.csv"}, {"name": "stack", "root": "lost"})
    with pytest.raises(DataError, match=r"lost: missing: .*data\.parts\.1\.root"):
        mixture(folder, parts=parts).build(REGION)
    assert not (folder / "cache").exists()


def test_what_is_written_is_what_was_read(folder: Path) -> None:
    """Keys that the parts share are written once."""
    config = mixture(folder, balance=(3, 1))
    again = MixtureConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert not {"cache", "cache_gb", "region"} & config.model_dump()["parts"][0].keys()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"parts": ({"name": "stack", "root": "a", "region": REGION},)}, "parts.0.region is the same for all parts"),
        ({"parts": ({"name": "stack", "root": "a", "cache": "b"},)}, "write it once, as data.cache"),
        (
            {"parts": ({"name": "stack", "root": "a"}, {"name": "image", "root": "b"})},
            r"parts.1 \(image\) has 2 dimensions, parts.0 \(stack\) has 3: an encoder takes one number",
        ),
        (
            {"parts": ({"name": "image", "root": "a"}, {"name": "image", "root": "b", "colour": "rgb"})},
            r"parts.1 \(image\) has 3 channels, parts.0 \(image\) has 1: an encoder takes one number",
        ),
        ({"balance": (1, 2, 3)}, "balance has 3 numbers for 2 parts"),
        ({"balance": (1, 0)}, "greater than or equal to 1"),
        ({"balance": "equal"}, "'even' or 'proportional'"),
        ({"parts": ()}, "at least 1 item"),
        ({"parts": ({"name": "mixture", "parts": ()},)}, "tag 'mixture'"),
    ],
)
def test_what_does_not_go_together_is_refused(folder: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        mixture(folder, **fields)


def test_radiographs_beside_labelled_tiles(tmp_path: Path) -> None:
    """Two folders of pictures, the second coloured and taken as grey, in one 2D run."""
    rng = np.random.default_rng(0)
    for name, shape in (("chest", (9, 8)), ("tiles", (7, 7, 3))):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    parts = (ImageConfig(root="chest"), ImageConfig(root="tiles", colour="luma"))
    config = MixtureConfig(parts=parts, root=str(tmp_path), cache=str(tmp_path / "cache"))
    assert (config.dims, config.channels) == (2, 1)
    (samples,) = Loader(config.build((8, 8)), batch=6, seed=0, start=0, stop=1)
    assert samples.images.shape == (6, 1, 8, 8)
    assert sorted(samples.index.tolist()) == list(range(6))


def test_an_absolute_root_stays_where_it_is() -> None:
    parts = (StackConfig(root="a"), StackConfig(root="/b"))
    assert [part.root for part in MixtureConfig(parts=parts, root="/data").members] == ["/data/a", "/b"]
