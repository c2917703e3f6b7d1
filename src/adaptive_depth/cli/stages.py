"""adaptive-depth stages: what could be skipped in a model."""

from typing import Annotated

import typer

from . import runs, show

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A timm name (resnet50), torchvision/NAME, or a run folder.", show_default=False
    ),
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-kwargs",
        metavar="NAME=VALUE",
        help="An argument of the model's constructor, in JSON: channels=[8,16,32,64]; repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]


def stages(model: Model, model_kwargs: ModelKwargs = None, json: Json = False) -> None:
    """Show a model's stages: mandatory and skippable blocks, skip-aware norms. Nothing is trained or downloaded.

    Example: adaptive-depth stages torchvision/resnet50
    """
    network = runs.as_network(runs.open_model(model, model_kwargs or ()))
    if json:
        show.as_json({"model": model, "stages": network.stages.to_json(), "skips": list(network.skips)})
        return
    typer.echo(network.stages)
    typer.echo(
        f"{len(network.skips)} sub-networks, from {network.skips[0]} (super-net) to {network.skips[-1]} (base-net)"
    )
