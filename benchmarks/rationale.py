"""The method's claims (paper, section 3.3) on a network that was trained with it and one that was not.

A CNN of three stages of six blocks is trained twice on Fashion-MNIST at half resolution: adaptively, and alone.
`analyze` then measures both on the test images. Results and charts go to results/rationale/.

    python benchmarks/rationale.py [--images FOLDER of the four *-ubyte.gz files] [--epochs 4]
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from calibration import FASHION_MNIST, load
from fine_tuning import BATCH, Shuffled, in_order
from measure import RESULTS, machine
from torch import nn
from torchvision.models.resnet import BasicBlock

import adaptive_depth as ad

OUTPUT = RESULTS / "rationale"
STAGES = [ad.Stage(tuple(f"{s}.{b}" for b in (0, 1, 2)), tuple(f"{s}.{b}" for b in (3, 4, 5))) for s in (3, 4, 5)]


def build() -> nn.Module:
    torch.manual_seed(0)
    layers, before = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        first = BasicBlock(before, width, stride, shortcut if stride > 1 else None)
        layers.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(5))))
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def ratios(analysis: ad.Analysis, name: str, *, skippable: bool) -> float:
    found = [getattr(block, name) for block in analysis.blocks if block.skippable is skippable]
    return mean(ratio for ratio in found if ratio is not None)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--images", type=Path, default=FASHION_MNIST)
    options.add_argument("--epochs", type=int, default=4)
    given = options.parse_args()
    batches = Shuffled(load(given.images, "train"))
    test = in_order(load(given.images, "t10k"))
    one: Any = {"passes": "algorithm 1", "keep_scale": False}  # the results were made with it
    recipe = ad.Recipe(**one, lr=0.1, weight_decay=5e-4, warmup_epochs=1, batch_size=BATCH, epochs=given.epochs, seed=0)

    def tell(epoch: ad.Epoch) -> None:
        print(epoch, file=sys.stderr, flush=True)

    alone, network = build(), ad.adapt(build(), STAGES, example=test[0][0][:2])
    ad.train(alone, batches, recipe, on_epoch=tell)
    skips = network.skips
    history = ad.train(
        network, batches, recipe.changed({"validate_every": 1, "validate": skips}), validation=test, on_epoch=tell
    )
    before = ad.analyze(network, test, compare=alone)
    accuracy = {"before calibrate": ad.evaluate(network, test)}
    ad.calibrate(network, batches, limit=5000 // BATCH)
    accuracy["after"] = ad.evaluate(network, test)
    with torch.no_grad():
        right = sum(int((alone(x).argmax(1) == y).sum()) for x, y in test)
    accuracy["alone"] = {skips[0]: 100 * right / sum(len(y) for _, y in test)}
    analysis = ad.analyze(network, test, compare=alone)
    print(analysis)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    ad.plot_transformations(analysis, OUTPUT / "transformations.png")
    ad.plot_training(history, OUTPUT / "training.png")
    images = test[0][0][:4]
    ad.plot_maps(images, ad.class_activation_maps(network, images), OUTPUT / "maps.png")
    summary = {
        "mean of |F|/|h|": {
            kind: {name: ratios(analysis, name, skippable=kind == "skippable") for name in ("ratio", "alone")}
            for kind in ("mandatory", "skippable")
        },
        "predicted, actual and cosine": [[s.predicted, s.change, s.cosine] for s in analysis.stages],
        "divergence": [s.divergence for s in analysis.stages],
        "accuracy": accuracy,
        "epochs": given.epochs,
        "advice": analysis.advice,
        "advice before calibrate": before.advice,
        "analysis": analysis.to_json(),
        "machine": machine(),
    }
    (OUTPUT / "rationale.json").write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
