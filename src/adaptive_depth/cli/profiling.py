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
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 1,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Pixels, or height and width; the run's or the model's own by default.",
            show_default=False,
        ),
    ] = None,
    skips: Annotated[
        str | None,
        typer.Option(metavar="TTFF,...", help="These depths alone, which is not kept in a run.", show_default=False),
    ] = None,
    latency: Annotated[bool, typer.Option(help="Also measure time, memory and energy.")] = True,
    backend: Annotated[str, typer.Option(help="What runs the network: eager or compiled.")] = "eager",
    batch_sizes: Annotated[
        str, typer.Option(metavar="N,N,...", help="Also measure the throughput at these.", show_default=False)
    ] = "",
    energy: Annotated[bool, typer.Option(help="Also measure energy, where the device has counters.")] = True,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long to measure at most; six rounds are the least, a hundred the most.")
    ] = 40.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; the machine's default if not given.", show_default=False)
    ] = None,
    model_kwargs: ModelKwargs = None,
    device: Device = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a profile to carry elsewhere.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Measure multiply-adds, parameters, latency, memory and energy of every sub-network on this machine.

    Of a run, writes RUN/profile.json, or with --output FILE that file alone: on a device that has the network but not
    the data, to be joined elsewhere with what evaluate measured, by select RUN --profile FILE.

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
    # Costs of other images do not go with what evaluate measured; and a profile to carry elsewhere is not the run's.
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
            f"Written to {output}. With what evaluate measured: {show.command('select', 'RUN', '--profile', output)}"
        )
    if is_run and skips is not None and output is None:
        typer.echo(f"Not written to {model}: it is of some depths alone.")
    elif is_run and not keeps and output is None:
        typer.echo(f"Not written to {model}: its images have {show.pixels(usual)} pixels, not {image_size}.")
    if keeps:
        middle = sorted(cost.macs for cost in result.costs.values())[len(result.costs) // 2]
        typer.echo(f"Written to {Path(model) / runs.PROFILE}. Next: {show.command('select', model, '--macs', middle)}")


def _sizes(text: str) -> list[int]:
    """`"1,8,32"` as numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() and int(part) for part in parts):
        raise MeasurementError(f"--batch-sizes {text!r}: expected whole numbers of at least 1, such as 1,8,32")
    return [int(part) for part in parts]
