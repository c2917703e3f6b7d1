"""adaptive-depth profile: what every depth costs on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import MeasurementError
from . import runs, show
from .stages import Json, Model, ModelKwargs
from .train import Device


def profile(
    model: Model,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the profile to this file.", show_default=False)
    ] = None,
    json: Json = False,
    skips: Annotated[
        str | None,
        typer.Option(
            metavar="TTFF,...",
            help="Only these depths; writes nothing to a run.",
            show_default=False,
            rich_help_panel="Measuring",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images per forward pass.", rich_help_panel="Measuring")
    ] = 1,
    batch_sizes: Annotated[
        str,
        typer.Option(
            metavar="N,N,...",
            help="Also measure the throughput at these.",
            show_default=False,
            rich_help_panel="Measuring",
        ),
    ] = "",
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Pixels, or height and width; by default the run's or the model's own.",
            show_default=False,
            rich_help_panel="Measuring",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="X", help="Time limit; 6 rounds at least, 100 at most.", rich_help_panel="Measuring"
        ),
    ] = 40.0,
    latency: Annotated[
        bool, typer.Option(metavar="", help="Measure time, memory and energy.", rich_help_panel="Measuring")
    ] = True,
    energy: Annotated[
        bool,
        typer.Option(metavar="", help="Measure energy, if the device has counters.", rich_help_panel="Measuring"),
    ] = True,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="eager or compiled.", rich_help_panel="Device")
    ] = "eager",
    device: Device = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="CPU threads; the machine's default if not given.",
            show_default=False,
            rich_help_panel="Device",
        ),
    ] = None,
    model_kwargs: ModelKwargs = None,
) -> None:
    """Measure latency, memory, energy and multiply-adds of every depth here.

    For a run, this writes RUN/profile.json or, with --output, only FILE: profile on a device without the data, then
    combine FILE with the accuracies elsewhere by select RUN --profile FILE.

    Example: adaptive-depth profile resnet50 --batch-sizes 1,8,32
    """
    runs.check_of_images(model)
    sizes, is_run = _sizes(batch_sizes), runs.is_run(model)
    if output is not None:
        runs.check_output(output, b'{\n  "costs"')
    elif is_run:
        runs.check_writable(Path(model), "write the profile elsewhere with --output FILE")
    import torch

    from ..data import input_shape
    from ..measure.profiling import profile as measure

    network = runs.as_network(runs.open_model(model, model_kwargs or ())).eval().to(runs.pick_device(device))
    known = runs.read_data(Path(model)) if is_run and (Path(model) / runs.DATA).exists() else None
    channels, usual = (known.channels, known.preprocessing.sides) if known else input_shape(network)
    size, usual = runs.sides_of(runs.parse_size(image_size) or usual), runs.sides_of(usual)
    example = torch.randn(batch_size, channels, *size)
    with runs.threads(threads), show.progress("measuring") as advance:
        result = measure(
            network,
            example.to(runs.pick_device(device)),
            skips=None if skips is None else [skip.strip() for skip in skips.split(",")],
            latency=latency,
            backend=backend,
            batch_sizes=sizes,
            energy=energy,
            seconds=seconds,
            on_progress=advance,
        )
    # A run keeps only costs that match its accuracies, and a profile written for use elsewhere is not the run's.
    keeps = is_run and size == usual and output is None and skips is None
    if keeps:
        show.write_json(Path(model) / runs.PROFILE, result.to_json())
    if output is not None:
        show.write_json(output, result.to_json())
    if json:
        show.as_json(result.to_json())
        return
    typer.echo(result)
    if output is not None:
        typer.echo(
            f"Written to {output}. Join it with accuracies: {show.command('select', 'RUN', '--profile', output)}"
        )
    if is_run and skips is not None and output is None:
        typer.echo(f"Not written to {model}: it covers only some depths.")
    elif is_run and not keeps and output is None:
        typer.echo(f"Not written to {model}: its images have {show.pixels(usual)} pixels, not {image_size}.")
    if keeps:
        costs = [*result.costs.values()]
        timed = [cost.latency_ms for cost in costs if cost.latency_ms is not None]
        option, values = (
            ("--latency-ms", timed) if len(timed) == len(costs) else ("--macs", [cost.macs for cost in costs])
        )
        middle = f"{sorted(values)[len(values) // 2]:.4g}"
        typer.echo(f"Written to {Path(model) / runs.PROFILE}. Next: {show.command('select', model, option, middle)}")


def _sizes(text: str) -> list[int]:
    """`"1,8,32"` as numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() and int(part) for part in parts):
        raise MeasurementError(f"--batch-sizes {text!r}: expected whole numbers of at least 1, such as 1,8,32")
    return [int(part) for part in parts]
