"""What `calibrate` mends: the worst sub-network against the super-net, before and after, following a short training.

A 12-block BatchNorm CNN (3 stages of 2 + 2, widths 16-32-64) is trained by self-distillation on Fashion-MNIST at half
resolution. On Debian, `apt-get install dataset-fashion-mnist`; elsewhere give the folder of the four *-ubyte.gz files.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import report
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import adaptive_depth as ad

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
Batches = list[tuple[Tensor, Tensor]]


def load(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images `[samples, 1, 14, 14]` (means of 2 x 2 pixels), and labels `[samples]`."""

    def read(kind: str, header: int) -> np.ndarray:
        return np.frombuffer(
            gzip.decompress((folder / f"{part}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=header
        )

    images = torch.from_numpy(read("images-idx3", 16).copy()).view(-1, 1, 28, 28).float() / 255
    labels = torch.from_numpy(read("labels-idx1", 8).copy()).long()
    return F.avg_pool2d((images - 0.286) / 0.353, 2), labels


def batches(images: Tensor, labels: Tensor, shuffle: bool) -> Batches:
    order = torch.randperm(len(images)) if shuffle else torch.arange(len(images))
    return [(images[index], labels[index]) for index in order.split(128)]


def small_cnn() -> ad.AdaptiveNetwork:
    """Plain blocks in plain containers, and stages written by hand."""
    layers, before = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        first = BasicBlock(before, width, stride, shortcut if stride > 1 else None)
        layers.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(3))))
        before = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    stages = [ad.Stage((f"{s}.0", f"{s}.1"), (f"{s}.2", f"{s}.3")) for s in (3, 4, 5)]
    return ad.adapt(model, stages, example=torch.randn(2, 1, 14, 14))


def accuracies(folder: Path, epochs: int, seed: int) -> dict[str, dict[str, float]]:
    torch.manual_seed(seed)
    train, test = load(folder, "train"), batches(*load(folder, "t10k"), shuffle=False)
    network = small_cnn().train()
    objective = ad.SelfDistillation(network, keep_scale=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(batches(*train, shuffle=False))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, steps)
    for epoch in range(epochs):
        for x, y in batches(*train, shuffle=True):
            optimizer.zero_grad()
            losses = objective(x, y)
            losses.total.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: super {losses.super_net:.3f}, base {losses.base_net:.4f}", flush=True)
    before = ad.evaluate(network, test)
    ad.calibrate(network, batches(*train, shuffle=True), limit=100)
    return {"before": before, "after": ad.evaluate(network, test)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=FASHION_MNIST)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()

    runs_by_seed = {seed: accuracies(Path(options.data), options.epochs, seed) for seed in options.seeds}
    gaps = {
        when: [run[when]["FFF"] - min(run[when].values()) for run in runs_by_seed.values()]
        for when in ("before", "after")
    }
    result = {
        "target": "worst sub-network within 1.5 points of the super-net",
        "points from the super-net to the worst sub-network, a run each": gaps,
        "epochs": options.epochs,
        "test accuracy in percent, by seed": runs_by_seed,
    }
    report("calibration", result, passed=max(gaps["after"]) <= 1.5)


if __name__ == "__main__":
    main()
