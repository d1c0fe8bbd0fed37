"""An encoder for use without volssl: TorchScript, ONNX or a MONAI bundle, put in place once its numbers are right."""

from __future__ import annotations

import copy
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from volssl.data.extra import need
from volssl.errors import ConfigError, RunError
from volssl.evaluation import sourceless
from volssl.evaluation.bundle import METADATA, MODEL, Bundle, bundle_run, compare_preprocessing, parsed
from volssl.evaluation.card import CARD, Card
from volssl.evaluation.encoder import Encoder
from volssl.models.vit import ViT, resample_positions
from volssl.whole import remove

if TYPE_CHECKING:
    from volssl.types import Tensors

    Run = Callable[[Tensor], Tensors]

Format = Literal["torchscript", "onnx", "monai-bundle"]

BATCHES = (1, 2, 3)  # that every export is tried with
NEAR = 1e-5  # of the largest feature: what another order of float32 sums may change in any case
SLACK = 10.0  # times the distance at which float32 keeps the network itself from float64
ONNX_LIMIT = 2**31  # bytes of one protobuf message


@dataclass(frozen=True)
class Exported:
    """What was written.

    largest: the largest difference of any feature from the encoder's own, relative to the largest feature.
    notes: what whoever uses it must do, a line each.
    """

    path: Path
    to: Format
    largest: float
    notes: tuple[str, ...] = ()


class Network(nn.Module):
    """What is exported of a backbone: images (B, C, *size) to pooled features (B, D), and a method for its tokens."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        pooled: Tensor = self.network(image).pooled
        return pooled

    def tokens(self, image: Tensor) -> Tensor:
        """(B, N, D)."""
        tokens: Tensor = self.network(image).tokens
        return tokens


class Both(Network):
    """The same as two outputs of one pass: (B, D) and (B, N, D)."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        features = self.network(image)
        return features.pooled, features.tokens


def export(encoder: Encoder, to: Format, out: str | Path) -> Exported:
    """Write ``out`` (a file, or for a bundle a folder), or nothing at all.

    Every format takes float32 images (B, C, *card.size) of any B and gives ``pooled`` (B, D) and ``tokens`` (B, N, D).
    The card travels with it: in TorchScript as the extra file ``card.json``, in ONNX under that name in the metadata.
    What was written is read again and compared with the encoder on random images in float32 before it takes its name.

    Raises:
        ConfigError: a package is missing, or ``out`` cannot be written there.
        DataError: a bundle of an encoder whose images no MONAI transform prepares, as ``Card.pictures`` says.
        RunError: the format cannot hold the network, or its numbers differ by more than rounding.
    """
    out = Path(out)
    network = copy.deepcopy(encoder.network).cpu().eval().requires_grad_(False)
    with _put_in_place(out, folder=to == "monai-bundle") as fresh:
        if to == "monai-bundle":
            return Exported(out, to, *_bundle(encoder, network, fresh, out.name))
        if to == "onnx":
            _write(fresh, onnx_bytes(network, encoder.card))
            run = onnx_run(fresh)
        else:
            _write(fresh, script_bytes(script(network, encoder.card), {CARD: encoder.card.model_dump_json(indent=2)}))
            run = script_run(fresh)
        return Exported(out, to, compare(network, run, encoder.card, to))


def script(network: nn.Module, card: Card) -> torch.jit.ScriptModule:
    """TorchScript whose ``forward`` gives pooled features and whose ``tokens`` gives tokens."""
    example = torch.zeros(2, card.channels, *card.size)
    exported = Network(at_size(network, card.size)).eval()
    with _quiet(), torch.no_grad(), _refusal("torchscript"):
        traced: torch.jit.ScriptModule = torch.jit.trace_module(  # type: ignore[no-untyped-call]
            exported, {"forward": example, "tokens": example}, check_trace=False
        )
    return traced


def script_bytes(module: torch.jit.ScriptModule, extra: dict[str, str]) -> bytes:
    """The file that ``torch.jit.load`` reads. extra: name to text, which travels in it."""
    buffer = io.BytesIO()
    with _quiet():
        torch.jit.save(module, buffer, _extra_files={name: text.encode() for name, text in extra.items()})
    return sourceless.script(buffer.getvalue())


def script_run(path: Path) -> Run:
    """What a file of TorchScript says of images."""
    with _quiet():
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return lambda images: {"pooled": module(images), "tokens": module.tokens(images)}


def onnx_bytes(network: nn.Module, card: Card) -> bytes:
    """An ONNX model with the input ``image``, whose first axis is free, and the outputs ``pooled`` and ``tokens``."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        need(module, "onnx", "--to onnx")
    if (size := sum(p.nbytes for p in network.parameters())) >= ONNX_LIMIT:
        raise ConfigError(f"--to onnx: {size / 1e9:.1f} GB of weights, one ONNX file holds 2: use torchscript")
    example = torch.zeros(2, card.channels, *card.size)
    with _quiet(), _refusal("onnx"):
        program = torch.onnx.export(
            Both(at_size(network, card.size)).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["pooled", "tokens"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        sourceless.graph(program.model)
        program.model.metadata_props[CARD] = card.model_dump_json()
        content: bytes = program.model_proto.SerializeToString()
    return content


def onnx_run(path: Path) -> Run:
    """What onnxruntime says of images with an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> Tensors:
        given = session.run(names, {"image": images.numpy()})
        return dict(zip(names, map(torch.from_numpy, given), strict=True))

    return run


def at_size(network: nn.Module, size: tuple[int, ...]) -> nn.Module:
    """The network for images of ``size`` alone: a ViT with its positions resampled once and for all.

    Made in the exported graph, the matrices that resample them would stay on the device of the export.
    """
    if not isinstance(network, ViT) or network.config.size == size:
        return network
    network = copy.deepcopy(network)
    known, position = network.config, network.pos_embed
    patches = resample_positions(position[:, 1:], known.grid(known.size), known.grid(size))
    network.pos_embed = nn.Parameter(torch.cat([position[:, :1], patches], dim=1), requires_grad=False)
    network.config = known.model_copy(update={"size": size})
    return network


def compare(network: nn.Module, run: Run, card: Card, to: Format) -> float:
    """The largest difference of ``run`` from the network on random images, relative to the largest feature.

    How far float32 may go is measured: the network itself is compared with its float64 twin, since a norm over few
    voxels can make much of rounding.

    Raises:
        RunError: it went further than ``SLACK`` times that and ``NEAR``, or has other shapes.
    """
    twin, largest = copy.deepcopy(network).double(), 0.0
    for batch in BATCHES:
        generator = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, card.channels, *card.size, generator=generator)
        with _refusal(to):
            given = run(images)
        own, exact = _features(network, images), _features(twin, images.double())
        for name, wanted in exact.items():
            if given[name].shape != wanted.shape:
                shapes = f"{list(given[name].shape)} for {list(wanted.shape)}"
                raise RunError(f"--to {to}: its {name} of {batch} images have the shape {shapes}: nothing was written")
            scale = float(wanted.abs().max()) or 1.0
            off, allowed = _apart(given[name], wanted), NEAR * scale + SLACK * _apart(own[name], wanted)
            if not off <= allowed:  # NaN is refused
                what = f"its {name} of {batch} images differ by up to {off:.3g}, rounding allows {allowed:.3g}"
                raise RunError(f"--to {to}: {what}: nothing was written")
            largest = max(largest, _apart(given[name], own[name]) / scale)
    return largest


def _features(network: nn.Module, images: Tensor) -> Tensors:
    with torch.inference_mode():
        features = network(images)
    return {"pooled": features.pooled, "tokens": features.tokens}


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def _bundle(encoder: Encoder, network: nn.Module, folder: Path, name: str) -> tuple[float, tuple[str, ...]]:
    bundle, module = Bundle(encoder.card, encoder.width, name), script(network, encoder.card)
    how, files = bundle.prepared, bundle.files()
    for path, text in files.items():
        _write(folder / path, text.encode())
    _write(folder / MODEL, script_bytes(module, {CARD: files[f"configs/{CARD}"], "metadata.json": files[METADATA]}))
    state = io.BytesIO()
    torch.save(dict(module.state_dict()), state)
    _write(folder / "models/model.pt", state.getvalue())
    with _quiet():
        parser = parsed(folder)
        largest = compare(network, bundle_run(parser), encoder.card, "monai-bundle")
        if how.exact:
            compare_preprocessing(parser, encoder, how)
    return largest, how.notes


@contextmanager
def _put_in_place(out: Path, *, folder: bool) -> Iterator[Path]:
    """Where to write; it becomes ``out`` after the block, or is gone if the block fails."""
    if out.exists() and (folder or out.is_dir()):
        what = "is there already: remove it or name another" if folder else "is a folder: name a file"
        raise ConfigError(f"{out} {what}")
    fresh = out.parent / f".{out.name}.new"
    try:
        remove(fresh)
        out.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        os.replace(fresh, out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            remove(fresh)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and MONAI say of themselves: that TorchScript is deprecated (MONAI's bundles and C++ still
    read it, https://docs.pytorch.org/docs/stable/jit.html), that a trace holds for the shapes it saw (which is
    compared), and what is not installed that nobody asked for."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "monai.data")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # torch.export's own
            warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")  # LoadImage makes every reader
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def _refusal(to: Format) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every operator has its own way to say that a format lacks it
        raise RunError(f"--to {to} cannot hold this network ({' '.join(str(error).split())[:200]})") from error
