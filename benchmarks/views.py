"""Views alone: ours, batched, against MONAI's five random transforms per sample; prints times and ratio.

    python benchmarks/views.py                  # both sides on one CPU core
    python benchmarks/views.py --device cuda    # ours on the GPU, MONAI on one CPU core

Both sides take two views of 32x112x112 of each 48x160x160 volume, as a step does, with the same five operations
at the same strengths, each time: affine (in-plane rotation and magnification of a 32x112x112 part), flip, Gaussian
noise, Gaussian smoothing and gamma. They run in turns in one process, and the medians of the pairs are what counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from math import radians
from statistics import median

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffine,
    RandFlip,
    RandGaussianNoise,
    RandGaussianSmooth,
)

from volssl.views import Chances, ViewsConfig

REGION, SIZE = (48, 160, 160), (32, 112, 112)
DEGREES, ZOOM, NOISE, SIGMA, GAMMA = 10.0, 0.1, 0.05, (0.8, 2.0), (0.7, 1.5)
BAR = {"cpu": 5.0, "cuda": 50.0}


def ours() -> ViewsConfig:
    """Two views with the five operations; the part is a random one, MONAI's is the middle."""
    return ViewsConfig(
        size=SIZE,
        crop=((SIZE[1] / REGION[1]) ** 2,) * 2,
        slices=(SIZE[0] / REGION[0],) * 2,
        rotate=(-DEGREES, DEGREES),
        scale=(1.0 - ZOOM, 1.0 + ZOOM),
        flip=(2,),
        noise=(NOISE, NOISE),
        blur=SIGMA,
        blur_slices=SIGMA,
        gamma=GAMMA,
        p=Chances(flip=1.0),
    )


def theirs() -> Compose:
    """The same five operations as MONAI's random transforms."""
    return Compose(
        [
            RandAffine(
                prob=1.0,
                rotate_range=(radians(DEGREES), 0.0, 0.0),
                scale_range=(0.0, ZOOM, ZOOM),
                spatial_size=SIZE,
                padding_mode="border",
            ),
            RandFlip(prob=1.0, spatial_axis=2),
            RandGaussianNoise(prob=1.0, std=NOISE),
            RandGaussianSmooth(prob=1.0, sigma_x=SIGMA, sigma_y=SIGMA, sigma_z=SIGMA),
            RandAdjustContrast(prob=1.0, gamma=GAMMA),
        ]
    )


def seconds(work: Callable[[], object], device: str) -> float:
    """What one call takes: processor time on the CPU, where neighbours must not count, wall time on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def compare(device: str, pairs: int, batch: int) -> tuple[float, float, float]:
    """(ours, theirs) in ms per view and the median ratio of interleaved pairs; the first warms up."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((batch, 1, *REGION), generator=generator)
    views, on_device, compose = ours().build(), images.to(device), theirs()
    compose.set_random_state(seed=0)
    mine, other = [], []
    for pair in range(pairs + 1):
        seeds = torch.arange(pair * batch, (pair + 1) * batch)
        mine.append(seconds(partial(views, on_device, seeds), device) / (2 * batch))
        other.append(seconds(lambda: [compose(image) for image in images[:4] for _ in range(2)], "cpu") / 8)
    ratio = median(b / a for a, b in zip(mine[1:], other[1:], strict=True))
    return 1e3 * median(mine[1:]), 1e3 * median(other[1:]), ratio


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, help="samples per call of ours; 4 on a CPU, 32 on a GPU where absent")
    args = parser.parse_args()
    torch.set_num_threads(1)
    batch = args.batch or (4 if args.device == "cpu" else 32)
    mine, other, ratio = compare(args.device, args.pairs, batch)
    print(f"volssl views, {args.device}, {batch} at a time   {mine:8.2f} ms per view")
    print(f"MONAI Compose of five, one CPU core     {other:8.2f} ms per view")
    print(f"median ratio of {args.pairs} pairs: {ratio:.1f} (at least {BAR[args.device]:.0f})")


if __name__ == "__main__":
    main()
