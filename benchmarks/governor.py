"""The governor under real load: another process comes and goes on the core of a real network, which has a deadline.

A network of 12 residual blocks (4 stages of 1 + 2) is trained on scikit-learn's digits for a minute at most. Its inputs
are batches of 100 test images, one after the other; the deadline is 1.3 times the super-net's quiet median latency. The
governor, the super-net alone and the base-net alone each run through the same phases, 5 s quiet and 5 s with the other
process, in turns.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from governor_simulation import compete
from measure import report
from torch import Tensor

import adaptive_depth as ad
from adaptive_depth.data import configure, create_loader
from adaptive_depth.governor.governor import Governor
from adaptive_depth.training.images import TrainingBatches

BATCH, PHASE_S = 100, 5.0
NICE = 5  # of the other process: it gets a quarter of the core, and with half of it not even the base-net is in time
MET = 0.97  # asked of the governor: the base-net itself misses some under load


@dataclass
class Outcome:
    """What one way of choosing the depth did, one entry an input, by phase."""

    late: dict[str, list[bool]] = field(default_factory=lambda: {"quiet": [], "loaded": []})
    ms: dict[str, list[float]] = field(default_factory=lambda: {"quiet": [], "loaded": []})
    depths: list[str] = field(default_factory=list)
    right: int = 0

    def summary(self, table: ad.TradeOffs) -> dict[str, Any]:
        late, points = [*self.late["quiet"], *self.late["loaded"]], {row.skip: row.accuracy for row in table.rows}
        return {
            "met %": round(100 - 100 * statistics.fmean(late), 2),
            "met while quiet %": round(100 - 100 * statistics.fmean(self.late["quiet"]), 2),
            "met under load %": round(100 - 100 * statistics.fmean(self.late["loaded"]), 2),
            "accuracy of the images %": round(100 * self.right / (BATCH * len(late)), 2),
            "mean of the table's accuracies %": round(statistics.fmean(points[skip] for skip in self.depths), 2),
            "median ms quiet, loaded": [round(statistics.median(self.ms[phase]), 2) for phase in self.ms],
            "inputs": len(late),
        }


def trained(epochs: int) -> tuple[ad.AdaptiveNetwork, ad.TradeOffs, list[tuple[Tensor, Tensor]]]:
    """A network, its trade-offs, and batches of test images and labels."""
    torch.manual_seed(0)
    model = ad.create_model(
        "resnet18", layers=[3] * 4, channels=[8, 8, 16, 16], stem_type="deep", stem_width=4, in_chans=1, num_classes=10
    )
    stages = [ad.Stage((f"layer{s}.0",), (f"layer{s}.1", f"layer{s}.2")) for s in range(1, 5)]
    network = ad.adapt(model, stages, example=torch.randn(2, 1, 32, 32))
    config, recipe = configure("digits", model), ad.Recipe(epochs=epochs, batch_size=64, lr=0.1, seed=0)
    ad.train(
        network, TrainingBatches(config, recipe), recipe, step=ad.distil(ad.SelfDistillation(network, keep_scale=False))
    )
    ad.calibrate(network, create_loader(config, "train", batch_size=64))
    network.eval()
    accuracy = ad.evaluate(network, create_loader(config, "validation", batch_size=250))
    use_one_core()
    images = [(x, y) for x, y in create_loader(config, "validation", batch_size=BATCH) if len(x) == BATCH]
    return network, ad.tradeoffs(accuracy, ad.profile(network, images[0][0], seconds=6), images=500), images


def use_one_core() -> None:
    """This process on one core, and what it starts too."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def phases(seconds: float) -> Iterator[str]:
    """`quiet` for so long, then `loaded` for as long, while another process computes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield "quiet"
    other = multiprocessing.get_context("fork").Process(target=compete, args=(NICE,), daemon=True)
    other.start()
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield "loaded"
    finally:
        other.terminate()
        other.join()


def run(
    choose: Callable[[], str],
    observe: Callable[[str, float], None],
    session: ad.Session,
    images: list[tuple[Tensor, Tensor]],
    target_ms: float,
    outcome: Outcome,
) -> None:
    """One quiet and one loaded phase; adds to the outcome."""
    for phase in phases(PHASE_S):
        x, labels = images[len(outcome.depths) % len(images)]
        skip = choose()
        start = time.perf_counter()
        logits = session(x, skip)
        ms = 1000 * (time.perf_counter() - start)
        observe(skip, ms)
        outcome.depths.append(skip)
        outcome.late[phase].append(ms > target_ms)
        outcome.ms[phase].append(ms)
        outcome.right += int((logits.argmax(1) == labels.numpy()).sum())


def median_ms(session: ad.Session, x: Tensor, skip: str, passes: int = 60) -> float:
    times = []
    for _ in range(passes):
        start = time.perf_counter()
        session(x, skip)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[10:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    network, table, images = trained(arguments.epochs)

    session = ad.open_session(network, threads=1)
    print(table, file=sys.stderr)
    superior, base = network.skips[0], network.skips[-1]
    target = 1.3 * median_ms(session, images[0][0], superior)
    governor = Governor(table, target_ms=target, met=MET, keep=None)
    ways: dict[str, tuple[Callable[[], str], Callable[[str, float], None]]] = {
        "governor": (governor.choose, governor.observe),
        "super-net alone": (lambda: superior, lambda *_: None),
        "base-net alone": (lambda: base, lambda *_: None),
    }
    outcomes = {name: Outcome() for name in ways}
    for number in range(arguments.rounds):
        for name in [*ways][number % 3 :] + [*ways][: number % 3]:
            run(*ways[name], session, images, target, outcomes[name])
            print(f"round {number + 1}: {name}, {len(outcomes[name].depths)} inputs", file=sys.stderr)
    results = {name: outcome.summary(table) for name, outcome in outcomes.items()}
    depths = outcomes["governor"].depths
    governed, alone, least = results.values()
    passed = (
        governed["met %"] >= 95
        and alone["met %"] < 80
        and governed["accuracy of the images %"] > least["accuracy of the images %"]
    )
    report(
        "governor",
        {
            "target": "deadline met for at least 95 % of inputs, by the super-net alone for less than 80 %, and more "
            "accurate than the base-net alone",
            "deadline ms": round(target, 2),
            **results,
            "depths of the governor": {skip: depths.count(skip) for skip in sorted(set(depths))},
            "switches": sum(a != b for a, b in pairwise(depths)),
            "table": {row.skip: [row.accuracy, round(row.latency_ms or 0, 2)] for row in table.rows},
        },
        passed=passed,
    )


if __name__ == "__main__":
    main()
