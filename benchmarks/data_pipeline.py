"""The data pipeline's share of a training step: the recipe `fashion_mnist` as it stands (28 px, batch 128), on the
first batches of Fashion-MNIST.

Loading and training take turns without a loading process; with one, loading runs beside it. `waiting` is what `train`
tells of it; the ratio compares the time to load images with the time to train on the same, both on the same threads.
"""

import gzip
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from calibration import FASHION_MNIST
from measure import report

import adaptive_depth as ad
from adaptive_depth.data import configure
from adaptive_depth.training.images import TrainingBatches

BATCHES = 12


class First:
    """The first batches of an epoch."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return BATCHES

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batches, BATCHES)


def unpack(folder: Path, root: Path) -> None:
    """Put the data set where torchvision looks for it."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in folder.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


def main(rounds: int = 3) -> None:
    recipe = ad.load_recipe("fashion_mnist").changed({"epochs": 1, "warmup_epochs": 0})
    shares: dict[int, list[float]] = {0: [], 1: []}
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        unpack(Path(sys.argv[1] if len(sys.argv) > 1 else FASHION_MNIST), Path(root))
        assert recipe.model is not None
        for number in range(rounds + 1):
            for workers in shares:
                torch.manual_seed(0)
                plain = ad.create_model(recipe.model, **recipe.model_kwargs)
                config = configure("torch/fashion_mnist", plain, root=root, image_size=recipe.image_size)
                batches = First(TrainingBatches(config, recipe, workers=workers))
                history = ad.train(ad.adapt(plain), batches, recipe)
                epoch = history.epochs[0]
                if number:  # the first round warms up
                    shares[workers].append(epoch.waiting)
                if number and not workers:
                    start = time.perf_counter()
                    for _ in batches:
                        pass
                    loading = time.perf_counter() - start
                    ratios.append(loading / (BATCHES * recipe.batch_size / epoch.images_per_s * (1 - epoch.waiting)))
            print(f"\r{number}/{rounds} rounds", end="", file=sys.stderr, flush=True)
    result = {
        "target": "the loader is faster than the network: below 0.5 of the time is waited for it",
        "share of the time that training waits for images, loaded in turn": median(shares[0]),
        "the same with one loading process": median(shares[1]),
        "loading against training on the same images": median(ratios),
        "rounds": rounds,
        "images in a round": BATCHES * recipe.batch_size,
    }
    report("data_pipeline", result, passed=median(shares[0]) < 0.5)


if __name__ == "__main__":
    main()
