"""The configuration of videos (torch-free): which frames of a file make a clip, or items of their own."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from volssl.data.extra import need
from volssl.data.image_config import Colour, Coloured
from volssl.data.items import HERE, Fit, PreparedSource, Readers, Report, Size


class VideoConfig(Coloured):
    """Clips of videos: multi-frame DICOM (ultrasound, angiography) and mp4, mov, avi, mkv, webm, mpeg, wmv or gif.

    region, fit: frames x rows x columns; ``[crop, resize, resize]`` where absent. A clip takes its frames first,
    every ``stride``-th, as many as the region has; then it is fitted. A shorter video gives what it has, which
    ``crop`` pads with black frames at both ends, as it pads short stacks, and ``resize`` stretches.
    stride: frames from one frame of a clip to its next. clips: so many of a video, spread evenly over it (one is
    its middle), fewer where some would be the same; or ``all``, one after the other without overlap.
    frames: that many evenly spaced frames of each video as items of two dimensions (``id#003``), picked from those
    that are not of one colour; all of them are scaled together. Sizes are then rows x columns, ``fit`` is ``resize``
    where absent, and there are no clips.
    colour: as in ``image``, but ``luma`` where absent, because most video formats store colour even where there
    is none to be seen.
    """

    name: Literal["video"] = "video"
    stride: int = Field(default=1, ge=1)
    clips: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    frames: Annotated[int, Field(ge=1)] | None = None
    colour: Colour = "luma"
    fit: Fit | tuple[Fit, ...] = ("crop", "resize", "resize")

    @model_validator(mode="after")
    def _one_per_axis(self) -> Self:
        if self.frames is not None:
            for key in ("stride", "clips"):
                if getattr(self, key) != 1:
                    raise ValueError(f"{key} is of clips, of which frames makes none: leave out one of the two")
            if "fit" not in self.model_fields_set:
                object.__setattr__(self, "fit", "resize")
        return super()._one_per_axis()  # type: ignore[operator, no-any-return]  # which pydantic makes a method

    @property
    def dims(self) -> int:
        return 3 if self.frames is None else 2

    def require(self) -> None:
        """Raises ConfigError where PyAV, which reads all that is not DICOM, is not installed."""
        need("av", "video", "data.name: video")

    def build(self, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> PreparedSource:
        """Find the videos, count their frames, and read, preprocess and cache every clip or frame.

        Raises:
            ConfigError: there are videos that are no DICOM, and PyAV is not installed.
            DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
        """
        from volssl.data.video import build

        return build(self, region, readers=readers, report=report)
