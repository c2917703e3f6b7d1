"""A criterion as a task: inferred where it is certain, and otherwise the caller says which."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import TrainingError
from ..quality import Quality
from .checks import MEANT, called, kind_of, single_number
from .classification import Classification, Segmentation
from .heads import Heads
from .multi_label import MultiLabel
from .regression import Regression
from .task import Task

TASKS = (Classification, MultiLabel, Regression, Segmentation, Heads)
_BY_NAME = {task.__name__: task for task in TASKS}


class OwnCriterion(Task):
    """Labels alone, by a criterion of which nothing else is known: there is no quality, and nothing to distil.

    Arguments:
        criterion: `criterion(output, target)`, a scalar.
        distil: `distil(student, teacher)`, a scalar, where there is one.
    """

    quality = Quality("loss", higher_is_better=False)
    can_judge = False

    def __init__(
        self, criterion: Callable[[Any, Any], Tensor], distil: Callable[[Any, Any], Tensor] | None = None
    ) -> None:
        self.criterion, self.distils = criterion, distil
        self.can_distil = distil is not None

    def loss(self, output: Any, target: Any) -> Tensor:
        return called(self.criterion, output, target)

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:  # noqa: ARG002 - not known to matter
        if self.distils is None:
            raise TrainingError(f"{_described(self.criterion)} says nothing of two outputs: {_ASK}")
        return single_number("distil", self.distils(student, teacher))

    def metric(self, output: Any) -> Any:  # noqa: ARG002 - of a task
        raise TrainingError(f"{_described(self.criterion)} says nothing of a metric: {_ASK}")


_ASK = (
    f"name the task, one of {', '.join(task.__name__ for task in TASKS)} of adaptive_depth.tasks with "
    "this criterion, such as Classification(criterion), or one of your own"
)


def as_task(given: Any) -> Task:
    """What was given as a task: itself, a dict of tasks as `Heads`, or what a criterion of torch says for certain.

    Any other criterion becomes a task that learns from labels alone, and says so when more is asked of it.

    Raises:
        TrainingError: something that cannot be called, a class in place of an instance.

    Example:
        >>> from torch import nn
        >>> type(as_task(nn.BCEWithLogitsLoss())).__name__, type(as_task(None)).__name__
        ('MultiLabel', 'Classification')
    """
    if isinstance(given, Task):
        return given
    if isinstance(given, Mapping):
        return Heads({name: as_task(task) for name, task in given.items()})
    if given is None:
        return Classification()
    if isinstance(given, type) or not callable(given):
        raise TrainingError(
            f"criterion={given!r}: expected a criterion such as nn.CrossEntropyLoss(), an instance, or a task of "
            "adaptive_depth.tasks"
        )
    criterion: Any = given
    meant = MEANT.get(kind_of(criterion))
    return OwnCriterion(criterion) if meant is None else _BY_NAME[meant](criterion)


def _described(criterion: Any) -> str:
    return f"the criterion {getattr(criterion, '__name__', type(criterion).__name__)}"
