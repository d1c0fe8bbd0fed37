"""A trained encoder on disk and in use: its weights, its card, and images prepared as in training."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import safetensors.torch
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from volssl.data import Volumes
from volssl.data.door import kind_of
from volssl.data.header import is_dicom, read_dataset
from volssl.data.image_config import BYTES, ImageConfig
from volssl.data.items import Items
from volssl.data.picture import as_picture, flat
from volssl.data.preflight import guard
from volssl.data.preprocess import preprocess
from volssl.data.seen import SeenItems
from volssl.errors import DataError
from volssl.evaluation.card import CARD, Card, aside, found_folder, read_card
from volssl.names import typed
from volssl.regular import LARGE, read_regular
from volssl.types import Features
from volssl.views.views import whole
from volssl.whole import remove

WEIGHTS, ITEMS = "model.safetensors", "items.safetensors"


class Encoder(nn.Module):
    """A network with its card: images in, ``Features`` out. The network's mode is left as it is.

    Args:
        network: (B, C, *size) to ``Features``. card: what it is and what it was fed.
    """

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network, self.card = network, card

    @property
    def width(self) -> int:
        """D, the number of pooled features."""
        return cast(int, self.network.width)

    def forward(self, images: Tensor) -> Features:
        """(B, C, *region) or (B, C, *size); a whole region is resampled to ``card.size`` first."""
        if tuple(images.shape[2:]) != self.card.size:
            images = whole(images, self.card.size)
        features: Features = self.network(images)
        return features

    def preprocess(self, study: str | Path | NDArray[np.generic]) -> Tensor:
        """One study as training would have shown it whole: float32 (C, *size); batched, ``forward`` takes it.

        Args:
            study: a file or a folder that holds one item, or an array of what the encoder takes: slices x rows x
                columns, with the channels in front if there are several; or rows x columns, with the three
                colours in front or behind. A picture may be given to any encoder of flat images; where it was
                trained on slices of volumes or frames of videos, the picture alone takes their place when it is scaled.

        Raises:
            DataError: it cannot be read, is not one item, or is an array although the preprocessing needs
                millimetres.
        """
        image = self._from_array(study) if isinstance(study, np.ndarray) else self._from_path(Path(study))
        return whole(image[None], self.card.size)[0]

    def _from_path(self, path: Path) -> Tensor:
        flat_image = self.card.dims == 2 and _is_flat(path)
        with TemporaryDirectory() as cache:
            config = self.card.pictures(str(path), cache) if flat_image else self.card.source(str(path), cache)
            source = config.build(self.card.region)
            if len(source) != 1:
                what = f"holds {len(source)} items: give the path of one, or read all by card.source"
                raise DataError("not_one_volume", what, typed(path))
            return source[0].image

    def _from_array(self, array: NDArray[np.generic]) -> Tensor:
        data = self.card.pictures("", "") if self.card.dims == 2 else self.card.preprocessing
        if isinstance(data, Volumes) and (data.spacing is not None or data.orientation is not None):
            raise DataError(
                "no_geometry",
                "an array has no millimetres or orientation, which this encoder wants: give a file",
            )
        if not isinstance(data, Items):
            raise DataError("encoder", f"an encoder of {data.name} takes no arrays: give a file")
        given = _picture(array, data) if isinstance(data, ImageConfig) else self._volume(array)
        image, _ = preprocess(data, self.card.region)(given)
        return image.to(getattr(torch, data.cache_dtype)).float()  # rounded as the cache rounds

    def _volume(self, array: NDArray[np.generic]) -> MetaTensor:
        """(C, slices, rows, columns) of 1 mm."""
        volume = torch.from_numpy(array.astype(np.float32))
        volume = volume[None] if volume.ndim == self.card.dims else volume
        if len(volume) != self.card.channels or volume.ndim != 1 + self.card.dims:
            raise DataError(
                "dims", f"an array of shape {array.shape}: {self.card.channels} channels are wanted, in front"
            )
        return MetaTensor(volume, affine=torch.eye(4, dtype=torch.float64))


def _is_flat(path: Path) -> bool:
    """A picture, or a DICOM file of one frame: no volume, no clip."""
    if kind_of(path) == "images":
        return True
    with guard("header", path):
        if not path.is_file() or not is_dicom(path):
            return False
        return int(read_dataset(path).get("NumberOfFrames") or 1) == 1


def _picture(array: NDArray[np.generic], data: ImageConfig) -> MetaTensor:
    """(C, rows, columns)."""
    pixels = as_picture(array)
    if data.intensity == BYTES and array.dtype.kind == "f" and pixels.max() <= 1:
        raise DataError("range", "fractions up to 1, where the encoder was trained on bytes: multiply by 255")
    return flat(pixels, data, "")


def save_encoder(folder: str | Path, encoder: nn.Module, card: Card, items: SeenItems | None = None) -> None:
    """Write ``model.safetensors``, ``card.json`` and ``items.safetensors`` as one: whenever it dies, they are whole.

    The old folder stands aside, beside the new one, for the moment between two renames in which there is none;
    ``load_encoder`` looks there too, and the next save puts it back first. Of a link, the link is replaced, and what it
    leads to is left alone. A method that keeps two encoders writes two sub-folders, named as in ``Method.encoders``.

    Args:
        encoder: the network, as ``card.backbone`` builds it (not an ``Encoder``). items: what it was trained on, of
            which the card has a fingerprint; without it nobody can tell what of an evaluation it has seen.
    """
    if items is not None and card.fingerprint is None:
        raise ValueError("a list of items needs a card with a fingerprint")
    folder = Path(os.path.abspath(folder))
    seen = items.to_bytes() if items else b""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    weights = safetensors.torch.save(state)
    signed = card.signed(hashlib.sha256(weights).hexdigest(), hashlib.sha256(seen).hexdigest() if seen else "")
    fresh, old = folder.parent / f".{folder.name}.new", aside(folder)
    if old.exists() and not os.path.lexists(folder):
        old.rename(folder)
    for left in (fresh, old):
        remove(left)
    fresh.mkdir(parents=True)
    _write(fresh / WEIGHTS, weights)
    if seen:
        _write(fresh / ITEMS, seen)
    _write(fresh / CARD, (signed.model_dump_json(indent=2) + "\n").encode())
    if os.path.lexists(folder):
        folder.rename(old)
    fresh.rename(folder)
    with suppress(OSError):
        remove(old)


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """The encoder that ``save_encoder`` wrote, in evaluation mode on ``device``.

    Raises:
        DataError: the folder holds no encoder, or a damaged one, or weights that do not fit the card.
    """
    folder = found_folder(Path(path))
    card = read_card(folder)
    try:
        weights = read_regular(folder / WEIGHTS, LARGE)
    except OSError as e:
        raise DataError(
            "encoder", f"{WEIGHTS} cannot be read ({e.strerror}): copy the folder again", typed(folder)
        ) from None
    if hashlib.sha256(weights).hexdigest() != card.sha256:
        raise DataError(
            "encoder", f"{WEIGHTS} is damaged (SHA-256 differs from the card's): copy it again", typed(folder)
        )
    try:
        state = safetensors.torch.load(weights)
    except SafetensorError as e:
        raise DataError("encoder", f"{WEIGHTS} is not a safetensors file ({e}): save it again", typed(folder)) from None
    _require_of_a_size(card, len(weights), typed(folder))
    network = build_network(card, seed=0)
    _fill(network, state, typed(folder))
    return Encoder(network, card).eval().to(device)


def load_items(path: str | Path) -> SeenItems | None:
    """What the encoder of a folder was trained on; None where it keeps no list, as those of early versions.

    Raises:
        DataError: the folder holds no encoder, or the list is not the one that was written with it.
    """
    folder = found_folder(Path(path))
    fingerprint = read_card(folder).fingerprint
    if fingerprint is None or not fingerprint.items:
        return None
    try:
        content = read_regular(folder / ITEMS, LARGE)
    except OSError as e:
        what = f"{ITEMS}, the list of what it was trained on, cannot be read ({e.strerror})"
        raise DataError("encoder", f"{what}: copy the whole folder again", typed(folder)) from None
    if hashlib.sha256(content).hexdigest() != fingerprint.items:
        what = f"{ITEMS} is damaged or another encoder's (SHA-256 differs from the card's)"
        raise DataError("encoder", f"{what}: copy the whole folder again", typed(folder))
    return SeenItems.from_bytes(content, typed(folder / ITEMS))


def random_encoder(card: Card, seed: int, device: str | torch.device = "cpu") -> Encoder:
    """The same shape and preprocessing, freshly initialised: the floor every encoder must beat."""
    origin = {"method": "random", "step": 0, "seed": seed, "fingerprint": None, "sha256": "", "versions": {}}
    return Encoder(build_network(card, seed), card.model_copy(update=origin)).eval().to(device)


def build_network(card: Card, seed: int) -> nn.Module:
    """The card's backbone, initialised from ``seed`` without touching torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return card.backbone.build(card.channels)


def _require_of_a_size(card: Card, held: int, where: str) -> None:
    """Before memory is asked for: a card that is not of these weights may claim a network of any size."""
    claimed = 4 * card.backbone.cost(card.channels, card.size).parameters
    if claimed > 2 * held + 2**20:
        what = f"claims a network of {claimed / 1e6:.0f} MB, {WEIGHTS} has {held / 1e6:.0f}"
        raise DataError("encoder", f"{what}: the card belongs to other weights", where)


def _fill(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    given = {name: tensor.shape for name, tensor in state.items()}
    odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if odd:
        same = len(wanted.keys() | given.keys()) - len(odd)
        what = f"{same} of {len(wanted)} weights fit the card's backbone (first that does not: {odd[0]})"
        raise DataError("encoder", f"{what}: the card belongs to other weights", where)
    network.load_state_dict(state)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
