"""The configuration of whole slide images (torch-free): which tiles of which slides, at what magnification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from volssl.data.extra import need
from volssl.data.items import HERE, Keep, Readers, Report, Size, Window
from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.data.slide_source import SlideSource

Pixels = Annotated[int, Field(ge=1, le=2**16)]


class SlideConfig(Schema):
    """Tiles of whole slide images (SVS, NDPI, MRXS, SCN, BIF, tiled TIFF, ...), read from the slides as they are drawn.

    root: a folder, a ``labels.csv`` that names slides, or one slide.
    split: which rows of a ``labels.csv`` with a column of that name: one of its values, or ``all``.
    region: rows x columns of a tile, in pixels of ``mpp`` microns; what the views need where absent.
    mpp: microns per pixel of the tiles, whatever the slides were scanned at; 0.5 is called 20x, 0.25 is 40x.
    assume_mpp: microns per pixel of slides that do not state theirs, which are refused otherwise.
    stride: pixels between the corners of neighbouring tiles, rows x columns; the region where absent, and less
    than it for tiles that overlap. tissue: least share of a tile that is tissue; 0 takes every tile.
    per_slide: at most so many tiles of a slide, drawn evenly over it by a permutation that depends on the slide's
    content alone. intensity: the same for every tile, because each tile's own would shift the stain.
    max_bad: share of unusable slides over which the run stops.
    cache: folder in which is remembered what a slide contains and where its tissue is; no tile is written.
    """

    name: Literal["slide"] = "slide"
    root: str
    split: str | None = None
    region: tuple[Pixels, Pixels] | None = None
    mpp: float = Field(default=0.5, gt=0)
    assume_mpp: float | None = Field(default=None, gt=0)
    stride: tuple[Pixels, Pixels] | None = None
    tissue: float = Field(default=0.5, ge=0, le=1)
    per_slide: int | None = Field(default=None, ge=1)
    intensity: Annotated[Window | Keep, Field(discriminator="name")] = Window(centre=127.5, width=255.0)
    max_bad: float = Field(default=0.01, ge=0, le=1)
    cache: str = "runs/cache"

    @property
    def channels(self) -> int:
        """Red, green and blue."""
        return 3

    @property
    def dims(self) -> int:
        """Spatial dimensions of a tile."""
        return 2

    def require(self) -> None:
        """Raises ConfigError where OpenSlide is not installed."""
        need("openslide", "slides", "data.name: slide")

    def build(self, region: Size, *, readers: Readers = HERE, report: Report | None = None) -> SlideSource:
        """Find the slides, their tissue and their tiles.

        Raises:
            ConfigError: OpenSlide is not installed.
            DataError: nothing found, or more than ``max_bad`` of the slides are unusable.
        """
        self.require()
        from volssl.data.slide import build

        return build(self, region, readers=readers, report=report)
