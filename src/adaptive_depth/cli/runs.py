"""What commands share: models and devices by name, and run folders.

A run folder holds a network (`save`), data.json (the preprocessing), history.csv, recipe.yaml, the checkpoints of an
unfinished training (checkpoints/), exported files (export/), task.json if it was trained for a task other than
classification, and later measurements: accuracy.json (which names the quality if it is another one), profile.json,
alone.json (networks of the same depths trained alone), tradeoffs.json and .png, analysis.json with
transformations.png and maps.png, and report.html. The run of a language model has its tokenizer and text.json instead
of data.json.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import CheckpointError, DataError, MeasurementError, ModelError, TrainingError
from ..preprocessing import Preprocessing
from ..schema import Letters, Number, Open, Size, from_plain, parse_yaml
from . import show, tasks
from .reading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from ..choose.costs import Profile
    from ..choose.tradeoffs import TradeOffs
    from ..core.network import AdaptiveNetwork
    from ..data import DataConfig
    from ..tasks import Task
    from ..training.history import History
    from ..training.recipe import Recipe

NETWORK, DATA, HISTORY, RECIPE = "network.json", "data.json", "history.csv", "recipe.yaml"
CHECKPOINTS = "checkpoints"
TEXT = "text.json"  # only for language models: the training text
ACCURACY, PROFILE, TRADEOFFS, PLOT = "accuracy.json", "profile.json", "tradeoffs.json", "tradeoffs.png"
ALONE, ANALYSIS, TRANSFORMATIONS, MAPS = "alone.json", "analysis.json", "transformations.png", "maps.png"
REPORT = "report.html"
EXPORT = "export"  # a folder
_MEASURED = (ACCURACY, PROFILE, TRADEOFFS, PLOT, ALONE, ANALYSIS, TRANSFORMATIONS, MAPS, REPORT)


@dataclass(frozen=True)
class Measured(Open):
    """The content of accuracy.json, apart from what a program may add.

    Attributes:
        accuracy: by skip.
        images: how many it was measured on; None if unknown.
        network: the network's `fingerprint`; empty if unknown.
    """

    reading_error = DataError

    accuracy: dict[Letters, Number]
    images: Size | None = None
    network: str = ""

    def __post_init__(self) -> None:
        if len({len(skip) for skip in self.accuracy}) != 1:
            raise DataError(
                f"accuracies of {', '.join(self.accuracy) or 'nothing'}: expected skips, all with the same number of "
                "stages"
            )


def is_run(target: str | Path) -> bool:
    """Does this folder hold a network?"""
    return (Path(target) / NETWORK).is_file()


def is_measured(run: Path) -> bool:
    """Are quality and cost of its depths known, so that there is a table of trade-offs?"""
    return (run / ACCURACY).exists() and (run / PROFILE).exists()


def open_model(target: str, arguments: Iterable[str] = (), **more: Any) -> "nn.Module":
    """The network of a run folder, or the model of a name.

    Raises:
        ModelError: neither.
    """
    from ..core.saving import load
    from ..models import NAMESPACES, create_model

    # A folder that happens to be called resnet18 must not hide the model of that name.
    looks_like_a_folder = target.startswith((".", "/", "~")) or (Path(target).is_dir() and not is_model_name(target))
    if is_run(target) or looks_like_a_folder:
        if given := [*arguments]:
            raise typer.BadParameter(
                f"--model-kwargs {' '.join(given)}: {target} is a run folder, whose model is already built"
            )
        return load(Path(target).expanduser())
    if "/" in target and target.partition("/")[0] not in NAMESPACES:
        raise ModelError(
            f"{target} is neither a folder that exists nor the name of a model, such as torchvision/resnet50"
        )
    return create_model(target, **{**more, **parse_arguments(arguments)})


def start_from(model: "nn.Module", weights: Path, entry: str | None) -> None:
    """`load_weights`, with its notes on stderr."""
    from ..weights import take_over

    taken = take_over(model, weights, entry)
    if taken.told:
        typer.echo(taken.told, err=True)
    if taken.stayed:
        typer.echo(f"Missing or of another shape in {weights}, so left as created: {', '.join(taken.stayed)}", err=True)


def is_model_name(name: str) -> bool:
    """Would `create_model` know this name?"""
    import timm

    return name.startswith(("torchvision/", "timm/")) or timm.is_model(name)


def as_network(
    model: "nn.Module",
    mandatory: str | None = None,
    group_size: int | None = None,
    example: Any = None,
    *,
    body: Path | None = None,
    skip_aware: bool | None = True,
    cut: str = "groups",
) -> "AdaptiveNetwork":
    """The model, adapted unless it already is; `mandatory` is 2, 0.5, or 2,2,3,2 with one number per stage.

    Arguments:
        body: a run folder whose network replaces the model's body and keeps its plan.
    """
    from ..core.adapting import adapt
    from ..core.network import AdaptiveNetwork

    if isinstance(model, AdaptiveNetwork):
        if mandatory is not None or group_size is not None:
            raise typer.BadParameter("the network is already adapted: omit --mandatory and --group-size")
        return model
    parsed: Any = _parse_mandatory(mandatory)
    asked: Any = {"mandatory": parsed, "group_size": group_size, "cut": cut}
    # A body brings its own plan, so the default must not be passed on.
    if body is None or not skip_aware:
        asked["skip_aware"] = skip_aware
    return adapt(model, example=example, body=None if body is None else open_run(body), **asked)


def _parse_mandatory(text: str | None) -> Any:
    if text is None:
        return None
    try:
        numbers = [int(part) if part.strip().isdigit() else float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"--mandatory {text!r}: expected a number of blocks (2), a part of them (0.5), or one value per stage "
            "(2,2,3,2)"
        ) from error
    return numbers if "," in text else numbers[0]


def open_run(run: Path) -> "AdaptiveNetwork":
    """The network of a run folder.

    Raises:
        CheckpointError: it holds no readable network.
    """
    from ..core.saving import load

    check_finished(run)
    return load(run)


def check_finished(run: Path) -> None:
    """Raise a CheckpointError if a training was interrupted there, and so has no network yet."""
    if not is_run(run) and (run / CHECKPOINTS).exists():
        raise CheckpointError(f"{run} holds an unfinished training: finish it by repeating its command with --resume")


def parse_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """`["in_chans=1", "act_layer=gelu"]` as keyword arguments; values that are not JSON are strings."""
    parsed = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not (equals and name.isidentifier()):
            raise typer.BadParameter(f"--model-kwargs {argument!r}: expected NAME=VALUE, such as in_chans=1")
        try:
            parsed[name] = json.loads(value)
        except ValueError as error:
            if value[:1] in ("(", "[", "{"):
                raise typer.BadParameter(
                    f"--model-kwargs {argument!r}: expected JSON ({error}), such as channels=[8,16,32,64]"
                ) from error
            parsed[name] = value
    return parsed


def with_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with a config that is given as a file (`config=config.json`) replaced by its content."""
    named = arguments.get("config")
    if not isinstance(named, str):
        return dict(arguments)
    path = Path(named).expanduser()
    path = path / "config.json" if path.is_dir() else path
    return {**arguments, "config": read_json(path, "expected the config.json of a model of transformers")}


def parse_fields(fields: Iterable[str]) -> dict[str, Any]:
    """`["ema=0.999", "milestones=[2, 3]"]` as fields of a recipe; values are read as YAML."""
    parsed = {}
    for text in fields:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {text!r}: expected FIELD=VALUE, such as ema=0.999")
        parsed[name.strip()] = parse_yaml(value, TrainingError, f"--set {text!r}", "expected FIELD=VALUE")
    return parsed


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """`"96"` as a number of pixels, `"96x128"` as height and width."""
    parts = (text or "").lower().split("x")
    if text is None:
        return None
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) for part in parts):
        raise typer.BadParameter(
            f"--image-size {text!r}: expected pixels, such as 96, or height and width, such as 96x128"
        )
    sides = tuple(int(part) for part in parts)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def pick_device(name: str | None) -> "torch.device":
    """A device that works; by default an accelerator if there is one, else the CPU."""
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise typer.BadParameter(f"--device {name!r} is unknown: expected cpu, cuda, cuda:1, mps, ...") from error
    try:
        # torch also knows devices that this machine does not have.
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise typer.BadParameter(f"--device {name!r} cannot be used here ({reason}): expected cpu, ...") from error
    return device


def pick_workers(number: int | None, device: "torch.device") -> int:
    """By default none on a CPU, where processes that load images would take cores from the network."""
    if number is not None:
        return number
    return 0 if device.type == "cpu" else 4


@contextmanager
def threads(number: int | None) -> "Iterator[None]":
    """This many CPU threads inside; afterwards the number is restored."""
    import torch

    most = os.cpu_count() or 1
    if number is not None and number > most:
        raise typer.BadParameter(f"--threads {number}: expected 1 to {most}, the processors of this machine")
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- run folders ------------------------------------------------------------------------------------------------


@contextmanager
def claimed(run: Path, *, overwrite: bool, resume: bool = False) -> "Iterator[None]":
    """Check, before long work, that its result may be written into `run`; inside, no other process writes there.

    Raises:
        CheckpointError: the folder already holds a network or is being written by another process; or it is a file, or
            not writable.
    """
    from ..files import writing

    there = next(folder for folder in (run.absolute(), *run.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise CheckpointError(f"{run} cannot be a run folder: {there} is a file; name another --output")
    if not os.access(there, os.W_OK):
        raise CheckpointError(f"{run} cannot be a run folder: {there} is not writable; name another --output")
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK") != "0":
        yield  # of several processes of one training, only the first writes
        return
    # No patience: better an error now than waiting for another training to end.
    with writing(run, "adaptive-depth", CheckpointError, patience=0):
        if (run / CHECKPOINTS).exists():  # a Python program may be writing there without claiming the run
            with writing(run / CHECKPOINTS, "adaptive-depth", CheckpointError, patience=0):
                pass
        _check_contents(run, overwrite=overwrite, resume=resume)
        yield


def _check_contents(run: Path, *, overwrite: bool, resume: bool) -> None:
    if is_run(run) and not (overwrite or resume):
        raise CheckpointError(f"{run} already holds a network: name another --output, or replace it with --overwrite")
    if overwrite and not resume:
        shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    if (run / CHECKPOINTS).exists() and not resume:
        raise CheckpointError(
            f"{run} holds an unfinished training: continue with --resume, or start again with --overwrite"
        )


def is_finished(run: Path, epochs: int) -> bool:
    """Is this training finished? To resume it would only discard what was measured since."""
    from ..training.history import History
    from ..training.state import newest

    path = newest(run / CHECKPOINTS)
    if path is None or not (is_run(run) and (run / ACCURACY).exists() and (run / HISTORY).exists()):
        return False
    facts = read_json(path, "remove it to resume from an earlier one")
    if not isinstance(facts, dict) or facts.get("epoch") != epochs + 1:
        return False
    # The same epochs: with --overwrite, the folder may still hold the former network.
    return History.from_json(facts["history"]).to_csv() == (run / HISTORY).read_text()


def save_run(
    run: Path,
    network: "AdaptiveNetwork",
    config: "DataConfig",
    history: "History",
    recipe: "Recipe | None" = None,
    chosen: tasks.Chosen = tasks.Chosen(),  # noqa: B008 - a plain value
) -> None:
    """Write a trained network with its preprocessing and history; measurements of an older one are removed."""
    from ..core.saving import save
    from ..files import write_atomically

    save(network, run)
    forget_measurements(run)
    show.write_json(run / DATA, config.to_json())
    write_atomically(run / HISTORY, history.to_csv().encode())
    tasks.remember(run, chosen)
    if recipe is not None:
        write_atomically(run / RECIPE, recipe.to_yaml().encode())


def forget_measurements(run: Path) -> None:
    """Remove measurements and exports of an older network in the same folder."""
    for name in _MEASURED:
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / EXPORT, ignore_errors=True)


def read_data(run: Path) -> "DataConfig":
    """The preprocessing that a run was trained with."""
    from ..data import DataConfig

    try:
        return DataConfig.from_json(read_json(run / DATA, "it is damaged"))
    except DataError as error:
        raise DataError(
            f"{run / DATA} does not say how images are prepared ({error}): name the images with --data"
        ) from error


def with_outputs_named(run: Path, data: "DataConfig") -> "DataConfig":
    """The images of a run, with their classes only if the outputs of its network stand for classes."""
    return data if tasks.names_classes(run) else replace(data, classes=())


def images_of(run: Path, network: "AdaptiveNetwork", data: str | None, root: Path | None) -> "DataConfig":
    """The images that a run was trained on, or others of the same classes."""
    from ..data import configure, shown_in

    if data is not None and not (run / DATA).exists():  # saved by a program
        return configure(data, network, root=root)
    config = read_data(run)
    if data is not None and shown_in(data) != config.shown:
        raise DataError(
            f"--data {data!r} is of another kind than {config.name!r}, which {run} was trained on: expected images "
            "with the same classes and the same kind of labels"
        )
    config = config if data is None else replace(config, name=data)
    return config if root is None else replace(config, root=str(root.resolve()))


def check_of_images(target: str | Path) -> None:
    """Raise if a folder holds a language model: what follows is for image networks."""
    if (Path(target) / TEXT).exists():
        raise DataError(
            f"{target} holds a language model, but this command is for images: {_measuring('text', Path(target))}"
        )


def _measuring(name: str, run: Path, *options: object) -> str:
    """The command that measures a run."""
    if (run / TEXT).exists():
        return show.command("text", "table", run, "--text", "FILE")
    return show.command(name, run, *options)


def check_run(run: Path) -> None:
    """Raise if a folder holds no network; opening it says why."""
    if not is_run(run):
        open_run(run)


def read_accuracy(run: Path) -> dict[str, Any]:
    """What `evaluate` wrote about a run: at least accuracies by skip.

    A custom program may write another metric, with its `quality`: name, unit, higher_is_better.

    Returns:
        The content of the file; `quality` is always a `Quality`.

    Raises:
        DataError: missing or damaged.
    """
    from ..choose.tradeoffs import check_value

    fix = _measuring("evaluate", run)
    measured = read_json(run / ACCURACY, f"measure it with {fix}")
    quality = tasks.quality_of(measured.get("quality") if isinstance(measured, dict) else None, run / ACCURACY)
    try:
        accuracies = from_plain(Measured, measured, DataError, "it").accuracy
        for skip, value in accuracies.items():
            check_value(quality, f"{quality.noun} of {skip!r}", value)
    except (DataError, MeasurementError) as error:
        raise DataError(f"{run / ACCURACY} contains no valid accuracies ({error}): measure them with {fix}") from error
    return {**measured, "quality": quality}


def read_profile(run: Path, file: Path | None = None) -> "Profile":
    """What `profile` wrote about a run, or another profile of it, brought from another device.

    Raises:
        DataError: missing or damaged.
    """
    from ..choose.costs import Profile

    place = file or run / PROFILE
    fix = _measuring("profile", run, *(["--output", file] if file else []))
    measured = read_json(place, f"measure it with {fix}")
    try:
        return Profile.from_json(measured)
    except MeasurementError as error:
        raise DataError(f"{place} is damaged or not a profile ({error}): measure it again with {fix}") from error


def read_alone(run: Path) -> dict[str, float]:
    """The quality of networks of the same depths trained alone, by skip, as far as known.

    Raises:
        DataError: damaged.
    """
    if not (run / ALONE).exists():
        return {}
    fix = f"delete it, and give the values again with {show.command('select', run, '--alone', 'FFFF=76.7')}"
    try:
        return from_plain(dict[Letters, Number], read_json(run / ALONE, fix), DataError, "it")
    except DataError as error:
        raise DataError(f"{run / ALONE} contains no valid numbers by skip ({error}): {fix}") from error


def trade_offs(run: Path, profile: "Profile | None" = None, alone: dict[str, float] | None = None) -> "TradeOffs":
    """The quality and cost of a run's depths, joined, with networks trained alone if known.

    Raises:
        DataError: a file that is missing or damaged.
        MeasurementError: files that do not belong together.
    """
    from ..choose.tradeoffs import tradeoffs

    measured = read_accuracy(run)
    profile = profile or read_profile(run)
    alone = read_alone(run) if alone is None else alone
    table = tradeoffs(
        measured["accuracy"],
        profile,
        alone=alone,
        network=measured.get("network", ""),
        images=measured.get("images"),
        quality=measured["quality"],
    )
    _check_size(run, profile)
    return table


def _check_size(run: Path, profile: "Profile") -> None:
    """Raise if cost and accuracy were measured on images of different sizes."""
    data = read_json(run / DATA, "remove it to skip the comparison of image sizes") if (run / DATA).exists() else {}
    shape = next((shape for shape in profile.inputs if len(shape) == 4), None)
    if shape is None or not (isinstance(data, dict) and data.get("image_size")):
        return
    known = {each.name: data[each.name] for each in fields(Preprocessing) if each.name in data}
    size = from_plain(Preprocessing, known, DataError, str(run / DATA)).sides  # `DataConfig` would import torch
    if tuple(shape[-2:]) != size:
        raise MeasurementError(
            f"the profile was measured on images of {show.pixels(shape[-2:])} pixels, the accuracy of {run} on "
            f"{show.pixels(size)}: profile without --image-size"
        )


def check_output(path: Path, begins: bytes) -> None:
    """Check, before long work, that its result may be written there; the folder is created.

    Arguments:
        path: a file; it may already exist if it is of the same kind.
        begins: how files of that kind begin.

    Raises:
        DataError: a folder, a file of another kind, or not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.read_bytes()[: len(begins)] if path.exists() else begins
    except OSError as error:
        raise DataError(f"--output {path} cannot be written ({error.strerror}): name another file") from error
    if there != begins:
        raise DataError(f"--output {path} has other content, which would be lost: name another file")
    check_writable(path.parent, "name another --output")


def check_writable(folder: Path, fix: str) -> None:
    """Raise a DataError if no file can be written into a folder."""
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder} is not writable: {fix}")


def measure_accuracy(
    network: "AdaptiveNetwork", loader: Any, *, task: "Task | None" = None, across_processes: bool = False
) -> dict[str, float]:
    """`evaluate` with a progress bar."""
    from ..measure.evaluation import evaluate

    with show.watched(loader, "evaluating") as batches:
        return evaluate(network, batches, task=task, across_processes=across_processes)


def check_measured(accuracies: dict[str, float], task: "Task | None", left: str) -> None:
    """Raise a MeasurementError if a metric returned a value that no file of a run may hold, such as nan.

    Arguments:
        accuracies: what `measure_accuracy` returned.
        left: what is unaffected, for the error.
    """
    from ..choose.tradeoffs import check_value
    from ..quality import TOP_1

    quality = TOP_1 if task is None else task.quality
    for skip, value in accuracies.items():
        try:
            check_value(quality, f"{quality.noun} of {skip}", value)
        except MeasurementError as error:
            raise MeasurementError(
                f"{error}; {left}. Is the metric defined for these images and outputs (say, if all are of one class)? "
                "Choose another --metric, or let yours return a number"
            ) from error


def statistics_of(network: "AdaptiveNetwork") -> str:
    """Which statistics the network's norms use, in words."""
    if network.calibrated:
        return "measured for each context (calibrate)"
    if any(True for _ in network.contexts()):
        return "gathered in training, by super-net and base-net only"
    return "none: its norms keep no running statistics"


def calibrate_on(
    network: "AdaptiveNetwork",
    config: "DataConfig",
    *,
    batch_size: int,
    workers: int = 0,
    images: int = 5000,
    share: tuple[int, int] = (0, 1),
    task: "Task | None" = None,
    across_processes: bool = False,
) -> int:
    """`calibrate` on some training images with a progress bar; always the same images in the same random order."""
    from ..data import create_loader
    from ..measure.calibration import calibrate
    from ..training.interrupting import seeded

    # A BatchNorm needs two samples.
    batch_size = max(2, batch_size // share[1])
    chosen: Any = {"shuffle": True, "workers": workers, "share": share, "leave_out_damaged": True}
    loader = create_loader(config, "train", batch_size=batch_size, **chosen)
    limit = -(-images // (batch_size * share[1]))
    with seeded(0), show.watched(loader, "calibrating") as batches:
        return calibrate(network, batches, limit=limit, task=task, across_processes=across_processes)
