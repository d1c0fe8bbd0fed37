"""Encoder folders: whole or refused, private folders forgotten, and studies prepared as in training."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import volssl
from tests.data.conftest import MakeSlice, SaveAll, make_slice, save_all  # noqa: F401 - fixtures
from volssl.data import DataConfig, VolumeConfig
from volssl.data.image_config import Colour, ImageConfig
from volssl.data.items import Window
from volssl.data.mixture_config import MixtureConfig
from volssl.data.seen import KINDS, SeenItems
from volssl.data.slide_config import SlideConfig
from volssl.data.video_config import VideoConfig
from volssl.errors import ConfigError, DataError
from volssl.evaluation import encoder as encoder_file
from volssl.evaluation.card import Card, Fingerprint
from volssl.evaluation.encoder import build_network, load_encoder, load_items, random_encoder, save_encoder
from volssl.models import ResNetConfig
from volssl.models.published import recognise
from volssl.views.views import whole


@pytest.fixture
def network(card: Card) -> nn.Module:
    return build_network(card, seed=1)


@pytest.fixture
def folder(tmp_path: Path, network: nn.Module, card: Card) -> Path:
    save_encoder(tmp_path / "encoder", network, card)
    return tmp_path / "encoder"


def test_round_trip(folder: Path, network: nn.Module, card: Card) -> None:
    """The loaded encoder gives the saved network's features to the bit, in evaluation mode."""
    encoder = volssl.load_encoder(folder)
    images = torch.rand(2, 1, *card.size)
    assert not encoder.training
    assert torch.equal(encoder(images).pooled, network.eval()(images).pooled)
    assert encoder.card == card.signed(encoder.card.sha256)
    assert encoder.card.versions["volssl"] == volssl.__version__
    assert sorted(p.name for p in folder.parent.iterdir()) == ["encoder"]


def test_a_checkout_that_is_not_installed_signs_too(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without metadata of volssl itself the run must not die when it saves its encoder."""

    def lookup(name: str) -> str:
        if name == "volssl":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("volssl.evaluation.card.version", lookup)
    assert card.signed("ab").versions == {"volssl": volssl.__version__, "torch": "1", "monai": "1"}


def test_saving_again_replaces(folder: Path, card: Card) -> None:
    """The second network is what is loaded, and nothing else stays behind."""
    other = build_network(card, seed=2)
    save_encoder(folder, other, card.model_copy(update={"step": 8}))
    encoder = load_encoder(folder)
    assert encoder.card.step == 8
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))
    assert [p.name for p in folder.parent.iterdir()] == ["encoder"]


def test_a_save_that_dies_leaves_the_old_encoder(folder: Path, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead before the renames: the old pair is whole. The next save clears what was left."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    other = build_network(card, seed=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            save_encoder(folder, other, card)
    assert load_encoder(folder).card.step == 7
    save_encoder(folder, other, card)
    assert [p.name for p in folder.parent.iterdir()] == ["encoder"]


class Dying:
    """Lets ``lives`` calls that touch the disk pass and dies at the next one, before or after it is done."""

    def __init__(self, patch: pytest.MonkeyPatch, lives: int, *, done: bool) -> None:
        self.lives, self.done = lives, done
        calls = ((Path, "rename"), (Path, "mkdir"), (encoder_file, "_write"), (shutil, "rmtree"), (os, "fsync"))
        for owner, name in calls:
            patch.setattr(owner, name, self.mortal(getattr(owner, name)))

    def mortal(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.lives -= 1
            last = self.lives == -1
            result = function(*args, **kwargs) if self.done or not last else None
            if last:
                raise KeyboardInterrupt
            return result

        return call


@pytest.mark.parametrize("done", [False, True])
def test_a_save_may_die_twice_at_any_call(folder: Path, card: Card, network: nn.Module, done: bool) -> None:
    """The encoder loads after each death, the old or the new one, with its own list of as many items as it has steps,
    and the next save leaves nothing behind."""

    def save(step: int, lives: int) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            Dying(patch, lives, done=done)
            try:
                save_encoder(folder, network, card.model_copy(update={"step": step}), seen(step))
            except KeyboardInterrupt:
                return False
        return True

    def loaded() -> int:
        step, items = load_encoder(folder).card.step, load_items(folder)
        assert items is not None
        assert items.items == step
        return step

    for first in range(100):
        save_encoder(folder, network, card, seen(7))
        survived = save(8, first)
        assert loaded() in (7, 8)
        for second in range(100):
            done_again = save(9, second)
            assert loaded() in (7, 8, 9)
            if done_again:
                break
        assert [p.name for p in folder.parent.iterdir()] == ["encoder"]
        if survived:
            break
    assert first > 8


def seen(count: int) -> SeenItems:
    """So many items, whose hashes are 0, 1, ..."""
    hashes = np.arange(count, dtype=np.uint64)
    return SeenItems({"file": hashes, "image": hashes, "study": hashes[:0], "patient": hashes[:1]}, count, count, 5)


def test_what_an_encoder_has_seen_is_beside_it(folder: Path, card: Card, network: nn.Module) -> None:
    """Signed by the card; what was saved without a list, or before there were lists, has none."""
    assert load_items(folder) is None
    content = json.loads((folder / "card.json").read_text())
    del content["fingerprint"]["items"]
    (folder / "card.json").write_text(json.dumps(content))
    assert load_items(folder) is None
    save_encoder(folder, network, card, seen(3))
    items = load_items(folder)
    assert items is not None
    assert {kind: hashes.tolist() for kind, hashes in items.hashes.items()} == {
        "file": [0, 1, 2],
        "image": [0, 1, 2],
        "study": [],
        "patient": [0],
    }
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "items.safetensors", "model.safetensors"]
    with pytest.raises(ValueError, match="fingerprint"):
        save_encoder(folder, network, card.model_copy(update={"fingerprint": None}), seen(3))


def test_a_list_of_another_encoder_is_noticed(folder: Path, card: Card, network: nn.Module, tmp_path: Path) -> None:
    """Swapped, then gone; the weights load all the same."""
    save_encoder(folder, network, card, seen(3))
    save_encoder(tmp_path / "other", network, card, seen(4))
    shutil.copy(tmp_path / "other" / "items.safetensors", folder)
    with pytest.raises(DataError, match="another encoder's"):
        load_items(folder)
    (folder / "items.safetensors").unlink()
    with pytest.raises(DataError, match="copy the whole folder again"):
        load_items(folder)
    assert load_encoder(folder).card.step == 7


def test_folders_are_forgotten(folder: Path) -> None:
    """Where the training images lay is nobody's business who gets the encoder."""
    assert "secret" not in (folder / "card.json").read_text()


def test_resamples_a_region(folder: Path, card: Card) -> None:
    """A batch of whole regions and one of view size both pass; a constant region is a constant view."""
    encoder = load_encoder(folder)
    region, view = torch.full((1, 1, *card.region), 0.5), torch.full((1, 1, *card.size), 0.5)
    torch.testing.assert_close(encoder(region).pooled, encoder(view).pooled)


def test_random_encoder_is_seeded_and_touches_no_generator(card: Card) -> None:
    """Same seed, same weights; the global generator goes on as if nothing had happened."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    a, b, c = random_encoder(card, 1), random_encoder(card, 1), random_encoder(card, 2)
    assert torch.equal(torch.rand(3), expected)
    weights = [next(e.parameters()) for e in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert (a.card.method, a.card.size) == ("random", card.size)


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as e:
        load_encoder(folder)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_no_encoder(tmp_path: Path, folder: Path) -> None:
    """An empty folder, and a folder above an encoder: the message says where to look."""
    (tmp_path / "empty").mkdir()
    assert "give the encoder/ folder" in refused(tmp_path / "empty")
    assert f"name one of {folder}" in refused(folder.parent)


def test_damaged(folder: Path) -> None:
    """One flipped bit in the weights, a card cut short, missing weights."""
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert "SHA-256" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "cannot be read" in refused(folder)
    (folder / "card.json").write_text((folder / "card.json").read_text()[:50])
    assert "card.json is damaged" in refused(folder)


def test_an_unknown_key_is_named(folder: Path) -> None:
    content = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(content | {"colour": "red"}))
    assert "colour" in refused(folder)


def test_zero_matched_keys_is_an_error(folder: Path, network: nn.Module, card: Card) -> None:
    """BYOLMed3D defect: a file of {'model_state_dict.*': ...} loads nothing under strict=False, silently."""
    wrapped = {f"model_state_dict.{k}": v for k, v in network.state_dict().items()}
    total = len(wrapped)
    save_encoder(folder, _Saved(wrapped), card)
    assert f"0 of {total} weights fit" in refused(folder)


def test_partial_match_is_an_error(folder: Path, network: nn.Module, card: Card) -> None:
    """One key short: no strict=False, so it is named."""
    state = dict(network.state_dict())
    gone = sorted(state)[0]
    del state[gone]
    save_encoder(folder, _Saved(state), card)
    assert gone in refused(folder)


class _Saved(nn.Module):
    """A module whose state dict is the one given."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.saved = state

    def state_dict(self, *_: object, **__: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return self.saved


def test_not_safetensors(folder: Path, card: Card) -> None:
    """Bytes whose digest is right but which are no safetensors file."""
    (folder / "model.safetensors").write_bytes(b"pickle")
    signed = card.signed(hashlib.sha256(b"pickle").hexdigest())
    (folder / "card.json").write_text(signed.model_dump_json())
    assert "not a safetensors file" in refused(folder)


def test_preprocess_is_what_training_did(folder: Path, card: Card, mrnet: Path, tmp_path: Path) -> None:
    """A file and its array give the item of the source, resampled whole; a folder of several is refused."""
    encoder = load_encoder(folder)
    path = mrnet / "train" / "axial" / "0001.npy"
    source = card.stacks(str(path.parent), str(tmp_path / "cache")).build(card.region)
    item = source[list(source.ids).index("0001.npy")].image
    expected = whole(item[None], card.size)[0]
    assert torch.equal(encoder.preprocess(path), expected)
    assert torch.equal(encoder.preprocess(np.load(path)), expected)
    assert encoder(encoder.preprocess(path)[None]).pooled.shape == (1, encoder.width)
    with pytest.raises(DataError, match="36 items"):
        encoder.preprocess(path.parent)
    with pytest.raises(DataError, match="channels are wanted"):
        encoder.preprocess(np.zeros((2, 8, 24, 24)))


def test_safetensors_only(folder: Path) -> None:
    """Tensors and plain JSON: what is on disk reads back without this package."""
    assert safetensors.torch.load_file(folder / "model.safetensors")
    assert json.loads((folder / "card.json").read_text())["format"] == 1


def flat_card(data: DataConfig, channels: int = 1) -> Card:
    """A ResNet-10 on 24 x 24, seen as 16 x 16."""
    backbone = ResNetConfig(dims=2, depth=10, stem="small", norm="batch", width=4)
    return Card(
        backbone=backbone, channels=channels, region=(24, 24), size=(16, 16), data=data, method="byol", step=7, seed=3
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A grey picture, one in colour, an archive of three."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / "colour.png")
    np.savez(folder / "some.npz", val_images=rng.integers(0, 256, (3, 24, 24), np.uint8), val_labels=np.arange(3))
    return folder


@pytest.mark.parametrize(("colour", "channels", "name"), [("grey", 1, "grey.png"), ("rgb", 3, "colour.png")])
def test_a_picture_and_its_array_are_what_training_saw(
    colour: Colour, channels: int, name: str, pictures: Path, tmp_path: Path
) -> None:
    """Rows x columns, with three colours in front or behind; a card that went through JSON does the same."""
    card = flat_card(ImageConfig(root="/secret/patients", colour=colour), channels)
    save_encoder(tmp_path / "encoder", build_network(card, seed=1), card)
    encoder = load_encoder(tmp_path / "encoder")
    config = ImageConfig(root=str(pictures / name), colour=colour, cache=str(tmp_path / "cache"))
    expected = whole(config.build(card.region)[0].image[None], card.size)[0]
    array = np.array(Image.open(pictures / name))
    assert torch.equal(encoder.preprocess(pictures / name), expected)
    assert torch.equal(encoder.preprocess(array), expected)
    assert torch.equal(encoder.preprocess(np.moveaxis(array, -1, 0) if channels == 3 else array[None]), expected)
    assert encoder(expected[None]).pooled.shape == (1, encoder.width)


def test_arrays_that_are_no_picture_are_one_line(card: Card) -> None:
    """A stack, fractions where bytes are meant, colour for a grey encoder; a picture for an encoder of volumes."""
    grey = random_encoder(flat_card(ImageConfig(root="")), 0)
    colour = random_encoder(flat_card(ImageConfig(root="", colour="rgb"), 3), 0)
    noise = np.random.default_rng(0).random((24, 24, 3))
    with pytest.raises(DataError, match=r"rows x columns are wanted"):
        grey.preprocess(np.zeros((8, 24, 24)))
    with pytest.raises(DataError, match="multiply by 255"):
        colour.preprocess(noise)
    with pytest.raises(DataError, match=r"set data\.colour to rgb"):
        grey.preprocess(noise)
    with pytest.raises(DataError, match="channels are wanted, in front"):
        random_encoder(card, 0).preprocess(np.zeros((24, 24)))


def test_an_encoder_of_images_goes_to_work_on_other_images(pictures: Path, tmp_path: Path) -> None:
    """All of an archive, whichever split it was trained on; never on stacks of slices."""
    card = flat_card(ImageConfig(root="x.npz", split="train", label_column=0, fit="crop"))
    source = card.source(str(pictures / "some.npz"), str(tmp_path / "cache"))
    assert isinstance(source, ImageConfig)
    assert (source.split, source.label_column, source.fit, source.max_bad) == ("all", 0, "crop", 0.0)
    assert card.pictures("tiles", "").label_column is None
    with pytest.raises(DataError, match="takes 2D images"):
        card.stacks("stacks", "")


def test_an_encoder_of_slices_takes_pictures_and_reads_volumes(pictures: Path, tmp_path: Path) -> None:
    window = Window(centre=50, width=400)
    card = flat_card(VolumeConfig(root="scans", slices=4, intensity=window, orientation="SPL", fit="resize"))
    made = card.pictures("tiles", "")
    assert (made.colour, made.intensity, made.fit, made.dims) == ("grey", window, "resize", 2)
    assert random_encoder(card, 0).preprocess(pictures / "grey.png").shape == (1, 16, 16)
    source = card.source("scans", "")
    assert isinstance(source, VolumeConfig)
    assert (source.slices, source.orientation, source.region) == (4, "SPL", (24, 24))
    affine = np.diag([1.0, 1, 1, 1])
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((24, 24, 9)), affine), tmp_path / "scan.nii")
    with pytest.raises(DataError, match=r"holds 4 items: .* card\.source"):
        random_encoder(card, 0).preprocess(tmp_path / "scan.nii")


def test_of_several_data_sets_one_is_named(pictures: Path) -> None:
    """Where they are prepared alike there is nothing to name; no part's folder stays in the card."""
    first, same = ImageConfig(root="/secret/a"), ImageConfig(root="/secret/b.npz", split="val", max_bad=0.5)
    second = ImageConfig(root="/secret/b", fit="crop")
    alike, unlike = (flat_card(MixtureConfig(parts=(first, other), root="/secret")) for other in (same, second))
    assert "secret" not in unlike.model_dump_json()
    assert alike.pictures("x", "").fit == "resize"
    with pytest.raises(DataError, match=r"card\.part\(i\)\), i of 0 \(image\), 1 \(image\)"):
        random_encoder(unlike, 0).preprocess(pictures / "grey.png")
    assert unlike.part(1).pictures("x", "").fit == "crop"
    assert random_encoder(unlike.part(1), 0).preprocess(pictures / "grey.png").shape == (1, 16, 16)


def test_a_tile_keeps_its_microns_per_pixel(tmp_path: Path) -> None:
    """Of 30 x 40 pixels the middle 24 x 24 are taken, not all of them made smaller."""
    card = flat_card(SlideConfig(root="slides", mpp=0.5), 3)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "tile.png")
    Image.fromarray(pixels[3:27, 8:32]).save(tmp_path / "middle.png")
    encoder = random_encoder(card, 0)
    assert torch.equal(encoder.preprocess(tmp_path / "tile.png"), encoder.preprocess(tmp_path / "middle.png"))


def test_which_items_there_are_is_not_how_they_are_prepared() -> None:
    """Tiles and clips may be drawn otherwise; the time between the frames of a clip may not."""

    def card(*parts: Any) -> Card:
        return flat_card(MixtureConfig(parts=parts, root=""), parts[0].channels)

    slides = SlideConfig(root="a"), SlideConfig(root="b", per_slide=5, tissue=0.1, stride=(8, 8))
    assert card(*slides).preprocessing == card(*slides).part(0).data
    videos = VideoConfig(root="a"), VideoConfig(root="b", clips="all")
    assert card(*videos).preprocessing.name == "video"
    for other in (SlideConfig(root="b", mpp=1.0), VideoConfig(root="b", stride=2)):
        first = SlideConfig(root="a") if other.name == "slide" else VideoConfig(root="a", colour="luma")
        with pytest.raises(DataError, match="prepared in different ways"):
            _ = card(first, other).preprocessing


def test_an_encoder_of_slices_takes_one_dicom_slice(tmp_path: Path, make_slice: MakeSlice, save_all: SaveAll) -> None:  # noqa: F811
    """A volume of one slice has no spacing; the slice alone is a picture."""
    card = flat_card(VolumeConfig(root="scans", slices=4, fit="resize"))
    (path,) = save_all(tmp_path / "x", [make_slice(0.0)])
    assert random_encoder(card, 0).preprocess(path).shape == (1, 16, 16)


@pytest.mark.parametrize("name", ["card.json", "model.safetensors", "items.safetensors"])
def test_a_pipe_in_its_place_is_refused(name: str, tmp_path: Path, network: nn.Module, card: Card) -> None:
    known = card.model_copy(update={"fingerprint": Fingerprint(digest="0", count=0)})
    items = SeenItems({kind: np.array([], np.uint64) for kind in KINDS}, 0, 0, 0)
    save_encoder(tmp_path / "encoder", network, known, items)
    (tmp_path / "encoder" / name).unlink()
    os.mkfifo(tmp_path / "encoder" / name)
    with pytest.raises(DataError, match=f"{name}.* cannot be read .it is no regular file.: copy the"):
        load_items(tmp_path / "encoder") if name.startswith("items") else load_encoder(tmp_path / "encoder")
    if not name.startswith("items"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read .it is no regular file.: copy the folder"):
            recognise(tmp_path / "encoder")


def test_what_a_link_leads_to_is_left_alone(folder: Path, network: nn.Module, card: Card) -> None:
    """The new encoder takes its place; so it does of one under an unfinished name."""
    theirs = folder.rename(folder.with_name("theirs"))
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    for name in ("encoder", ".encoder.new", ".encoder.old"):
        folder.with_name(name).symlink_to(theirs)
    for _ in range(2):
        save_encoder(folder, network, card.model_copy(update={"step": 77}))
    assert load_encoder(folder).card.step == 77
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["encoder", "theirs"]
