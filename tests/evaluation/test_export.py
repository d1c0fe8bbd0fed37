"""Exports: their numbers are the encoder's, what differs is not written, and the pages' snippets run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle.properties import InferProperties
from PIL import Image
from torch import Tensor, nn

import volssl
import volssl.evaluation.export as export_file
from volssl.data import DataConfig, PhantomConfig, StackConfig, VolumeConfig
from volssl.data.image_config import ImageConfig
from volssl.data.items import Keep, Window, ZScore
from volssl.data.slide_config import SlideConfig
from volssl.data.video_config import VideoConfig
from volssl.errors import ConfigError, DataError, RunError
from volssl.evaluation.bundle import INFERENCE, METADATA, bundle_run, compare_preprocessing, parsed
from volssl.evaluation.bundle_transforms import prepared
from volssl.evaluation.card import Card
from volssl.evaluation.encoder import Encoder, random_encoder, save_encoder
from volssl.evaluation.export import Format, compare, export, onnx_run, script_run
from volssl.models import BackboneConfig, ResNetConfig, ViTConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "use_elsewhere.md"
SMALL: dict[str, Any] = {"depth": 10, "width": 4}
TINY: dict[str, Any] = {"width": 12, "depth": 2, "heads": 2}
# name: backbone, channels, size. Of every norm, stem and pool; the ViTs' positions are interpolated from another size.
BACKBONES: dict[str, tuple[BackboneConfig, int, tuple[int, ...]]] = {
    "resnet3d_batch": (ResNetConfig(stem="small", **SMALL), 1, (6, 16, 16)),
    "resnet3d_instance": (ResNetConfig(stem="r3d", norm="instance", **SMALL), 2, (8, 32, 32)),
    "resnet2d_group": (ResNetConfig(dims=2, norm="group", **SMALL), 3, (64, 64)),
    "resnet2d_dilated": (ResNetConfig(dims=2, dilated=True, shortcut="A", **SMALL), 1, (32, 24)),
    "vit3d": (ViTConfig(patch=(4, 8, 8), size=(8, 16, 16), **TINY), 1, (8, 24, 24)),
    "vit2d": (ViTConfig(dims=2, patch=(8, 8), size=(16, 16), pool="mean", layer_scale=0.1, **TINY), 3, (24, 24)),
}
pytestmark = [
    # What torch and MONAI say where a test itself calls them; ``export`` keeps them quiet by itself.
    pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:parsing config_file"),
]


def card_of(name: str, data: DataConfig | None = None) -> Card:
    backbone, channels, size = BACKBONES[name]
    data = data or (StackConfig(root="") if len(size) == 3 else ImageConfig(root=""))
    return Card(backbone=backbone, channels=channels, region=size, size=size, data=data, method="byol", step=7, seed=3)


def lived_in(card: Card) -> Encoder:
    """A random encoder whose norms have statistics and weights of their own, as after training."""
    encoder = random_encoder(card, 1)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in encoder.network.state_dict().items():
        if "running" in name or tensor.ndim == 1:
            tensor += 0.3 * torch.rand(tensor.shape, generator=generator)
    return encoder


def images(card: Card, batch: int) -> Tensor:
    return torch.rand(batch, card.channels, *card.size, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("name", BACKBONES)
def test_torchscript(name: str, tmp_path: Path) -> None:
    """Of batches that neither the trace nor the export's own comparison has seen; the card travels in the file."""
    card = card_of(name)
    encoder = lived_in(card)
    told = export(encoder, "torchscript", tmp_path / "encoder.ts")
    assert (told.path, told.largest < 1e-5) == (tmp_path / "encoder.ts", True)
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.ts"]
    held = {"card.json": ""}
    module = torch.jit.load(tmp_path / "encoder.ts", _extra_files=held)  # type: ignore[no-untyped-call]
    assert Card.model_validate_json(held["card.json"]) == encoder.card
    for batch in (1, 4):
        own = encoder(images(card, batch))
        torch.testing.assert_close(module(images(card, batch)), own.pooled)
        torch.testing.assert_close(module.tokens(images(card, batch)), own.tokens)


@pytest.mark.parametrize("name", ["resnet3d_batch", "vit2d"])
def test_onnx(name: str, tmp_path: Path) -> None:
    """As TorchScript, with both outputs by name. Of each family one: an export takes seconds."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    card = card_of(name)
    encoder = lived_in(card)
    assert export(encoder, "onnx", tmp_path / "encoder.onnx").largest < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    assert Card.model_validate_json(session.get_modelmeta().custom_metadata_map["card.json"]) == encoder.card
    for batch in (1, 4):
        given, own = onnx_run(tmp_path / "encoder.onnx")(images(card, batch)), encoder(images(card, batch))
        torch.testing.assert_close(given["pooled"], own.pooled, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(given["tokens"], own.tokens, rtol=1e-4, atol=1e-5)


def test_the_encoder_is_left_as_it_was(tmp_path: Path) -> None:
    """In the middle of its training, say: mode, gradients and weights."""
    encoder = random_encoder(card_of("vit3d"), 0).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = torch.get_rng_state()
    export(encoder, "torchscript", tmp_path / "encoder.ts")
    assert encoder.network.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


class Baked(nn.Module):
    """Divides by the batch's size as the trace saw it: right for two images, wrong for others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        features = self.network(image)
        return type(features)(features.tokens, features.grid, features.pooled * (len(image) / 2))


@pytest.mark.parametrize("to", ["torchscript", "monai-bundle"])
def test_what_differs_is_not_written(to: Format, tmp_path: Path) -> None:
    """A trace that holds for two images alone: one line with the difference, and nothing of it is left."""
    card = card_of("resnet3d_batch")
    network = random_encoder(card, 0).network
    encoder = Encoder(network, card)
    encoder.network = Baked(network)
    encoder.network.width = network.width
    with pytest.raises(RunError, match=r"its pooled of 1 images differ by up to \d\S*, .*: nothing was written"):
        export(encoder, to, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failure_and_is_replaced_by_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, out = card_of("resnet3d_batch"), tmp_path / "encoder.ts"
    out.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(export_file, "SLACK", 0.0)
        patch.setattr(export_file, "NEAR", -1.0)  # the negative control of the comparison: not even equal is near
        with pytest.raises(RunError, match="differ by up to"):
            export(random_encoder(card, 0), "torchscript", out)
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.ts"]
    assert out.read_text() == "old"
    export(random_encoder(card, 0), "torchscript", out)
    assert script_run(out)(images(card, 2))["pooled"].shape == (2, 32)


@pytest.mark.parametrize("change", [1.0, float("nan")])
def test_comparison_sees_one_wrong_weight(change: float, tmp_path: Path) -> None:
    """One of thousands of weights, in the last layer."""
    card = card_of("vit3d")
    encoder, other = random_encoder(card, 0), random_encoder(card, 0)
    export(other, "torchscript", tmp_path / "encoder.ts")
    run = script_run(tmp_path / "encoder.ts")
    assert compare(encoder.network, run, card, "torchscript") < 1e-5
    weights = encoder.network.state_dict()["norm.bias"]
    weights[3] += change
    with pytest.raises(RunError, match="differ by up to"):
        compare(encoder.network, run, card, "torchscript")


def test_other_shapes_are_refused() -> None:
    card = card_of("resnet3d_batch")
    encoder = random_encoder(card, 0)
    with pytest.raises(RunError, match=r"pooled of 1 images have the shape \[1, 31\] for \[1, 32\]"):
        compare(encoder.network, lambda x: {"pooled": encoder(x).pooled[:, 1:], "tokens": x}, card, "onnx")


def test_what_its_runtime_refuses_is_one_line() -> None:
    """As where a trace holds the size of another batch in a shape."""
    card = card_of("resnet3d_batch")
    with pytest.raises(RunError, match=r"^--to onnx cannot hold this network \(shape '\[2, 3\]' is invalid.*\)$"):
        compare(random_encoder(card, 0).network, lambda x: {"pooled": x.view(2, 3)}, card, "onnx")


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    """A folder where a file is wanted, a bundle where something is, a file where the folder should be."""
    encoder = random_encoder(card_of("resnet3d_batch"), 0)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="taken is a folder: name a file"):
        export(encoder, "torchscript", tmp_path / "taken")
    with pytest.raises(ConfigError, match="taken is there already: remove it or name another"):
        export(encoder, "monai-bundle", tmp_path / "taken")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/encoder\.ts cannot be written \(.+\)"):
        export(encoder, "torchscript", tmp_path / "file" / "encoder.ts")


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volssl.data.extra.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"--to onnx needs the package onnx: pip install 'volssl\[onnx\]'"):
        export(random_encoder(card_of("resnet3d_batch"), 0), "onnx", tmp_path / "encoder.onnx")


# Every way to prepare an image that MONAI's transforms can say; regions that are resampled to the size, or are it.
MM = (2.5, 1.5, 1.4)
PREPARED: dict[str, tuple[str, DataConfig, tuple[int, ...]]] = {
    "volume": ("resnet3d_batch", VolumeConfig(root="", spacing=MM, orientation="SPL"), (12, 40, 40)),
    "as acquired": (
        "vit3d",
        VolumeConfig(root="", spacing=MM, intensity=ZScore(), crop_foreground=True),
        (8, 24, 24),
    ),
    "ct": ("vit3d", VolumeConfig(root="", orientation="RAS", intensity=Window(centre=40, width=400)), (8, 30, 30)),
    "mixed fit": ("vit3d", VolumeConfig(root="", fit=("crop", "resize", "resize"), time=1), (8, 24, 24)),
    "sequences": (
        "resnet3d_instance",
        VolumeConfig(root="", sequences=("*T1*", "*T2*"), sequences_as="channels"),
        (8, 32, 32),
    ),
    "one sequence": ("vit3d", VolumeConfig(root="", sequences=("*T1*",), cache_dtype="float32"), (8, 24, 24)),
    "time as channels": ("resnet3d_instance", VolumeConfig(root="", time="channels", time_points=2), (8, 32, 32)),
    "stack": ("resnet3d_batch", StackConfig(root="", fit="resize", non_finite="zero"), (6, 16, 16)),
    "phantom": ("resnet3d_batch", PhantomConfig(), (6, 24, 24)),
    "clip": ("vit3d", VideoConfig(root=""), (8, 24, 24)),
    "rgb": ("vit2d", ImageConfig(root="", colour="rgb"), (32, 32)),
    "grey": ("resnet2d_dilated", ImageConfig(root="", intensity=Keep()), (32, 24)),
    "luma": ("resnet2d_dilated", ImageConfig(root="", colour="luma", fit="crop"), (64, 64)),
    "tile": ("vit2d", SlideConfig(root="", mpp=0.5), (24, 24)),
    "slices": ("resnet2d_dilated", VolumeConfig(root="", slices=4), (32, 24)),
}


def bundled(name: str, folder: Path) -> Encoder:
    """An encoder that was trained on images prepared in this way, with its bundle in the folder."""
    backbone, data, region = PREPARED[name]
    encoder = random_encoder(card_of(backbone, data).model_copy(update={"region": region}), 0)
    export(encoder, "monai-bundle", folder)
    return encoder


@pytest.mark.parametrize("name", PREPARED)
def test_a_bundle_prepares_as_the_encoder_does(name: str, tmp_path: Path) -> None:
    """The export compares the two on a random file. Negative control: one flip before the fit is seen."""
    encoder = bundled(name, tmp_path / "encoder")
    how, parser = prepared(encoder.card), parsed(tmp_path / "encoder")
    at = next(i for i, step in enumerate(how.steps) if step["_target_"] in ("ResizeWithPadOrCropd", "CropForegroundd"))
    parser["preprocessing"]["transforms"].insert(at, {"_target_": "Flipd", "keys": "image", "spatial_axis": 0})
    with pytest.raises(RunError, match=r"prepares images otherwise, by up to .*nothing was written"):
        compare_preprocessing(parser, encoder, how)


def test_bundle_is_what_monai_expects(tmp_path: Path) -> None:
    """The folders of the specification, the keys that its schema of 2024-07-25 requires, the properties that MONAI
    requires of an inference, and MONAI's own look at the network's input and output."""
    encoder, folder = bundled("volume", tmp_path / "encoder"), tmp_path / "encoder"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {METADATA, INFERENCE, "configs/card.json", "models/model.ts", "models/model.pt", "docs/README.md"}
    metadata = json.loads((folder / METADATA).read_text())
    required = "schema version monai_version pytorch_version numpy_version required_packages_version task description"
    assert metadata.keys() >= {*required.split(), "authors", "copyright", "network_data_format"}
    spoken = metadata["network_data_format"]
    for tensor in (spoken["inputs"]["image"], spoken["outputs"]["pred"]):
        assert tensor.keys() >= {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
    assert spoken["inputs"]["image"]["spatial_shape"] == list(encoder.card.size)
    assert spoken["outputs"]["pred"]["num_channels"] == encoder.width
    inference = json.loads((folder / INFERENCE).read_text())
    assert {p["id"] for p in InferProperties.values() if p["required"]} <= inference.keys()
    files = str(folder / METADATA), str(folder / INFERENCE)
    monai.bundle.verify_net_in_out("network", *files, device="cpu", bundle_root=str(folder))


def test_bundle_loads_as_a_state_dict(tmp_path: Path) -> None:
    """``models/model.pt``, which the specification requires, fits the network that the configuration defines."""
    encoder = bundled("stack", tmp_path / "encoder")
    state = torch.load(tmp_path / "encoder" / "models" / "model.pt", weights_only=True)
    own = {f"network.{name}": tensor for name, tensor in encoder.network.state_dict().items()}
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], own[name]) for name in own)


def test_bundle_of_real_volumes(shared_data: Path, tmp_path: Path) -> None:
    """NIfTI of a hospital through MONAI alone, from the file to the features, beside volssl's own."""
    data = VolumeConfig(root="", spacing=(1.5, 1.2, 1.2), orientation="SPL", crop_foreground=True)
    encoder = lived_in(card_of("vit3d", data).model_copy(update={"region": (20, 36, 36)}))
    export(encoder, "monai-bundle", tmp_path / "encoder")
    parser = parsed(tmp_path / "encoder")
    prepare, run = parser.get_parsed_content("preprocessing"), bundle_run(parser)
    folder = shared_data / "nifti"
    paths = [*sorted((folder / "hippocampus" / "images").iterdir())[:3], *sorted(folder.glob("ms_brain_raw*/*"))[:1]]
    assert len(paths) == 4
    for path in paths:
        own, image = encoder.preprocess(path), prepare({"image": str(path)})["image"]
        assert type(image) is Tensor
        torch.testing.assert_close(image, own, rtol=0, atol=2.0**-10)  # two steps of the cache's float16 at 1
        torch.testing.assert_close(run(image[None])["pooled"], encoder(own[None]).pooled, rtol=1e-2, atol=1e-2)


def test_bundle_of_real_pictures(shared_data: Path, tmp_path: Path) -> None:
    """JPEG and PNG, tiles in colour and grey radiographs."""
    for name, colour, folder in (("vit2d", "rgb", "lc25000_lung"), ("resnet2d_dilated", "grey", "mednist")):
        encoder = random_encoder(card_of(name, ImageConfig(root="", colour=colour)), 0)  # type: ignore[arg-type]
        export(encoder, "monai-bundle", tmp_path / folder)
        prepare = parsed(tmp_path / folder).get_parsed_content("preprocessing")
        found = sorted(p for p in (shared_data / "images" / folder).rglob("*") if p.suffix in (".png", ".jpeg", ".jpg"))
        for path in found[:: len(found) // 3]:
            image = prepare({"image": str(path)})["image"]
            torch.testing.assert_close(image, encoder.preprocess(path), rtol=0, atol=2.0**-10)


def test_a_small_object_on_nothing_is_scaled_alike(tmp_path: Path) -> None:
    """Both percentiles are 0: the least and the greatest value instead, as volssl does and MONAI does not."""
    encoder = random_encoder(card_of("resnet3d_batch"), 0)
    export(encoder, "monai-bundle", tmp_path / "encoder")
    stack = np.zeros((6, 16, 16), np.float32)
    stack[2, 5, 5:7] = 300, 600  # 2 of 1,536 voxels
    np.save(tmp_path / "stack.npy", stack)
    prepare = parsed(tmp_path / "encoder").get_parsed_content("preprocessing")
    image = prepare({"image": str(tmp_path / "stack.npy")})["image"]
    assert torch.equal(image, encoder.preprocess(stack))
    assert image[0, 2, 5, 5:7].tolist() == [0.5, 1.0]


def test_a_picture_in_colour_is_refused_where_grey_is_meant(tmp_path: Path) -> None:
    encoder = random_encoder(card_of("resnet2d_dilated"), 0)
    export(encoder, "monai-bundle", tmp_path / "encoder")
    parser = parsed(tmp_path / "encoder")
    prepare, run = parser.get_parsed_content("preprocessing"), bundle_run(parser)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    with pytest.raises(RuntimeError, match="to have 1 channels, but got 3 channels"):
        run(prepare({"image": str(tmp_path / "colour.png")})["image"][None])
    Image.fromarray(np.repeat(pixels[..., :1], 3, axis=2)).save(tmp_path / "grey.png")
    image = prepare({"image": str(tmp_path / "grey.png")})["image"]
    torch.testing.assert_close(image, encoder.preprocess(tmp_path / "grey.png"), rtol=0, atol=2.0**-10)


def test_what_no_transform_does_is_said(tmp_path: Path) -> None:
    """N4, slides, DICOM, several grids: in the report, and in the bundle's page, which says that it is not complete."""
    told = export(random_encoder(card_of("vit3d", VolumeConfig(root="", n4=True)), 0), "monai-bundle", tmp_path / "n4")
    page = (tmp_path / "n4" / "docs" / "README.md").read_text()
    assert told.notes[0].startswith("N4 is not part of it")
    assert all(note in page for note in told.notes)
    assert "**It is not complete.**" in page
    notes = {name: " ".join(prepared(card_of(*PREPARED[name][:2])).notes) for name in PREPARED}
    assert "No slide is read: cut tiles at 0.5 microns per pixel" in notes["tile"]
    assert "No DICOM is read" in notes["volume"]
    assert "in this order: *T1*, *T2*" in notes["sequences"]
    assert "No video is read: save each clip as .npy" in notes["clip"]
    assert "scaled together" in notes["slices"]


def test_images_that_no_picture_holds(tmp_path: Path) -> None:
    """Slices of two channels: TorchScript and ONNX take them, a bundle could not be fed."""
    backbone = ResNetConfig(dims=2, stem="small", **SMALL)
    data = VolumeConfig(root="", slices=4, time="channels", time_points=2)
    card = card_of("resnet2d_group", data).model_copy(update={"backbone": backbone, "channels": 2})
    export(random_encoder(card, 0), "torchscript", tmp_path / "encoder.ts")
    with pytest.raises(DataError, match="takes 2D images of 2 channels, which no picture is"):
        export(random_encoder(card, 0), "monai-bundle", tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.ts"]


def test_bundle_runs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``monai.bundle.run`` writes the features of every file of a folder."""
    encoder = lived_in(card_of("vit3d", VolumeConfig(root="", orientation="SPL")))
    export(encoder, "monai-bundle", tmp_path / "encoder")
    volumes(tmp_path / "data", 2)
    monkeypatch.chdir(tmp_path / "encoder")
    monai.bundle.run(config_file=INFERENCE, dataset_dir=str(tmp_path / "data"), logging_file=False)
    written = [line.split(",") for line in (tmp_path / "encoder/eval/features.csv").read_text().split()]
    assert [Path(row[0]).name for row in written] == ["0.nii.gz", "1.nii.gz"]
    for path, *features in written:
        own = encoder(encoder.preprocess(path)[None]).pooled[0]
        torch.testing.assert_close(torch.tensor([float(f) for f in features]), own, rtol=1e-2, atol=1e-2)


def volumes(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        numbers = rng.integers(0, 900, (20, 22, 9)).astype(np.int16)
        nib.save(nib.Nifti1Image(numbers, np.diag([-1.0, -1, 2, 1])), folder / f"{i}.nii.gz")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page supposes: an encoder, some labelled scans, and what its command lines write."""
    root = tmp_path_factory.mktemp("elsewhere")
    card = card_of("resnet3d_batch", VolumeConfig(root="", orientation="SPL", intensity=ZScore()))
    encoder = random_encoder(card, 0)
    save_encoder(root / "runs/byol3d/encoder", encoder.network, card)
    volumes(root / "scans", 6)
    rows = [f"scans/{i}.nii.gz,{'torn' if i % 2 else 'whole'},{i // 2}" for i in range(6)]
    (root / "labels.csv").write_text("path,label,patient\n" + "\n".join(rows) + "\n")
    for line in re.findall(r"^volssl export .*", PAGE.read_text(), re.MULTILINE):
        _, _, folder, _, to, _, out = shlex.split(line)
        export(volssl.load_encoder(root / folder), to, root / out)  # type: ignore[arg-type]
    return root


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(snippets())))
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of ``open`` in one line
def test_the_page(number: int, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snippet runs as it stands, and what it names pooled or features is the encoder's."""
    monkeypatch.chdir(elsewhere)
    names: dict[str, Any] = {}
    exec(compile(snippets()[number], f"{PAGE.name} {number}", "exec"), names)
    if "pooled" in names:
        assert np.asarray(names["pooled"]).shape[1] == 32
