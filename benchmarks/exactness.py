"""What plain accumulation gets wrong, and what being exact costs.

    python benchmarks/exactness.py [--precision bf16] [--device cuda]

Gradient: the cosine with the gradient of one pass over the whole batch, in float64 with group norm in the encoder,
of a trainer's plain accumulation and of ours. Time: one step of each on the same views, in turn, in pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from volssl.engine.distributed import Group
from volssl.engine.step import backward
from volssl.methods import (
    BarlowTwinsConfig,
    BYOLConfig,
    CASSConfig,
    DINOConfig,
    HybridConfig,
    MAEConfig,
    MethodConfig,
    MoCoV3Config,
    SimCLRConfig,
    SwAVConfig,
    VICRegConfig,
)
from volssl.methods.base import Method
from volssl.models import BackboneConfig, ResNetConfig, ViTConfig
from volssl.types import Batch, Progress

AT = Progress(0, 10)
SIZE = (8, 32, 32)
VIT = ViTConfig(dims=3, patch=(4, 8, 8), size=SIZE, width=96, depth=4, heads=4)
HEAD = (512, 128)
SWAV = SwAVConfig(projector=HEAD, prototypes=100, queue=0)
METHODS: dict[str, MethodConfig] = {
    "byol, batch norm in the heads": BYOLConfig(projector=HEAD, predictor=(512, 128)),
    "byol, layer norm in the heads": BYOLConfig(projector=HEAD, predictor=(512, 128), head_norm="layer"),
    "simclr": SimCLRConfig(projector=HEAD),
    "mocov3": MoCoV3Config(projector=HEAD, predictor=(512, 128)),
    "vicreg": VICRegConfig(projector=(512, 512, 512)),
    "barlow_twins": BarlowTwinsConfig(projector=(512, 512, 512)),
    "swav": SWAV,
    "dino": DINOConfig(projector=(512, 512, 128), prototypes=1024),
    "cass": CASSConfig(partner=VIT),
    "cass, batch norm": CASSConfig(partner=VIT, norm="batch"),
    "mae (ViT)": MAEConfig(width=64, depth=2, heads=4),
    "hybrid swav, half labelled": HybridConfig(ssl=SWAV, classes=(2,)),
}


def build(config: MethodConfig, norm: Literal["batch", "group"], depth: Literal[10, 18], width: int) -> Method:
    resnet = ResNetConfig(depth=depth, stem="r3d", norm=norm, width=width)
    first: BackboneConfig = VIT if config.name == "mae" else resnet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return config.build(*(backbone.build(1) for backbone in (first, *config.partners.values())))


def cut(samples: int, chunk: int, size: tuple[int, ...], like: Tensor) -> list[Batch]:
    """Two correlated views of every sample, in chunks; the first half of the samples has labels."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(samples, 1, *size, generator=generator)
    views = [(image + torch.randn(image.shape, generator=generator)).to(like) for _ in range(2)]
    index = torch.arange(samples, device=like.device)
    labels = torch.where(index < samples // 2, index % 2, -1)[:, None]
    parts = [slice(i, i + chunk) for i in range(0, samples, chunk)]
    return [Batch({"0": views[0][p], "1": views[1][p]}, index[p], index[p], labels[p]) for p in parts]


def plain_accumulation(method: Method, chunks: list[Batch], autocast: torch.dtype | None) -> None:
    """What a trainer's accumulation flag does: loss and backward per chunk."""
    method.zero_grad()
    for chunk in chunks:
        with torch.autocast(chunk.index.device.type, dtype=autocast, enabled=autocast is not None):
            t, z = method.target(chunk), method.encode(chunk)
        torch.autograd.backward(method.loss(z, t, AT).total / len(chunks))


def gradient(method: Method) -> Tensor:
    """Of all encoders, in one vector."""
    encoders = method.encoders.values()
    return torch.cat([p.grad.flatten() for net in encoders for p in net.parameters() if p.grad is not None])


def print_cosines(samples: int, chunk: int) -> None:
    print(f"\ncosine with the true gradient of the encoder, {samples} samples in chunks of {chunk}, float64")
    print(f"{'method':<32}{'plain accumulation':>20}{'volssl':>14}{'largest difference':>20}")
    for name, config in METHODS.items():
        method = build(config, "group", 10, 8).double()
        like = torch.zeros((), dtype=torch.float64)
        plain_accumulation(method, cut(samples, samples, SIZE, like), None)  # one chunk: one pass
        truth = gradient(method)
        chunks = cut(samples, chunk, SIZE, like)
        plain_accumulation(method, chunks, None)
        plain = gradient(method)
        backward(method, chunks, AT, group=Group())
        ours = gradient(method)
        cosines = [float(F.cosine_similarity(g, truth, dim=0)) for g in (plain, ours)]
        print(f"{name:<32}{cosines[0]:>20.4f}{cosines[1]:>14.10f}{float((ours - truth).abs().max()):>20.1e}")


def seconds(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Of the clock, and of all cores of this process (which other processes disturb less)."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - busy


def print_cost(options: argparse.Namespace) -> float:
    """Median over the pairs of (a step with caching) / (a step of plain accumulation)."""
    device, size = torch.device(options.device), tuple(options.size)
    autocast = torch.bfloat16 if options.precision == "bf16" else None
    method = build(METHODS["byol, batch norm in the heads"], "batch", 18, 64).to(device).train()
    chunks = cut(options.batch, options.chunk, size, torch.zeros((), device=device))
    group = Group(device=device)
    ways: tuple[Callable[[], object], ...] = (
        lambda: backward(method, chunks, AT, group=group, autocast=autocast),
        lambda: plain_accumulation(method, chunks, autocast),
    )
    rounds = [[seconds(way, device) for way in ways] for _ in range(options.pairs + 1)][1:]  # the first warms up
    wall, busy = (statistics.median(ours[i] / plain[i] for ours, plain in rounds) for i in range(2))
    print(
        f"\none step of R3D-18, batch {options.batch}, chunk {options.chunk}, views {size}, {options.precision}, "
        f"{options.device}, {torch.get_num_threads()} threads: {options.pairs} pairs in turn"
    )
    for name, column in (("volssl", 0), ("plain accumulation", 1)):
        print(f"{name:<20}{statistics.median(r[column][0] for r in rounds):8.2f} s")
    print(f"caching costs {wall:.2f} times plain accumulation (bar: 1.45); in processor time {busy:.2f} times")
    return wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=3, default=[16, 48, 48])
    parser.add_argument("--pairs", type=int, default=5, help="0: cosines only")
    options = parser.parse_args()
    print_cosines(samples=16, chunk=4)
    if options.pairs == 0:
        return
    raise SystemExit(print_cost(options) > 1.45)


if __name__ == "__main__":
    main()
