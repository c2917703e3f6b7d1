"""train --compare alone: super-net and base-net, each trained alone, to see whether one adaptive network pays."""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

import typer

from ..errors import TrainingError
from . import runs, show

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ..data import DataConfig
    from ..quality import Quality
    from ..tasks import Task
    from ..training.recipe import Recipe


def train_alone(
    build: "Callable[[str, int], nn.Module]",
    skips: tuple[str, ...],
    seeds: int,
    recipe: "Recipe",
    config: "DataConfig",
    validation: Any,
    task: "Task | None",
    run: "Path",
    workers: int,
) -> dict[str, list[float]]:
    """The quality of plain networks of these depths, one value per seed; alone.json of the run keeps the means.

    Each is trained by the recipe of the run, on as many images as its adaptive network loaded, and evaluated on the
    same images with the statistics gathered in training.

    Arguments:
        build: called with a skip and a seed; returns the untrained plain network of that depth on its device.
        skips: the depths.
        seeds: how many, counting up from the recipe's.
        recipe, config, validation, task: those of the run.
        run: its folder.
        workers: processes that load images.

    Raises:
        TrainingError: more than one process.
    """
    from ..core.distributed import Distributed
    from ..measure.evaluation import evaluate_one
    from ..training.images import TrainingBatches
    from ..training.interrupting import seeded
    from ..training.loop import train

    if Distributed().count > 1:
        raise TrainingError("--compare alone needs a single process: omit it when training in several")
    found: dict[str, list[float]] = {}
    for skip in skips:
        first = recipe.seed or 0
        for seed in range(first, first + seeds):
            own = recipe.changed({"seed": seed})
            what = f"training {skip} alone" + f", seed {seed}" * (seeds > 1)
            with seeded(seed), show.progress(what, "steps") as advance:
                network, batches = build(skip, seed), TrainingBatches(config, own, workers=workers)
                # A default argument, because the loop rebinds `advance`.
                train(network, batches, own, task=task, on_step=lambda now, show=advance: show(now.step, now.steps))
            with show.watched(validation, f"evaluating {skip} alone") as images:
                found.setdefault(skip, []).append(evaluate_one(network, images, task=task))
        # After each depth, so that an interruption loses only the current one.
        means = {skip: fmean(values) for skip, values in found.items()}
        show.write_json(run / runs.ALONE, runs.read_alone(run) | means)
    return found


def in_words(
    found: Mapping[str, list[float]],
    accuracy: Mapping[str, float],
    quality: "Quality",
    recipe: "Recipe",
    seconds: float,
    adaptive_seconds: float | None,
) -> str:
    """The comparison, and the budget it was made on; `adaptive_seconds` are unknown of a training that was resumed."""
    digits = quality.digits([*accuracy.values(), *(value for values in found.values() for value in values)])
    lines = []
    for skip, values in found.items():
        gain = quality.gain(accuracy[skip], fmean(values))
        spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" * (len(values) > 1)
        lines.append(
            f"{skip:<8} in the adaptive network {quality.text(accuracy[skip], digits)}, alone "
            f"{quality.text(fmean(values), digits)}{spread}: {gain:+.{digits}f}"
        )
    seeds = len(next(iter(found.values())))
    counted = "1 seed" if seeds == 1 else f"{seeds} seeds"
    lines.append(
        f"Each alone: {recipe.epochs} epoch{'s' * (recipe.epochs != 1)} of the same recipe, the same number of images "
        f"loaded, {counted}; the adaptive network takes more steps on them. Processor time: {seconds / seeds:,.0f} s "
        f"for these {len(found)} networks"
        + ("." if adaptive_seconds is None else f", {adaptive_seconds:,.0f} s for the adaptive one.")
    )
    if any(quality.gain(accuracy[skip], fmean(values)) < 0 for skip, values in found.items()):
        lines.append(
            "Where the plain network is better and you need only that depth, train and deploy the plain network."
        )
    return "\n".join(lines)


def check(compare: str | None, seeds: int) -> None:
    """Raise if the options of a comparison do not fit together."""
    if compare not in (None, "alone"):
        raise typer.BadParameter(f"--compare {compare}: expected alone")
    if compare is None and seeds != 1:
        raise typer.BadParameter("--compare-seeds needs a comparison: add --compare alone")
