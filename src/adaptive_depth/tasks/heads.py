"""Several tasks at once, one for each head of a network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..meaning import Meanings
from .checks import check_finite
from .task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric


class Heads(Task):
    """A task for each head of a network that returns a dict, a tuple or a dataclass; targets come in the same form.

    The loss is the weighted sum over heads, and so is the distillation loss. One head's quality is that of the network.

    Arguments:
        tasks: by head: the names in a dict or a dataclass; for a tuple the positions in this order.
        judged_by: the head whose quality counts; the first if None.
        weights: of the losses, by head; 1 if not named.

    Raises:
        TrainingError: no heads, a head that is not a task, or weights and `judged_by` of unknown heads.

    Example:
        >>> import torch
        >>> from adaptive_depth.tasks import Classification, Regression
        >>> task = Heads({"kind": Classification(), "size": Regression(unit="m")}, judged_by="kind")
        >>> output = {"kind": torch.zeros(1, 2), "size": torch.ones(1, 1)}
        >>> task.loss(output, {"kind": torch.tensor([0]), "size": torch.zeros(1)})
        tensor(1.6931)
    """

    learns_from = ("a target per head", None)

    def __init__(
        self, tasks: Mapping[str, Task], *, judged_by: str | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self.tasks = dict(tasks)
        if not self.tasks:
            raise TrainingError("no heads: expected a task for each, such as {'kind': Classification()}")
        for name, task in self.tasks.items():
            if not isinstance(task, Task):
                raise TrainingError(
                    f"head {name!r} is a {type(task).__name__}: expected a task, such as Classification(criterion); a "
                    "bare dict, task={...}, takes criteria of torch, too"
                )
        if not isinstance(weights, Mapping | None):
            raise TrainingError(
                f"weights={weights!r}: expected a number by head, such as {{{next(iter(self.tasks))!r}: 1.0}}"
            )
        self.weights = dict.fromkeys(self.tasks, 1.0) | dict(weights or {})
        for name, weight in self.weights.items():
            if not (isinstance(weight, int | float) and weight >= 0):
                raise TrainingError(f"weight {weight!r} of head {name!r}: expected a number of 0 or more")
        self.judged_by = next(iter(self.tasks)) if judged_by is None else judged_by
        for name in (*self.weights, self.judged_by):
            if name not in self.tasks:
                raise TrainingError(f"head {name!r} is unknown: expected one of {', '.join(self.tasks)}")
        self.quality = self.tasks[self.judged_by].quality

    def meanings(self) -> Meanings:
        return {name: each for name, task in self.tasks.items() for each in task.meanings().values()}

    def check_input(self, x: Any, model: nn.Module) -> None:
        for task in self.tasks.values():
            task.check_input(x, model)

    def output(self, output: Any) -> Any:
        return self._split("output", output)

    def check(self, output: Any, target: Any, /) -> None:
        outputs, targets = self._split("output", output), self._split("target", target)
        for name, task in self.tasks.items():
            with _naming(name):
                task.check(task.output(outputs[name]), targets[name])

    def parts(self, output: Any, target: Any) -> dict[str, Tensor]:
        """The loss of each head, before its weight."""
        with torch.no_grad():
            return self._losses(output, target)

    def loss(self, output: Any, target: Any) -> Tensor:
        return self._sum(self._losses(output, target))

    def _losses(self, output: Any, target: Any) -> dict[str, Tensor]:
        outputs, targets = self._split("output", output), self._split("target", target)
        losses = {}
        for name, task in self.tasks.items():
            with _naming(name):
                losses[name] = task.loss(outputs[name], targets[name])
        return losses

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:
        students, teachers = self._split("output", student), self._split("output", teacher)
        targets = dict.fromkeys(self.tasks) if target is None else self._split("target", target)
        return self._sum(
            {name: task.distil(students[name], teachers[name], targets[name]) for name, task in self.tasks.items()}
        )

    def metric(self, output: Any) -> "Metric":
        return self.tasks[self.judged_by].metric(self._split("output", output)[self.judged_by])

    def compared(self, output: Any, target: Any) -> tuple[Any, Any]:
        """What the judged head compares."""
        outputs, targets = self._split("output", output), self._split("target", target)
        return self.tasks[self.judged_by].compared(outputs[self.judged_by], targets[self.judged_by])

    def measure(self, metric: "Metric", output: Any, target: Any) -> None:
        outputs, targets = self._split("output", output), self._split("target", target)
        self.tasks[self.judged_by].measure(metric, outputs[self.judged_by], targets[self.judged_by])

    def value(self, metric: "Metric") -> float:
        return self.tasks[self.judged_by].value(metric)

    def _sum(self, losses: Mapping[str, Tensor]) -> Tensor:
        weighted = [self.weights[name] * loss for name, loss in losses.items()]
        total = weighted[0]
        for loss in weighted[1:]:
            total = total + loss
        if not torch.isfinite(total).all():  # one synchronisation with the device, instead of one for each head
            for name, loss in losses.items():
                check_finite(f"the loss of head {name!r}", loss)
        return total

    def _split(self, what: str, value: Any) -> dict[str, Any]:
        """The part of each head."""
        if is_dataclass(value) and not isinstance(value, type):
            found: Any = {field.name: getattr(value, field.name) for field in fields(value)}
        elif isinstance(value, Mapping):
            found = dict(value)
        elif isinstance(value, tuple | list):
            # Further outputs are allowed, missing ones are reported below.
            found = dict(zip(self.tasks, value, strict=False))
        else:
            found = {}
        missing = [name for name in self.tasks if found.get(name) is None]
        unknown = [name for name in found if name not in self.tasks and what == "target"]
        if missing or unknown:
            received = ", ".join(map(repr, found)) if found else f"a {type(value).__name__}"
            raise TrainingError(
                f"the {what} has {received}, but the heads are {', '.join(map(repr, self.tasks))}: expected one for "
                "each head, in a dict, a dataclass or a tuple"
            )
        return found


@contextmanager
def _naming(head: str) -> Iterator[None]:
    """Errors of its task name the head."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"head {head!r}: {error}") from error
