"""adaptive-depth train: one training run for every depth."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError, DataError, FetchError
from . import alone, runs, show, tasks
from .reading import read_json
from .stages import GroupSize, Json, Mandatory, ModelKwargs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn

    from ..core.network import AdaptiveNetwork
    from ..data import DataConfig
    from ..tasks import Task
    from ..training.history import Epoch, History, Progress
    from ..training.recipe import Recipe

_FOLDER_KINDS = ("wds", "coco", "voc", "yolo", "masks")
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda, ...; an accelerator if there is one.",
        show_default=False,
        rich_help_panel="Device",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Processes that load images; by default none on a CPU, else 4.",
        show_default=False,
        rich_help_panel="Device",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder that holds a named data set.", show_default=False, rich_help_panel="Data"),
]
WeightsEntry = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which weights of a file with several, such as state_dict_ema.",
        show_default=False,
        rich_help_panel="Model",
    ),
]
_Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="A folder with train/ and val/, or digits, torch/cifar10, hfds/NAME, wds/DIR; with boxes coco/DIR, "
        "voc/DIR or yolo/DIR; with masks masks/DIR. Required without --recipe.",
        show_default=False,
    ),
]
_Size = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Pixels; with boxes or masks also height and width (240x320). Default: the model's own.",
        show_default=False,
        rich_help_panel="Data",
    ),
]


def train(
    model: Annotated[
        str | None,
        typer.Argument(
            help="timm name (resnet50), torchvision/NAME or transformers/CLASS; by default the recipe's.",
            show_default=False,
        ),
    ] = None,
    data: _Data = None,
    output: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder to write the run to; required.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="resnet50, fashion_mnist, ... or a .yaml file.", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Passes over the training images.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", metavar="", help="Continue the interrupted training in RUN: repeat its command with --resume."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", metavar="", help="Replace the network in RUN.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Images per step.", rich_help_panel="Training")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Peak learning rate; about 0.001 for adamw.", rich_help_panel="Training"),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of timm's: sgd, adamw, lamb, ...", rich_help_panel="Training"),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weight decay; norms and biases have none.", rich_help_panel="Training"),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Any other field of the recipe, such as ema=0.999; repeatable.",
            rich_help_panel="Training",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="The same seed gives the same training.", rich_help_panel="Training"),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Log to tensorboard, wandb, ...; repeatable.", rich_help_panel="Training"),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Steps of super-net (S), base-net (B) and random others (R), such as SBSBR; or 'algorithm 1'.",
            rich_help_panel="Training",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Weight of the super-net's loss; the base-net gets the rest.",
            rich_help_panel="Algorithm 1",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="X", help="Softens both outputs before the comparison.", rich_help_panel="Algorithm 1"),
    ] = None,
    feature_weight: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weight of the optional feature loss; 0 is off.", rich_help_panel="Algorithm 1"),
    ] = None,
    low_memory: Annotated[
        bool,
        typer.Option(
            "--low-memory", metavar="", help="Two backward passes, less memory.", rich_help_panel="Algorithm 1"
        ),
    ] = False,
    root: Root = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            metavar="",
            help="Fetch a named data set (into --root) without asking.",
            rich_help_panel="Data",
        ),
    ] = False,
    image_size: _Size = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            metavar="",
            help="Download trained weights of timm or torchvision and start from them.",
            rich_help_panel="Model",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Start from weights of the plain model (.pth, .ckpt, safetensors).",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None,
    weights_entry: WeightsEntry = None,
    body: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Use this run's network, say a classifier, as the model's body, with all its depths.",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None,
    model_kwargs: ModelKwargs = None,
    mandatory: Mandatory = None,
    group_size: GroupSize = None,
    task: tasks.TaskName = None,
    metric: tasks.MetricName = None,
    metric_name: tasks.QualityName = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="alone",
            help="Then train super-net and base-net alone by the same recipe, and compare.",
            show_default=False,
            rich_help_panel="Measuring",
        ),
    ] = None,
    compare_seeds: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Seeds of the networks trained alone.", rich_help_panel="Measuring"),
    ] = 1,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Train a model once so that every depth works; calibrate, evaluate and save it.

    The recipe sets whatever the options do not; without --recipe that is 30 epochs of SGD with a learning rate of 0.1.
    If a custom task needs outputs other than one per class, add --model-kwargs num_classes=1. The config of a
    transformers/CLASS goes into --model-kwargs config=config.json.

    Example: adaptive-depth train resnet18 --data digits --epochs 10 --output runs/digits
    """
    if data is not None:
        _check_there(data)
    from ..models import WEIGHT_ARGUMENTS
    from ..training.recipe import Recipe, load_recipe

    if output is None:
        raise typer.BadParameter("Missing option '--output': the folder to write the run to")
    asked = {
        "model": model, "data": data, "epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer,
        "weight_decay": weight_decay, "passes": passes, "alpha": alpha, "temperature": temperature,
        # Without the option, the recipe decides.
        "feature_weight": feature_weight, "low_memory": low_memory or None, "seed": seed,
    }  # fmt: skip
    if image_size is not None:
        asked |= dict.fromkeys(("image_size", "eval_size"), runs.parse_size(image_size))
    chosen = Recipe() if recipe is None else load_recipe(recipe)
    chosen = chosen.changed({name: value for name, value in asked.items() if value is not None})
    chosen = chosen.changed(runs.parse_fields(change or ()))
    chosen = chosen.changed({"model_kwargs": {**chosen.model_kwargs, **runs.parse_arguments(model_kwargs or ())}})
    if chosen.model is None:
        raise typer.BadParameter("Missing argument 'MODEL': a timm name (resnet50), torchvision/NAME, or a --recipe")
    if chosen.data is None:
        raise typer.BadParameter("Missing option '--data': digits, torch/cifar10, ..., or a folder")
    if fetching := sorted(WEIGHT_ARGUMENTS & set(chosen.model_kwargs)):
        raise typer.BadParameter(
            f"the model's arguments contain {', '.join(fetching)}, which fetches or reads weights: leave it out and "
            "start from --pretrained or --weights FILE"
        )
    if weights_entry is not None and weights is None:
        raise typer.BadParameter("--weights-entry selects weights inside a file: add --weights FILE")
    if weights is not None and pretrained:
        raise typer.BadParameter("--weights and --pretrained both say where to start: give only one")
    alone.check(compare, compare_seeds)
    with runs.claimed(output, overwrite=overwrite, resume=resume):
        finished = resume and runs.is_finished(output, chosen.epochs)
        if finished and not compare:
            raise CheckpointError(
                f"{output} is finished, there is nothing to resume: measure it with {show.command('profile', output)}, "
                "compare it with --compare alone, or train again with --overwrite"
            )
        place = runs.pick_device(device)
        result, history = _train(
            chosen, output, place, runs.pick_workers(workers, place), root=root, download=download,
            pretrained=pretrained, weights=weights, weights_entry=weights_entry, body=body,
            mandatory=mandatory, group_size=group_size, resume=resume, finished=finished, track=track or (),
            compared=compare_seeds if compare else 0, asked=tasks.Chosen(task, metric, metric_name),
        )  # fmt: skip
    if result:
        _report(result, history, chosen, json)


def _check_there(data: str) -> None:
    """Raise if a folder does not exist; called before torch is imported, which takes seconds."""
    kind, slash, rest = data.partition("/")
    place = Path(rest if kind in _FOLDER_KINDS and slash else data).expanduser()
    is_path = data.startswith((".", "~")) or (bool(slash) and kind not in ("torch", "hfds"))
    if is_path and not place.is_dir():
        beside = [each.name for each in place.parent.iterdir() if each.is_dir()] if place.parent.is_dir() else []
        near = get_close_matches(place.name, beside, n=1)
        hint = f"did you mean {place.parent / near[0]}?" if near else "expected one that contains train/ and val/"
        raise DataError(f"--data {data}: there is no folder {place}; {hint}")


def _train(
    recipe: "Recipe",
    output: Path,
    place: "torch.device",
    workers: int,
    *,
    root: Path | None,
    download: bool,
    pretrained: bool,
    weights: Path | None,
    weights_entry: str | None,
    body: Path | None,
    mandatory: str | None,
    group_size: int | None,
    resume: bool,
    finished: bool,
    track: "Sequence[str]",
    compared: int,
    asked: tasks.Chosen,
) -> tuple[dict[str, Any], "History"]:
    import torch

    from ..core.distributed import Distributed
    from ..data import arguments_for, configure, create_loader, notes_of
    from ..models import create_model
    from ..training.images import TrainingBatches
    from ..training.interrupting import seeded
    from ..training.loop import train as fit
    from ..training.tracking import tracking

    assert recipe.model is not None
    assert recipe.data is not None
    asked = tasks.meant(asked, recipe.data)
    task = tasks.task_of(asked, recipe)
    ignored = tasks.ignored_by(task)
    other = {} if task is None or tasks.is_of_classes(task) else task.meanings()
    asked = replace(asked, classes=tasks.names_objects(task), meanings=other)
    with seeded(recipe.seed):
        classes = _classes(recipe.data, root, download, ignored)
        size = recipe.eval_size or recipe.image_size
        arguments = arguments_for(recipe.model, classes, size, runs.with_config(recipe.model_kwargs))
        name = recipe.model

        def build() -> "nn.Module":
            made = create_model(name, pretrained=pretrained, **arguments)
            if weights is not None:
                runs.start_from(made, weights, weights_entry)
            return made

        plain = build()
        config = configure(
            recipe.data,
            plain,
            root=root,
            image_size=size,
            resize=recipe.eval_resize,
            interpolation=recipe.interpolation,
            ignored=ignored,
        )
        tasks.check_images(plain, config, task)
        example = torch.randn(2, config.channels, *config.preprocessing.sides)
        cut: Any = {"skip_aware": recipe.skip_aware_norms, "body": body}
        network = runs.as_network(plain, mandatory, group_size, example, **cut).to(place)
        # Processor time, which other programs do not inflate.
        began = process_time()
        processes = Distributed()
        shown = {"workers": workers, "share": (processes.index, processes.count)}
        batches = TrainingBatches(config, recipe, workers=workers)
        # Without gradients, twice as many images fit into memory.
        validation = create_loader(config, "validation", batch_size=2 * recipe.batch_size, **shown)
        if processes.is_first:
            for part, notes in (("training", batches.notes or ""), ("validation", notes_of(validation))):
                tasks.show_notes(part, str(notes))
        if resume and processes.is_first and not finished:
            typer.echo(_where_it_resumes(output / runs.CHECKPOINTS), err=True)
        folder = output / runs.CHECKPOINTS
        with (
            show.progress("training", "steps") as advance,
            tracking(track, output, recipe) as watch,
            _saying_how_to_resume(folder),
        ):

            def on_step(now: "Progress") -> None:
                advance(now.step, now.steps, live=lambda: describe(now.so_far(), recipe.epochs))
                watch.on_step(now)

            def on_epoch(epoch: "Epoch") -> None:
                advance(note=describe(epoch, recipe.epochs))
                watch.on_epoch(epoch)

            history = fit(
                network,
                batches,
                recipe,
                task=task,
                validation=validation,
                folder=folder,
                resume=resume,
                on_step=on_step,
                on_epoch=on_epoch,
            )
        took = process_time() - began
        if batches.damaged:
            some = "; ".join(f"{name}: {reason}" for name, reason in list(batches.damaged.items())[:3])
            number = len(batches.damaged)
            which = "image could not be read and was" if number == 1 else "images could not be read and were"
            typer.echo(f"{number} training {which} left out: {some}", err=True)
        if finished:  # only the comparison is left, and what was measured since is kept
            result = runs.read_accuracy(output)
            result |= {"run": str(output), **tasks.quality_entry(result.pop("quality"))}
            result.pop("before_calibration", None)
        else:
            seconds = {} if resume else {"seconds": took}  # of all its parts a resumed training does not know
            result = _measure(output, network, config, history, recipe, asked, validation, task, shown, seconds)
    if not processes.is_first:  # one process is enough for the rest
        return {}, history
    if compared:
        began = process_time()

        def at(skip: str, seed: int) -> "nn.Module":
            with seeded(seed):
                return runs.as_network(build(), mandatory, group_size, example, **cut).extract(skip).to(place)

        ends = (network.skips[0], network.skips[-1])
        found = alone.train_alone(at, ends, compared, recipe, config, validation, task, output, workers)
        result |= {"alone": found, "alone_seconds": process_time() - began}
    return result, history


def _measure(
    output: Path,
    network: "AdaptiveNetwork",
    config: "DataConfig",
    history: "History",
    recipe: "Recipe",
    asked: tasks.Chosen,
    validation: Any,
    task: "Task | None",
    shown: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Calibrate and evaluate a trained network, and save it before and after; what the first process reports."""
    from ..core.distributed import Distributed
    from ..quality import TOP_1

    processes = Distributed()
    if processes.is_first:
        runs.save_run(output, network, config, history, recipe, asked)  # before anything else can fail
    judged = {"task": task, "across_processes": True}
    before, calibrated = runs.measure_accuracy(network, validation, **judged), 0
    if recipe.calibrate:
        images = recipe.calibrate
        calibrated = runs.calibrate_on(network, config, batch_size=recipe.batch_size, images=images, **judged, **shown)
    after = runs.measure_accuracy(network, validation, **judged) if calibrated else before
    result = {"run": str(output), "before_calibration": before, "accuracy": after}
    result |= {"images": sum(processes.all_gather(images_in(validation)))}
    result |= {"statistics": runs.statistics_of(network), "network": network.fingerprint}
    result |= tasks.quality_entry(TOP_1 if task is None else task.quality) | seconds
    if processes.is_first:
        runs.save_run(output, network, config, history, recipe, asked)  # again, with the calibrated statistics
        for measured in (before, after):
            runs.check_measured(measured, task, f"the trained network is in {output}")
        show.write_json(output / runs.ACCURACY, result)
    return result


def _classes(name: str, root: Path | None, download: bool, ignored: int) -> tuple[str, ...]:
    """The classes of a set; if it is not on this machine, it is fetched only with --download or the user's consent."""
    from ..data import class_names

    try:
        return class_names(name, root=root, download=download, ignored=ignored)
    except FetchError as error:
        if download or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        if not typer.confirm(f"{error}\nFetch {name!r} now{f' into {root}' * bool(root)}?", err=True):
            raise
    return class_names(name, root=root, download=True)


def _where_it_resumes(folder: Path) -> str:
    from ..training.state import newest

    path = newest(folder)
    if path is None:
        return f"No checkpoint in {folder}: training starts from the beginning"
    state = read_json(path, "remove it to resume from an earlier one")
    epoch, step = (state.get(name, "?") if isinstance(state, dict) else "?" for name in ("epoch", "step"))
    return f"Resuming from {path}: epoch {epoch}, after step {step}"


@contextmanager
def _saying_how_to_resume(checkpoints: Path) -> "Iterator[None]":
    """Add how to resume, if the training inside is interrupted or cannot read its images."""
    from ..training.state import newest

    try:
        yield
    except KeyboardInterrupt as stop:
        if str(stop):  # then the step was finished and a checkpoint written
            typer.echo(f"{str(stop).capitalize()} (--resume)", err=True)
        raise
    except DataError as error:
        share = " with --set skip_damaged=SHARE" if "skip_damaged" in str(error) else ""
        again = "the same command with --resume" if newest(checkpoints) else "the same command"
        raise DataError(f"{error}{share}; then run {again}") from error


def describe(epoch: "Epoch", epochs: int) -> str:
    """An epoch, finished or in progress, in one line."""
    return f"epoch {epoch.epoch} of {epochs}, {epoch.figures()}"


def images_in(loader: Any) -> int:
    """How many images a loader covers."""
    return len(loader.dataset)


def _report(result: dict[str, Any], history: "History", recipe: "Recipe", json: bool) -> None:
    if json:
        show.as_json(result | {"history": history.to_json()})
        return
    quality = tasks.quality_of(result.get("quality"), "the training")
    after = result["accuracy"]
    if "before_calibration" in result:
        what = str(quality) if "quality" in result else f"{quality.heading} (%)"
        typer.echo(f"{what} on {result['images']} validation images, before and after calibration:")
        typer.echo(show.accuracy_table(result["before_calibration"], after, quality))
    if "alone" in result:
        typer.echo("Compared with plain networks of the same depths:")
        typer.echo(
            alone.in_words(result["alone"], after, quality, recipe, result["alone_seconds"], result.get("seconds"))
        )
    typer.echo(f"Written to {result['run']}. Next, measure what each depth costs here:")
    typer.echo(f"  {show.command('profile', result['run'])}")
