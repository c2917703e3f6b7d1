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
Mandatory = Annotated[
    str | None,
    typer.Option(
        help="Where to cut: blocks (2), a part (0.5), or one of either a stage (2,2,3,2).", show_default=False
    ),
]
GroupSize = Annotated[
    int | None, typer.Option(min=2, help="Blocks in each stage of a flat transformer.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]


def stages(
    model: Model,
    model_kwargs: ModelKwargs = None,
    mandatory: Mandatory = None,
    group_size: GroupSize = None,
    json: Json = False,
) -> None:
    """Show a model's stages: mandatory and skippable blocks, skip-aware norms. Nothing is trained or downloaded.

    For models of no known family the stages are found by watching the model run, and every depth is tried.

    Example: adaptive-depth stages torchvision/resnet50
    """
    network = runs.as_network(runs.open_model(model, model_kwargs or ()), mandatory, group_size)
    if json:
        show.as_json({"model": model, "stages": network.stages.to_json(), "skips": list(network.skips)})
        return
    typer.echo(network.stages)
    for stage in network.stages:
        typer.echo(f"{stage.name}: {_span(stage.mandatory)} always, {_span(stage.skippable)} skippable")
    typer.echo(
        f"{len(network.skips)} sub-networks, from {network.skips[0]} (super-net) to {network.skips[-1]} (base-net)"
    )


def _span(blocks: tuple[str, ...]) -> str:
    """The first and the last of some blocks."""
    return blocks[0] if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1].rpartition('.')[2]}"
