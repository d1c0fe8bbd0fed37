"""What a card's preprocessing is in MONAI's transforms, as a bundle's configuration writes them (torch-free)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from volssl.data import Sources, VolumeConfig, Volumes
from volssl.data.image_config import Coloured, ImageConfig
from volssl.data.items import Items, Keep, Percentile, Window
from volssl.data.slide_config import SlideConfig
from volssl.data.video_config import VideoConfig
from volssl.errors import DataError
from volssl.evaluation.card import Card

Kind = Literal["nifti", "npy", "picture"]
Step = dict[str, Any]

LEAST = 0.3  # sd below which ``volssl.views`` does not smooth what it makes smaller
IMPORTS = ("import numpy", "import torch", "import monai", "from scipy import ndimage", "from PIL import ImageOps")

# What MONAI has no transform for: Gaussians that repeat the edge, and percentiles that coincide. By name, for others.
EXPRESSIONS = {
    "like": "$lambda image, values: monai.data.MetaTensor(torch.as_tensor(values), affine=image.affine)",
    "smooth": "$lambda image, shrink: @like(image, ndimage.gaussian_filter(image.numpy(), "
    "[0, *[max(s - 1, 0) / 2 for s in shrink]], mode='nearest'))",
    "range": "$lambda c, low, high: (low, high) if low < high else (float(c.min()), float(c.max()))",
    "to_unit": "$lambda c, low, high: ((c - low) / (high - low)).clamp(0, 1) if low < high else torch.zeros_like(c)",
    "percentile": "$lambda image, q: @like(image, torch.stack("
    "[@to_unit(c, *@range(c, *numpy.percentile(c.numpy(), q).tolist())) for c in image.as_tensor()]))",
}


@dataclass(frozen=True)
class Prepared:
    """kind: of the files. steps: transforms of the key ``image``, from a file's path to (C, *size).

    data: the preprocessing they are. notes: what they leave to whoever uses them. exact: whether that is nothing that
    changes a number.
    """

    kind: Kind
    data: Items
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    exact: bool


def prepared(card: Card) -> Prepared:
    """The preprocessing of ``Encoder.preprocess`` of one file.

    Raises:
        DataError: flat images of channels that no picture has, or as ``Card.preprocessing``.
    """
    data: Sources = card.pictures("", "") if card.dims == 2 else card.preprocessing
    if not isinstance(data, Items):
        raise DataError("encoder", f"no MONAI transform prepares what data.name: {data.name} reads")
    kind: Kind = "picture" if card.dims == 2 else "nifti" if isinstance(data, VolumeConfig) else "npy"
    notes = tuple(_notes(card, data))
    exact = not (isinstance(data, Volumes) and data.n4)
    return Prepared(kind, data, tuple(_steps(card, data, kind)), notes, exact)


def _steps(card: Card, data: Items, kind: Kind) -> Iterator[Step]:
    yield from {"nifti": _nifti, "npy": _npy, "picture": _picture}[kind](data)
    if data.non_finite == "zero":
        yield _function("x.nan_to_num(0.0, 0.0, 0.0)")
    if isinstance(data, Volumes):
        yield from _geometry(data, kind)
    yield from _intensity(data)
    if data.crop_foreground:
        yield _step("CropForegroundd", source_key="image", select_fn="$lambda x: x != 0", allow_smaller=True)
    yield from _fit(data, card.region)
    if data.cache_dtype == "float16":  # as the cache rounds
        yield _step("CastToTyped", dtype="$torch.float16")
        yield _step("CastToTyped", dtype="$torch.float32")
    yield from _whole(card)
    yield _step("EnsureTyped", dtype="$torch.float32", track_meta=False)


def _nifti(data: Items) -> Iterator[Step]:
    assert isinstance(data, VolumeConfig)
    yield _step("LoadImaged", reader="NibabelReader", dtype="$numpy.float32")
    yield _step("EnsureChannelFirstd")
    if isinstance(data.time, int) and data.sequences_as == "items":
        yield _function(f"x[{data.time} : {data.time + 1}]")


def _npy(data: Items) -> Iterator[Step]:
    yield _step("LoadImaged", reader="NumpyReader", dtype="$numpy.float32")
    yield _step("EnsureChannelFirstd", channel_dim="no_channel" if data.channels == 1 else 0)


def _picture(data: Items) -> Iterator[Step]:
    assert isinstance(data, Coloured)
    mode = "u.mode if u.mode in ('L', 'F') or u.mode.startswith('I') else 'L' if u.mode in ('1', 'LA') else 'RGB'"
    upright = f"$lambda p: (lambda u: [u.convert({mode}), p.close()][0])(ImageOps.exif_transpose(p))"
    reader = {"_target_": "PILReader", "converter": upright, "reverse_indexing": False}
    yield _step("LoadImaged", reader=reader, dtype="$numpy.float32")
    yield _step("EnsureChannelFirstd")
    luma = "@like(x, (x.as_tensor() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True))"
    if data.colour == "rgb":
        yield _function("x if len(x) == 3 else x.repeat(3, 1, 1)")
    elif data.colour == "luma":
        yield _function(f"x if len(x) == 1 else {luma}")
    else:  # three channels that differ stay three, which the network refuses
        yield _function("x[:1] if (x == x[:1]).all() else x")


def _geometry(data: Volumes, kind: Kind) -> Iterator[Step]:
    """NIfTI is columns x rows x slices: turned by name, or at the end where each axis stays as it was acquired."""
    spacing = None if data.spacing is None else list(data.spacing)
    if data.orientation is not None:
        yield _step("Orientationd", axcodes=data.orientation, labels=[["L", "R"], ["P", "A"], ["I", "S"]])
    elif spacing:
        spacing.reverse()
    if spacing:
        acquired = "monai.data.utils.affine_to_spacing(x.affine, 3).tolist()"
        yield _function(f"@smooth(x, [new / old for new, old in zip({spacing}, {acquired})])")
        yield _step("Spacingd", pixdim=spacing, mode="bilinear", padding_mode="border", dtype="$torch.float32")
    if data.orientation is None and kind == "nifti":
        yield _step("Transposed", indices=[0, 3, 2, 1])


def _intensity(data: Items) -> Iterator[Step]:
    how = data.intensity
    if isinstance(how, Percentile):
        yield _function(f"@percentile(x, [{how.lower}, {how.upper}])")
    elif isinstance(how, Window):
        low, high = how.centre - how.width / 2, how.centre + how.width / 2
        yield _step("ScaleIntensityRanged", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
    elif not isinstance(how, Keep):
        yield _step("NormalizeIntensityd", nonzero=True, channel_wise=True)


def _fit(data: Items, region: tuple[int, ...]) -> Iterator[Step]:
    ways = (data.fit,) * len(region) if isinstance(data.fit, str) else data.fit
    kept = [new if way == "crop" else -1 for way, new in zip(ways, region, strict=True)]
    yield _step("ResizeWithPadOrCropd", spatial_size=kept)
    if "resize" in ways:
        yield _function(f"@smooth(x, [old / new for old, new in zip(x.shape[1:], {list(region)})])")
        yield _resize(region)


def _whole(card: Card) -> Iterator[Step]:
    """The region resampled to what the network sees."""
    if card.region == card.size:
        return
    shrink = [old / new for old, new in zip(card.region, card.size, strict=True)]
    yield _function(f"@smooth(x, {[s if (s - 1) / 2 > LEAST else 1.0 for s in shrink]})")
    yield _resize(card.size)


def _resize(size: tuple[int, ...]) -> Step:
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return _step("Resized", spatial_size=list(size), mode=mode, align_corners=False)


def _step(target: str, **given: Any) -> Step:
    return {"_target_": target, "keys": "image", **given}


def _function(of_x: str) -> Step:
    return _step("Lambdad", func=f"$lambda x: {of_x}")


def _notes(card: Card, data: Items) -> Iterator[str]:
    trained = card.preprocessing
    if isinstance(data, Volumes) and data.n4:
        yield "N4 is not part of it: correct the bias field (with the same settings) before, or features differ."
    if isinstance(data, VolumeConfig):
        yield from _volume_notes(data)
    elif isinstance(trained, VideoConfig) and card.dims == 3:
        shape = "frames x rows x columns" + (", with the three colours in front" if data.channels == 3 else "")
        taken = f"{card.region[0]} frames, each {trained.stride} after the last"
        yield f"No video is read: save each clip as .npy, {shape}: {taken}."
    elif card.dims == 3:
        yield "Stacks are read as .npy, slices x rows x columns; folders of slice images are not."
    if isinstance(trained, SlideConfig):
        yield f"No slide is read: cut tiles at {trained.mpp:g} microns per pixel; of a larger one the middle is taken."
    elif not isinstance(trained, ImageConfig) and card.dims == 2:
        yield "It was trained on slices or frames that were scaled together: a picture is scaled alone."
    if data.non_finite == "refuse":
        yield "What volssl refuses goes through: constant images, NaN and infinity, axes that no header explains."


def _volume_notes(data: VolumeConfig) -> Iterator[str]:
    yield "No DICOM is read: convert each series to NIfTI with a converter that you trust."
    if data.channels > 1 and data.sequences:
        names = ", ".join(data.sequences)
        yield f"The image is a list of files on one grid, in this order: {names}. volssl would resample to the first."
    if data.time == "items":
        yield "Of a 4D file each time point is an item: save it as a file of its own."
