"""Which task a command works for: `--task`, `--metric` and `--metric-name`, and what a run folder remembers of them.

A name is looked up, and may have arguments that are literals, as in `segmentation(ignore_index=0)`: no option is run
as code. What is the user's own (`my_task.py:Angle`) is loaded when an option names it, never because a run folder does.
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

FILE = "task.json"  # of a run folder, where the task is another than classification

TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="NAME|FILE.py:OBJECT",
        help="What the network is for: classification, segmentation or detection, by default what the data says; "
        '"segmentation(ignore_index=11)"; or a task of your own, a class or an instance, as my_task.py:Angle or '
        "module:Angle; see docs/tasks.md.",
        show_default=False,
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME|FILE.py:OBJECT",
        help='Another number to judge depths by: "torchmetrics.classification.MulticlassF1Score(num_classes=10)", or '
        "a metric or a function (predictions, targets) of your own, as my_metric.py:score.",
        show_default=False,
    ),
]
QualityName = Annotated[
    str | None,
    typer.Option(
        "--metric-name",
        metavar="'NAME (UNIT, lower is better)'",
        help="What to call that number, its unit and which way is better; '%' multiplies a share by 100.",
        show_default=False,
    ),
]

_NAMED = {  # in adaptive_depth.tasks
    "classification": "Classification",
    "multi-label": "MultiLabel",
    "regression": "Regression",
    "segmentation": "Segmentation",
    "detection": "Detection",
}
_TASKS = f"one of {', '.join(_NAMED)}, or your own as my_task.py:Angle or module:Angle"
_METRICS = "a name such as torchmetrics.classification.MulticlassF1Score(num_classes=3), or my_metric.py:score"
# Metrics that do nothing but count: what a run folder names is looked up among these alone.
_COUNTING = re.compile(r"torchmetrics\.((functional\.)?(classification|regression)\.)?\w+")


@dataclass(frozen=True)
class Chosen(Plain):
    """What the three options say; a plain value, which a run folder keeps.

    Attributes:
        task, metric, metric_name: as they were given.
        classes: do outputs stand for classes, so that names of classes are names of outputs?
        meanings: what outputs stand for, where that is another thing.
    """

    task: str | None = None
    metric: str | None = None
    metric_name: str | None = None
    classes: bool = True
    meanings: Meanings = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self != Chosen()


def task_of(chosen: Chosen, recipe: "Recipe | None" = None) -> "Task | None":
    """The task that options name; None where they name none, which is one class an image.

    Arguments:
        chosen: the options.
        recipe: how the network is trained; classification learns as it says.

    Raises:
        TrainingError: something that cannot be found, that is no task or no metric, or a metric without direction.
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
    """What options say, and where they name no task, the one that the data is for.

    Arguments:
        given: the options.
        data: the name of a set.
    """
    from ..data import shown_in

    usual = {"masks": "segmentation", "boxes": "detection"}.get(shown_in(data))
    return given if given.task is not None or usual is None else replace(given, task=usual)


def ignored_by(task: "Task | None") -> int:
    """The number of pixels in masks that belong to no class."""
    from ..data.sets import NO_CLASS
    from ..tasks import Segmentation

    return task.ignore_index if isinstance(task, Segmentation) else NO_CLASS


def tell_notes(part: str, notes: str) -> None:
    """Say on stderr what of the boxes of some images is not used as it stands."""
    for line in notes.splitlines():
        typer.echo(f"{part} images: {line}", err=True)


def remembered(run: Path, given: Chosen, *, judged: bool = True) -> Chosen:
    """What options say, and where they name no task, what a run was trained for.

    Arguments:
        run: a run folder.
        given: the options.
        judged: is the metric asked for, too?

    Raises:
        DataError: a file that is damaged, or that names code.
    """
    path = run / FILE
    if given.task is not None or not path.exists():
        return given
    kept = _read(path)
    kept = kept if judged else Chosen(kept.task)
    given_then = {"--task": kept.task, "--metric": kept.metric, "--metric-name": kept.metric_name}
    options = "".join(f" {name} {value!r}" for name, value in given_then.items() if value is not None)
    known = kept.task is None or _parted(kept.task)[0] in _NAMED
    counts = kept.metric is None or _COUNTING.fullmatch(_parted(kept.metric)[0]) is not None
    # A run may come from elsewhere: code is run when its user names it, and only then.
    if not (known and (counts or given.metric is not None)):
        raise DataError(f"{run} was trained with{options}, which is code that no run may name: name it again")
    return Chosen(kept.task, given.metric, given.metric_name) if given else kept


def _read(path: Path) -> Chosen:
    from .reading import read_json

    mend = "name the task with --task"
    try:
        return from_plain(Chosen, read_json(path, mend), DataError)
    except DataError as error:
        raise DataError(f"{path} says no task ({error}): {mend}") from error


def names_classes(run: Path) -> bool:
    """Are the outputs of a run's network classes of its data?"""
    return not (run / FILE).exists() or _read(run / FILE).classes


def meanings_of(run: Path) -> Meanings:
    """What the outputs of a run's network stand for, as far as it says more than `names_classes`."""
    return _read(run / FILE).meanings if (run / FILE).exists() else {}


def names_objects(task: "Task | None") -> bool:
    """Does what it finds have one of the data's classes: an image, a place of it, a box?"""
    from ..tasks import Detection

    return is_of_classes(task) or isinstance(task, Detection)


def is_of_classes(task: "Task | None") -> bool:
    """Is it one class an image, or for each place of it?"""
    from ..tasks import Classification

    return task is None or isinstance(task, Classification)


def remember(run: Path, chosen: Chosen) -> None:
    """Keep what a run was trained for."""
    if chosen:
        show.write_json(
            run / FILE, {name: value for name, value in asdict(chosen).items() if name != "meanings" or value}
        )
    else:
        (run / FILE).unlink(missing_ok=True)


def check_images(network: Any, config: Any, task: "Task | None") -> None:
    """Do a network and a task fit images and what is known of them?

    Raises:
        DataError: outputs that are not one for each class, or a task that needs other targets.
    """
    from ..data import check_fit, check_input
    from ..tasks import Classification, Detection, Heads, LanguageModel, MultiLabel, Regression, Segmentation

    needs = {
        type(None): ("one class", "class"),
        Classification: ("one class", "class"),
        MultiLabel: ("a yes or no for each label", None),
        Regression: ("numbers", None),
        Segmentation: ("the class of every pixel", "masks"),
        Detection: ("boxes", "boxes"),
        LanguageModel: ("a text", None),
        Heads: ("a target for each head", None),
    }
    needed, shown = needs.get(type(task), ("", config.shown))  # one's own may make them of what is there
    if shown != config.shown:
        has = {"class": "one class an image", "boxes": "boxes", "masks": "the class of every pixel"}
        sets = {"boxes": "coco/FOLDER, voc/FOLDER and yolo/FOLDER have", "masks": "masks/FOLDER has"}.get(str(shown))
        mend = f"{sets} that (--data; docs/data.md)" if sets else "no set has that which the command line reads"
        raise DataError(
            f"the task {type(task or Classification()).__name__} needs {needed} for each image, and the data "
            f"{config.name!r} has {has[config.shown]}: {mend}; train in Python, ad.train(net, loader, task=...), or "
            "make targets of what there is in the method inputs of a task of your own (docs/tasks.md)"
        )
    if is_of_classes(task):
        check_fit(network, config)
    else:
        check_input(network, config)


def quality_of(told: Any, where: object) -> "Quality":
    """The quality that a file of a run names; top-1 where it names none.

    Raises:
        DataError: damaged.
    """
    from ..quality import TOP_1, Quality

    if told is None:
        return TOP_1
    try:
        return from_plain(Quality, told, DataError)
    except DataError as error:
        example = {"name": "RMSE", "unit": "m", "higher_is_better": False}
        raise DataError(
            f"{where} has quality={told!r}: expected an object such as {json.dumps(example)}, or none for top-1; mend "
            "it, or measure anew with adaptive-depth evaluate"
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
        return as_task(task)  # of several heads
    if not isinstance(task, Task):
        raise TrainingError(
            f"--task {text!r} is a {type(task).__name__}: expected a task, a class or an instance of one "
            "(adaptive_depth.tasks.Task)"
        )
    return task


def _quality(metric: Any, text: str | None) -> "Quality | None":
    from ..quality import Quality

    direction = getattr(metric, "higher_is_better", None)
    return None if text is None else Quality.from_text(text, higher_is_better=direction)


def _parted(text: str) -> tuple[str, str | None]:
    """A name, and what stands in brackets behind it."""
    found = re.fullmatch(r"([^()]+?)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    return (found[1].strip(), found[2]) if found else (text, None)


def _built(option: str, text: str, expected: str) -> Any:
    """What a name with or without arguments stands for; of a class an instance."""
    name, brackets = _parted(text)
    found = _found(option, name, expected)
    if brackets is not None and not callable(found):
        raise TrainingError(f"{option} {text!r}: {name} is an instance already, leave the brackets out")
    args, kwargs = _literals(option, text, brackets or "")
    if not isinstance(found, type):
        if brackets is None:
            return found
        if option == "--metric":  # a function, whose predictions and targets come later
            return update_wrapper(partial(found, *args, **kwargs), found)
    try:
        return found(*args, **kwargs)
    except AdaptiveDepthError:
        raise
    except Exception as error:  # of code that is not ours
        raise TrainingError(
            f"{option} {text!r} cannot be made ({one_line(error)[:300]}): {_mend_of(found, name)}"
        ) from error


def _mend_of(found: Any, name: str) -> str:
    """How to make an object of a class that refused."""
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        return f"define {', '.join(lacking)} in the class"
    try:
        taken = [str(each.replace(annotation=Parameter.empty)) for each in signature(found).parameters.values()]
    except (TypeError, ValueError):  # of a class that Python cannot look into
        return f"give its arguments in brackets, {name}(...)"
    return f"expected {name}({', '.join(taken)})"


def _literals(option: str, text: str, brackets: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        call: Any = ast.parse(f"f({brackets})", mode="eval").body
        named = {part.arg: ast.literal_eval(part.value) for part in call.keywords}
        return [ast.literal_eval(part) for part in call.args], named
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise TrainingError(
            f"{option} {text!r}: expected numbers, texts and lists in brackets, such as (num_classes=3, "
            "average='macro'); for anything else name an object of your own, FILE.py:OBJECT"
        ) from error


def _found(option: str, name: str, expected: str) -> Any:
    if option == "--task" and name in _NAMED:
        from .. import tasks

        return getattr(tasks, _NAMED[name])
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
    except Exception as error:  # of code that is not ours
        raise TrainingError(
            f"{option}: {place} cannot be loaded ({type(error).__name__}: {one_line(error)[:300]}): expected {expected}"
        ) from error


def _of_file(path: Path) -> Any:
    name = f"adaptive_depth_given_{abs(hash(path.resolve())):x}"
    if name in sys.modules:  # the same classes, however often it is named
        return sys.modules[name]
    described: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
