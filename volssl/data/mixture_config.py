"""The configuration of several data sets in one run (torch-free): which, and how often each is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, model_validator

from volssl.data.items import HERE, Readers, Report, Size
from volssl.errors import DataError
from volssl.names import typed
from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.data import PartConfig
    from volssl.data.mixture import MixtureSource

MADE: tuple[str, ...] = ("phantom",)  # where its root is not there
SHARED = ("region", "cache", "cache_gb")  # written once, for all parts
Weights = Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(min_length=1)]


class MixtureConfig(Schema):
    """Several data sets in one run, of one number of dimensions and channels; the labels of each are a set apart.

    parts: any other data. root: the folder that the parts' roots start from.
    region, cache, cache_gb: as for one data set, but the same for all; each part has a folder of its own in the
    cache and an equal share of its ceiling.
    balance: ``even`` draws every part equally often, so that every batch holds as many items of each as of any
    other, up to one; ``proportional`` draws every item equally often; numbers such as ``[3, 1]`` say how often
    each part is drawn.
    """

    name: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[PartConfig, ...], Field(min_length=1)]
    root: str = "."
    region: Size | None = None
    balance: Literal["even", "proportional"] | Weights = "even"
    cache: str = "runs/cache"
    cache_gb: float = Field(default=50.0, ge=0)

    @property
    def channels(self) -> int:
        """Image channels of every item."""
        return self.parts[0].channels

    @property
    def dims(self) -> int:
        """Spatial dimensions of every item."""
        return self.parts[0].dims

    @property
    def max_bad(self) -> float:
        """What is left out of a run on its way counts over all parts, so the strictest of them rules."""
        return min(part.max_bad for part in self.parts)

    @property
    def weights(self) -> tuple[int, ...] | None:
        """How often each part is drawn; None where it depends on how many items each has."""
        if self.balance == "even":
            return (1,) * len(self.parts)
        return None if isinstance(self.balance, str) else self.balance

    @property
    def members(self) -> tuple[PartConfig, ...]:
        """The parts, each with its own root and its own folder and share of the cache."""
        share = self.cache_gb / len(self.parts)
        return tuple(
            part.model_copy(
                update={"root": typed(Path(self.root, part.root)), "cache": str(Path(self.cache, f"part-{i}"))}
                | ({"cache_gb": share} if "cache_gb" in type(part).model_fields else {})
            )
            for i, part in enumerate(self.parts)
        )

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        first = self.parts[0]
        for i, part in enumerate(self.parts):
            if own := [key for key in SHARED if key in part.model_fields_set]:
                raise ValueError(f"parts.{i}.{own[0]} is the same for all parts: write it once, as data.{own[0]}")
            for what, ours, theirs in (
                ("dimensions", part.dims, first.dims),
                ("channels", part.channels, first.channels),
            ):
                if ours != theirs:
                    found = f"parts.{i} ({part.name}) has {ours} {what}, parts.0 ({first.name}) has {theirs}"
                    raise ValueError(f"{found}: an encoder takes one number of them, so change one or leave it out")
        if self.weights is not None and len(self.weights) != len(self.parts):
            raise ValueError(f"balance has {len(self.weights)} numbers for {len(self.parts)} parts: give one for each")
        return self

    @field_serializer("parts", mode="wrap")
    def _without_shared(self, parts: tuple[PartConfig, ...], handler: SerializerFunctionWrapHandler) -> Any:
        return tuple({key: value for key, value in part.items() if key not in SHARED} for part in handler(parts))

    def build(self, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> MixtureSource:
        """Build every part, one after the other.

        Raises:
            DataError: ``missing`` where a part's root is, before any other is read; or as the parts do.
        """
        from volssl.data.mixture import MixtureSource

        for i, part in enumerate(self.members):
            if part.name not in MADE and not Path(part.root).exists():
                raise DataError("missing", f"no such file or folder: check data.parts.{i}.root", part.root)
        sources = [
            part.build(region, readers=replace(readers, part=i), report=report) for i, part in enumerate(self.members)
        ]
        return MixtureSource(sources, self.weights)
