"""Published weights recognised by their keys: which backbone they belong to, under volssl's names."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from volssl.errors import ConfigError
from volssl.models import BackboneConfig, ResNetConfig, ViTConfig
from volssl.models.cost import BLOCKS
from volssl.models.weights_file import read_weights
from volssl.names import one_line
from volssl.regular import LARGE, IrregularError, read_regular

if TYPE_CHECKING:
    from volssl.models.timm_model import Timm
    from volssl.types import Tensors

_WRAPPERS = ("state_dict", "teacher")  # Lightning and MedicalNet; DINO's full checkpoint
_PREFIXES = re.compile(r"^(?:(?:module|model|resnet|backbone)\.)+")  # DataParallel, Ciga's two, DINO's
_STEMS = {(7, 7): "imagenet", (7, 7, 7): "imagenet", (3, 7, 7): "r3d"}
_HEAD_WIDTH = 64  # of ViT-Ti, S, B and L: the shapes do not tell the number of heads
_OF_VIT = {"cls_token", "pos_embed", "patch_embed", "blocks", "norm", "register_tokens", "dist_token"}


@dataclass(frozen=True)
class Published:
    """Weights as they are in a file.

    backbone: the network they were trained in. tensors: by volssl's names. keys: what the file calls them.
    left: the file's other keys, of heads.
    """

    backbone: BackboneConfig
    tensors: Tensors
    keys: dict[str, str]
    left: tuple[str, ...] = ()


def recognise(path: Path) -> Published:
    """The weights in a file as published, or in the folder of an encoder trained here.

    Known by their keys: torchvision's ResNets (also from DINO, SwAV and Ciga et al.) and R3D-18, MedicalNet's
    ResNets, DINO's ViTs. Of DINO's full checkpoint, the teacher.

    Raises:
        ConfigError: it cannot be read, or is none of these.
    """
    if os.path.isdir(path):  # of a name too long Path.is_dir raises
        return _own(path)
    found = read_weights(path)
    content, left = _unwrap(found)
    short = _short(path, content)
    for marks, our_name, recognised in _FORMS:
        if not marks <= short.keys():
            continue
        keys = {name: key for end, key in short.items() if (name := our_name(end))}
        tensors = {name: content[key] for name, key in keys.items()}
        left += [key for end, key in short.items() if not our_name(end)]
        try:
            backbone = recognised(path, tensors)
        except (IndexError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: its weights have the names of a network and not its shapes") from error
        return Published(backbone, tensors, keys, tuple(left))
    some = ", ".join(list(content or found)[:3]) or "none"
    raise ConfigError(
        f"{path}: no backbone known here has such keys ({some}): give weights of torchvision, MedicalNet, "
        f"Ciga, SwAV or DINO, or the folder of an encoder"
    )


def of_timm(path: Path, model: Timm) -> Published:
    """The weights in a file under the names that timm gives those of ``model``; its classifier is left.

    Raises:
        ConfigError: it cannot be read.
    """
    content, left = _unwrap(read_weights(path))
    keys = {f"net.{end}": key for end, key in _short(path, content).items()}
    taken = {name: key for name, key in keys.items() if not name.startswith(model.classifier)}
    left += [key for name, key in keys.items() if name not in taken]
    return Published(model.config, {name: content[key] for name, key in taken.items()}, taken, tuple(left))


def _unwrap(found: dict[str, object]) -> tuple[Tensors, list[str]]:
    """The tensors of the network, and the names of others that stand beside it."""
    for wrapper in _WRAPPERS:
        if isinstance(inner := found.get(wrapper), dict):
            others = [name for name, value in found.items() if name != wrapper and _tensors(value)]
            return _tensors(inner), others
    return _tensors(found), []


def _short(path: Path, content: Tensors) -> dict[str, str]:
    """The file's keys by what is left of them without what wraps a network."""
    short = {_PREFIXES.sub("", key): key for key in content}
    if len(short) < len(content):
        raise ConfigError(f"{path}: holds several networks: give the state dict of one")
    return short


def _tensors(value: object) -> Tensors:
    if not isinstance(value, dict):
        return {}
    return {one_line(str(key)): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}


def _of_resnet(key: str) -> str:
    """torchvision's ResNet: it counts stages from 1, volssl from 0."""
    key = re.sub(r"^conv1\.", "stem.0.", re.sub(r"^bn1\.", "stem.1.", key))
    key = re.sub(r"^layer(\d)\.", lambda stage: f"layers.{int(stage[1]) - 1}.", key)
    return key if key.startswith(("stem.", "layers.")) else ""


def _of_video(key: str) -> str:
    """torchvision's VideoResNet, where a convolution and its norm are a pair."""
    return _of_resnet(re.sub(r"\.conv(\d)\.0\.", r".conv\1.", re.sub(r"\.conv(\d)\.1\.", r".bn\1.", key)))


def _of_vit(key: str) -> str:
    return key if key.split(".")[0] in _OF_VIT else ""


def _resnet(path: Path, tensors: Tensors) -> ResNetConfig:
    stem = tensors["stem.0.weight"]
    kernel, dims, bottleneck = tuple(stem.shape[2:]), stem.ndim - 2, "layers.0.0.conv3.weight" in tensors
    blocks = tuple(len({k.split(".")[2] for k in tensors if k.startswith(f"layers.{i}.")}) for i in range(4))
    depth = next((d for d, known in BLOCKS.items() if known == blocks and (d >= 50) == bottleneck), None)
    if depth is None or kernel not in _STEMS:
        raise ConfigError(f"{path}: a ResNet of {blocks} blocks with a kernel of {kernel} first is not known here")
    of_medicalnet = kernel == (7, 7, 7)
    if of_medicalnet and stem.shape[1] != 1:
        raise ConfigError(f"{path}: a 3D ResNet on several channels is not MedicalNet's, and keys tell no strides")
    facts = {"dims": dims, "depth": depth, "stem": _STEMS[kernel], "norm": "batch", "width": len(stem)}
    shortcut = "B" if "layers.1.0.downsample.0.weight" in tensors else "A"
    return ResNetConfig.model_validate(facts | {"dilated": of_medicalnet, "shortcut": shortcut})


def _vit(path: Path, tensors: Tensors) -> ViTConfig:
    first = tensors["patch_embed.proj.weight"]
    hidden, positions = tensors.get("blocks.0.mlp.fc1.weight"), tensors.get("pos_embed")
    width, patch = first.shape[0], tuple(first.shape[2:])
    side = 0 if positions is None else math.isqrt(positions.shape[1])
    square = positions is not None and side > 0 and positions.shape == (1, 1 + side**2, width)
    if hidden is None or first.ndim != 4 or not square or width % _HEAD_WIDTH:
        raise ConfigError(f"{path}: a ViT, but not one of DINO's (a class token and a square of patches in 2D)")
    return ViTConfig(
        dims=2,
        patch=patch,
        size=tuple(side * n for n in patch),
        width=width,
        depth=len({key.split(".")[1] for key in tensors if key.startswith("blocks.")}),
        heads=width // _HEAD_WIDTH,
        mlp=len(hidden) // width,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in tensors else None,
    )


_Form = tuple[set[str], Callable[[str], str], Callable[[Path, "Tensors"], ResNetConfig | ViTConfig]]
_FORMS: tuple[_Form, ...] = (
    ({"conv1.weight", "layer1.0.conv1.weight"}, _of_resnet, _resnet),
    ({"stem.0.weight", "layer1.0.conv1.0.weight"}, _of_video, _resnet),
    ({"cls_token", "patch_embed.proj.weight"}, _of_vit, _vit),
)


def _own(folder: Path) -> Published:
    """An encoder that was trained here: its card says what it is."""
    try:
        card = json.loads(read_regular(folder / "card.json"))
        content = read_regular(folder / "model.safetensors", LARGE)
        backbone = TypeAdapter(BackboneConfig).validate_json(json.dumps(card["backbone"]))
        whole = hashlib.sha256(content).hexdigest() == card["sha256"]
        tensors = load(content)
    except IrregularError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}): copy the folder again") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: holds no encoder (card.json, model.safetensors): give the folder of one"
        ) from error
    if not whole:
        raise ConfigError(f"{folder}: model.safetensors is damaged (its SHA-256 is not the card's): copy it again")
    return Published(backbone, tensors, {name: name for name in tensors})
