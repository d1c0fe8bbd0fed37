"""Learning rates that fall from the head of a network to its stem, stage by stage."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn import Parameter

from volssl.models.resnet import ResNet
from volssl.models.timm_model import Timm
from volssl.models.vit import ViT


def decayed(head: nn.Module, network: nn.Module, lr: float, decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: the head at ``lr``, and each stage below at ``decay`` times the rate of that above.

    So the last stage learns at ``lr * decay`` (Clark et al. 2020, arXiv 2003.10555).
    """
    order = [list(head.parameters()), *reversed(stages(network))]
    return [{"params": each, "lr": lr * decay**depth} for depth, each in enumerate(order)]


def stages(network: nn.Module) -> list[list[Parameter]]:
    """All parameters of a backbone, each in one stage, from the image to the features.

    Of a ResNet the stem and four stages; of a ViT the embedding (with class token and positions) and each block, the
    last with the norm behind it; of timm's models what timm calls their stages. Any other network is one stage.
    """
    number = _numbering(network)
    found: dict[int, list[Parameter]] = {}
    for name, parameter in network.named_parameters():
        found.setdefault(number(name), []).append(parameter)
    return [found[i] for i in sorted(found)]


def _numbering(network: nn.Module) -> Callable[[str], int]:
    """From the name of a parameter to the number of its stage."""
    if isinstance(network, Timm):
        from timm.models import group_parameters

        numbers: dict[str, int] = group_parameters(network.net, network.net.group_matcher(coarse=True), reverse=True)
        return lambda name: numbers[name.removeprefix("net.")]
    if isinstance(network, ResNet):
        return lambda name: _after("layers", name)
    if isinstance(network, ViT):
        last = len(network.blocks)
        return lambda name: last if name.startswith("norm.") else _after("blocks", name)
    return lambda _name: 0


def _after(stage: str, name: str) -> int:
    """1 for ``stage.0.``, 2 for ``stage.1.`` and so on; 0 for what is in front of them."""
    found = re.match(rf"{stage}\.(\d+)\.", name)
    return int(found[1]) + 1 if found else 0
