"""Views: their configuration (torch-free)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, model_validator

from volssl.schema import Schema

if TYPE_CHECKING:
    from volssl.views.views import Views

AXES = ("slices", "rows", "columns")
BANDS = 7  # more would blur by 256 voxels
HOLES = 64


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"a range is [lowest, highest], not {list(bounds)}: swap the two")
    return bounds


_ORDERED = AfterValidator(_ordered)
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Factor = Annotated[float, Field(gt=0, le=10)]
_Coarsening = Annotated[float, Field(ge=1, le=16)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Degrees = Annotated[float, Field(ge=-180, le=180)]
_Turn = Annotated[float, Field(ge=-0.5, le=0.5)]
Range = Annotated[tuple[_Finite, _Finite], _ORDERED]
Share = Annotated[tuple[_Share, _Share], _ORDERED]
Factor = Annotated[tuple[_Factor, _Factor], _ORDERED]
Coarsening = Annotated[tuple[_Coarsening, _Coarsening], _ORDERED]
Amount = Annotated[tuple[_Amount, _Amount], _ORDERED]
Fraction = Annotated[tuple[_Fraction, _Fraction], _ORDERED]
Degrees = Annotated[tuple[_Degrees, _Degrees], _ORDERED]
Turn = Annotated[tuple[_Turn, _Turn], _ORDERED]
Probability = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Annotated[int, Field(ge=1, le=2**16)], ...]
Edge = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Chances(Schema):
    """The probability of each operation, per view. An operation whose range is its identity never acts.

    ``grey`` has no range: it replaces the colours by their luma, and is off.
    """

    flip: Probability = 0.5
    rotate: Probability = 1.0
    tilt: Probability = 1.0
    scale: Probability = 1.0
    coarse: Probability = 1.0
    blur: Probability = 1.0
    bands: Probability = 1.0
    histogram: Probability = 1.0
    gamma: Probability = 1.0
    contrast: Probability = 1.0
    brightness: Probability = 1.0
    bias: Probability = 1.0
    noise: Probability = 1.0
    dropout: Probability = 1.0
    stain: Probability = 1.0
    saturation: Probability = 1.0
    hue: Probability = 1.0
    grey: Probability = 0.0


class LocalConfig(Schema):
    """Small views of small parts, beside the global ones (multi-crop, Caron et al. 2020, arXiv 2006.09882).

    They are called ``local0``, ``local1``, ... and take every other setting from the global views.
    """

    count: int = Field(ge=1, le=64)
    size: Size
    crop: Share
    slices: Share = (1.0, 1.0)


class ViewsConfig(Schema):
    """What a view of an item is. Every default is an identity: the view is the region, resampled to ``size``.

    A pair is a range that each view draws from: evenly, or evenly in the logarithm where it is a factor
    (aspect, scale, coarse, thick, bands, gamma, contrast, stain, saturation). Where absent, nothing is drawn or done.

    Geometry, all of it one resampling:
        size: slices x rows x columns, or rows x columns. count: how many global views (``0``, ``1``, ...).
        crop: share of the in-plane area that is kept. aspect: width by height of the crop, relative to the
        region's. slices: share of the slices kept, a run of whole slices.
        flip: axes that may flip, 0 being the slices of a volume. Off: left and right, front and back differ
        in a body. rotate: degrees in the plane. tilt: degrees out of it, about an axis drawn in the plane.
        scale: in-plane magnification about the crop's centre; below 1 it looks beyond the crop.
        voxel: edge lengths of a region's voxel per axis, in any unit, for rotations; equal where absent.
        antialias: smooth before down-sampling by more than 1.6.
    Resolution, in voxels of the view:
        coarse, thick: factor by which voxels grow in the plane and slices through it, simulated.
        blur, blur_slices: sd of the Gaussian in the plane, and through it.
    Intensity, in the units of the cached image (0..1 after ``percentile`` and ``window``):
        bands: gain of each of ``band_count`` energy bands. histogram: how far the inner points of the
        intensity curve move, 1 = until they may touch. gamma: exponent between the view's least and greatest.
        contrast: factor about the mean. brightness: added. bias: size of the coefficients of the bias field's
        logarithm. noise: sd of Gaussian noise. dropout: edge of each of ``holes`` boxes set to 0, as a share
        of the view's edge. joint: minimum, maximum and mean over all channels, which keeps the colours of
        ``histogram``, ``gamma`` and ``contrast``; each channel's own where absent.
    Colour, of red, green and blue in 0..1:
        stain: factor on the amounts of hematoxylin and of eosin, one for each; stain_shift: added to them, as
        optical density (log10). saturation: factor on the distance from the luma. hue: turn about the luma,
        as a fraction of the circle; red goes towards yellow.
    """

    size: Size
    count: int = Field(default=2, ge=1, le=64)
    local: LocalConfig | None = None
    crop: Share = (1.0, 1.0)
    aspect: Factor = (1.0, 1.0)
    slices: Share = (1.0, 1.0)
    flip: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    rotate: Degrees = (0.0, 0.0)
    tilt: Degrees = (0.0, 0.0)
    scale: Factor = (1.0, 1.0)
    voxel: tuple[Edge, ...] | None = None
    antialias: bool = True
    coarse: Coarsening = (1.0, 1.0)
    thick: Coarsening = (1.0, 1.0)
    blur: Amount = (0.0, 0.0)
    blur_slices: Amount = (0.0, 0.0)
    bands: Factor = (1.0, 1.0)
    band_count: int = Field(default=4, ge=1, le=BANDS)
    histogram: Fraction = (0.0, 0.0)
    gamma: Factor = (1.0, 1.0)
    contrast: Factor = (1.0, 1.0)
    brightness: Range = (0.0, 0.0)
    bias: Amount = (0.0, 0.0)
    noise: Amount = (0.0, 0.0)
    dropout: Fraction = (0.0, 0.0)
    holes: int = Field(default=4, ge=1, le=HOLES)
    joint: bool = False
    stain: Factor = (1.0, 1.0)
    stain_shift: Range = (0.0, 0.0)
    saturation: Factor = (1.0, 1.0)
    hue: Turn = (0.0, 0.0)
    p: Chances = Chances()

    @property
    def dims(self) -> int:
        """Spatial dimensions of a view."""
        return len(self.size)

    @model_validator(mode="after")
    def _dimensions_agree(self) -> ViewsConfig:
        dims = self.dims
        if dims not in (2, 3):
            raise ValueError(f"size {list(self.size)}: give rows x columns or slices x rows x columns")
        for name, axes in (("voxel", self.voxel), ("local.size", self.local.size if self.local else None)):
            if axes is not None and len(axes) != dims:
                raise ValueError(f"{name} has {len(axes)} numbers and size has {dims}: give {dims}")
        if any(axis >= dims for axis in self.flip):
            raise ValueError(f"flip {list(self.flip)}: the axes of a {dims}D view are 0 to {dims - 1}")
        if dims == 2 and (given := self._through_plane()):
            raise ValueError(f"{given} works through the plane and size has two numbers: take {given} out")
        return self

    def _through_plane(self) -> str | None:
        if self.local is not None and self.local.slices != (1.0, 1.0):
            return "local.slices"
        return self._first_in_use("slices", "tilt", "thick", "blur_slices")

    def _first_in_use(self, *names: str) -> str | None:
        return next((n for n in names if getattr(self, n) != type(self).model_fields[n].default), None)

    def colour(self) -> str | None:
        """The first setting in use that needs red, green and blue; none if any channels will do."""
        return self._first_in_use("stain", "stain_shift", "saturation", "hue") or ("p.grey" if self.p.grey else None)

    def recipes(self) -> dict[str, ViewsConfig]:
        """The settings of every view by its name: ``0``, ``1``, ..., then ``local0``, ..."""
        named = {str(i): self for i in range(self.count)}
        if self.local is not None:
            part = self.local
            own = self.model_copy(update={"size": part.size, "crop": part.crop, "slices": part.slices})
            named |= {f"local{i}": own for i in range(part.count)}
        return named

    def default_region(self) -> tuple[int, ...]:
        """The region the views need where ``data.region`` is absent: the largest view along each axis."""
        return tuple(map(max, zip(*(recipe.size for recipe in self.recipes().values()), strict=True)))

    def fits(self, region: tuple[int, ...]) -> str | None:
        """Why these views cannot be made of such a region and what to do, in one line; none if they can."""
        names = AXES[-self.dims :]
        if len(region) != self.dims:
            return f"{list(self.size)} and data.region {list(region)} differ in length: give as many numbers"
        need = self.default_region()
        large = [name for name, n, r in zip(names, need, region, strict=True) if n > r]
        if not large:
            return None
        return (
            f"{list(need)} is larger than data.region {list(region)} in {' and '.join(large)}: "
            f"use at most {list(map(min, need, region))}, or data.region {list(map(max, need, region))}"
        )

    def build(self) -> Views:
        """What makes the views."""
        from volssl.views.views import Views

        return Views(self)
