"""adaptive-depth export: one file with every depth, for another runtime."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from ..text import or_dash, table
from . import runs, show, tasks
from .stages import Json, Model, ModelKwargs
from .train import Root

if TYPE_CHECKING:
    from ..choose.tradeoffs import TradeOffs
    from ..core.network import AdaptiveNetwork
    from ..data import DataConfig
    from ..deploy.artifact import Artifact
    from ..tasks import Task


def export(
    model: Model,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT", help="onnx, onnx-files, openvino, executorch, web or torch.", show_default=False
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write; by default in RUN/export. Its suffix can name the format."),
    ] = None,
    skips: Annotated[
        str,
        typer.Option(
            metavar="FFFF,TTTT,...",
            help="Depths to export; by default all, or for onnx-files the Pareto front.",
            show_default=False,
        ),
    ] = "",
    form: Annotated[
        str | None,
        typer.Option(
            metavar="shared|folded",
            help="Norms that differ between depths: beside weights stored once, or folded into copies of the weights "
            "(a little faster, more memory). By default whichever suits the format.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    suppress: Annotated[
        bool,
        typer.Option(
            "--suppress",
            metavar="",
            help="onnx, detectors: run non-maximum suppression in the file.",
            rich_help_panel="Output",
        ),
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled", metavar="", help="torch: also write AOTInductor packages.", rich_help_panel="Output"
        ),
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="web: the folder of npm's onnxruntime-web; by default in node_modules here or in a parent folder.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Images per call, if the format fixes it (executorch).", rich_help_panel="Output"
        ),
    ] = 1,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            metavar="",
            help="Quantise to int8 (openvino, onnx-files; a run with its images).",
            rich_help_panel="Quantisation",
        ),
    ] = False,
    images: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Training images that set the ranges.", rich_help_panel="Quantisation"),
    ] = 300,
    task: tasks.TaskName = None,
    metric: tasks.MetricName = None,
    metric_name: tasks.QualityName = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Pixels, or height and width; by default the run's or the model's own.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    root: Root = None,
    model_kwargs: ModelKwargs = None,
    json: Json = False,
) -> None:
    """Write every depth into one file for another runtime, storing each weight once.

    The outputs of the file are compared with the network's at every depth. The file contains the stages and, for a
    run, the trade-off table, preprocessing and labels. --int8 measures every depth by the run's task and metric; name
    custom ones again.

    Example: adaptive-depth export runs/demo --to onnx
    """
    runs.check_of_images(model)
    name, asked = _format(to, output, int8=int8, suppress=suppress), tasks.Chosen(task, metric, metric_name)
    if asked.metric is not None and not int8:
        raise typer.BadParameter("--metric says how to measure --int8: omit it, or add --int8")
    place = output or _default_place(model, name, int8=int8)
    from ..deploy.exporting import FORMATS, export_network, import_format

    import_format(name)  # fails on a missing package before a network is read
    network = runs.as_network(runs.open_model(model, model_kwargs or ())).eval()
    run = Path(model) if runs.is_run(model) else None
    data = _data(run, network, root)
    judged = tasks.task_of(asked if run is None else tasks.remembered(run, asked)) if int8 else None
    means = None if run is None else tasks.meanings_of(run) or None
    if asked.task is not None and not int8:
        named = tasks.task_of(asked)
        means = None if named is None else named.meanings()
    named_data = data if data is None or run is None else runs.with_outputs_named(run, data)
    size = runs.parse_size(image_size)
    example = _example(network, data, size, 1 if FORMATS[name].free_batch else batch_size)
    chosen = [skip.strip() for skip in skips.split(",")] if skips else None
    # Measurements hold only for the image size they were made with.
    same_size = data is None or size is None or runs.sides_of(size) == data.preprocessing.sides
    known = _trade_offs(run, network, example) if run is not None and same_size else None
    # Here each depth has its own file, and dominated depths are never worth choosing.
    if name == "onnx-files" and chosen is None and known is not None:
        chosen = [row.skip for row in known.front()]
    with show.progress(f"exporting to {name}") as advance:
        if int8:
            artifact = _quantized(network, place, name, chosen, data, named_data, known, images, advance, judged)
        else:
            options: Any = {"compiled": True} if compiled else {}
            options |= {} if runtime is None else {"runtime": runtime}
            artifact = export_network(
                network,
                place,
                example,
                to=name,
                skips=chosen,
                form=form,
                data=named_data,
                trade_offs=known,
                meanings=means,
                suppress=suppress,
                on_progress=advance,
                **options,
            )
    size = sum(file.stat().st_size for file in written(place))
    if json:
        show.as_json({"file": str(place), "bytes": size, **artifact.to_json()})
        return
    _tell(place, size, artifact, is_run=run is not None)


def written(place: Path) -> list[Path]:
    """The files of an artifact without its description: the file (and OpenVINO's weights), or all files of a folder."""
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.is_file())
    weights = place.with_suffix(".bin")
    return [place, weights] if place.suffix == ".xml" and weights.exists() else [place]


def _format(to: str, output: Path | None, *, int8: bool, suppress: bool) -> str:
    from ..deploy.exporting import FORMATS, format_of

    if to and to not in FORMATS:
        raise typer.BadParameter(f"--to {to!r}: expected one of {', '.join(FORMATS)}")
    if not to and output is None:
        raise typer.BadParameter(f"name the format with --to: one of {', '.join(FORMATS)}")
    name = to or format_of(output or Path())
    if int8 and FORMATS[name].int8 is None:
        able = " and ".join(each for each, kind in FORMATS.items() if kind.int8)
        raise typer.BadParameter(f"--int8 is available for {able}, not for {name}")
    if suppress and FORMATS[name].suppression is None:
        raise typer.BadParameter(f"--suppress is available only for onnx, which has an operator for it, not for {name}")
    return name


def _default_place(model: str, name: str, *, int8: bool) -> Path:
    from ..deploy.exporting import FORMATS

    if not runs.is_run(model):
        runs.check_finished(Path(model))
        raise typer.BadParameter(f"{model} is not a run folder: name the file to write with --output FILE")
    suffix = FORMATS[name].suffix
    file = f"{'model' if suffix else name}{'-int8' if int8 else ''}"
    return Path(model) / runs.EXPORT / f"{file}{suffix}"


def _data(run: Path | None, network: "AdaptiveNetwork", root: Path | None) -> "DataConfig | None":
    if run is None or not (run / runs.DATA).exists():
        return None
    return runs.images_of(run, network, None, root)


def _example(
    network: "AdaptiveNetwork", data: "DataConfig | None", size: int | tuple[int, int] | None, batch: int
) -> Any:
    import torch

    from ..data import input_shape
    from ..deploy.detectors import usual_size

    channels, usual = (data.channels, data.preprocessing.sides) if data else input_shape(network)
    sides = runs.sides_of(size or (None if data else usual_size(network.model)) or usual)
    # Random, because with zeros many wrong exports would return the right outputs.
    return torch.randn(batch, channels, *sides, generator=torch.Generator().manual_seed(0))


def _trade_offs(run: Path, network: "AdaptiveNetwork", example: Any) -> "TradeOffs | None":
    """The trade-offs measured for a run; without a profile, quality against multiply-adds."""
    from ..measure.profiling import profile

    if not (run / runs.ACCURACY).exists():
        return None
    if (run / runs.PROFILE).exists():
        return runs.trade_offs(run)
    return runs.trade_offs(run, profile(network, example[:1], latency=False))


def _quantized(
    network: "AdaptiveNetwork",
    place: Path,
    to: str,
    skips: list[str] | None,
    data: "DataConfig | None",
    named_data: "DataConfig | None",
    known: "TradeOffs | None",
    images: int,
    advance: Any,
    task: "Task | None",
) -> "Artifact":
    from ..data import create_loader
    from ..deploy.exporting import quantize_network

    if data is None:
        raise DataError(
            "--int8 needs images to measure the ranges of activations: expected a run that train or demo wrote"
        )
    advance(0, 2, f"reading {images} images")
    loader = create_loader(data, "train", batch_size=images, shuffle=True, leave_out_damaged=True)
    calibrating = next(iter(loader))[0].numpy()
    advance(1, 2, "quantising, and measuring every depth")
    labelled = create_loader(data, "validation", batch_size=100)
    return quantize_network(
        network, place, calibrating, to=to, labelled=labelled, task=task, skips=skips, data=named_data, trade_offs=known
    )


def _tell(place: Path, size: int, artifact: "Artifact", *, is_run: bool) -> None:
    typer.echo(f"Written to {place}, {size / 1e6:.1f} MB: {artifact}.")
    if artifact.accuracy is None and artifact.precision == "float32":
        typer.echo("At every depth its outputs match the network's, to 1e-4 of their standard deviation.")
    elif artifact.accuracy is not None:
        typer.echo(_accuracies(artifact))
    else:
        typer.echo("The quality of its depths in int8 was not measured.")
    if artifact.trade_offs is None:
        hint = f" (measure with {show.command('evaluate', 'RUN')} and profile, then export again)" if is_run else ""
        typer.echo(f"It contains no quality of its depths{hint}, so a governor cannot choose.")
    if (place / "index.html").exists():
        typer.echo(
            f"To view it: python -m http.server --bind 127.0.0.1 --directory {place}, then http://127.0.0.1:8000"
        )
    elif place.is_dir() and artifact.kind == "torch":
        typer.echo("Load a program with torch.export.load, weights with safetensors.torch.load_file.")
    else:
        typer.echo(f"Next: {show.command('run', place, 'IMAGES', '--target-ms', '30')}")


def _accuracies(artifact: "Artifact") -> str:
    measured = artifact.accuracy or {}
    table_of = artifact.trade_offs
    same = table_of is not None and table_of.quality == artifact.quality
    known = artifact.float_accuracy or ({row.skip: row.accuracy for row in table_of.rows} if table_of and same else {})
    quality = artifact.quality
    digits = max(quality.digits(each.values()) for each in (known, measured))
    floats = [or_dash(known.get(skip), digits) for skip in measured]
    lines = table(
        [
            ("skip", "<8", [*measured]),
            (" ".join(filter(None, (quality.name, quality.unit, "in float"))), ">8", floats),
            ("in int8", ">8", [or_dash(accuracy, digits) for accuracy in measured.values()]),
        ]
    )
    return "\n".join(lines)
