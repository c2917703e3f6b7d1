"""A criterion as a task: inferred if unambiguous, else the caller must name the task."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from torch import Tensor, nn

from ..batches import is_whole
from ..errors import TrainingError, is_a_class
from ..quality import Quality
from ..wrapping import unwrapped
from .checks import MEANT, called, check_quality, dtype_name, kind_of, single_number, value_range
from .classification import Classification
from .detection import Detection
from .detectors import detector_of
from .heads import Heads
from .language import LanguageModel, language_task
from .multi_label import MultiLabel
from .regression import Regression
from .segmentation import Segmentation, segments
from .task import Task

TASKS = (Classification, MultiLabel, Regression, Segmentation, Detection, LanguageModel, Heads)
_BY_NAME: dict[str, Any] = {task.__name__: task for task in TASKS}


class OwnCriterion(Task):
    """Learning from labels only, by an unknown criterion; the first batch may reveal more.

    A floating output `[batch, classes, ...]` with class indices `[batch, ...]` is a classification, and is distilled
    and judged as one from then on. Anything else (such as floating targets) could be one of several tasks.

    Arguments:
        criterion: `criterion(output, target)`, a scalar.
        distil: `distil(student, teacher)`, a scalar, if there is one.

    Example:
        >>> import torch
        >>> task = OwnCriterion(lambda output, target: torch.nn.functional.cross_entropy(output, target))
        >>> task.distil(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.)
    """

    quality = Quality("loss", higher_is_better=False)

    def __init__(
        self, criterion: Callable[[Any, Any], Tensor], distil: Callable[[Any, Any], Tensor] | None = None
    ) -> None:
        self.criterion, self.distils = criterion, distil
        self.temperature, self._distilling = 1.0, False
        self._meant: Classification | None = None

    def distilling(self, temperature: float = 1.0) -> "OwnCriterion":
        """The same for a loop that distils: a first batch that does not reveal the task is refused before any training.

        Arguments:
            temperature: of the softmax, for a classification.
        """
        task = copy(self)
        task.temperature, task._distilling = temperature, True
        return task

    def loss(self, output: Any, target: Any) -> Tensor:
        if self._distilling and self.distils is None:
            self._known(output, target, "two outputs").check(output, target)
        return called(self.criterion, output, target)

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:
        if self.distils is None:
            return self._known(student, target, "two outputs").distil(student, teacher, target)
        return single_number("distil", self.distils(student, teacher))

    def check(self, output: Any, target: Any, /) -> None:
        self._look(output, target)
        if self._meant is not None:
            self._meant.check(output, target)

    def metric(self, output: Any) -> Any:
        """A metric of classes, if `check` or a loss has seen a batch that implies it."""
        if self._meant is None:
            raise TrainingError(f"{_described(self.criterion)} does not determine a metric: {_ASK}")
        return self._meant.metric(output)

    def measure(self, metric: Any, output: Any, target: Any) -> None:
        if self._meant is None:
            super().measure(metric, output, target)
        else:
            self._meant.measure(metric, output, target)

    def value(self, metric: Any) -> float:
        return super().value(metric) if self._meant is None else self._meant.value(metric)

    def hits(self, output: Any, target: Any) -> tuple[Tensor, Tensor] | None:
        self._look(output, target)
        return None if self._meant is None else self._meant.hits(output, target)

    def _look(self, output: Any, target: Any) -> None:
        """Infer the task from this output and target, if it is still unknown."""
        if self._meant is None and not _is_of_sigmoids(self.criterion) and _is_of_classes(output, target):
            self._meant = Classification(self.criterion, temperature=self.temperature)
            # The quality of a custom metric stays.
            self.quality = self._meant.quality if self.quality is type(self).quality else self.quality

    def _known(self, output: Any, target: Any, what: str) -> Classification:
        self._look(output, target)
        if self._meant is None:
            raise TrainingError(
                f"{_described(self.criterion)} does not cover {what}, and an output {_shape(output)} with a target "
                f"{_shape(target)} could be several tasks: {_ASK}; or learn from the labels only "
                "(learn_from='labels' of Algorithm 1, teacher_share=0 of a schedule)"
            )
        return self._meant


def _is_of_classes(output: Any, target: Any) -> bool:
    """Is it certain that these are logits `[batch, classes, ...]` and class indices `[batch, ...]`?"""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor) and output.is_floating_point()):
        return False
    if not is_whole(target):
        return False
    if output.ndim < 2 or output.shape[1] < 2 or target.shape != output.shape[:1] + output.shape[2:]:
        return False
    if output.ndim > 2 and target.shape == output.shape[:-1]:  # the classes may as well be in the last dimension
        return False
    low, high = value_range(target[target != _IGNORED])
    return low >= 0 and high < output.shape[1]


def _is_of_sigmoids(criterion: Any) -> bool:
    """Does its name say so? (timm's BinaryCrossEntropy takes class indices, too, but a softmax would misjudge it.)"""
    name = getattr(kind_of(criterion), "__name__", "").lower()
    return "binary" in name or "bce" in name


_IGNORED = -100  # the default ignore_index of torch's criteria


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"({type(value).__name__})"
    return f"{list(value.shape)} of {dtype_name(value)}"


_ASK = (
    f"name the task, one of {', '.join(task.__name__ for task in TASKS)} of adaptive_depth.tasks with "
    "this criterion, such as Classification(criterion), or a custom one"
)


def as_task(given: Any, model: nn.Module | None = None) -> Task:
    """The argument as a task: itself, a dict of tasks as `Heads`, or what a criterion of torch implies unambiguously.

    None means what the model's class implies: the next token for a causal language model of transformers, boxes for a
    detector and the classes of pixels for a segmentation network of torchvision or transformers; else a classification.

    Any other criterion becomes a task that learns from labels, and raises if more is needed than the first batch
    reveals.

    Arguments:
        given: what the caller passed.
        model: the model to train or judge, for an adapted network its `model`; with None its class determines the task.

    Raises:
        TrainingError: something that is not callable, or a class instead of an instance; None for a language model of
            transformers that may be trained in more than one way.

    Example:
        >>> from torch import nn
        >>> type(as_task(nn.BCEWithLogitsLoss())).__name__, type(as_task(None)).__name__
        ('MultiLabel', 'Classification')
    """
    if isinstance(given, Task):
        check_quality(given)
        if model is None:
            return given
        _check_for_boxes(given, unwrapped(model))
        return given.of(unwrapped(model))
    if isinstance(given, Mapping):
        return Heads({name: as_task(task) for name, task in given.items()})
    if given is None:
        return Classification() if model is None else _of_model(unwrapped(model))
    if isinstance(given, type):
        raise TrainingError(is_a_class(given))
    if not callable(given):
        raise TrainingError(
            f"criterion={given!r}: expected a criterion such as nn.CrossEntropyLoss(), an instance, or a task of "
            f"adaptive_depth.tasks, such as {', '.join(f'{task.__name__}()' for task in TASKS[:4])}"
        )
    criterion: Any = given
    meant = MEANT.get(kind_of(criterion))
    return OwnCriterion(criterion) if meant is None else _BY_NAME[meant](criterion)


def _check_for_boxes(task: Task, model: nn.Module) -> None:
    """
    Raises:
        TrainingError: a task of classes or numbers for a detector of torchvision, which has its own losses.
    """
    needs = task.needs()
    known = detector_of(model) if needs is not None and needs[1] != "boxes" else None
    if known is not None and known.library == "torchvision":
        raise TrainingError(
            f"the task is {type(task).__name__}, but a {type(model).__name__} is a detector, which learns from boxes: "
            "expected Detection(), or no task; on the command line, data with boxes (coco/DIR, voc/DIR, yolo/DIR). "
            "Masks of classes are learned by segmentation networks, such as torchvision/lraspp_mobilenet_v3_large"
        )


def _of_model(model: nn.Module) -> Task:
    if (language := language_task(model)) is not None:
        return language
    if detector_of(model) is not None:
        return Detection().of(model)
    return Segmentation().of(model) if segments(model) else Classification()


def _described(criterion: Any) -> str:
    return f"the criterion {getattr(criterion, '__name__', type(criterion).__name__)}"
