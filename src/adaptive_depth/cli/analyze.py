"""adaptive-depth analyze: why the method works on a trained network, or where it does not."""

from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MeasurementError
from . import runs, show, tasks
from .evaluate import Run
from .stages import Json
from .train import Device, Root, WeightsEntry, Workers

if TYPE_CHECKING:
    from torch import nn

    from ..core.network import AdaptiveNetwork
    from ..tasks import Task


def analyze(
    run: Run,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|WEIGHTS",
            help="The same model, trained plainly: weights, or a run (train --passes 'algorithm 1' --alpha 1).",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None,
    weights_entry: WeightsEntry = None,
    images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Minimum number of validation images, drawn at random.")
    ] = 512,
    maps: Annotated[
        int, typer.Option(min=0, metavar="N", help="Images to draw class-activation maps of; 0 for none.")
    ] = 4,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="Other images of the same classes.", show_default=False, rich_help_panel="Data"
        ),
    ] = None,
    root: Root = None,
    task: tasks.TaskName = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images per batch.", rich_help_panel="Device")
    ] = 32,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure why the method works: what each block adds and what a skip costs.

    Writes RUN/analysis.json, RUN/transformations.png and, if pytorch-grad-cam is installed, RUN/maps.png, unless other
    images are named.

    Example: adaptive-depth analyze runs/demo
    """
    runs.check_of_images(run)
    from ..analysis.rationale import analyze as measure
    from ..data import create_loader
    from ..plotting.analysis import plot_transformations
    from ..training.interrupting import seeded

    if data is None and runs.is_run(run):
        runs.check_writable(run, "make it writable, or copy it elsewhere")
    judged = tasks.task_of(tasks.remembered(run, tasks.Chosen(task), judged=False))
    place = runs.pick_device(device)
    network = runs.open_run(run).to(place)
    other = None if compare is None else _open_other(compare, network, weights_entry).to(place)
    config = runs.images_of(run, network, data, root)
    tasks.check_images(network, config, judged)
    # A batch larger than the number of images would measure more than was asked for.
    size = min(batch_size, images)
    chosen: Any = {"batch_size": size, "shuffle": True, "workers": runs.pick_workers(workers, place)}
    loader = create_loader(config, "validation", **chosen)  # shuffled, because folders are read class by class
    with seeded(0), show.progress("analyzing") as advance:
        found = measure(network, loader, criterion=judged, compare=other, limit=-(-images // size), on_progress=advance)
    if data is None:
        show.write_json(run / runs.ANALYSIS, found.to_json())
        plot_transformations(found, run / runs.TRANSFORMATIONS)
        with seeded(0):
            _draw_maps(run / runs.MAPS, network, loader, maps, judged)
    if json:
        show.as_json(found.to_json())
        return
    typer.echo(found)
    for note in _worse_than_alone(run):
        typer.echo(note)
    if data is None:
        written = [run / name for name in (runs.ANALYSIS, runs.TRANSFORMATIONS, runs.MAPS) if (run / name).exists()]
        typer.echo(f"\nWritten to {', '.join(map(str, written))}")


def _worse_than_alone(run: Path) -> list[str]:
    """Depths at which a network trained alone is better; the cost of a skip says nothing about the super-net itself."""
    alone = runs.read_alone(run)
    if not alone or not (run / runs.ACCURACY).exists():
        return []
    measured = runs.read_accuracy(run)
    quality, found = measured["quality"], measured["accuracy"]
    digits = quality.digits(found.values())
    return [
        f"{skip} is {quality.apart(found[skip], value, digits)} {'below' if quality.higher_is_better else 'above'} a "
        "network of that depth trained alone: train longer, or with another recipe. The costs of skips above are "
        "relative to this super-net."
        for skip, value in alone.items()
        if skip in found and quality.gain(found[skip], value) < 0
    ]


def _open_other(place: Path, network: "AdaptiveNetwork", entry: str | None) -> "nn.Module":
    """The model of a run, or the network's own model with the weights of a file."""
    if runs.is_run(place) or (place / runs.CHECKPOINTS).exists():
        # `open_run` reports an unfinished training.
        return runs.open_run(place)
    # A copy, because the network keeps its own weights.
    model = deepcopy(network.model)
    runs.start_from(model, place, entry)
    return model


def _draw_maps(path: Path, network: "AdaptiveNetwork", loader: Any, number: int, task: "Task | None") -> None:
    """Draw class-activation maps of the first images, or report in a line why that is impossible."""
    import torch

    from ..analysis.activation_maps import class_activation_maps
    from ..plotting.analysis import plot_maps

    path.unlink(missing_ok=True)  # an old file would belong to another analysis
    if not number:
        return
    if not tasks.is_of_classes(task):
        typer.echo(f"No {path.name}: class-activation maps need classes, and {type(task).__name__} has none", err=True)
        return
    first = torch.cat([x for x, _ in islice(loader, -(-number // loader.batch_size))])[:number]
    try:
        plot_maps(first, class_activation_maps(network, first), path)
    except MeasurementError as error:
        typer.echo(f"No {path.name}: {error}", err=True)
