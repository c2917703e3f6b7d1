"""The task of a command: `--task`, `--metric` and `--metric-name`, and what a run folder keeps of them.

A name is looked up and may have literal arguments, as in `segmentation(ignore_index=0)`; no option is evaluated as
code. The user's own code (`my_task.py:Angle`) is loaded only if an option names it, never because a run folder does.
"""

import ast
import importlib
import importlib.util
import json
import re
import sys
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import partial, update_wrapper
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import AdaptiveDepthError, DataError, TrainingError, one_line
from ..meaning import Meanings
from ..schema import Plain, from_plain
from . import show

if TYPE_CHECKING:
    from ..quality import Quality
    from ..tasks import Task
    from ..training.recipe import Recipe

FILE = "task.json"  # in a run folder, unless the task is plain classification

TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="classification, segmentation or detection (by default, whichever the data is for), with arguments as in "
        '"segmentation(ignore_index=11)"; or your own: my_task.py:Angle, module:Angle (docs/tasks.md).',
        show_default=False,
        rich_help_panel="Task",
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="METRIC",
        help='Judge depths by this, such as "torchmetrics.classification.MulticlassF1Score(num_classes=10)", or your '
        "own metric or function of (predictions, targets): my_metric.py:score.",
        show_default=False,
        rich_help_panel="Task",
    ),
]
QualityName = Annotated[
    str | None,
    typer.Option(
        "--metric-name",
        metavar="NAME",
        help="Name, unit and direction of the metric: 'RMSE (m, lower is better)'. The unit % scales by 100.",
        show_default=False,
        rich_help_panel="Task",
    ),
]

_NAMED = {  # in adaptive_depth.tasks
    "classification": "Classification",
    "multi-label": "MultiLabel",
    "regression": "Regression",
    "segmentation": "Segmentation",
    "detection": "Detection",
}
_TASKS = f"one of {', '.join(_NAMED)}, or your own, such as my_task.py:Angle or module:Angle"
_METRICS = "a name such as torchmetrics.classification.MulticlassF1Score(num_classes=3), or my_metric.py:score"
# A run folder may come from a stranger, so only these metrics, which run no other code, are looked up by its names.
_COUNTING = re.compile(r"torchmetrics\.((functional\.)?(classification|regression)\.)?\w+")


@dataclass(frozen=True)
class Chosen(Plain):
    """The values of the three options; a plain value, which a run folder keeps.

    Attributes:
        task, metric, metric_name: as given.
        classes: do outputs stand for classes, so that class names are names of outputs?
        meanings: what outputs stand for, if not classes.
    """

    task: str | None = None
    metric: str | None = None
    metric_name: str | None = None
    classes: bool = True
    meanings: Meanings = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self != Chosen()


def task_of(chosen: Chosen, recipe: "Recipe | None" = None) -> "Task | None":
    """The task that the options name; None if they name none, which means one class per image.

    Arguments:
        chosen: the options.
        recipe: how the network is trained; it sets the loss of a classification.

    Raises:
        TrainingError: not found, not a task or a metric, or a metric without a direction.
    """
    if not chosen:
        return None
    if chosen.metric_name is not None and chosen.metric is None:
        raise TrainingError(f"--metric-name {chosen.metric_name!r} without --metric: expected the metric it names")
    task = _classification(recipe) if chosen.task in (None, "classification") else _named_task(str(chosen.task))
    if chosen.metric is None:
        return task
    metric = _built("--metric", chosen.metric, _METRICS)
    return task.with_metric(metric, _quality(metric, chosen.metric_name))


def meant(given: Chosen, data: str) -> Chosen:
    """The options; if they name no task, with the one that the data is for.

    Arguments:
        given: the options.
        data: the name of a set.
    """
    from ..data import shown_in

    usual = {"masks": "segmentation", "boxes": "detection"}.get(shown_in(data))
    return given if given.task is not None or usual is None else replace(given, task=usual)


def ignored_by(task: "Task | None") -> int:
    """The pixel value in masks that marks pixels of no class."""
    from ..data.sets import NO_CLASS
    from ..tasks import Segmentation

    return task.ignore_index if isinstance(task, Segmentation) else NO_CLASS


def show_notes(part: str, notes: str) -> None:
    """Report on stderr which boxes of some images are not used as they are."""
    for line in notes.splitlines():
        typer.echo(f"{part} images: {line}", err=True)


def remembered(run: Path, given: Chosen, *, judged: bool = True) -> Chosen:
    """The options; if they name no task, with the one that a run was trained for.

    Arguments:
        run: a run folder.
        given: the options.
        judged: is the metric needed, too?

    Raises:
        DataError: a file that is damaged or names code.
    """
    path = run / FILE
    if given.task is not None or not path.exists():
        return given
    kept = _read(path)
    kept = kept if judged else Chosen(kept.task)
    given_then = {"--task": kept.task, "--metric": kept.metric, "--metric-name": kept.metric_name}
    options = "".join(f" {name} {value!r}" for name, value in given_then.items() if value is not None)
    known = kept.task is None or _split(kept.task)[0] in _NAMED
    counts = kept.metric is None or _COUNTING.fullmatch(_split(kept.metric)[0]) is not None
    # A run may come from someone else: custom code runs only if the user of this command names it.
    if not (known and (counts or given.metric is not None)):
        raise DataError(f"{run} was trained with{options}, custom code that is loaded only if you name it again")
    return Chosen(kept.task, given.metric, given.metric_name) if given else kept


def _read(path: Path) -> Chosen:
    from .reading import read_json

    fix = "name the task with --task"
    try:
        return from_plain(Chosen, read_json(path, fix), DataError)
    except DataError as error:
        raise DataError(f"{path} contains no valid task ({error}): {fix}") from error


def names_classes(run: Path) -> bool:
    """Are the outputs of a run's network classes of its data?"""
    return not (run / FILE).exists() or _read(run / FILE).classes


def meanings_of(run: Path) -> Meanings:
    """What the outputs of a run's network stand for, if not classes."""
    return _read(run / FILE).meanings if (run / FILE).exists() else {}


def names_objects(task: "Task | None") -> bool:
    """Does each prediction, of an image, a pixel or a box, have one of the data's classes?"""
    from ..tasks import Detection

    return is_of_classes(task) or isinstance(task, Detection)


def is_of_classes(task: "Task | None") -> bool:
    """Does it predict one class per image or pixel?"""
    from ..tasks import Classification

    return task is None or isinstance(task, Classification)


def remember(run: Path, chosen: Chosen) -> None:
    """Write what a run was trained for into its folder."""
    if chosen:
        show.write_json(
            run / FILE, {name: value for name, value in asdict(chosen).items() if name != "meanings" or value}
        )
    else:
        (run / FILE).unlink(missing_ok=True)


def check_images(network: Any, config: Any, task: "Task | None") -> None:
    """Check that a network and a task fit the images and their labels.

    Raises:
        DataError: not one output per class, or a task that needs other targets.
    """
    from ..data import check_fit, check_input
    from ..tasks import Classification

    needed, shown = (task or Classification()).needs() or ("", config.shown)
    if shown != config.shown:
        has = {"class": "one class per image", "boxes": "boxes", "masks": "the class of every pixel"}
        sets = {"boxes": "coco/FOLDER, voc/FOLDER and yolo/FOLDER have", "masks": "masks/FOLDER has"}.get(str(shown))
        fix = f"{sets} that (--data; docs/data.md)" if sets else "no data set of the command line has that"
        raise DataError(
            f"the task {type(task or Classification()).__name__} needs {needed} for each image, but the data "
            f"{config.name!r} has {has[config.shown]}: {fix}; train in Python, ad.train(net, loader, task=...), or "
            "derive the targets from these labels in the method inputs of a custom task (docs/tasks.md)"
        )
    if is_of_classes(task):
        check_fit(network, config)
    else:
        check_input(network, config)


def quality_entry(quality: "Quality") -> "dict[str, Any]":
    """How a file of a run names a quality; top-1 needs no name."""
    from ..quality import TOP_1

    return {} if quality == TOP_1 else {"quality": asdict(quality)}


def quality_of(stored: Any, where: object) -> "Quality":
    """The quality that a file of a run names; top-1 if it names none.

    Raises:
        DataError: damaged.
    """
    from ..quality import TOP_1, Quality

    if stored is None:
        return TOP_1
    try:
        return from_plain(Quality, stored, DataError)
    except DataError as error:
        example = {"name": "RMSE", "unit": "m", "higher_is_better": False}
        raise DataError(
            f"{where} has quality={stored!r}: expected an object such as {json.dumps(example)}, or none for top-1; "
            "correct it, or measure again with adaptive-depth evaluate"
        ) from error


# -- names ------------------------------------------------------------------------------------------------------


def _classification(recipe: "Recipe | None") -> "Task":
    from ..tasks import Classification
    from ..training.loop import default_task

    return Classification() if recipe is None else default_task(recipe)


def _named_task(text: str) -> "Task":
    from ..tasks import Task, as_task

    task = _built("--task", text, _TASKS)
    if isinstance(task, dict):
        return as_task(task)  # a task per head
    if not isinstance(task, Task):
        raise TrainingError(
            f"--task {text!r} is a {type(task).__name__}: expected a task (adaptive_depth.tasks.Task), as a class or "
            "an instance"
        )
    return task


def _quality(metric: Any, text: str | None) -> "Quality | None":
    from ..quality import Quality

    direction = getattr(metric, "higher_is_better", None)
    return None if text is None else Quality.from_text(text, higher_is_better=direction)


def _split(text: str) -> tuple[str, str | None]:
    """A name, and the arguments in brackets after it."""
    found = re.fullmatch(r"([^()]+?)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    return (found[1].strip(), found[2]) if found else (text, None)


def _built(option: str, text: str, expected: str) -> Any:
    """The object that a name, with or without arguments, stands for; for a class, an instance."""
    name, brackets = _split(text)
    found = _found(option, name, expected)
    if brackets is not None and not callable(found):
        raise TrainingError(f"{option} {text!r}: {name} is already an instance, omit the brackets")
    args, kwargs = _literals(option, text, brackets or "")
    if not isinstance(found, type):
        if brackets is None:
            return found
        if option == "--metric":  # a function: predictions and targets are passed later
            return update_wrapper(partial(found, *args, **kwargs), found)
    try:
        return found(*args, **kwargs)
    except AdaptiveDepthError:
        raise
    except Exception as error:  # custom code may raise anything
        raise TrainingError(
            f"{option} {text!r} cannot be created ({one_line(error)[:300]}): {_fix_for(found, name)}"
        ) from error


def _fix_for(found: Any, name: str) -> str:
    """How to create an instance of a class that failed."""
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        return f"define {', '.join(missing)} in the class"
    try:
        taken = [str(each.replace(annotation=Parameter.empty)) for each in signature(found).parameters.values()]
    except (TypeError, ValueError):  # a class in C may have no signature
        return f"give its arguments in brackets, {name}(...)"
    return f"expected {name}({', '.join(taken)})"


def _literals(option: str, text: str, brackets: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        call: Any = ast.parse(f"f({brackets})", mode="eval").body
        named = {part.arg: ast.literal_eval(part.value) for part in call.keywords}
        return [ast.literal_eval(part) for part in call.args], named
    # Deeply nested brackets raise RecursionError or MemoryError.
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise TrainingError(
            f"{option} {text!r}: expected numbers, strings and lists in brackets, such as (num_classes=3, "
            "average='macro'); for anything else, give your own object, FILE.py:OBJECT"
        ) from error


def _found(option: str, name: str, expected: str) -> Any:
    if option == "--task" and name in _NAMED:
        from .. import tasks

        return getattr(tasks, _NAMED[name])
    # Libraries are named with dots, custom code with a colon.
    place, _, attribute = name.rpartition("." if option == "--metric" and ":" not in name else ":")
    if not (place and attribute.isidentifier()):
        raise TrainingError(f"{option} {name!r}: expected {expected}")
    module = _module(option, place, expected)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        there = [each for each in vars(module) if not each.startswith("_") and callable(vars(module)[each])]
        near = get_close_matches(attribute, there, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(there)[:300]}"
        raise TrainingError(f"{option} {name!r}: {place} has no {attribute!r}; {hint}") from error


def _module(option: str, place: str, expected: str) -> Any:
    path = Path(place).expanduser()
    if path.suffix == ".py" and not path.is_file():
        raise TrainingError(f"{option} {place!r} does not exist: expected {expected}")
    try:
        return _of_file(path) if path.suffix == ".py" else importlib.import_module(place)
    except Exception as error:  # custom code may raise anything
        raise TrainingError(
            f"{option}: {place} cannot be loaded ({type(error).__name__}: {one_line(error)[:300]}): expected {expected}"
        ) from error


def _of_file(path: Path) -> Any:
    # Named by path, because two files may have the same name.
    name = f"adaptive_depth_given_{abs(hash(path.resolve())):x}"
    if name in sys.modules:  # a file named by two options must yield the same classes
        return sys.modules[name]
    described: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
