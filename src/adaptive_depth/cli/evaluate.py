"""adaptive-depth evaluate: the accuracy, or another metric, of every depth of a trained network."""

from pathlib import Path
from typing import Annotated

import typer

from . import runs, show, tasks
from .stages import Json
from .train import Device, Root, Workers, images_in

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder that train, demo or text train wrote.", show_default=False)
]


def evaluate(
    run: Run,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="Other images of the same classes.", show_default=False, rich_help_panel="Data"
        ),
    ] = None,
    root: Root = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="validation|test", help="Part of the data; test writes nothing to RUN.", rich_help_panel="Data"
        ),
    ] = "validation",
    task: tasks.TaskName = None,
    metric: tasks.MetricName = None,
    metric_name: tasks.QualityName = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images per batch.", rich_help_panel="Device")
    ] = 128,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure the accuracy of every depth of a run on the validation images.

    The measure is top-1, or the --task and --metric that the run was trained with; name custom code again.
    Writes RUN/accuracy.json, unless other images are named.

    Example: adaptive-depth evaluate runs/demo
    """
    runs.check_of_images(run)
    from ..data import create_loader, notes_of
    from ..quality import TOP_1

    if split not in ("validation", "test"):
        raise typer.BadParameter(f"--split {split}: expected validation or test")
    keeps = data is None and split == "validation"
    if keeps and runs.is_run(run):
        # Before the evaluation, which may take minutes.
        runs.check_writable(run, "make it writable, or copy it elsewhere")
    judged = tasks.task_of(tasks.remembered(run, tasks.Chosen(task, metric, metric_name)))
    quality = TOP_1 if judged is None else judged.quality
    place = runs.pick_device(device)
    network = runs.open_run(run).to(place)
    config = runs.images_of(run, network, data, root)
    tasks.check_images(network, config, judged)
    workers = runs.pick_workers(workers, place)
    loader = create_loader(config, split, batch_size=batch_size, workers=workers)
    tasks.show_notes(split, notes_of(loader))
    found = runs.measure_accuracy(network, loader, task=judged)
    runs.check_measured(found, judged, "nothing was written")
    result = {"run": str(run), "data": config.name, "accuracy": found}
    result |= tasks.quality_entry(quality)
    result |= {"images": images_in(loader), "statistics": runs.statistics_of(network), "network": network.fingerprint}
    if keeps:
        show.write_json(run / runs.ACCURACY, result)
    if json:
        show.as_json(result)
        return
    part = "" if split == "validation" else f" ({split} split)"
    typer.echo(
        f"{quality.heading} on {result['images']} images of {config.name}{part}; norm statistics: "
        f"{result['statistics']}:"
    )
    digits = quality.digits(found.values())
    for skip, accuracy in found.items():
        typer.echo(f"{skip:<8} {accuracy:>7.{digits}f} {quality.unit}".rstrip())
    if keeps:
        typer.echo(f"Written to {run / runs.ACCURACY}. Next: {show.command('profile', run)}")
