"""Tiles of slides: where they lie, at what resolution, which are drawn, and what is refused, on TIFFs written here."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.tiff import Pixels, write
from volssl import config, run
from volssl.data import extra, fingerprint, slide_source
from volssl.data.count import count
from volssl.data.items import Keep, Readers
from volssl.data.loader import Loader
from volssl.data.slide_config import SlideConfig
from volssl.data.slide_file import Slide
from volssl.data.slide_source import SlideSource
from volssl.errors import ConfigError, DataError
from volssl.evaluation.encoder import load_encoder
from volssl.types import Item

MPP = 0.5  # of the slides written here


def ramp(rows: int = 160, columns: int = 224) -> Pixels:
    """Red is the column, green the row, both in pixels of full resolution; blue is far from both, as stains are."""
    down, across = np.mgrid[:rows, :columns]
    return np.stack([across, down, 255 - np.maximum(across, down)], axis=2).astype(np.uint8)


def halved(image: Pixels) -> Pixels:
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    mean = image.reshape(rows, 2, columns, 2, 3).mean(axis=(1, 3))
    return np.asarray(np.rint(mean), dtype=np.uint8)


def build(root: Path, region: tuple[int, int] = (32, 32), workers: int = 0, **fields: Any) -> SlideSource:
    fields = {"mpp": MPP, "tissue": 0.0, "intensity": Keep(), **fields}
    configuration = SlideConfig(root=str(root), cache=str(root.parent / "cache"), **fields)
    return configuration.build(region, readers=Readers(workers))


def items(source: SlideSource) -> list[Item]:
    return [source[i] for i in range(len(source))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "slides"


def test_tiles_as_scanned_are_the_pixels_of_the_slide(folder: Path) -> None:
    """224 x 160 pixels hold 7 x 5 tiles of 32, row by row."""
    write(folder / "a.tif", [ramp()])
    source = build(folder)
    assert (len(source), source.parts, source.channels, source.region) == (35, (35,), 3, (32, 32))
    assert source.ids[:2] == ["a.tif#0,0", "a.tif#32,0"]
    assert source.ids[-1] == "a.tif#192,128"
    for item in items(source):
        x, y = map(int, item.id.partition("#")[2].split(","))
        expected = torch.from_numpy(ramp()[y : y + 32, x : x + 32]).permute(2, 0, 1).float()
        assert torch.equal(item.image, expected)
        assert item.spacing == (MPP / 1000, MPP / 1000)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("mpp", [0.75, 1.0, 1.3])
def test_a_tile_shows_its_area_at_the_resolution_asked_for(folder: Path, levels: int, mpp: float) -> None:
    """Pixel j of a tile at x spans x + j*s .. x + (j+1)*s, s = mpp/0.5; its middle is pixel x + (j + 1/2)*s - 1/2.

    A cubic filter keeps a ramp, so each value is that middle, rounded to a byte once per level. At the slide's
    border the filter is cut off, so only inner tiles are looked at.
    """
    write(folder / "a.tif", [ramp(), halved(ramp())][:levels])
    step = mpp / MPP
    looked_at = 0
    for item in items(build(folder, (16, 24), mpp=mpp)):
        x, y = map(int, item.id.partition("#")[2].split(","))
        if min(x, y) < 8 or x + 24 * step > 216 or y + 16 * step > 152:
            continue
        looked_at += 1
        across = x + (torch.arange(24) + 0.5) * step - 0.5
        down = y + (torch.arange(16) + 0.5) * step - 0.5
        assert (item.image[0] - across).abs().max() <= 0.5 * levels + 0.01
        assert (item.image[1] - down[:, None]).abs().max() <= 0.5 * levels + 0.01
    assert looked_at >= 4


def test_what_is_finer_than_the_tile_is_averaged_not_picked(folder: Path) -> None:
    """A board of single pixels of 0 and 200 has the mean 100 at half the resolution; a picked pixel is 0 or 200."""
    board = np.repeat((np.indices((96, 96)).sum(axis=0) % 2 * 200).astype(np.uint8)[..., None], 3, axis=2)
    write(folder / "a.tif", [board])
    image = build(folder, (16, 16), mpp=2 * MPP)[4].image
    assert (image - 100).abs().max() <= 1


def test_the_coarser_level_is_read_where_it_is_fine_enough(folder: Path) -> None:
    """The second level holds another colour, so that it shows. A tile at 0.9 microns needs the first."""
    write(folder / "a.tif", [ramp(), np.full((80, 112, 3), 77, np.uint8)])
    assert (build(folder, mpp=2 * MPP)[0].image == 77).all()
    assert (build(folder, mpp=1.8 * MPP)[0].image != 77).any()


def test_stride_and_unequal_sizes(folder: Path) -> None:
    """At 1 micron a tile of 16 x 24 is 32 x 48 pixels, and the strides of 8 and 20 are 16 and 40."""
    write(folder / "a.tif", [ramp(64, 128)])
    source = build(folder, (16, 24), mpp=1.0, stride=(8, 20))
    assert list(source.ids) == [f"a.tif#{x},{y}" for y in (0, 16, 32) for x in (0, 40, 80)]


def tissue(columns: int) -> Pixels:
    """128 x 192 pixels of glass, the first columns of which are tissue."""
    image = np.full((128, 192, 3), 242, np.uint8)
    image[:, :columns] = (200, 60, 130)
    return image


def test_tiles_with_too_little_tissue_are_left_out(folder: Path) -> None:
    """Tissue up to column 96, tiles of 64: the first is all tissue, the second half of it, the third glass."""
    write(folder / "a.tif", [tissue(96)])
    assert list(build(folder, (64, 64), tissue=0.5).ids) == ["a.tif#0,0", "a.tif#64,0", "a.tif#0,64", "a.tif#64,64"]
    assert list(build(folder, (64, 64), tissue=0.51).ids) == ["a.tif#0,0", "a.tif#0,64"]
    assert len(build(folder, (64, 64), tissue=0.0)) == 6


def test_what_was_not_scanned_is_white(folder: Path) -> None:
    write(folder / "a.tif", [ramp(64, 64)], lost=[1])
    assert [float(item.image.min()) == 255 for item in items(build(folder))] == [False, True, False, False]


def test_a_slide_must_say_how_large_its_pixels_are(folder: Path) -> None:
    """72 dpi are 353 microns, which no scanner has: a default that nobody meant."""
    write(folder / "none.tif", [ramp()], mpp=None)
    write(folder / "default.tif", [ramp()], mpp=25400 / 72)
    write(folder / "stated.tif", [ramp()])
    source = build(folder, max_bad=0.7)
    assert {error.code for error in source.bad} == {"mpp"}
    assert all("data.assume_mpp" in str(error) for error in source.bad)
    assert {name.partition("#")[0] for name in source.ids} == {"stated.tif"}
    assumed = build(folder, assume_mpp=2 * MPP, mpp=2 * MPP)
    assert [assumed.ids.index(f"{name}.tif#0,0") for name in ("default", "none", "stated")] == [0, 35, 70]
    assert len(assumed) == 70 + 6  # the size that is stated counts


def test_refused_slides_are_listed_with_a_reason(folder: Path) -> None:
    write(folder / "coarse.tif", [ramp()], mpp=2 * MPP)
    write(folder / "far.tif", [ramp()], beyond=10**6)
    write(folder / "glass.tif", [tissue(0)])
    write(folder / "good.tif", [tissue(192)])
    write(folder / "small.tif", [ramp(31, 200)])
    (folder / "text.svs").write_text("no slide")
    source = build(folder, tissue=0.5, max_bad=0.9)
    reasons = {Path(error.where).name: error.code for error in source.bad}
    assert reasons == {
        "coarse.tif": "mpp", "far.tif": "slide", "glass.tif": "no_tissue", "small.tif": "too_small", "text.svs": "slide"
    }  # fmt: skip
    assert all("\n" not in str(error) for error in source.bad)
    assert {Path(error.where).parent for error in source.bad} == {folder}
    assert len(source) == 24
    with pytest.raises(DataError, match=r"5 of 6 items cannot be read") as caught:
        build(folder, tissue=0.5)
    assert caught.value.code == "max_bad"


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255))), st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_wild_bytes_are_a_slide_or_refused(changes: list[tuple[float, int]], header: bool) -> None:
    """The header of the first level lies behind its pixels, in the last kilobyte."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.tif"), [ramp(64, 64)])
        data = bytearray(path.read_bytes())
        for at, byte in changes:
            data[-1 - int(at * (min(400, len(data)) if header else len(data) - 1))] = byte
        path.write_bytes(data)
        with contextlib.suppress(DataError):
            Slide(path, assume_mpp=MPP).overview(8.0)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_there_is_one_line(folder: Path, name: str) -> None:
    if name == "empty":
        folder.mkdir()
        (folder / "notes.txt").write_text("no slide")
    with pytest.raises(DataError, match=name) as caught:
        build(folder)
    assert "\n" not in str(caught.value)


def test_labels_are_those_of_the_slides(folder: Path) -> None:
    for name in ("a", "b", "c"):
        write(folder / "scans" / f"{name}.tif", [ramp(64, 64)])
    table = folder / "labels.csv"
    table.write_text("path,label\nscans/b.tif,tumour\nscans/a.tif,benign\nscans/c.tif,\n")
    source = build(table)
    assert list(source.labels) == [0] * 4 + [1] * 4 + [-1] * 4
    assert [item.label for item in items(source)] == source.labels
    assert [source.ids[i] for i in (0, 4, 8)] == [f"scans/{name}.tif#0,0" for name in "abc"]


def test_a_few_tiles_per_slide_depend_on_its_content_alone(folder: Path) -> None:
    write(folder / "a.tif", [ramp()])
    write(folder / "other.tif", [ramp()[::-1]])
    few, more = (set(build(folder, per_slide=n).ids) for n in (4, 12))
    assert (len(few), len(more)) == (8, 24)
    assert few < more
    moved = folder.parent / "moved" / "b.tif"
    moved.parent.mkdir()
    shutil.copy(folder / "a.tif", moved)
    corners = {name.partition("#")[2] for name in few if name.startswith("a.tif")}
    assert {name.partition("#")[2] for name in build(moved, per_slide=4).ids} == corners
    assert {name.partition("#")[2] for name in few if name.startswith("other")} != corners


def test_fingerprints_say_what_a_tile_is_made_from(folder: Path) -> None:
    """One per tile and resolution, the same for a copy of the slide, another where the slide differs."""
    write(folder / "a.tif", [ramp()])
    shutil.copy(folder / "a.tif", folder / "copy.tif")
    prints = build(folder).fingerprints
    assert prints[:35] == prints[35:]
    assert len({*prints, *build(folder, mpp=1.0).fingerprints, *build(folder, (16, 16)).fingerprints}) == 35 + 6 + 140
    write(folder / "a.tif", [255 - ramp()])
    changed = build(folder).fingerprints
    assert not set(changed[:35]) & set(prints)
    assert changed[35:] == prints[35:]


def test_a_window_scales_and_clips(folder: Path) -> None:
    write(folder / "a.tif", [ramp(32, 224)])
    window = {"name": "window", "centre": 100.0, "width": 50.0}
    source = SlideConfig.model_validate(
        {"root": str(folder), "cache": str(folder / "cache"), "tissue": 0.0, "intensity": window}
    ).build((32, 224))
    expected = ((torch.arange(224) - 75) / 50).clamp(0, 1)
    assert torch.allclose(source[0].image[0], expected.expand(32, 224))


def test_slides_are_opened_when_needed_and_few_stay_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write(folder / f"{name}.tif", [ramp(64, 64)])
    source = build(folder)
    opened: list[str] = []

    class Counted(Slide):
        def __init__(self, path: Path, assume_mpp: float | None = None) -> None:
            opened.append(path.stem)
            super().__init__(path, assume_mpp)

    monkeypatch.setattr(slide_source, "Slide", Counted)
    first = [source[i].image for i in (0, 1, 4, 5, 0)]
    assert opened == ["a", "b"]
    monkeypatch.setattr(slide_source, "OPEN", 1)
    sent = pickle.loads(pickle.dumps(source))
    assert all(torch.equal(sent[i].image, image) for i, image in zip((0, 1, 4, 5, 0), first, strict=True))
    assert opened == ["a", "b", "a", "b", "a"]


def test_a_slide_that_changes_stops_the_run(folder: Path) -> None:
    write(folder / "a.tif", [ramp()])
    source = build(folder)
    write(folder / "a.tif", [255 - ramp()])
    with pytest.raises(DataError, match=r"a.tif: changed") as caught:
        source[0]
    assert caught.value.code == "changed"


def test_a_look_is_remembered_and_no_tile_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_NS", -1)
    write(folder / "a.tif", [tissue(96)])
    first = build(folder, tissue=0.5)
    cache = folder.parent / "cache"
    assert sum(file.stat().st_size for file in cache.iterdir()) < 2000  # a tile has 12,288 bytes

    def no_look(*_: object) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr("volssl.data.slide._look", no_look)
    again = build(folder, tissue=0.5)
    assert (again.ids[:], again.fingerprints[:]) == (first.ids[:], first.fingerprints[:])
    for region, tissue_share, mpp in ((32, 0.6, 0.5), (32, 0.5, 1.0), (16, 0.5, 0.5)):
        with pytest.raises(AssertionError, match="looked again"):
            build(folder, (region, region), tissue=tissue_share, mpp=mpp)


def test_it_is_the_same_in_other_processes(folder: Path) -> None:
    for name in ("a", "b"):
        write(folder / f"{name}.tif", [tissue(192)])
    (folder / "c.tif").write_text("no slide")
    here, there = (build(folder, tissue=0.5, workers=n, max_bad=0.5) for n in (0, 1))
    assert (here.ids[:], here.fingerprints[:]) == (there.ids[:], there.fingerprints[:])
    assert [str(error) for error in here.bad] == [str(error) for error in there.bad]
    batches = [next(iter(Loader(there, batch=4, seed=0, start=0, stop=1, workers=n))) for n in (0, 1)]
    assert torch.equal(batches[0].images, batches[1].images)


def test_without_openslide_one_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "a.tif", [ramp()])
    monkeypatch.setattr(extra, "find_spec", lambda _: None)
    for ask in (lambda: build(folder), lambda: count(SlideConfig(root=str(folder)))):
        with pytest.raises(ConfigError, match=r"data.name: slide needs .*pip install 'volssl\[slides\]'") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("mpp", "tiles"), [(0.5, (43, 47)), (1.0, (9, 9))])
def test_real_slides(shared_data: Path, tmp_path: Path, mpp: float, tiles: tuple[int, int]) -> None:
    """Two of Aperio, JPEG with one level and JPEG 2000 with two, which states no size of its pixels; one is broken."""
    shared = {"root": str(shared_data / "wsi"), "cache": str(tmp_path), "assume_mpp": 0.25, "max_bad": 0.5}
    source = SlideConfig.model_validate({**shared, "mpp": mpp}).build((224, 224))
    counts = [sum(name.startswith(slide) for name in source.ids) for slide in ("cmu", "tcga")]
    assert counts == pytest.approx(tiles, abs=2)  # decoders differ in a tile that is on the edge
    assert [(Path(error.where).name, error.code) for error in source.bad] == [("broken.svs", "slide")]
    stained = torch.stack([source[i].image for i in range(0, len(source), 7)])
    red, green, blue = stained.mean(dim=(0, 2, 3)).tolist()
    assert green < min(red, blue)  # haematoxylin and eosin absorb green most
    assert 0 <= float(stained.min()) < 0.3 < 0.9 < float(stained.max()) <= 1


RUN = """\
output: out
data: {name: slide, root: %s/wsi, mpp: 1.0, assume_mpp: 0.25, max_bad: 0.5, region: [48, 48], per_slide: 6}
views: {size: [32, 32], crop: [0.5, 1.0]}
backbone: {name: resnet, dims: 2, depth: 10, stem: small, width: 4, norm: batch}
method: {name: byol, projector: [16, 8], predictor: [16, 8]}
optim: {name: adamw, lr: 1e-3}
loop: {steps: 2, batch: 4, chunk: 2}
"""


def test_two_steps_of_a_run(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN % shared_data)
    run.train(config.load("run.yaml"))
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 2
    card = load_encoder("out/encoder").card
    assert (card.fingerprint and card.fingerprint.count, card.channels) == (12, 3)
