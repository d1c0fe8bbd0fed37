"""The configuration of videos (torch-free): which frames of a file make a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from volssl.data.extra import need
from volssl.data.image_config import Colour, Coloured
from volssl.data.items import Fit, Report, Size

if TYPE_CHECKING:
    from volssl.data.cache import CachedSource


class VideoConfig(Coloured):
    """Clips of videos: multi-frame DICOM (ultrasound, angiography) and mp4, mov, avi, mkv, webm, mpeg, wmv or gif.

    region, fit: frames x rows x columns; ``[crop, resize, resize]`` where absent. A clip takes its frames first,
    every ``stride``-th, as many as the region has; then it is fitted. A shorter video gives what it has, which
    ``crop`` pads with black frames at both ends, as it pads short stacks, and ``resize`` stretches.
    stride: frames from one frame of a clip to its next. clips: so many of a video, spread evenly over it (one is
    its middle), fewer where some would be the same; or ``all``, one after the other without overlap.
    colour: as in ``image``, but ``luma`` where absent, because most video formats store colour even where there
    is none to be seen.
    """

    name: Literal["video"] = "video"
    stride: int = Field(default=1, ge=1)
    clips: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    colour: Colour = "luma"
    fit: Fit | tuple[Fit, ...] = ("crop", "resize", "resize")

    def require(self) -> None:
        """Raises ConfigError where PyAV, which reads all that is not DICOM, is not installed."""
        need("av", "video", "data.name: video")

    def build(self, region: Size, *, workers: int = 0, report: Report | None = None) -> CachedSource:
        """Find the videos, count their frames, and read, preprocess and cache every clip.

        Raises:
            ConfigError: there are videos that are no DICOM, and PyAV is not installed.
            DataError: nothing found, or more than ``max_bad`` of the items are unreadable.
        """
        from volssl.data.video import build

        return build(self, region, workers=workers, report=report)
