"""The configuration of flat images (torch-free): radiographs, tiles, single pictures of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from volssl.data.items import HERE, Fit, Items, Readers, Report, Size, Window

if TYPE_CHECKING:
    from volssl.data.cache import CachedSource

BYTES = Window(centre=127.5, width=255.0)
Colour = Literal["grey", "rgb", "luma"]
SPLITS = ("train", "val", "test")


class Coloured(Items):
    """Pictures, single or moving.

    colour: ``grey`` is one channel and refuses a coloured picture; ``luma`` is one channel and takes its luma
    (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601); ``rgb`` is three channels, in which a grey picture is repeated.
    intensity: where absent, percentiles of each picture for one channel, and for three the fixed window 0..255,
    because percentiles of each channel would shift the stain.
    """

    colour: Colour = "grey"

    @model_validator(mode="after")
    def _bytes_for_colour(self) -> Self:
        if self.colour == "rgb" and "intensity" not in self.model_fields_set:
            object.__setattr__(self, "intensity", BYTES)  # a validator before it would lose JSON's leniency
        return self

    @property
    def channels(self) -> int:
        return 3 if self.colour == "rgb" else 1


class ImageConfig(Coloured):
    """Flat images, one item per file: PNG, JPEG, TIFF, BMP and single-frame DICOM, at any depth under ``root``.

    root: a folder, a ``labels.csv``, or one ``.npz`` in MedMNIST's layout (``{train,val,test}_{images,labels}``).
    split: of a ``labels.csv`` as elsewhere; of an ``.npz`` train, val, test or all, ``train`` where absent.
    label_column: which column of its labels.
    fit: ``resize`` where absent, because a picture knows no millimetres.
    Sizes are rows x columns. Numbers are as stored, but more is always brighter.
    """

    name: Literal["image"] = "image"
    label_column: int | None = Field(default=None, ge=0)
    fit: Fit | tuple[Fit, ...] = "resize"

    @model_validator(mode="after")
    def _split_of_an_archive(self) -> Self:
        if self.label_column is not None and self.root and not self.archive:
            raise ValueError("label_column is of an .npz, which root is not: leave it out")
        if self.split not in (None, "all") and self.root and not self.root.lower().endswith((".npz", ".csv")):
            raise ValueError("split is of an .npz or a labels.csv, which root is not: leave it out")
        if self.archive and self.split not in (None, "all", *SPLITS):
            raise ValueError(f"split of an .npz is {', '.join(SPLITS)} or all, not {self.split}")
        return self

    @property
    def archive(self) -> bool:
        """Whether the root is one file of arrays."""
        return self.root.lower().endswith(".npz")

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts of an archive that are read."""
        return SPLITS if self.split == "all" else (self.split or "train",)

    @property
    def dims(self) -> int:
        return 2

    def build(self, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> CachedSource:
        """Find, read, preprocess and cache every image.

        Raises:
            DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
        """
        from volssl.data.image import build

        return build(self, region, readers=readers, report=report)
