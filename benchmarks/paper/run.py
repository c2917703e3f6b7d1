"""A run is a plain value; it is trained once, however many experiments use it, and its result is a file of its own."""

import json
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import drawing
import images
import rivals
import torch
from networks import NETWORKS, adapted, resnet
from setting import Setting
from torch import nn

import adaptive_depth as ad

sys.path.append(str(Path(__file__).parents[1]))
from measure import RESULTS, interleaved, machine, ratio, said, spread, top1, write

# What experiments use of measure.py they take from here, too.
__all__ = ["Found", "Place", "Run", "do_all", "interleaved", "machine", "new", "ratio", "results", "said", "seeded"]
__all__ += ["spread", "trained"]


@dataclass(frozen=True)
class Run:
    """One training, and what is measured of it.

    Attributes:
        network: a name of `NETWORKS`.
        method: `"passes"`, a step for each sub-network; `"adaptive"`, Algorithm 1; `"alone"`, the plain network of the
            depth `skip`, and `"replayed"`, the same with each batch twice; `"slimmable"`, `"sandwich"` and `"every
            second step"` of rivals.py.
        mandatory: blocks of each mandatory sub-path; the library's default where None.
        fine: every second block is a skippable sub-path of its own.
        changes: fields of the recipe, as pairs.
        budget: the part of the setting's training steps.
        start: the trained network to adapt; from random weights where None.
        sizes: parts of the setting's resolution, one drawn for each batch.
        also_at: parts of it at which accuracy is measured, too.
        drawing: how an R pass draws its sub-network, a name of drawing.py; the schedule's own way where empty.
        measured_on: `"test"`, or `"validation"` where a knob is being chosen.
    """

    network: str
    method: str = "adaptive"
    seed: int = 0
    skip: str = ""
    mandatory: int | None = None
    fine: bool = False
    changes: tuple[tuple[str, Any], ...] = ()
    budget: float = 1.0
    start: "Run | None" = None
    sizes: tuple[float, ...] = ()
    also_at: tuple[float, ...] = ()
    measured_on: str = "test"
    drawing: str = ""

    @property
    def name(self) -> str:
        """Unique among runs, and fit for a file's name."""
        parts = [self.network, self.method, self.skip]
        parts += [f"mandatory-{self.mandatory}"] if self.mandatory else []
        parts += ["fine"] if self.fine else []
        parts += [f"{name}-{value}" for name, value in self.changes]
        parts += [f"budget-{self.budget:g}"] if self.budget != 1 else []
        parts += ["started" if self.start.budget == 1 else f"started-{self.start.budget:g}"] if self.start else []
        parts += [f"sizes-{'-'.join(f'{size:g}' for size in self.sizes)}"] if self.sizes else []
        parts += [self.drawing] if self.drawing else []
        parts += [self.measured_on] if self.measured_on != "test" else []
        return "_".join(part.replace(" ", "-") for part in parts if part) + f"_seed-{self.seed}"


Found = dict[str, Any]  # what was measured of a run, as in its file


@dataclass(frozen=True)
class Place:
    """Where images come from and results go to; `folder` holds the results of all settings."""

    setting: Setting
    source: Path
    folder: Path = RESULTS / "paper"

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def wait(self) -> None:
        """Until the device has done what it was given, before a clock is read."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    @property
    def results(self) -> Path:
        return self.folder / self.setting.name

    def result(self, run: Run) -> Path:
        return self.results / "runs" / f"{run.name}.json"

    def weights(self, run: Run) -> Path:
        """Of the trained network, before `calibrate`: kept on this machine, not with the results."""
        return self.results / "weights" / f"{run.name}.pth"

    def part(self, name: str, size: int | None = None) -> images.Part:
        found = images.load(self.source, size or self.setting.size, self.device)[name]
        count = len(found) if name == "train" else self.setting.test
        return images.Part(found.images[:count], found.labels[:count])

    def batches(self, run: Run, budget: float = 1.0) -> "images.Shuffled | rivals.Replayed":
        """An epoch; budgets that are not whole epochs have others, of nearly the setting's length."""
        setting = self.setting
        count = round(setting.images * budget * setting.epochs / epochs(budget, setting))
        sizes = tuple(round(size * setting.size) for size in run.sizes)
        size = dict(run.changes).get("batch_size", setting.batch_size)
        batches = images.Shuffled(self.part("train"), count, size, sizes)
        return rivals.Replayed(batches) if run.method == "replayed" else batches


# -- networks -----------------------------------------------------------------------------------------------------


def new(run: Run, setting: Setting) -> nn.Module:
    """The network of a run with random weights, before any is loaded."""
    torch.manual_seed(run.seed)
    if run.method == "slimmable":
        return rivals.Slimmable(lambda width: resnet(setting, width=width))
    norms = dict(run.changes).get("skip_aware_norms", run.method != "sandwich")
    network = adapted(run.network, setting, run.seed, mandatory=run.mandatory, fine=run.fine, skip_aware=norms)
    return network.extract(run.skip) if run.method in ("alone", "replayed") else network


def trained(run: Run, place: Place) -> nn.Module:
    """The network with the weights that a former run left."""
    network = new(run, place.setting)
    file = place.weights(run)
    if not file.exists():
        raise SystemExit(f"{file} is not here: the run was made elsewhere; remove {place.result(run)} to make it again")
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.to(place.device).eval()


def recipe(run: Run, setting: Setting) -> ad.Recipe:
    """The one recipe of a network, whatever the method."""
    count = epochs(run.budget, setting)
    own = NETWORKS[run.network].recipe | {"warmup_epochs": 0.1 * count if run.start is None else 0}
    if run.method != "passes":  # its losses weigh a half each, as in the reference
        own |= {"passes": "algorithm 1", "keep_scale": False}
    return ad.Recipe(batch_size=setting.batch_size, epochs=count, seed=run.seed, channels_last=True).changed(
        own | dict(run.changes)
    )


def epochs(budget: float, setting: Setting) -> int:
    return max(1, round(budget * setting.epochs))


# -- one run ------------------------------------------------------------------------------------------------------


def do(run: Run, place: Place) -> None:
    """Train a network, keep its weights, measure it and write its file; nothing is done where both are here.

    A file stays as it is where the run was made elsewhere, and only the weights are made again, to start from.
    """
    if _here(run, place):
        return
    if (other := _measured_elsewhere(run, place)) is not None:
        _measure_again(other, run, place)
        return
    setting, network = place.setting, new(run, place.setting)
    if run.start is not None:
        network = _started(run, place)
    network.to(place.device)
    batches, looks, began = place.batches(run, run.budget), {}, time.perf_counter()
    spent = 0.0

    def look(epoch: ad.Epoch) -> None:
        nonlocal spent
        after_epoch()
        if run.method in ("adaptive", "passes") and run.budget == 1 and epoch.epoch in setting.looks[:-1]:
            start = time.perf_counter()
            with torch.random.fork_rng():
                looks[epoch.epoch] = measure(_copy(run, network, place), run, place, parts=4)
            network.train()
            spent += time.perf_counter() - start

    history = None
    after_epoch, other_drawing = (lambda: None), nullcontext()
    if run.drawing:
        way = drawing.WAYS[run.drawing]
        drawn, after_epoch = way(network, place.part("validation"), len(batches) * epochs(run.budget, setting))
        other_drawing = drawing.drawing(drawn)
    if run.budget:
        step = {"slimmable": rivals.slimmable_step, "sandwich": rivals.sandwich_step}.get(run.method)
        step = rivals.every_second_step if run.method == "every second step" else step
        chosen: Any = step(network) if step else None  # type: ignore[arg-type]
        with other_drawing:
            history = ad.train(network, batches, recipe(run, setting), step=chosen, on_epoch=look)
    seconds = time.perf_counter() - began - spent
    place.weights(run).parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), place.weights(run))
    if place.result(run).exists():
        return
    found = measure(network, run, place)
    content = {
        "run": asdict(run),
        "recipe": recipe(run, setting).to_json(),
        "steps": len(batches) * recipe(run, setting).epochs if run.budget else 0,
        **found,
        "after epochs": looks,
        "at other resolutions": {part: at_resolution(network, part, run, place) for part in run.also_at},
        "loss by epoch": [epoch.loss for epoch in history.epochs] if history else [],
        "training seconds (of a machine that was shared)": round(seconds, 1),
        "images": images.describe(place.source),
        "machine": machine(),
    }
    write(place.result(run), content)


def _measured_elsewhere(run: Run, place: Place) -> Run | None:
    """The same training on other images, where its weights are here and it was not looked at on its way."""
    other = replace(run, measured_on="validation" if run.measured_on == "test" else "test")
    return other if run.budget != 1 and _here(other, place) else None


def _measure_again(other: Run, run: Run, place: Place) -> None:
    network = trained(other, place)
    torch.save(network.state_dict(), place.weights(run))
    if not place.result(run).exists():
        former = json.loads(place.result(other).read_text())
        former.pop("before calibrate", None)
        write(place.result(run), {**former, "run": asdict(run), **measure(network, run, place)})


def measure(network: nn.Module, run: Run, place: Place, parts: int = 1) -> Found:
    """Accuracy in percent by sub-network; of adaptive networks before and after `calibrate`.

    Arguments:
        parts: of the images, one is used.
    """
    network.eval()
    test = images.in_order(place.part(run.measured_on))
    test = test[: max(1, len(test) // parts)]
    if run.method in ("alone", "replayed"):
        return {"accuracy": {run.skip: top1(network, test)}}
    if isinstance(network, rivals.Slimmable):
        widths = enumerate(network.widths)
        return {"accuracy": {f"{w:g}": top1(lambda x, n=n: network(x, n), test) for n, w in widths}}
    assert isinstance(network, ad.AdaptiveNetwork)
    before = ad.evaluate(network, test)
    batches = place.batches(run)
    if not ad.calibrate(network, batches, limit=place.setting.calibrated_on // parts // batches.batch_size):
        return {"accuracy": before}
    return {"before calibrate": before, "accuracy": ad.evaluate(network, test)}


def at_resolution(network: nn.Module, part: float, run: Run, place: Place) -> dict[str, float]:
    """Accuracies on smaller images, with BatchNorm statistics measured on such."""
    assert isinstance(network, ad.AdaptiveNetwork)
    size = round(part * place.setting.size)
    batches = place.batches(replace(run, sizes=(part,)))
    ad.calibrate(network, batches, limit=place.setting.calibrated_on // batches.batch_size)
    return ad.evaluate(network, images.in_order(place.part(run.measured_on), size))


def _started(run: Run, place: Place) -> nn.Module:
    """An adaptive network that begins with the weights of a plain one."""
    assert run.start is not None
    plain = trained(run.start, place).cpu()
    fresh = adapted(run.network, place.setting, run.seed, mandatory=run.mandatory)
    return ad.adapt(plain, fresh.stages, example=torch.zeros(2, 3, place.setting.size, place.setting.size))


def _copy(run: Run, network: nn.Module, place: Place) -> nn.Module:
    other = new(run, place.setting)
    other.load_state_dict(network.state_dict())
    return other.to(place.device)


# -- many runs ----------------------------------------------------------------------------------------------------


def do_all(wanted: Iterable[Run], place: Place, processes: int = 2) -> None:
    """Each run once, in the given order but after the one it starts from; several at a time, with one thread each."""
    runs = list(dict.fromkeys(wanted))
    if len({run.name for run in runs}) < len(runs):
        raise ValueError("two runs have one name, and so one file: let Run.name tell them apart")
    left = [run for run in runs if not place.result(run).exists()]
    left = list(dict.fromkeys([*(run.start for run in left if run.start and not _here(run.start, place)), *left]))
    if not left:
        return
    place.part("train")  # read (and downloaded) once before others ask for it
    done, total, began = 0, len(left), time.perf_counter()
    ready = [run for run in left if run.start is None or _here(run.start, place)]
    waiting = [run for run in left if run not in ready]
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(do, run, place): run for run in ready}
        while running:
            future = next(as_completed(running))
            run = running.pop(future)
            if future.exception() is not None:
                pool.shutdown(cancel_futures=True)  # or else all others are made first
                raise RuntimeError(f"{run.name} failed") from future.exception()
            done += 1
            print(f"{done}/{total} {(time.perf_counter() - began) / 60:.1f} min {run.name}", flush=True)
            now = [each for each in waiting if each.start == run]
            waiting = [each for each in waiting if each not in now]
            running |= {pool.submit(do, each, place): each for each in now}


def _here(run: Run, place: Place) -> bool:
    """Can others start from it?"""
    return place.result(run).exists() and place.weights(run).exists()


def weights_of_all_seeds(run: Run, place: Place) -> bool:
    """Are they here? They are kept apart from results, on the machine that trained."""
    return all(place.weights(each).exists() for each in seeded(run, place.setting))


def check_images(place: Place) -> None:
    """Results of other images are not added to."""
    ours = images.describe(place.source)
    for file in sorted((place.results / "runs").glob("*.json")):
        theirs = json.loads(file.read_text())["images"]
        if theirs != ours:
            raise SystemExit(
                f"{file} was made with {theirs}, and --data {place.source} is {ours}: accuracies on the two cannot be "
                f"compared. Name another folder for these results (--results FOLDER), or the images of those"
            )


def results(wanted: Iterable[Run], place: Place) -> dict[Run, Found]:
    """What is there of them."""
    return {run: json.loads(place.result(run).read_text()) for run in wanted if place.result(run).exists()}


def seeded(run: Run, setting: Setting) -> list[Run]:
    """The run with each seed; what it starts from has the same."""
    return [
        replace(run, seed=seed, start=replace(run.start, seed=seed) if run.start else None) for seed in setting.seeds
    ]
