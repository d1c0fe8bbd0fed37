"""A whole step: ours against a plain loop with the same network, batch and augmentations; prints ratios.

    python benchmarks/step.py                        # CPU, fp32 and bf16, as configs/phantom_acl.yaml
    python benchmarks/step.py --device cuda --depth 18 --stem r3d --width 64 --size 16 112 112 --region 24 160 160

(a) is ours: views batched on the device, channels last, the gradient of the whole batch whatever the chunk.
(b) is the usual way: MONAI's random transforms per sample in loader workers, contiguous fp32, gradient
accumulation over chunks with the heads' BatchNorm seeing one chunk, and the teacher moved once per step.
Blocks of (a) and (b) take turns in one process; (b)'s workers sleep while (a) runs, and its first batch of every
block, which nothing could overlap, is not counted. (a) reads its items from memory, (b)'s workers too.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from math import radians
from statistics import median

import torch
from monai.transforms import Compose, RandAffine, RandFlip, RandGaussianNoise, RandGaussianSmooth, RandScaleIntensity
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from volssl.engine import LoopConfig, SGDConfig
from volssl.engine.distributed import Group
from volssl.engine.optim import build_optimizer
from volssl.engine.trainer import Trainer
from volssl.methods import BYOLConfig
from volssl.models import ResNetConfig
from volssl.models.cost import resnet_cost
from volssl.types import Item, Progress, Samples
from volssl.views import Chances, ViewsConfig

HEAD = (512, 128)
BAR = {("cpu", "fp32"): 1.0, ("cpu", "bf16"): 1.9, ("cuda", "fp32"): 1.0, ("cuda", "bf16"): 3.0}


class Volumes(Dataset[tuple[Tensor, Tensor]]):
    """Random volumes in memory; as the usual loader's data set, two MONAI views of each."""

    def __init__(self, count: int, region: tuple[int, ...], compose: Compose) -> None:
        self.images = torch.rand(count, 1, *region, generator=torch.Generator().manual_seed(0))
        self.ids = [f"volume {i}" for i in range(count)]
        self.compose = compose

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.compose(self.images[i]).as_tensor(), self.compose(self.images[i]).as_tensor()

    def samples(self, step: int, batch: int) -> Samples:
        """The items of a step as our loader hands them over."""
        index = (torch.arange(batch) + step * batch) % len(self)
        return Samples(self.images[index], index, index + 1_000_003 * step, torch.full((batch,), -1))


class Named:
    """The same volumes as our loop's source."""

    def __init__(self, volumes: Volumes) -> None:
        self.volumes, self.ids, self.fingerprints = volumes, volumes.ids, volumes.ids
        self.parts, self.weights, self.label_sets = (len(volumes),), (1,), (len(volumes),)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, i: int) -> Item:
        return Item(self.volumes.images[i], (1.0, 1.0, 1.0), self.ids[i])


def monai_views(size: tuple[int, ...]) -> Compose:
    """Rotation and magnification, flip, noise, smoothing and contrast, always on."""
    affine = RandAffine(
        prob=1.0, rotate_range=(radians(10), 0, 0), scale_range=(0, 0.1, 0.1), spatial_size=size, padding_mode="border"
    )
    sigma = (0.8, 2.0)
    smooth = RandGaussianSmooth(prob=1.0, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma)
    return Compose(
        [affine, RandFlip(1.0, 2), RandGaussianNoise(1.0, std=0.05), smooth, RandScaleIntensity(0.3, prob=1.0)]
    )


def our_views(size: tuple[int, ...]) -> ViewsConfig:
    """The same five."""
    return ViewsConfig(
        size=size,
        rotate=(-10, 10),
        scale=(0.9, 1.1),
        flip=(2,),
        noise=(0.05, 0.05),
        blur=(0.8, 2.0),
        blur_slices=(0.8, 2.0),
        contrast=(0.7, 1.3),
        p=Chances(flip=1.0),
    )


def head(width: int) -> nn.Sequential:
    """Two layers, as everybody writes them."""
    hidden, out = HEAD
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )


class Plain:
    """The usual loop: contiguous fp32, plain accumulation, MONAI views from two loader workers."""

    def __init__(self, network: nn.Module, width: int, volumes: Volumes, args: argparse.Namespace) -> None:
        self.student = nn.Sequential(network, head(width)).to(args.device)
        self.predictor = head(HEAD[1]).to(args.device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        parameters = [*self.student.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)
        self.loader = DataLoader(
            volumes, args.batch, num_workers=args.workers, persistent_workers=True, drop_last=True, prefetch_factor=1
        )
        self.args = args

    def block(self) -> Iterator[None]:
        """Yields once when the first batch is there, then after every step but the first."""
        for number, views in enumerate(self.loader):
            if number == 0:
                yield
                continue
            self.step(*(view.to(self.args.device) for view in views))
            yield

    def step(self, a: Tensor, b: Tensor) -> None:
        """One optimiser step over accumulated chunks."""
        self.optimizer.zero_grad()
        chunk = self.args.chunk
        for i in range(0, len(a), chunk):
            one, two = a[i : i + chunk], b[i : i + chunk]
            with torch.no_grad():
                target_one, target_two = self.teacher(one), self.teacher(two)
            online_one, online_two = self.predictor(self.student(one)), self.predictor(self.student(two))
            similarity = nn.functional.cosine_similarity
            loss = 4 - 2 * (similarity(online_one, target_two) + similarity(online_two, target_one)).mean()
            torch.autograd.backward(loss * len(one) / len(a))
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.lerp_(fast, 0.004)


class Pooled(nn.Module):
    """The pooled features of one of our backbones, with torch's own BatchNorm and no channels-last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) to (B, D)."""
        pooled: Tensor = self.network(x.contiguous()).pooled
        return pooled


def trainer(config: ResNetConfig, precision: str, volumes: Volumes, args: argparse.Namespace) -> Trainer:
    """Our step, ready."""
    method = BYOLConfig(projector=HEAD, predictor=HEAD).build(config.build(1)).to(args.device).train()
    optim = SGDConfig(name="sgd", lr=1e-4)
    loop = LoopConfig(steps=10**6, batch=args.batch, chunk=args.chunk, precision=precision)  # type: ignore[arg-type]
    group = Group(device=torch.device(args.device))
    views = our_views(args.size).build()
    return Trainer(method, build_optimizer(optim, method), optim, loop, Named(volumes), views, group)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product on this device, the best of five."""
    n = 8192 if device == "cuda" else 1536
    a = torch.randn(n, n, device=device).to(dtype)
    times = [timed(lambda: a @ a, device) for _ in range(6)]
    return 2 * n**3 / min(times[1:])


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of one call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(precision: str, args: argparse.Namespace) -> None:
    """Blocks in turns; prints the medians and the ratio of the pairs."""
    torch.manual_seed(0)
    config = ResNetConfig(depth=args.depth, stem=args.stem, width=args.width, norm="batch")
    volumes = Volumes(args.batch * (args.steps + 1), args.region, monai_views(args.size))
    ours = trainer(config, precision, volumes, args)
    network = config.build(1)
    plain = Plain(Pooled(network), network.width, volumes, args)
    rows = []
    for pair in range(args.pairs + 1):
        steps = range(pair * args.steps, (pair + 1) * args.steps)
        mine = sum(
            timed(lambda: ours.step(volumes.samples(s, args.batch), Progress(s, 10**6)), args.device)  # noqa: B023
            for s in steps
        )
        block = plain.block()
        next(block)
        theirs = timed(lambda: list(block), args.device)  # noqa: B023
        rows.append((mine / args.steps, theirs / args.steps))
    mine_s, theirs_s = (median(row[i] for row in rows[1:]) for i in (0, 1))
    ratio = median(b / a for a, b in rows[1:])
    forwards = 4 + 1 - args.chunk / args.batch  # student there and back, teacher, and all chunks but one once more
    flop = 2 * resnet_cost(config, 1, args.size).multiply_adds * 2 * args.batch
    rate = matrix_rate(args.device, torch.bfloat16 if precision == "bf16" else torch.float32)
    fp32 = matrix_rate(args.device, torch.float32)
    print(
        f"{precision}: ours {args.batch / mine_s:7.2f} items/s at {flop * forwards / mine_s / rate:4.0%} of the "
        f"{precision} matrix rate; plain {args.batch / theirs_s:7.2f} at {flop * 4 / theirs_s / fp32:4.0%} of fp32's; "
        f"ratio {ratio:.2f} (bar {BAR[args.device, precision]})",
        flush=True,
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--stem", default="small")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=3, default=[16, 64, 64])
    parser.add_argument("--region", type=int, nargs=3, default=[24, 72, 72])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="steps per block")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    args = parser.parse_args()
    args.size, args.region = tuple(args.size), tuple(args.region)
    print(
        f"BYOL, ResNet-{args.depth} ({args.stem} stem, width {args.width}), {args.size} out of {args.region}, "
        f"batch {args.batch} in chunks of {args.chunk}, {args.device}, {torch.get_num_threads()} threads",
        flush=True,
    )
    for precision in args.precision:
        measure(precision, args)


if __name__ == "__main__":
    main()
