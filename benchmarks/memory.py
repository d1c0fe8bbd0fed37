"""Peak memory of a step against the batch size: it grows only by what holding the inputs costs.

    python benchmarks/memory.py [--device cuda]

Each size runs in a process of its own: R3D-18 of a quarter of its width, BYOL, views 16 x 64 x 64 held in memory,
two steps. On a CPU the peak is the resident set's high-water mark, on a GPU what torch allocated. The last column is
one pass over the whole batch (chunk = batch), up to --whole, to see what is saved.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

from volssl.engine.distributed import Group
from volssl.engine.step import backward
from volssl.methods import BYOLConfig
from volssl.models import ResNetConfig
from volssl.types import Batch, Progress

SIZE = (16, 64, 64)
MB = 2**20


def inputs(batch: int) -> float:
    """MB of two float32 views of every sample."""
    return 2 * batch * 4 * SIZE[0] * SIZE[1] * SIZE[2] / MB


def measure(batch: int, chunk: int, device: torch.device) -> float:
    """Peak MB of this process over two steps."""
    torch.manual_seed(0)
    backbone = ResNetConfig(depth=18, stem="r3d", width=16).build(1)
    method = BYOLConfig(projector=(512, 128), predictor=(512, 128)).build(backbone).to(device)
    index = torch.arange(chunk, device=device)
    chunks = [
        Batch({name: torch.randn(chunk, 1, *SIZE, device=device) for name in ("0", "1")}, index, index, index)
        for _ in range(batch // chunk)
    ]
    for step in range(2):
        backward(method, chunks, Progress(step, 2), group=Group(device=device))
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / MB
    # not ru_maxrss: it is inherited from the parent process
    mark = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert mark is not None, "no VmHWM: this needs Linux"
    return int(mark[1]) / 1024


def in_a_child(batch: int, chunk: int, device: str) -> float:
    command = [sys.executable, __file__, "--device", device, "--one", str(batch), str(chunk)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--chunk", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--whole", type=int, default=8, help="largest batch that is also done in one pass")
    parser.add_argument("--one", type=int, nargs=2, metavar=("BATCH", "CHUNK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], torch.device(options.device))))
        return
    print(f"loop.chunk {options.chunk}, R3D-18 of width 16, BYOL, two views of {SIZE}, fp32, {options.device}; MB")
    print(f"{'loop.batch':>10}{'peak':>10}{'growth':>10}{'inputs grow by':>16}{'one pass':>10}")
    first = options.batches[0]
    base = in_a_child(first, options.chunk, options.device)
    for batch in options.batches:
        peak = base if batch == first else in_a_child(batch, options.chunk, options.device)
        held = inputs(batch) - inputs(first)
        whole = f"{in_a_child(batch, batch, options.device):.0f}" if batch <= options.whole else "-"
        print(f"{batch:>10}{peak:>10.0f}{peak - base:>10.0f}{held:>16.0f}{whole:>10}", flush=True)


if __name__ == "__main__":
    main()
