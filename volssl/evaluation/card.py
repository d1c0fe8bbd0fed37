"""An encoder's card (torch-free): what it is, what it was fed, and where it comes from."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from volssl import __version__
from volssl.data import DataConfig, StackConfig, VolumeConfig, Volumes
from volssl.models import BackboneConfig
from volssl.schema import Schema

Size = tuple[Annotated[int, Field(ge=1)], ...]
PACKAGES = ("torch", "monai")  # beside volssl, which a checkout may run without being installed


class Fingerprint(Schema):
    """digest: SHA-256 of the list of the pre-training items' digests. count: how many items."""

    digest: str
    count: int = Field(ge=0)


class Card(Schema):
    """Everything that is needed to build an encoder again and to feed it as it was fed.

    backbone, channels: the network. region: the shape of a preprocessed item; size: of what the network sees
    (both slices x rows x columns). data: the preprocessing; folders are forgotten, whoever makes the card.
    method, step, seed, fingerprint: how it was trained. versions, sha256 (of the weights): written by
    ``save_encoder``.
    """

    format: Literal[1] = 1
    backbone: BackboneConfig
    channels: int = Field(ge=1)
    region: Size
    size: Size
    data: DataConfig
    method: str
    step: int = Field(ge=0)
    seed: int
    fingerprint: Fingerprint | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: str = ""

    @field_validator("data", mode="after")
    @classmethod
    def _forget_folders(cls, data: DataConfig) -> DataConfig:
        return data.model_copy(update={"root": "", "cache": "runs/cache"})

    def source(self, root: str, cache: str) -> DataConfig:
        """The preprocessing put to work on another root, where every item must be readable."""
        if not isinstance(self.data, VolumeConfig):
            return self.stacks(root, cache)
        return self.data.model_copy(update=self._put_to_work(root, cache))

    def stacks(self, root: str, cache: str) -> StackConfig:
        """The same for slice stacks, which know no millimetres: what needs them is left out."""
        kept = {key: getattr(self.data, key) for key in Volumes.model_fields.keys() - {"spacing", "orientation"}}
        return StackConfig(**(kept | self._put_to_work(root, cache)))

    def _put_to_work(self, root: str, cache: str) -> dict[str, Any]:
        return {"root": root, "cache": cache, "region": self.region, "max_bad": 0.0}

    def signed(self, sha256: str) -> Card:
        """This card with the weights' digest and the versions of what wrote them."""
        versions = {"volssl": __version__} | {name: version(name) for name in PACKAGES}
        return self.model_copy(update={"sha256": sha256, "versions": versions})
