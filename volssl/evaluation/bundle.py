"""An encoder as a MONAI bundle: its preprocessing as MONAI transforms, metadata, and a page for whoever uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from volssl import __version__
from volssl.data import VolumeConfig
from volssl.data.items import Percentile, Window
from volssl.errors import RunError
from volssl.evaluation.bundle_transforms import EXPRESSIONS, IMPORTS, Prepared, prepared
from volssl.evaluation.card import CARD, Card
from volssl.evaluation.encoder import Encoder

if TYPE_CHECKING:
    from volssl.types import Tensors

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
METADATA, INFERENCE, MODEL = "configs/metadata.json", "configs/inference.json", "models/model.ts"
PATTERNS = {"nifti": "*.nii*", "npy": "*.npy", "picture": "*.png"}
READERS = {"nifti": "nibabel", "npy": "numpy", "picture": "pillow"}
ROUNDING = {"float16": 2.0**-10, "float32": 1e-4}  # of the greatest value: two steps of it; in float32, of many sums
LARGER = 1.2  # edges of the image that the preprocessing is tried on, in those of the region


@dataclass(frozen=True)
class Bundle:
    """What a bundle says beside its weights (https://docs.monai.io/en/stable/mb_specification.html).

    width: D, of the pooled features. name: of its folder.
    """

    card: Card
    width: int
    name: str

    @cached_property
    def prepared(self) -> Prepared:
        """The preprocessing as MONAI transforms."""
        return prepared(self.card)

    def files(self) -> dict[str, str]:
        """Path in the bundle to text."""
        return {
            METADATA: json.dumps(self._metadata(), indent=2) + "\n",
            INFERENCE: json.dumps(self._inference(), indent=2) + "\n",
            f"configs/{CARD}": self.card.model_dump_json(indent=2) + "\n",
            "docs/README.md": self._page(),
        }

    def _inference(self) -> dict[str, Any]:
        return {
            "imports": [f"${line}" for line in ("import glob", *IMPORTS)],
            "bundle_root": ".",
            "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
            "dataset_dir": "$@bundle_root + '/data'",
            "output_dir": "$@bundle_root + '/eval'",
            "datalist": f"$sorted(glob.glob(@dataset_dir + '/{PATTERNS[self.prepared.kind]}'))",
            "network_def": _target("torch.jit.load", f=f"$@bundle_root + '/{MODEL}'", map_location="@device"),
            "network": "$@network_def.eval()",
            **EXPRESSIONS,
            "preprocessing": _target("Compose", transforms=list(self.prepared.steps)),
            "dataset": _target("Dataset", data="$[{'image': path} for path in @datalist]", transform="@preprocessing"),
            "dataloader": _target("DataLoader", dataset="@dataset", batch_size=1, num_workers=0),
            "inferer": _target("SimpleInferer"),
            "evaluator": _target(
                "SupervisedEvaluator",
                device="@device",
                val_data_loader="@dataloader",
                network="@network",
                inferer="@inferer",
            ),
            "saver": _target("CSVSaver", output_dir="@output_dir", filename="features.csv"),
            "run": [
                "$[@saver.save(@inferer(batch['image'].to(@device), @network)[0], {'filename_or_obj': path}) "
                "for path, batch in zip(@datalist, @dataloader)]",
                "$@saver.finalize()",
            ],
        }

    def _metadata(self) -> dict[str, Any]:
        card = self.card
        return {
            "schema": SCHEMA,
            "version": "1.0.0",
            "changelog": {"1.0.0": f"exported by volssl {__version__}"},
            "monai_version": version("monai"),
            "pytorch_version": torch.__version__.partition("+")[0],
            "numpy_version": np.__version__,
            "required_packages_version": {name: version(name) for name in ("scipy", READERS[self.prepared.kind])},
            "name": self.name,
            "task": f"Features of {card.dims}D medical images by a self-supervised encoder",
            "description": f"A {card.backbone.title} trained with {card.method} for {card.step} steps: one image to "
            f"{self.width} features, for a classifier or a regression of one's own.",
            "authors": "not stated: whoever trained the encoder",
            "copyright": "not stated: that of whoever trained the encoder",
            "intended_use": "Research. It is no medical device and says nothing about a patient.",
            "data_type": READERS[self.prepared.kind],
            "network_data_format": {"inputs": {"image": self._image()}, "outputs": {"pred": self._features()}},
        }

    def _image(self) -> dict[str, Any]:
        data, card = self.prepared.data, self.card
        names = ("red", "green", "blue") if card.dims == 2 and card.channels == 3 else ("image",) * card.channels
        if isinstance(data, VolumeConfig) and data.sequences_as == "channels":
            names = data.sequences
        return {
            "type": "image",
            "format": "magnitude",
            "modality": "n/a",
            "num_channels": card.channels,
            "spatial_shape": list(card.size),
            "dtype": "float32",
            "value_range": [0, 1] if isinstance(data.intensity, Percentile | Window) else [],
            "is_patch_data": False,
            "channel_def": {str(i): name for i, name in enumerate(names)},
        }

    def _features(self) -> dict[str, Any]:
        return {
            "type": "image",
            "format": "latent",
            "num_channels": self.width,
            "spatial_shape": [],
            "dtype": "float32",
            "value_range": [],
            "is_patch_data": False,
            "channel_def": {},
        }

    def _page(self) -> str:
        card, notes = self.card, "".join(f"- {note}\n" for note in self.prepared.notes)
        return PAGE.format(
            name=self.name,
            task=self._metadata()["description"],
            channels=card.channels,
            size=", ".join(map(str, card.size)),
            width=self.width,
            exact="It gives volssl's own numbers, up to rounding."
            if self.prepared.exact
            else "**It is not complete.**",
            notes=notes,
        )


PAGE = """# {name}

{task}

`models/model.ts` is TorchScript: float32 images (B, {channels}, {size}) to features (B, {width}); its method `tokens`
gives those of every place (B, N, {width}). `models/model.pt` is its state dict.

```python
from monai.bundle import ConfigParser

bundle = ConfigParser()
bundle.read_config("{name}/configs/inference.json")
bundle["bundle_root"] = "{name}"
image = bundle.get_parsed_content("preprocessing")({{"image": "scan"}})["image"]
features = bundle.get_parsed_content("network")(image[None])
```

`monai.bundle.run(config_file="configs/inference.json", dataset_dir="DATA")`, in this folder, writes the features of
every file in DATA to `eval/features.csv`.

## Preprocessing

`preprocessing` in `configs/inference.json` takes a file to the network's input; `configs/card.json` says the same in
volssl's words. {exact}

{notes}
## What it is for

Research. It is no medical device and says nothing about a patient. Authors, licence and training data are for whoever
trained the encoder to state.
"""


def _target(name: str, **given: Any) -> dict[str, Any]:
    return {"_target_": name, **given}


def parsed(folder: Path) -> ConfigParser:
    """The configuration of a bundle that this package has just written: MONAI evaluates what stands in it."""
    parser = ConfigParser()
    parser.read_config(str(folder / INFERENCE))
    parser.read_meta(str(folder / METADATA))
    parser["bundle_root"], parser["device"] = str(folder), "cpu"
    return parser


def bundle_run(parser: ConfigParser) -> Callable[[Tensor], Tensors]:
    """What the bundle's network says of images."""
    network = parser.get_parsed_content("network")
    return lambda images: {"pooled": network(images), "tokens": network.tokens(images)}


def compare_preprocessing(parser: ConfigParser, encoder: Encoder, how: Prepared) -> None:
    """The bundle's preprocessing of a random file beside the encoder's own.

    Raises:
        RunError: they differ by more than the rounding of the cache.
    """
    with TemporaryDirectory() as folder:
        given, taken, alike = _random_study(encoder.card, how, Path(folder))
        own = Encoder(encoder.network, alike).preprocess(taken)
        image = parser.get_parsed_content("preprocessing")({"image": given})["image"]
    if image.shape != own.shape:
        raise RunError(f"--to monai-bundle: prepares {list(image.shape)}, not {list(own.shape)}: nothing was written")
    off, allowed = float((image - own).abs().max()), ROUNDING[how.data.cache_dtype] * max(1.0, float(own.abs().max()))
    if not off <= allowed:  # NaN is refused
        what = f"prepares images otherwise, by up to {off:.3g} (rounding allows {allowed:.3g})"
        raise RunError(f"--to monai-bundle: {what}: nothing was written")


def _random_study(card: Card, how: Prepared, folder: Path) -> tuple[Any, Any, Card]:
    """What the bundle is given, what the encoder is given, and the card that reads it.

    The files of several sequences are one file of as many time points to the encoder: whatever they are called.
    """
    shape, channels = tuple(int(LARGER * n) + 1 for n in card.region), how.data.channels
    time = how.data.time if isinstance(how.data, VolumeConfig) and channels == 1 else 0
    numbers = _numbers(how, (channels + (time if isinstance(time, int) else 0), *shape))
    if how.kind == "picture":
        Image.fromarray(np.moveaxis(numbers, 0, -1).squeeze().astype(np.uint8)).save(folder / "image.png")
        return str(folder / "image.png"), str(folder / "image.png"), card
    if how.kind == "npy":
        np.save(folder / "image.npy", numbers.squeeze())
        return str(folder / "image.npy"), numbers.squeeze(), card
    assert isinstance(how.data, VolumeConfig)
    plain: dict[str, Any] = {"sequences": (), "sequences_as": "items"}
    if how.data.sequences_as == "items":
        path = _save(folder / "image.nii", numbers)
        return path, path, card.model_copy(update={"data": how.data.model_copy(update=plain)})
    paths = [_save(folder / f"{i}.nii", one[None]) for i, one in enumerate(numbers)]
    plain |= {"time": "channels", "time_points": channels}
    alike = card.model_copy(update={"data": how.data.model_copy(update=plain)})
    return paths, _save(folder / "all.nii", numbers), alike


def _numbers(how: Prepared, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Bytes, or numbers within and beyond the window, in an empty border."""
    rng = np.random.default_rng(0)
    window = how.data.intensity
    low, high = (0.0, 1000.0)
    if isinstance(window, Window):
        low, high = window.centre - 0.7 * window.width, window.centre + 0.7 * window.width
    numbers = np.zeros(shape, np.float32)
    inner = (slice(None), *(slice(n // 8, n - n // 8) for n in shape[1:]))
    if how.kind == "picture":
        low, high = 0, 255
    numbers[inner] = np.rint(rng.uniform(low, high, numbers[inner].shape))
    return numbers


def _save(path: Path, numbers: NDArray[np.float32]) -> str:
    """NIfTI of (time points, slices, rows, columns), oblique and anisotropic."""
    turn = np.array([[0.96, -0.28, 0, -20], [0.28, 0.96, 0, 30], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    affine = turn @ np.diag([-0.9, 1.1, 1.7, 1])
    nib.save(nib.Nifti1Image(numbers.T.squeeze(), affine), path)
    return str(path)
