"""From a volume as the door gives it to the array that is cached: MONAI's deterministic transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import scipy.ndimage as ndi
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import (
    CropForeground,
    NormalizeIntensity,
    Orientation,
    Resize,
    ResizeWithPadOrCrop,
    ScaleIntensityRange,
    Spacing,
)
from torch import Tensor

from volssl.data import VolumeConfig, Volumes
from volssl.data.items import Fit, Intensity, Items, Keep, Percentile, Size, Window
from volssl.data.slices import middles
from volssl.errors import DataError

Step = Callable[[MetaTensor], MetaTensor]
Preprocess = Callable[[MetaTensor], tuple[Tensor, tuple[float, ...]]]


def preprocess(config: Items, region: Size) -> Preprocess:
    """The deterministic part of the way from a file to a view, for volumes and for flat images.

    The order, each step with its reason:

    1. orientation: exchanges and flips axes, so that what follows means the same in every item;
    2. spacing: in mm, once the axes are known, and while the values are still those of the scanner;
    3. N4, if asked for: on the scanner's own values, before they are scaled;
    4. intensity: over the whole volume, because a crop or a padding would shift its statistics;
    5. foreground crop: after intensity, where 0 means "nothing here" in every unit (air in CT too);
    6. slices, if asked for: once the crop has left what there is to see;
    7. fit: the last, since only it knows the region.

    The first three and the slices are of volumes, which alone have patient space.

    Args:
        region: of the item; with ``slices`` or ``frames``, with their number in front.

    Returns:
        A function of a (C, *spatial) float32 MetaTensor with an affine in mm. It returns a plain
        float32 tensor (C, *region) and the spacing in mm of its axes, and raises DataError where a value is not
        finite, or where a channel of a volume or all of a flat image is constant (before or after the intensity
        step; a colour may well be).
    """
    in_space = located(config, region)

    def run(image: MetaTensor) -> tuple[Tensor, tuple[float, ...]]:
        image = in_space(image)
        spacing = affine_to_spacing(image.affine, r=len(region))
        return _finite(image.as_tensor()), tuple(float(s) for s in spacing)

    return run


def located(config: Items, region: Size) -> Step:
    """As ``preprocess``, with the affine that says where in the patient each voxel of the item came to lie.

    Of ``slices``, which are picked at uneven distances, it says nothing along the first axis.
    """
    volumes = config if isinstance(config, Volumes) else None
    before = [*_orientation(volumes.orientation), *_spacing(volumes.spacing)] if volumes else []
    picked = _slices(config.slices) if isinstance(config, VolumeConfig) else []
    after = [*_foreground(crop=config.crop_foreground), *picked, _fit(config, region)]

    def run(image: MetaTensor) -> MetaTensor:
        if not isinstance(image, MetaTensor):
            raise TypeError("a plain tensor carries no geometry, and MONAI would assume 1 mm")
        with _one_thread():
            image = _apply(before, image)
            _refuse_constant(image, "every voxel", each=volumes is not None)
            image = _n4(image) if volumes and volumes.n4 else image
            image = _intensity(config.intensity, image)
            _refuse_constant(image, f"after {config.intensity.name} scaling every voxel", each=volumes is not None)
            return _apply(after, image)

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are rounded differently with each number of threads; with one the result is the same anywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _apply(steps: list[Step], image: MetaTensor) -> MetaTensor:
    for step in steps:
        image = step(image)
    return image


def _orientation(axcodes: str | None) -> list[Step]:
    # The labels are MONAI's default; left out, it warns of their change.
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    return [] if axcodes is None else [Orientation(axcodes, labels=labels)]


def _spacing(spacing: tuple[float, ...] | None) -> list[Step]:
    if spacing is None:
        return []
    resample = Spacing(spacing, mode="bilinear", padding_mode="border", dtype=torch.float32)

    def run(image: MetaTensor) -> MetaTensor:
        acquired = affine_to_spacing(image.affine, r=len(spacing))
        shrink = [new / float(old) for new, old in zip(spacing, acquired, strict=True)]
        return resample(_smooth(image, shrink))

    return [run]


def _foreground(*, crop: bool) -> list[Step]:
    return [CropForeground(select_fn=lambda x: x != 0, allow_smaller=True)] if crop else []


def _slices(count: int | None) -> list[Step]:
    """Evenly spaced slices among those that are not constant: the middles of that many equal parts."""

    def run(image: MetaTensor) -> MetaTensor:
        values = image.as_tensor()
        shows = (values.amax((2, 3)) > values.amin((2, 3))).any(0).nonzero().flatten()
        if len(shows) < (count or 0):
            what = f"{len(shows)} of {values.shape[1]} slices show anything, data.slices asks for {count}"
            raise DataError("slices", f"{what}: lower it, or leave the volume out")
        return _with_values(image, values[:, shows[middles(len(shows), count or 0)]])

    return [] if count is None else [run]


def _fit(config: Items, region: Size) -> Step:
    """Axes that are cropped first, so that no voxel is resampled in vain. What was picked is as many already."""
    ways: tuple[Fit, ...] = (config.fit,) * config.dims if isinstance(config.fit, str) else config.fit
    each = ("crop",) * (len(region) - config.dims) + ways
    resize = Resize(region, mode="trilinear" if len(region) == 3 else "bilinear", align_corners=False)

    def run(image: MetaTensor) -> MetaTensor:
        shape = image.shape[1:]
        kept = [new if way == "crop" else old for way, old, new in zip(each, shape, region, strict=True)]
        image = ResizeWithPadOrCrop(kept)(image)
        shrink = [old / new for old, new in zip(kept, region, strict=True)]
        return resize(_smooth(image, shrink)) if "resize" in each else image

    return run


def _smooth(image: MetaTensor, shrink: list[float]) -> MetaTensor:
    """Gaussian of sigma (shrink - 1) / 2 voxels per axis that gets coarser, so that nothing aliases.

    MONAI's Resize has the same filter, but pads with zeros: a constant image gets edges of 0.74.
    """
    sigma = [max(s - 1, 0) / 2 for s in shrink]
    if not any(sigma):
        return image
    smooth = ndi.gaussian_filter(image.as_tensor().numpy(), [0, *sigma], mode="nearest")
    return _with_values(image, torch.from_numpy(smooth))


def _with_values(image: MetaTensor, values: Tensor) -> MetaTensor:
    """Other values on the same grid. MONAI makes MetaTensors even of plain tensors, with a wrong affine."""
    return MetaTensor(values.as_subclass(Tensor), affine=image.affine)


def _n4(image: MetaTensor) -> MetaTensor:
    """Divide each channel by its bias field (N4, Tustison et al., IEEE TMI 29(6), 2010).

    The field is smooth, so it is fitted on a grid a quarter as fine, over the voxels above Otsu's threshold, as
    SimpleITK's own example does; slices are not thinned.
    """
    corrected = []
    for channel in image.as_tensor().numpy():
        whole = sitk.GetImageFromArray(channel)
        small = sitk.Shrink(whole, [min(4, n) for n in whole.GetSize()[:2]] + [1])
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetNumberOfThreads(1)
        n4.Execute(small, sitk.OtsuThreshold(small, 0, 1))
        field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)))
        corrected.append(torch.from_numpy(channel / field.astype(np.float32)))
    return _with_values(image, torch.stack(corrected))


def _intensity(config: Intensity, image: MetaTensor) -> MetaTensor:
    plain = image.as_tensor()
    if isinstance(config, Keep):
        return image
    if isinstance(config, Percentile):
        scaled = torch.stack([_percentile(config, channel) for channel in plain])
    elif isinstance(config, Window):
        low, high = config.centre - config.width / 2, config.centre + config.width / 2
        scaled = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(plain)
    else:
        scaled = NormalizeIntensity(nonzero=True, channel_wise=True)(plain)
    return _with_values(image, scaled)


def _percentile(config: Percentile, channel: Tensor) -> Tensor:
    low, high = (float(p) for p in np.percentile(channel.numpy(), [config.lower, config.upper]))
    if low == high:
        low, high = float(channel.min()), float(channel.max())
    if low == high:  # one colour of several
        return torch.zeros_like(channel)
    return ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(channel)  # type: ignore[no-any-return]


def _refuse_constant(image: MetaTensor, what: str, *, each: bool) -> None:
    flat = [channel.flatten()[0] == channel.max() == channel.min() for channel in image.as_tensor()]
    for i, (channel, constant) in enumerate(zip(image.as_tensor(), flat, strict=True)):
        if constant and (each or all(flat)):
            value, where = channel.flatten()[0], f" of channel {i}" if len(image) > 1 else ""
            raise DataError("constant", f"{what}{where} is {float(value):g}: no image, or data.intensity is wrong")


def _finite(image: Tensor) -> Tensor:
    if not bool(torch.isfinite(image).all()):
        raise DataError("non_finite", "preprocessing made values that are not finite: look at data.intensity")
    return image.contiguous()
