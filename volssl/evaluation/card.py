"""An encoder's card (torch-free): what it is, what it was fed, and where it comes from."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from volssl import __version__
from volssl.data import DataConfig, Sources, StackConfig
from volssl.data.image_config import ImageConfig
from volssl.data.mixture_config import MixtureConfig
from volssl.data.slide_config import SlideConfig
from volssl.errors import DataError
from volssl.models import BackboneConfig
from volssl.names import typed
from volssl.regular import IrregularError, read_regular
from volssl.schema import Schema

Size = tuple[Annotated[int, Field(ge=1, le=2**16)], ...]
PACKAGES = ("torch", "monai")  # beside volssl, which a checkout may run without being installed
WHICH = {"root", "max_bad", "split", "label_column", "per_slide", "tissue", "clips"}  # not how items are prepared
NOTICE = "made from the images it was trained on: treat it as patients' data unless assessed (docs/privacy.md)"
CARD = "card.json"
FORGOTTEN = {"root": "", "cache": "runs/cache"}


class Fingerprint(Schema):
    """digest: SHA-256 of the list of the pre-training items' digests. count: how many items.

    items: SHA-256 of the file beside the card that lists them (``volssl.data.seen``); empty where there is none.
    """

    digest: str
    count: int = Field(ge=0)
    items: str = ""


class Card(Schema):
    """Everything that is needed to build an encoder again and to feed it as it was fed.

    backbone, channels: the network. region: the shape of a preprocessed item; size: of what the network sees
    (both slices x rows x columns, or rows x columns). data: the preprocessing; folders are forgotten, whoever makes
    the card. method, step, seed, fingerprint: how it was trained. versions, sha256 (of the weights): written by
    ``save_encoder``. notice: for whoever gets the folder.
    """

    format: Literal[1] = 1
    backbone: BackboneConfig
    channels: int = Field(ge=1, le=2**12)
    region: Size
    size: Size
    data: DataConfig
    method: str
    step: int = Field(ge=0)
    seed: int
    fingerprint: Fingerprint | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: str = ""
    notice: str = NOTICE

    @field_validator("backbone", mode="after")
    @classmethod
    def _forget_weights(cls, backbone: BackboneConfig) -> BackboneConfig:
        return backbone.model_copy(update={"weights": None})

    @field_validator("data", mode="after")
    @classmethod
    def _forget_folders(cls, data: DataConfig) -> DataConfig:
        if not isinstance(data, MixtureConfig):
            return data.model_copy(update=FORGOTTEN)
        parts = tuple(part.model_copy(update=FORGOTTEN) for part in data.parts)
        return data.model_copy(update=FORGOTTEN | {"parts": parts})

    @property
    def dims(self) -> int:
        """2 for images, 3 for volumes and clips."""
        return len(self.size)

    def part(self, i: int) -> Card:
        """Of an encoder of several data sets, the card with the preprocessing of the i-th alone."""
        if not isinstance(self.data, MixtureConfig):
            raise DataError("encoder", f"was trained on one data set ({self.data.name}), which has no parts")
        if not 0 <= i < len(self.data.parts):
            raise DataError("encoder", f"has the parts 0 to {len(self.data.parts) - 1}, not {i}")
        return self.model_copy(update={"data": self.data.parts[i]})

    @property
    def preprocessing(self) -> Sources:
        """How one data set is prepared.

        Raises:
            DataError: there are several, and each is prepared in its own way.
        """
        if not isinstance(self.data, MixtureConfig):
            return self.data
        first, *others = (part.model_dump(exclude=_which(part)) for part in self.data.parts)
        if any(other != first for other in others):
            names = ", ".join(f"{i} ({part.name})" for i, part in enumerate(self.data.parts))
            what = "was trained on data sets that are prepared in different ways"
            raise DataError(
                "encoder", f"{what}: take one, Encoder(encoder.network, encoder.card.part(i)), i of {names}"
            )
        return self.data.parts[0]

    def source(self, root: str, cache: str) -> Sources:
        """The preprocessing put to work on another root, where every item must be readable.

        Raises:
            DataError: as ``preprocessing``.
        """
        data = self.preprocessing
        if isinstance(data, StackConfig):
            return self.stacks(root, cache)
        if isinstance(data, ImageConfig):
            return self.pictures(root, cache)
        return data.model_copy(update=self._put_to_work(root, cache))

    def stacks(self, root: str, cache: str) -> StackConfig:
        """The same for slice stacks, which know no millimetres: what needs them is left out.

        Raises:
            DataError: the encoder takes flat images, or as ``preprocessing``.
        """
        if self.dims != 3:
            raise DataError("encoder", f"takes {self.dims}D images (rows x columns), not stacks of slices")
        return StackConfig(**(self._kept(StackConfig, {"spacing", "orientation"}) | self._put_to_work(root, cache)))

    def pictures(self, root: str, cache: str) -> ImageConfig:
        """The same for flat images: a slice, or a tile, that is a picture of its own. All of an ``.npz`` is read.

        A tile is cropped, because resizing would change its microns per pixel.

        Raises:
            DataError: the encoder takes volumes, or channels that no picture has, or as ``preprocessing``.
        """
        if self.dims != 2 or self.channels not in (1, 3):
            raise DataError("encoder", f"takes {self.dims}D images of {self.channels} channels, which no picture is")
        kept = {"colour": "grey" if self.channels == 1 else "rgb"} | self._kept(ImageConfig, set())
        tile = {"fit": "crop"} if isinstance(self.preprocessing, SlideConfig) else {}
        whole = {} if root.lower().endswith(".npz") else {"label_column": None}
        return ImageConfig(**(kept | tile | whole | self._put_to_work(root, cache)))

    def _kept(self, kind: type[Schema], without: set[str]) -> dict[str, Any]:
        """What the preprocessing says of the fields that ``kind`` has too."""
        data = self.preprocessing
        return {
            key: getattr(data, key)
            for key in type(data).model_fields.keys() & kind.model_fields.keys() - {"name"} - without
        }

    def _put_to_work(self, root: str, cache: str) -> dict[str, Any]:
        return {"root": typed(root), "cache": cache, "region": self.region, "max_bad": 0.0, "split": "all"}

    def signed(self, sha256: str, items: str = "") -> Card:
        """This card with the digests of the weights and of the list of items, and the versions of what wrote them."""
        known = self.fingerprint and self.fingerprint.model_copy(update={"items": items})
        return self.model_copy(update={"sha256": sha256, "fingerprint": known, "versions": versions()})


def aside(folder: Path) -> Path:
    """Where the old folder is while the new one takes its place."""
    folder = Path(os.path.abspath(folder))  # of a link, beside the link
    return folder.parent / f".{folder.name}.old"


def found_folder(folder: Path) -> Path:
    """The folder, or the one that a dying save left aside."""
    return aside(folder) if not folder.exists() and aside(folder).exists() else folder


def read_card(path: str | Path) -> Card:
    """The card of an encoder's folder.

    Raises:
        DataError: there is none, or a damaged one.
    """
    folder = found_folder(Path(path))
    try:
        text = read_regular(folder / CARD)
    except IrregularError as e:
        what = f"{CARD} cannot be read ({e.strerror}): copy the folder again"
        raise DataError("encoder", what, typed(folder)) from None
    except OSError:
        inside = sorted(str(card.parent) for card in folder.glob(f"*/{CARD}"))
        advice = f"name one of {', '.join(inside)}" if inside else "give the encoder/ folder of a run"
        raise DataError("encoder", f"not an encoder (no {CARD}): {advice}", typed(folder)) from None
    try:
        return Card.model_validate_json(text)
    except ValidationError as e:
        fault = e.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, fault["loc"])) or "file"
        what = f"{CARD} is damaged or from another version ({key}: {fault['msg']}): save the encoder again"
        raise DataError("encoder", what, typed(folder)) from None


def versions() -> dict[str, str]:
    """Of this package and of those on which its numbers depend."""
    return {"volssl": __version__} | {name: version(name) for name in PACKAGES}


def _which(part: Sources) -> set[str]:
    """The fields that say which items there are: ``stride`` is between tiles, but within a clip."""
    return WHICH | ({"stride"} if isinstance(part, SlideConfig) else set())
