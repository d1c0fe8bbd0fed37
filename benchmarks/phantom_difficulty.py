"""How hard the synthetic ACL task is: trivial statistics, random features and a supervised network, side by side.

    python benchmarks/phantom_difficulty.py

prints three areas under the ROC curve on the valid split of one plane. The task is meant to lie between them: a
linear model on grey-value statistics below 0.65, a frozen random encoder not much above, a network trained on all
labels above 0.9. About five minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from volssl.data.phantom import generate
from volssl.models import ResNetConfig

Floats = NDArray[np.float32]


def statistics(stack: NDArray[np.uint8]) -> Floats:
    """What can be known of a stack without looking: slices, mean, deviation, percentiles, histogram."""
    shares = np.bincount(stack.ravel() // 8, minlength=32) / stack.size
    percentiles = np.percentile(stack, (1, 5, 10, 25, 50, 75, 90, 95, 99))
    return np.array([len(stack), stack.mean(), stack.std(), *percentiles, *shares], dtype=np.float32)


def linear_auc(train: Floats, y_train: Floats, valid: Floats, y_valid: Floats) -> float:
    """AUC of a logistic regression whose penalty is chosen by cross-validation on the training split."""
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": np.logspace(-5, 1, 7)},
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        scoring="roc_auc",
    )
    model.fit(train, y_train)
    return float(roc_auc_score(y_valid, model.decision_function(valid)))


def load(root: Path, split: str, plane: str, size: list[int]) -> tuple[Floats, Tensor, Floats]:
    """Statistics, images (N, 1, *size) scaled by their 99th percentile, and ACL labels of a split."""
    lines = [line.split(",") for line in (root / f"{split}-acl.csv").read_text().split()]
    stacks = [np.load(root / split / plane / f"{exam}.npy", allow_pickle=False) for exam, _ in lines]
    images = [
        F.interpolate(torch.from_numpy(s).float()[None, None] / np.percentile(s, 99), size, mode="trilinear")
        for s in stacks
    ]
    labels = np.array([float(label) for _, label in lines], dtype=np.float32)
    return np.stack([statistics(s) for s in stacks]), torch.cat(images), labels


def random_features(images: Tensor, seed: int) -> Floats:
    """Pooled features of a ResNet-10 as it is initialised."""
    torch.manual_seed(seed)
    encoder = ResNetConfig(depth=10, stem="small", width=32).build(1).eval()
    with torch.no_grad():
        parts = [encoder(images[i : i + 50]).pooled for i in range(0, len(images), 50)]
    return torch.cat(parts).numpy()


class Block(nn.Module):
    """A residual block of two 3x3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.first = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False)
        self.skip = nn.Conv3d(inputs, outputs, 1, stride, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm3d(outputs) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to (B, outputs, D', H', W')."""
        y = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(y + self.skip(x))


def network() -> nn.Module:
    """A small residual network, 0.9 million weights."""
    return nn.Sequential(
        nn.Conv3d(1, 16, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        Block(16, 32, (1, 2, 2)),
        Block(32, 64, (2, 2, 2)),
        Block(64, 128, (2, 2, 2)),
        nn.AdaptiveMaxPool3d(1),
        nn.Flatten(),
        nn.Linear(128, 1),
    )


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """A flip across the slices (left knee, right knee), a shift of up to 6 pixels, a gain."""
    count = len(x)
    flip = torch.rand(count, generator=generator) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1, 1), x.flip(2), x)
    rows, columns = torch.randint(-6, 7, (2,), generator=generator).tolist()
    return x.roll((rows, columns), (3, 4)) * (0.8 + 0.4 * torch.rand(count, 1, 1, 1, 1, generator=generator))


def supervised_auc(train: Tensor, y_train: Floats, valid: Tensor, y_valid: Floats, *, epochs: int, seed: int) -> float:
    """AUC of the small network trained on every label; the last epoch counts, none is picked."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, targets, batch = network(), torch.from_numpy(y_train), 16
    steps = epochs * (len(train) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = torch.randperm(len(train), generator=generator)
        chosen = order[(step % (steps // epochs)) * batch :][:batch]
        logits = model((augment(train[chosen], generator) - 0.4) / 0.3)[:, 0]
        optimiser.zero_grad()
        torch.autograd.backward(F.binary_cross_entropy_with_logits(logits, targets[chosen]))
        optimiser.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model((valid[i : i + 50] - 0.4) / 0.3)[:, 0] for i in range(0, len(valid), 50)])
    return float(roc_auc_score(y_valid, scores.numpy()))


def main() -> None:
    """Make the cohort, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/phantom_difficulty"))
    parser.add_argument("--plane", default="sagittal")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--valid", type=int, default=200)
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--size", type=int, nargs=3, default=[16, 64, 64])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    generate(args.root, train=args.train, valid=args.valid, pixels=args.pixels, seed=args.seed)
    stats, images, y = load(args.root, "train", args.plane, args.size)
    v_stats, v_images, v_y = load(args.root, "valid", args.plane, args.size)
    print(f"synthetic cohort, {args.plane}, train {len(y)}, valid {len(v_y)}: {time.perf_counter() - start:.0f} s")
    print(f"trivial statistics, linear   AUC {linear_auc(stats, y, v_stats, v_y):.3f}", flush=True)
    probes = [linear_auc(random_features(images, seed), y, random_features(v_images, seed), v_y) for seed in range(3)]
    print(
        f"random ResNet-10, linear     AUC {np.mean(probes):.3f}  (three encoders: {np.round(probes, 3)})", flush=True
    )
    area = supervised_auc(images, y, v_images, v_y, epochs=args.epochs, seed=args.seed)
    print(f"supervised network           AUC {area:.3f}  ({time.perf_counter() - start:.0f} s in all)")


if __name__ == "__main__":
    main()
