"""adaptive-depth evaluate: the accuracy of every depth of a trained network."""

from pathlib import Path
from typing import Annotated

import typer

from . import runs, show
from .stages import Json
from .train import Device, Root, Workers, images_in

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that train or demo wrote.", show_default=False)]


def evaluate(
    run: Run,
    data: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="Other images of the same classes.", show_default=False)
    ] = None,
    root: Root = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 128,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure the top-1 accuracy of every sub-network of a run on the validation images.

    Writes RUN/accuracy.json, unless other images are named. Example: adaptive-depth evaluate runs/demo
    """
    from ..data import check_fit, create_loader

    if data is None and runs.is_run(run):
        runs.check_writable(run, "make it writable, or copy it elsewhere")
    place = runs.pick_device(device)
    network = runs.open_run(run).to(place)
    config = runs.images_of(run, network, data, root)
    check_fit(network, config)
    workers = runs.pick_workers(workers, place)
    loader = create_loader(config, "validation", batch_size=batch_size, workers=workers)
    result = {"run": str(run), "data": config.name, "accuracy": runs.measure_accuracy(network, loader)}
    result |= {"images": images_in(loader), "statistics": runs.statistics_of(network), "network": network.fingerprint}
    if data is None:
        show.write_json(run / runs.ACCURACY, result)
    if json:
        show.as_json(result)
        return
    typer.echo(
        f"Top-1 accuracy on {result['images']} images of {config.name}; norm statistics: {result['statistics']}:"
    )
    for skip, accuracy in result["accuracy"].items():
        typer.echo(f"{skip:<8} {accuracy:>7.2f} %")
    if data is None:
        typer.echo(f"Written to {run / runs.ACCURACY}. Next: {show.command('profile', run)}")
