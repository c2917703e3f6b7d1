"""adaptive-depth stages: what a model can skip."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import runs, show

if TYPE_CHECKING:
    from ..core.network import AdaptiveNetwork

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
        help="Argument of the model's constructor, as JSON: channels=[8,16,32,64]; repeatable.",
        rich_help_panel="Model",
    ),
]
Mandatory = Annotated[
    str | None,
    typer.Option(
        metavar="N|PART|N,N,...",
        help="Mandatory blocks of a stage: a number (2), a part (0.5), or one value per stage (2,2,3,2).",
        show_default=False,
        rich_help_panel="Model",
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="Blocks per stage of a flat transformer.",
        show_default=False,
        rich_help_panel="Model",
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON on stdout, for programs.")]


def stages(
    model: Model,
    model_kwargs: ModelKwargs = None,
    mandatory: Mandatory = None,
    group_size: GroupSize = None,
    json: Json = False,
) -> None:
    """Show a model's stages: mandatory and skippable blocks, skip-aware norms.

    Nothing is trained or downloaded. If the model's family is unknown, its stages are discovered by watching it run,
    and every depth is tried.

    Example: adaptive-depth stages torchvision/resnet50
    """
    network = runs.as_network(runs.open_model(model, model_kwargs or ()), mandatory, group_size)
    macs = _macs(network, model)
    if json:
        show.as_json({"model": model, "stages": network.stages.to_json(), "skips": list(network.skips), "macs": macs})
        return
    typer.echo(network.stages)
    for stage in network.stages:
        typer.echo(f"{stage.name}: {_span(stage.mandatory)} always run, {_span(stage.skippable)} skippable")
    high, low = (f"{each / 1e6:,.1f}" for each in macs)
    typer.echo(
        f"{len(network.skips)} sub-networks, from {network.skips[0]} (super-net, {high} MMACs per image) to "
        f"{network.skips[-1]} (base-net, {low})"
    )


def _macs(network: "AdaptiveNetwork", model: str) -> list[int]:
    """Multiply-adds of the super-net and the base-net, for one image of the run's or the model's usual size."""
    import torch

    from ..batches import arguments
    from ..measure.profiling import profile
    from ..models import usual_input

    example = usual_input(network.model)
    if runs.is_run(model) and (Path(model) / runs.DATA).exists():
        data = runs.read_data(Path(model))
        example = torch.zeros(1, data.channels, *data.preprocessing.sides)
    assert example is not None  # models that have a name, and runs of them, have a usual input
    args, kwargs = arguments(example)
    cost = profile(network, *args, skips=[network.skips[0], network.skips[-1]], latency=False, **kwargs)
    return [each.macs for each in cost.costs.values()]


def _span(blocks: tuple[str, ...]) -> str:
    """The first and the last of these blocks."""
    return blocks[0] if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1].rpartition('.')[2]}"
