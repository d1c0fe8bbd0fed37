"""What every data source shares (torch-free): where it is, how an item is shaped and scaled, where it is cached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from volssl.errors import DataError
from volssl.names import keyed, typed
from volssl.reasons import ReasonCode
from volssl.schema import Schema
from volssl.types import Source

Report = Callable[[int, int, str], None]  # (items done, items in all, a line worth telling or "")

SECONDS_PER_ITEM = 900.0  # where nothing else is said: whoever takes longer hangs
# What became of a process, through the file or not: such reasons may be gone the next time.
PASSING = frozenset({ReasonCode.CRASHED, ReasonCode.TIMEOUT, ReasonCode.MEMORY})


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads the files of a source: ``workers`` processes, or with 0 this one; what they find is the same.

    timeout: seconds for an item, after which a process hangs. without: what is left out untried, as (the number of its
    part in a mixture, its keyed id). part: that number, for these.
    """

    workers: int = 0
    timeout: float = SECONDS_PER_ITEM
    without: frozenset[tuple[int, str]] = frozenset()
    part: int = 0

    def refused(self, name: str) -> DataError | None:
        """Why the item of that name is not to be tried, if it is not."""
        if not self.without or (self.part, keyed(name)) not in self.without:
            return None
        return DataError("crashed", "left out as it was when the run began: it killed or hung its process", name)


HERE = Readers()


class Percentile(Schema):
    """Scale the given percentiles of each channel to 0..1 and clip there.

    Where the two coincide (a small object on an empty background), the least and the greatest value instead.
    """

    name: Literal["percentile"] = "percentile"
    lower: float = Field(default=0.5, ge=0, le=100)
    upper: float = Field(default=99.5, ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} must be less than upper {self.upper}")
        return self


class ZScore(Schema):
    """Zero mean, unit variance over the voxels of each channel that are not zero; zero stays zero."""

    name: Literal["zscore"] = "zscore"


class Window(Schema):
    """Scale ``centre - width/2 .. centre + width/2`` (HU for CT, 0..255 for bytes) to 0..1 and clip there."""

    name: Literal["window"] = "window"
    centre: float
    width: float = Field(gt=0)


class Keep(Schema):
    """Leave the numbers as they are."""

    name: Literal["keep"] = "keep"


Intensity = Annotated[Percentile | ZScore | Window | Keep, Field(discriminator="name")]
Size = tuple[Annotated[int, Field(ge=1, le=2**16)], ...]
Fit = Literal["crop", "resize"]
WORDS = {2: "rows, columns", 3: "slices, rows, columns"}


class DrawnSource(Source, Protocol):
    """A source that says how its items are drawn.

    parts: the sizes of the runs of items that are drawn apart, in order; one where all items are drawn alike.
    weights: how often each part is drawn. label_sets: the sizes of the runs of items whose labels are a set of
    their own (``Item.part``).
    """

    @property
    def parts(self) -> Sequence[int]: ...

    @property
    def weights(self) -> Sequence[int]: ...

    @property
    def label_sets(self) -> Sequence[int]: ...


class NamedSource(DrawnSource, Protocol):
    """A source that can say what its items are called."""

    @property
    def ids(self) -> Sequence[str]: ...


class FixedSource(NamedSource, Protocol):
    """A source that can tell whether its items are still the same: one hash per item, of what it is made from."""

    @property
    def fingerprints(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """What some consecutive items of a source come from.

    content: SHA-256 of the file, or files, or row of an archive. items: how many of them. patient: whose, as a table
    writes it; else empty. cached: the file of the cache that holds the items, where one does. dicom: the first file of
    each of its volumes that may be DICOM.
    """

    content: str
    items: int = 1
    patient: str = ""
    cached: Path | None = None
    dicom: tuple[Path, ...] = ()


class PreparedSource(DrawnSource, Protocol):
    """A source whose items are known, readable and of one shape; ``build`` of every configuration returns one.

    ids: what messages call the items. labels: class indices, -1 = unknown. fingerprints: SHA-256 of what each
    item is made from. origins: whose and of which files, in the order of the items. channels, region: the shape of an
    item. bad: why each item that is left out is left out. It pickles, to go to loader processes.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int]: ...

    @property
    def fingerprints(self) -> Sequence[str]: ...

    @property
    def origins(self) -> Iterable[Origin]: ...

    @property
    def channels(self) -> int: ...

    @property
    def region(self) -> tuple[int, ...]: ...

    @property
    def bad(self) -> Sequence[DataError]: ...


class Items(Schema):
    """What every source of image files shares; sizes are (slices x) rows x columns.

    root: a folder, a ``labels.csv``, or a manifest of ``volssl index`` (``.parquet``).
    split: which rows of a ``labels.csv`` with a column of that name: one of its values, or ``all``.
    region: the shape that is cached and handed to the views; what the views need where absent.
    fit: ``crop`` centre-crops or zero-pads to the region, ``resize`` resamples to it; one for all axes, or one per
    axis, such as ``[resize, crop, crop]`` for stacks whose number of slices varies.
    crop_foreground: cut away the empty border (pixels that are 0 after the intensity step) before fitting.
    max_bad: share of unreadable items over which the run stops. non_finite: what becomes of NaN and infinity.
    cache: folder of the preprocessed items; cache_gb: its ceiling in GB of 1e9 bytes, beyond which items are
    read anew each time and the longest unused files of other sources go.
    """

    root: str
    split: str | None = None
    region: Size | None = None
    fit: Fit | tuple[Fit, ...] = "crop"
    intensity: Intensity = Percentile()
    crop_foreground: bool = False
    non_finite: Literal["refuse", "zero"] = "refuse"
    max_bad: float = Field(default=0.01, ge=0, le=1)
    cache: str = "runs/cache"
    cache_gb: float = Field(default=50.0, ge=0)
    cache_dtype: Literal["float16", "float32"] = "float16"

    @property
    def channels(self) -> int:
        """Image channels of every item."""
        return 1

    @property
    def dims(self) -> int:
        """Spatial dimensions of every item."""
        return 3

    @model_validator(mode="after")
    def _written_by_the_user(self) -> Self:
        typed(self.root)
        return self

    @model_validator(mode="after")
    def _one_per_axis(self) -> Self:
        axes = WORDS[self.dims]
        if self.region is not None and len(self.region) != self.dims:
            raise ValueError(f"region needs {self.dims} numbers ({axes}), not {len(self.region)}")
        if not isinstance(self.fit, str) and len(self.fit) != self.dims:
            raise ValueError(f"fit needs one word, or {self.dims} ({axes}), not {len(self.fit)}")
        return self
