"""How many epochs of self-distillation a network needs that was trained alone before it was adapted.

A BatchNorm CNN and a small ViT are trained alone on a part of Fashion-MNIST. Copies of each are adapted, fine-tuned for
a few epochs and measured, beside the same network trained adaptively from the start. The learning rate of fine-tuning
is chosen on images that are neither trained nor tested on. Two processes of one thread share the work.

On Debian, `apt-get install dataset-fashion-mnist`; elsewhere give the folder of the four *-ubyte.gz files. `--table`
prints the table of docs/fine-tuning.md, and what is said with it, from the last results.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from calibration import FASHION_MNIST, load
from measure import RESULTS, interleaved, ratio, report
from timm.models import VisionTransformer
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import adaptive_depth as ad

BATCH = 64
ALGORITHM_1: Any = {"passes": "algorithm 1", "keep_scale": False}  # the results were made with it
WITHIN = 1.0  # points of accuracy
Part = tuple[Tensor, Tensor]


# -- networks ---------------------------------------------------------------------------------------------------


def plain_cnn() -> nn.Module:
    """12 blocks in 3 stages of 4; the blocks of each stage stand in a Sequential of their own."""
    layers, before = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()], 8
    for width, stride in ((8, 1), (16, 2), (32, 2)):
        shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        first = BasicBlock(before, width, stride, shortcut if stride > 1 else None)
        layers.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(3))))
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def adapted_cnn(model: nn.Module) -> ad.AdaptiveNetwork:
    stages = [ad.Stage((f"{s}.0", f"{s}.1"), (f"{s}.2", f"{s}.3")) for s in (3, 4, 5)]
    return ad.adapt(model, stages, example=torch.randn(2, 1, 15, 15))


def plain_vit() -> nn.Module:
    """12 blocks of width 64, with 9 tokens of 5 x 5 pixels."""
    return VisionTransformer(15, 5, 1, 10, "avg", embed_dim=64, depth=12, num_heads=4, class_token=False)


@dataclass(frozen=True)
class Kind:
    """A network, how it is trained, and the learning rates that its fine-tuning may have.

    Attributes:
        rates: tried on the validation images, for `tried_for` epochs; the largest is that of training.
    """

    title: str
    plain: Callable[[], nn.Module]
    adapted: Callable[[nn.Module], ad.AdaptiveNetwork]
    recipe: ad.Recipe
    rates: tuple[float, ...]
    tried_for: int = 2


KINDS = {
    "cnn": Kind(
        "CNN, 12 blocks (widths 8-16-32, BatchNorm)",
        plain_cnn,
        adapted_cnn,
        ad.Recipe(**ALGORITHM_1, lr=0.1, weight_decay=5e-4, warmup_epochs=1, batch_size=BATCH),
        (0.01, 0.03, 0.1),
    ),
    "vit": Kind(
        "ViT, 12 blocks (width 64)",
        plain_vit,
        ad.adapt,
        ad.Recipe(
            **ALGORITHM_1,
            optimizer="adamw",
            lr=1e-3,
            weight_decay=0.05,
            clip_grad=1.0,
            warmup_epochs=1,
            batch_size=BATCH,
        ),
        (1e-4, 3e-4, 1e-3),
    ),
}


# -- images -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Where they are, and how many are used."""

    folder: Path
    train: int
    validation: int
    test: int

    def part(self, name: str) -> Part:
        """Images `[samples, 1, 15, 15]`, and labels; validation images are the last ones of the training part."""
        images, labels = _read(self.folder, "t10k" if name == "test" else "train")
        chosen = {"train": slice(self.train), "validation": slice(-self.validation, None), "test": slice(self.test)}
        return images[chosen[name]], labels[chosen[name]]


@cache
def _read(folder: Path, part: str) -> Part:
    images, labels = load(folder, part)
    return F.pad(images, (0, 1, 0, 1), value=images.min().item()), labels  # black, to 15 x 15 pixels


class Shuffled:
    """Training batches in a new order each epoch, half of the images mirrored."""

    def __init__(self, part: Part) -> None:
        self.images, self.labels = part

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[Part]:
        for index in torch.randperm(len(self.images)).split(BATCH)[: len(self)]:
            x = self.images[index]
            yield torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x), self.labels[index]


def in_order(part: Part) -> list[Part]:
    return list(zip(part[0].split(250), part[1].split(250), strict=True))


# -- the work, in pieces that a process does alone --------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One training and its measurement.

    Attributes:
        weights: of the plain network: written by `alone`, read by `fine_tune`.
        lr: None is the recipe's.
    """

    kind: str
    seed: int
    epochs: int
    images: Images
    weights: Path | None = None
    lr: float | None = None
    measured_on: str = "test"

    def recipe(self) -> ad.Recipe:
        recipe = KINDS[self.kind].recipe.changed({"epochs": self.epochs, "seed": self.seed})
        return recipe if self.lr is None else recipe.changed({"lr": self.lr, "warmup_epochs": None})

    def new(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return KINDS[self.kind].plain()


def alone(job: Job) -> float:
    """Train the plain network, keep its weights; its accuracy."""
    assert job.weights is not None
    model = job.new()
    ad.train(model, Shuffled(job.images.part("train")), job.recipe())
    torch.save(model.state_dict(), job.weights)
    x, y = job.images.part("test")
    with torch.no_grad():
        found = torch.cat([model(part).argmax(dim=1) for part in x.split(250)])
    return 100 * (found == y).sum().item() / len(y)


def fine_tune(job: Job) -> dict[str, float]:
    """Adapt the trained network and train it for `job.epochs`, which may be none; without weights, from the start."""
    model = job.new()
    if job.weights is not None:
        model.load_state_dict(torch.load(job.weights, weights_only=True))
    network = KINDS[job.kind].adapted(model)
    batches = Shuffled(job.images.part("train"))
    if job.epochs:
        ad.train(network, batches, job.recipe())
    ad.calibrate(network, batches, limit=2500 // BATCH)
    return ad.evaluate(network, in_order(job.images.part(job.measured_on)))


def cost_of_a_step(kind: str, rounds: int) -> dict[str, float]:
    """A step of self-distillation against one of the plain network, forward and backward."""
    plain, network = KINDS[kind].plain().train(), KINDS[kind].adapted(KINDS[kind].plain()).train()
    objective, criterion = ad.SelfDistillation(network), nn.CrossEntropyLoss()
    x, y = torch.randn(BATCH, 1, 15, 15), torch.randint(10, (BATCH,))
    steps = {"plain": lambda: criterion(plain(x), y).backward(), "both": lambda: objective(x, y).total.backward()}
    return ratio(interleaved(steps, rounds, warmup=3), ["both"], ["plain"])


# -- everything -------------------------------------------------------------------------------------------------


def measure(
    kinds: list[str], seeds: list[int], epochs: int, tuned: list[int], images: Images, rounds: int
) -> dict[str, Any]:
    """Results by network."""
    pairs = [(kind, seed) for kind in kinds for seed in seeds]
    costs = {kind: cost_of_a_step(kind, rounds) for kind in kinds}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, context, torch.set_num_threads, (1,)) as pool,
    ):
        weights = {pair: Path(folder) / f"{pair[0]}-{pair[1]}.pth" for pair in pairs}
        trained = _all(pool, alone, {pair: Job(*pair, epochs, images, weights[pair]) for pair in pairs})
        tries = {
            (kind, lr): Job(kind, seeds[0], KINDS[kind].tried_for, images, weights[kind, seeds[0]], lr, "validation")
            for kind in kinds
            for lr in KINDS[kind].rates
        }
        tried = {each: statistics.mean(found.values()) for each, found in _all(pool, fine_tune, tries).items()}
        best = {kind: max(KINDS[kind].rates, key=lambda lr: tried[kind, lr]) for kind in kinds}
        jobs = {(*pair, "start"): Job(*pair, epochs, images) for pair in pairs}
        for number in sorted(tuned, reverse=True):  # the longest first, so that no process waits in the end
            jobs |= {(*pair, number): Job(*pair, number, images, weights[pair], best[pair[0]]) for pair in pairs}
        found = _all(pool, fine_tune, jobs)
    return {
        kind: {
            "network": KINDS[kind].title,
            "recipe": {
                name: getattr(KINDS[kind].recipe, name)
                for name in ("optimizer", "lr", "weight_decay", "clip_grad", "warmup_epochs", "batch_size")
            },
            "a step against one of the plain network": costs[kind],
            f"mean accuracy on validation images after {KINDS[kind].tried_for} epochs, by learning rate": {
                str(lr): tried[kind, lr] for lr in KINDS[kind].rates
            },
            "learning rate of fine-tuning": best[kind],
            "alone": {str(seed): trained[kind, seed] for seed in seeds},
            "fine-tuned": {str(k): {str(seed): found[kind, seed, k] for seed in seeds} for k in tuned},
            "from the start": {str(seed): found[kind, seed, "start"] for seed in seeds},
        }
        for kind in kinds
    }


def _all(pool: ProcessPoolExecutor, work: Callable[[Job], Any], jobs: dict[Any, Job]) -> dict[Any, Any]:
    """What each job returned; told as they end."""
    running, results = {name: pool.submit(work, job) for name, job in jobs.items()}, {}
    for name, future in running.items():
        results[name] = future.result()
        print(work.__name__, *name, results[name], flush=True)
    return results


def figures(by_seed: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """Super-net, base-net and worst sub-network, one number a seed."""
    runs = by_seed.values()
    return {
        "super-net": [next(iter(run.values())) for run in runs],
        "base-net": [list(run.values())[-1] for run in runs],
        "worst": [min(run.values()) for run in runs],
    }


def enough(result: dict[str, Any], which: str) -> int | None:
    """The fewest epochs after which the mean is within a point of training from the start; None where none are."""
    goal = statistics.mean(figures(result["from the start"])[which])
    means = {int(k): statistics.mean(figures(by_seed)[which]) for k, by_seed in result["fine-tuned"].items()}
    return min((k for k, mean in means.items() if mean >= goal - WITHIN), default=None)


def table(results: dict[str, Any], epochs: int) -> str:
    """Markdown: a row for each number of epochs, the mean over seeds ± half of the range."""

    def cell(values: list[float]) -> str:
        return f"{statistics.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"

    lines = [
        "| network | epochs of fine-tuning | of the original epochs | of the original cost | super-net | base-net "
        "| worst sub-network |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        step = result["a step against one of the plain network"]["median"]
        title = result["network"]
        lines.append(f"| {title} | alone, not adapted | 100 % | 100 % | {cell(list(result['alone'].values()))} | | |")
        for k, by_seed in result["fine-tuned"].items():
            share = int(k) / epochs
            row = [f"{k}", f"{100 * share:.0f} %", f"{100 * share * step:.0f} %"]
            lines.append(f"| | {' | '.join([*row, *map(cell, figures(by_seed).values())])} |")
        row = [f"adaptive from the start, {epochs}", "100 %", f"{100 * step:.0f} %"]
        lines.append(f"| | {' | '.join([*row, *map(cell, figures(result['from the start']).values())])} |")
    return "\n".join(lines)


def said(results: dict[str, Any]) -> str:
    """Markdown: the learning rates that were tried, and how many epochs were enough, a line a network."""
    lines = []
    for result in results.values():
        tries = next(value for name, value in result.items() if name.startswith("mean accuracy on validation"))
        tried = ", ".join(f"{lr}: {mean:.1f} %" for lr, mean in tries.items())
        enough_for = ", ".join(f"{which} {enough(result, which)}" for which in ("base-net", "worst"))
        step = result["a step against one of the plain network"]
        lines.append(
            f"* {result['network']}: learning rates tried: {tried}; used: {result['learning rate of fine-tuning']}; "
            f"a step takes {step['median']:.2f} ({step['low']:.2f} to {step['high']:.2f}) times as long as a plain "
            f"one; epochs to within {WITHIN:.0f} point of training from the start: {enough_for}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(FASHION_MNIST))
    parser.add_argument("--networks", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=15, help="of training alone and of training from the start")
    parser.add_argument("--tuned", type=int, nargs="+", default=[0, 1, 2, 3, 5], help="epochs of fine-tuning")
    parser.add_argument("--train", type=int, default=4000, help="images")
    parser.add_argument("--validation", type=int, default=2000, help="images")
    parser.add_argument("--test", type=int, default=3000, help="images")
    parser.add_argument("--rounds", type=int, default=31, help="of the comparison of a step's cost")
    parser.add_argument("--table", action="store_true", help="print the table of the last results, measure nothing")
    options = parser.parse_args()
    if options.table:
        last = json.loads((RESULTS / "fine_tuning.json").read_text())
        print(table(last["results"], last["epochs"]), said(last["results"]), sep="\n\n")
        return
    torch.set_num_threads(1)
    images = Images(options.data, options.train, options.validation, options.test)
    results = measure(options.networks, options.seeds, options.epochs, options.tuned, images, options.rounds)
    print(table(results, options.epochs), said(results), sep="\n\n")
    needed = {
        kind: {which: enough(result, which) for which in ("base-net", "worst")} for kind, result in results.items()
    }
    content = {
        "target": f"base-net within {WITHIN} point of training from the start, in a third of its epochs",
        "epochs needed, of those tried": needed,
        "epochs": options.epochs,
        "images": {"train": options.train, "validation": options.validation, "test": options.test},
        "steps in an epoch": options.train // BATCH,
        "processes of one thread": 2,
        "results": results,
    }
    few = [each["base-net"] for each in needed.values()]
    report("fine_tuning", content, passed=all(k is not None and k <= options.epochs / 3 for k in few))


if __name__ == "__main__":
    main()
