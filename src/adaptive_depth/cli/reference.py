"""adaptive-depth load-reference: a checkpoint of the authors' code becomes a run folder."""

from pathlib import Path
from typing import Annotated

import typer

from . import runs, show


def load_reference(
    model: Annotated[str, typer.Argument(help="torchvision's name: resnet50, mobilenet_v2, vit_b_16, swin_t, ...")],
    file: Annotated[Path, typer.Argument(help="A .pth or .safetensors file that the authors' code wrote.")],
    output: Annotated[Path, typer.Option(metavar="RUN", help="Folder to write to.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", metavar="", help="Replace the network in RUN.")] = False,
) -> None:
    """Turn a checkpoint of the authors' code into a run folder; only tensors are read.

    Example: adaptive-depth load-reference resnet50 resnet50.pth --output runs/resnet50
    """
    from ..core.reference import load_reference as load
    from ..core.saving import save

    with runs.claimed(output, overwrite=overwrite):
        network = load(model, file)
        save(network, output)
        runs.forget_measurements(output)
    typer.echo(network.stages)
    typer.echo(f"Written to {output}. Next, evaluate its depths on images of the same classes:")
    typer.echo(f"  {show.command('evaluate', output, '--data', 'DIR')}")
