"""adaptive-depth demo: from training to choosing a depth, in two or three minutes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError
from ..quality import TOP_1
from . import runs, show
from .train import describe

if TYPE_CHECKING:
    from torch import nn

    from ..choose.costs import Profile
    from ..choose.tradeoffs import TradeOffs
    from ..core.network import AdaptiveNetwork
    from ..data import DataConfig
    from ..training.history import History

# A small network of timm's ResNet class for images of 32 pixels: four stages of three blocks, one of them mandatory.
# Data, network and recipe were chosen by training plain networks (does depth pay? which learning rate is best?) with
# seeds 10 to 12, so that the demo's own seed was not used for tuning.
DATA = "letters_in_photos"
MODEL = "resnet18"
ARGUMENTS = {
    "layers": [3, 3, 3, 3],
    "channels": [8, 16, 32, 64],
    "in_chans": 1,
    "num_classes": 26,
}
MANDATORY = "1"
BATCH_SIZE = 64
RECIPE = {"batch_size": BATCH_SIZE, "lr": 0.1, "weight_decay": 5e-4, "augment": "none"}
_REPORT = "demo.json"


@dataclass(frozen=True)
class _Trained:
    """One network, its accuracy in percent, and its training."""

    network: Any
    history: "History"
    accuracy: Mapping[str, float]
    seconds: float


def demo(
    output: Annotated[Path, typer.Option(metavar="RUN", help="Folder to write to.")] = Path("runs/demo"),
    epochs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Passes over the training images, for each network.")
    ] = 4,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same training.")] = 0,
) -> None:
    """Train a small network in two or three minutes and choose one of its depths.

    It learns letters in photographs, needs two cores and downloads nothing.

    Example: adaptive-depth demo
    """
    start = perf_counter()
    if runs.is_run(output) and not (output / _REPORT).exists():
        raise CheckpointError(f"{output} holds a network that demo did not write: name another --output")
    from ..data import configure

    # A network this small gains nothing from more threads, and with one, other programs disturb it less.
    with runs.claimed(output, overwrite=True), runs.threads(1):
        config = configure(DATA, _build(seed))
        adaptive = _train_adaptive(config, epochs, seed)
        network: AdaptiveNetwork = adaptive.network
        before = adaptive.accuracy
        runs.calibrate_on(network, config, batch_size=BATCH_SIZE)
        after = runs.measure_accuracy(network, _test_images(config))
        alone = _compare_alone(config, epochs, seed, adaptive, after)
        runs.save_run(output, network, config, adaptive.history)
        _report(output, epochs, seed, adaptive, alone, before, after)
        table = _table(output, network, config, before, after, alone)
        _choose(output, network, config, table)
    _close(output, table, perf_counter() - start)


# -- 1: train every depth at once -------------------------------------------------------------------------------


def _build(seed: int) -> "nn.Module":
    from ..models import create_model
    from ..training.interrupting import seeded

    with seeded(seed):
        return create_model(MODEL, **ARGUMENTS)


def _train_adaptive(config: "DataConfig", epochs: int, seed: int) -> _Trained:
    network = runs.as_network(_build(seed), MANDATORY)
    _heading("1", f"One network, {len(network.skips)} depths: timm's ResNet class, with few channels")
    typer.echo(network.stages)
    typer.echo("Here one block of three is mandatory; the default is two, with a smaller range of depths.")
    trained = _fit(network, config, epochs, seed, "all depths together", runs.measure_accuracy)
    last = trained.history.epochs[-1]
    typer.echo(
        f"\nTrained on {_image_count('train'):,} images of letters in photographs, {epochs} epochs in "
        f"{trained.seconds:.0f} s: super-net,\nbase-net and intermediate sub-networks take turns, each with its "
        "own optimiser steps, and learn from the labels.\n"
        "That is 2.5 steps for each one of a plain network, part of why it leads after so short a training.\n"
        f"Accuracy on the training images of the last epoch: super-net {last.accuracy:.1f} %, base-net "
        f"{last.base_accuracy:.1f} %."
    )
    return trained


def _fit(
    network: "nn.Module",
    config: "DataConfig",
    epochs: int,
    seed: int,
    what: str,
    measure: Callable[..., Mapping[str, float]],
) -> _Trained:
    """Train an adaptive or a plain network on the same images in the same order, equally often."""
    from ..training.images import TrainingBatches
    from ..training.loop import train
    from ..training.recipe import Recipe

    recipe = Recipe(epochs=epochs, seed=seed).changed(RECIPE)
    loader, start = TrainingBatches(config, recipe), perf_counter()
    with show.progress(f"training {what}", "steps") as advance:
        history = train(
            network,
            loader,
            recipe,
            on_step=lambda now: advance(now.step, now.steps, live=lambda: describe(now.so_far(), epochs)),
            on_epoch=lambda epoch: advance(note=describe(epoch, epochs)),
        )
    seconds = perf_counter() - start
    return _Trained(network, history, measure(network, _test_images(config)), seconds)


def _image_count(split: str) -> int:
    from ..data.sets.letters_in_photos import IMAGES

    return IMAGES[split]


def _test_images(config: "DataConfig") -> Any:
    from ..data import create_loader

    return create_loader(config, "validation", batch_size=250)


# -- 2: the same depths alone -----------------------------------------------------------------------------------


def _compare_alone(
    config: "DataConfig", epochs: int, seed: int, adaptive: _Trained, accuracy: Mapping[str, float]
) -> dict[str, _Trained]:
    _heading("2", "The same super-net and base-net, each trained alone on as many images")
    alone = {}
    for name, skip in (("super-net", adaptive.network.skips[0]), ("base-net", adaptive.network.skips[-1])):
        # Built from the same seed, so that both start from the same weights.
        plain = runs.as_network(_build(seed), MANDATORY).extract(skip)
        alone[skip] = _fit(plain, config, epochs, seed, f"the {name} alone", _plain_accuracy)
        typer.echo(_verdict(name, accuracy[skip], alone[skip].accuracy["plain"], _image_count("validation")))
    deep, shallow = (trained.accuracy["plain"] for trained in alone.values())
    typer.echo(_whether_depth_pays(deep, shallow, _image_count("validation")))
    together = sum(trained.seconds for trained in alone.values())
    typer.echo(
        f"Training took {adaptive.seconds:.0f} s for {len(accuracy)} depths in one network, and {together:.0f} s for "
        "these two depths alone."
    )
    return alone


def _plain_accuracy(network: "nn.Module", loader: Any) -> dict[str, float]:
    import torch

    with torch.no_grad():
        hits = [network(x).argmax(dim=1) == y for x, y in loader]
    return {"plain": 100 * float(torch.cat(hits).float().mean())}


def _verdict(name: str, ours: float, alone: float, images: int) -> str:
    """Which is better, by how much, and how far apart two equal networks could be by chance."""
    difference, chance = round((ours - alone) * images / 100), _chance(ours, alone, images)
    who = f"{'adaptive' if difference > 0 else 'alone'} is better by"
    size = f"{abs(difference) * 100 / images:.1f} points, {abs(difference)} of {images} test images"
    verdict = f"{who} {size}" if difference else "equal"
    doubt = "" if abs(difference) > chance else f" (within chance, up to {chance} images)"
    return f"{name:<9}  adaptive {ours:.1f} %, alone {alone:.1f} %\n{'':<9}  {verdict}{doubt}"


def _whether_depth_pays(deep: float, shallow: float, images: int) -> str:
    """Whether depth helps on this data, from the accuracies of the two networks trained alone."""
    difference, chance = round((deep - shallow) * images / 100), _chance(deep, shallow, images)
    if difference > chance:
        return f"Depth pays on these images: alone, the super-net is {deep - shallow:.1f} points above the base-net."
    if difference < -chance:
        return f"Depth does not pay here: alone, the base-net is {shallow - deep:.1f} points above the super-net."
    return (
        f"Depth does not pay here: alone, super-net and base-net differ by {abs(difference)} images; up to {chance} "
        "may be chance."
    )


def _chance(first: float, second: float, images: int) -> int:
    """By how many images two equally good networks of such accuracies may differ: two standard deviations."""
    wrong = (200 - first - second) * images / 100
    return round(2 * max(1.0, wrong) ** 0.5)


# -- 3: all sub-networks ----------------------------------------------------------------------------------------


def _table(
    output: Path,
    network: "AdaptiveNetwork",
    config: "DataConfig",
    before: Mapping[str, float],
    after: Mapping[str, float],
    alone: Mapping[str, _Trained],
) -> "TradeOffs":
    from ..choose.tradeoffs import tradeoffs
    from ..plotting import plot_tradeoffs

    _heading("3", f"All {len(after)} depths")
    images = _image_count("validation")
    typer.echo(f"Top-1 accuracy (%) on {images:,} test images, before and after calibration:")
    typer.echo(show.accuracy_table(before, after, TOP_1))
    top = network.skips[0]
    for when, measured in (("before", before), ("after", after)):
        worst = min(measured, key=lambda skip: measured[skip])
        gap = measured[top] - measured[worst]
        typer.echo(f"{when:<6}  the worst depth, {worst}, is {gap:.1f} points below the super-net")
    profile = _profile(network, config)
    apart = {skip: trained.accuracy["plain"] for skip, trained in alone.items()}
    table = tradeoffs(after, profile, alone=apart, images=images)
    show.write_json(output / runs.PROFILE, profile.to_json())
    show.write_json(output / runs.TRADEOFFS, table.to_json())
    plot_tradeoffs(table, output / runs.PLOT)
    typer.echo(f"\nAccuracy and cost, one image at a time, one thread of {profile.device['processor']}:")
    typer.echo(table)
    return table


def _profile(network: "AdaptiveNetwork", config: "DataConfig") -> "Profile":
    from ..measure.profiling import profile

    image = next(iter(_test_images(config)))[0][:1]
    with show.progress("measuring latency") as advance:
        return profile(network, image, seconds=6, on_progress=advance)


def _report(
    output: Path,
    epochs: int,
    seed: int,
    adaptive: _Trained,
    alone: Mapping[str, _Trained],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> None:
    measured = {
        "data": DATA,
        "images": _image_count("validation"),
        "accuracy": dict(after),
        "network": adaptive.network.fingerprint,
    }
    show.write_json(output / runs.ACCURACY, measured | {"statistics": runs.statistics_of(adaptive.network)})
    show.write_json(output / runs.ALONE, {skip: trained.accuracy["plain"] for skip, trained in alone.items()})
    report = {
        "epochs": epochs,
        "seed": seed,
        "accuracy_before_calibration": dict(before),
        "accuracy": dict(after),
        "accuracy_alone": {skip: trained.accuracy["plain"] for skip, trained in alone.items()},
        "training_s": adaptive.seconds,
        "training_alone_s": {skip: trained.seconds for skip, trained in alone.items()},
    }
    show.write_json(output / _REPORT, report)


# -- 4 and 5: choose, save, load, and list the files -----------------------------------------------------------


def _choose(output: Path, network: "AdaptiveNetwork", config: "DataConfig", table: "TradeOffs") -> None:
    import torch

    from ..core.saving import load

    times = [row.latency_ms or 0.0 for row in table.rows]
    budget = float(f"{median(times):.3g}")  # half of the sub-networks meet it
    chosen = table.best(latency_ms=budget)
    row = next(row for row in table.rows if row.skip == chosen)
    _heading("4", f"A depth for a budget of {budget:g} ms, and the network saved and loaded")
    typer.echo(
        f"Fastest {min(times):.2f} ms, slowest {max(times):.2f} ms; within {budget:g} ms the best is {chosen}: "
        f"{row.accuracy:.1f} % in {row.latency_ms:.2f} ms."
    )
    loaded = load(output)
    images = next(iter(_test_images(config)))[0]
    depths = list(dict.fromkeys([network.skips[0], chosen, network.skips[-1], "TTFF"]))[:3]
    with torch.no_grad():
        for skip in depths:
            if not torch.equal(network(images, skip=skip), loaded(images, skip=skip)):
                raise CheckpointError(f"the network loaded from {output} differs from the saved one at depth {skip}")
    compared = f"{', '.join(depths[:-1])} and {depths[-1]}"
    typer.echo(f"Saved, and loaded into a new object: the outputs of {compared} are bit-identical.")


def _close(output: Path, table: "TradeOffs", seconds: float) -> None:
    _heading("5", f"Done in {seconds:.0f} s; everything is in {output}")
    contents = {
        "network.json, weights-*": "the network: ad.load() opens it",
        runs.TRADEOFFS: "the table above, for programs",
        runs.PLOT: "the same as a chart",
        f"{runs.ACCURACY}, {runs.PROFILE}": "the measurements",
        f"{runs.HISTORY}, {runs.DATA}": "the training, and its images",
        _REPORT: "the comparison with the networks trained alone",
    }
    for name, what in contents.items():
        typer.echo(f"  {name:<28} {what}")
    macs = sorted(row.macs for row in table.rows)[len(table.rows) // 4]  # a quarter of the sub-networks meets it
    typer.echo("\nNext, choose under another budget, of multiply-adds:")
    typer.echo(f"  {show.command('select', output, '--macs', macs)}")
    typer.echo("see why it works, and look at all of it in a browser:")
    typer.echo(f"  {show.command('analyze', output)}\n  {show.command('report', output)}")
    typer.echo("and train on your own images, a folder that contains train/ and val/:")
    typer.echo(f"  {show.command('train', '--help')}")


def _heading(number: str, text: str) -> None:
    typer.echo(f"\n── {number}. {text}\n")
