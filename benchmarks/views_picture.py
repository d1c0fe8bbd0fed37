"""Draws what a configuration shows the encoder: one item, and pairs of views of it.

python benchmarks/views_picture.py configs/quickstart.yaml docs/views.png
"""

from __future__ import annotations

import argparse
import tempfile

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from volssl import config
from volssl.data import PhantomConfig
from volssl.data.stream import sample_seed

ROWS, SLICES = 2, 6


def draw(axes: list[Axes], volume: Tensor, title: str) -> None:
    """``len(axes)`` slices of a volume (D, H, W), evenly spaced through its middle two thirds."""
    depth = len(volume)
    for i, ax in enumerate(axes):
        z = round((depth - 1) * (1 / 6 + 2 / 3 * i / max(len(axes) - 1, 1)))
        ax.imshow(volume[z], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
    axes[0].set_ylabel(title, fontsize=9)


def main() -> None:
    """Parse, make the views, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("picture")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--item", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        run = config.load(args.config, [*args.overrides, f"data.cache={cache}"])
        item = run.data.build(run.region)[args.item]
    views = run.views.build()
    figure, grid = plt.subplots(1 + 2 * ROWS, SLICES, figsize=(1.55 * SLICES, 1.62 * (1 + 2 * ROWS)))
    figure.subplots_adjust(0.05, 0.01, 0.99, 0.96, 0.03, 0.06)
    draw(list(grid[0]), item.image[0], "item")
    for epoch in range(ROWS):
        seeds = torch.tensor([sample_seed(run.seed, epoch, args.item)])
        for which, view in views(item.image[None].float(), seeds).items():
            draw(list(grid[1 + 2 * epoch + int(which)]), view[0, 0], f"epoch {epoch}, view {which}")
    synthetic = "a SYNTHETIC knee" if isinstance(run.data, PhantomConfig) else "an item"
    figure.suptitle(f"{synthetic} and the views that {run.method.name.upper()} sees of it", fontsize=10)
    figure.savefig(args.picture, dpi=90)


if __name__ == "__main__":
    main()
