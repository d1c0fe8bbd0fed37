"""Data sources: their configuration (torch-free) and the union that is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from volssl.data.image_config import ImageConfig
from volssl.data.items import HERE, Items, PreparedSource, Readers, Report, Size
from volssl.data.mixture_config import MixtureConfig
from volssl.data.slide_config import SlideConfig
from volssl.data.video_config import VideoConfig

if TYPE_CHECKING:
    from volssl.data.cache import CachedSource

AXES = ({"R", "L"}, {"A", "P"}, {"S", "I"})  # the two ends of each patient axis


class Volumes(Items):
    """What every source of volumes shares; sizes and spacings are slices x rows x columns.

    spacing: mm to resample to; as acquired where absent. orientation: where each axis leads, such as ``SPL``
    (slices to superior, rows to posterior, columns to left); as acquired where absent.
    n4: correct MRI's bias field with N4 (slow: seconds per volume, once).
    """

    spacing: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    orientation: str | None = None
    n4: bool = False

    @model_validator(mode="after")
    def _geometry(self) -> Self:
        if self.spacing is not None and len(self.spacing) != 3:
            raise ValueError(f"spacing needs 3 numbers (slices, rows, columns), not {len(self.spacing)}")
        code = self.orientation
        if code is not None and (len(code) != 3 or not all(set(code) & axis for axis in AXES)):
            raise ValueError(f"orientation {code!r} needs one letter of each of R/L, A/P and S/I, such as SPL")
        return self


class VolumeConfig(Volumes):
    """Folders of DICOM series and NIfTI files, at any depth under ``root``.

    sequences: glob patterns, one per MRI sequence, e.g. ``["*T1*", "*FLAIR*"]``, on the name of the file (or
    of the series' folder; with a slash, on as many names from the end of the path), or on a DICOM series'
    description. With ``sequences_as: channels`` every folder in which each pattern matches exactly one volume
    is one item whose channels are the sequences, resampled to the grid of the first (zero outside of a
    sequence's field of view); a folder in which only some match, or one matches twice, counts as unreadable.
    With ``items`` only volumes that match are used, one item each.
    time: what a 4D file becomes: an index (that time point), ``channels`` (``time_points`` of them) or
    ``items``.
    slices: that many evenly spaced slices of each volume as items of two dimensions (``id#003``), picked, not
    interpolated, from those that are not constant once all of the volume is scaled. Sizes are then rows x columns;
    which plane they lie in is what ``orientation`` puts first, as acquired where absent.
    Masks beside images are images to a computer: let ``root`` name the images' folder, or use ``sequences``.
    """

    name: Literal["volume"] = "volume"
    sequences: tuple[str, ...] = ()
    sequences_as: Literal["items", "channels"] = "items"
    time: Annotated[int, Field(ge=0)] | Literal["channels", "items"] = 0
    time_points: int = Field(default=1, ge=1)
    slices: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _sequences(self) -> Self:
        if self.sequences_as == "channels" and not self.sequences:
            raise ValueError("sequences_as: channels needs sequences, one pattern per channel")
        if self.sequences_as == "channels" and not isinstance(self.time, int):
            raise ValueError(f"time: {self.time} does not go with sequences_as: channels; time must be an index")
        return self

    @property
    def channels(self) -> int:
        if self.sequences and self.sequences_as == "channels":
            return len(self.sequences)
        return self.time_points if self.time == "channels" else 1

    @property
    def dims(self) -> int:
        return 3 if self.slices is None else 2

    def build(self, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> PreparedSource:
        """Find, read, preprocess and cache every item.

        Raises:
            DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
        """
        from volssl.data.volume import build

        return build(self, region, readers=readers, report=report)


class StackConfig(Volumes):
    """Slice stacks: ``.npy`` files of slices x rows x columns (MRNet), or folders of slice images by name.

    They carry no geometry, so neither ``spacing`` nor ``orientation`` can be set.
    """

    name: Literal["stack"] = "stack"

    @model_validator(mode="after")
    def _no_geometry(self) -> Self:
        if self.spacing is not None or self.orientation is not None:
            raise ValueError("slice stacks carry no geometry: leave out spacing and orientation, use fit: resize")
        return self

    def build(self, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> CachedSource:
        """As ``VolumeConfig.build``."""
        from volssl.data.stack import build

        return build(self, region, readers=readers, report=report)


class PhantomConfig(StackConfig):
    """The synthetic knee cohort in MRNet's layout, made at ``root`` if it is not there (``volssl phantom``).

    Pre-training uses ``split`` and ``plane``; the evaluation reads all of it. prevalence: share of torn ACLs.
    """

    name: Literal["phantom"] = "phantom"  # type: ignore[assignment]
    root: str = "runs/phantom"
    train: int = Field(default=240, ge=2)
    valid: int = Field(default=120, ge=2)
    pixels: int = Field(default=96, ge=32)
    phantom_seed: int = Field(default=0, ge=0)
    prevalence: float = Field(default=0.35, ge=0, le=1)
    split: Literal["train", "valid"] = "train"
    plane: Literal["axial", "coronal", "sagittal", "all"] = "sagittal"

    def build(self, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> CachedSource:
        """As ``VolumeConfig.build``, after making the cohort."""
        from volssl.data.phantom import build

        return build(self, region, readers=readers, report=report)


Sources = VolumeConfig | StackConfig | PhantomConfig | ImageConfig | SlideConfig | VideoConfig
PartConfig = Annotated[Sources, Field(discriminator="name")]
MixtureConfig.model_rebuild(_types_namespace={"PartConfig": PartConfig})
DataConfig = Annotated[Sources | MixtureConfig, Field(discriminator="name")]
