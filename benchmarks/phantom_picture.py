"""Draws docs/phantom.png: synthetic knees, intact and torn, in the three planes.

python benchmarks/phantom_picture.py [FILE]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from volssl.data.knee_scan import acquire, draw_scan
from volssl.data.phantom import make_knee

PLACES = {"sagittal": (0.5, 0.55), "coronal": (0.47,), "axial": (0.55,)}  # slices shown, as shares of the stack
PIXELS = 224


def main(file: Path) -> None:
    """Two intact and two torn knees, one a row."""
    matplotlib.use("Agg")
    knees = [make_knee(0, exam, 0.35) for exam in range(40)]
    chosen = [k for k in knees if not k.torn][:2] + [k for k in knees if k.severity > 0.6][:2]
    figure, rows = plt.subplots(4, 4, figsize=(8, 8.4))
    for number, (axes, knee) in enumerate(zip(rows, chosen, strict=True)):
        panels = [(plane, place) for plane, places in PLACES.items() for place in places]
        for axis, (plane, place) in zip(axes, panels, strict=True):
            rng = np.random.default_rng(number)
            scan = replace(draw_scan(rng, plane), slices=31)
            stack = acquire(replace(knee, left=False), scan, PIXELS, rng)
            axis.imshow(stack[round(place * 30)], cmap="gray", vmin=0, vmax=np.percentile(stack, 99.7))
            axis.set_axis_off()
            axis.set_title(plane if number == 0 else "", fontsize=9)
        axes[0].text(
            -14, PIXELS / 2, f"ACL torn ({knee.severity:.2f})" if knee.torn else "ACL intact", fontsize=9,
            rotation=90, va="center", ha="center",
        )  # fmt: skip
    figure.suptitle("Synthetic knees drawn by `volssl phantom`; no patient was scanned", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=70)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/phantom.png"))
