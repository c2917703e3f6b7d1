"""What a network is for: the one object that training and evaluation ask about inputs, losses and quality."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ..batches import logits_in, split_batch
from ..errors import DataError
from ..meaning import Meanings
from ..quality import TOP_1, Quality

if TYPE_CHECKING:
    from torchmetrics import Metric

    from .own_metric import OwnMetric


@dataclass(frozen=True)
class Watched:
    """What `distil` compares for a task with `watch`.

    Attributes:
        output: of the network, as the task takes it.
        seen: what the modules at `watch` returned, by path.
    """

    output: Any
    seen: Mapping[str, Any]


class Task(ABC):
    """What a network is for. A task of one's own has `quality` and four methods: `inputs`, `loss`, `distil`, `metric`.

    Attributes:
        quality: what `metric` measures.
        can_distil: is there a loss between two outputs? Of a criterion of one's own the first batch tells.
        can_judge: is there a metric? Likewise.
        watch: the paths of modules whose outputs `distil` compares, too: it receives `Watched` then, and is all that a
            sub-network learns. The super-net runs on the same batch for it.

    Example:
        >>> import torch, torchmetrics
        >>> class Angle(Task):
        ...     quality = Quality("angle", "rad", higher_is_better=False)
        ...
        ...     def loss(self, output, target):
        ...         return (1 - torch.cos(output - target)).mean()
        ...
        ...     def distil(self, student, teacher, target):
        ...         return self.loss(student, teacher)
        ...
        ...     def metric(self, output):
        ...         return torchmetrics.MeanAbsoluteError()
        >>> Angle().loss(torch.zeros(2), torch.zeros(2))
        tensor(0.)
    """

    quality: Quality
    can_distil: bool = True
    can_judge: bool = True
    watch: tuple[str, ...] = ()

    def of(self, model: nn.Module) -> Self:  # noqa: ARG002 - most tasks are the same for any
        """The task for a model: a copy that knows what the model's class tells, or the same.

        Arguments:
            model: what is trained or judged, of an adapted network its `model`.

        Raises:
            TrainingError: a model that does not do for the task.
        """
        return self

    def inputs(self, batch: Any) -> tuple[Any, Any]:
        """A batch of the loader as what the network takes and what its output is compared with.

        Returns:
            The input: a tensor, a dict of keyword arguments or a tuple of positional ones. The target: a tensor, or
            tensors in dicts and tuples.

        Raises:
            DataError: a batch without a target.
        """
        x, target = split_batch(batch, None)
        if target is None:
            raise DataError("the loader yielded inputs without labels: expected pairs (input, labels)")
        return x, target

    def taken_apart(self, batch: Any) -> tuple[Any, Any]:
        """What `inputs` makes of a batch, where that is an input and a target.

        Raises:
            DataError: as `inputs`, or something else than a pair.
        """
        found = self.inputs(batch)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            several = f" of {len(found)}" if isinstance(found, tuple | list) else ""
            raise DataError(
                f"inputs() of the task {type(self).__name__} returned a {type(found).__name__}{several}: expected a "
                "pair, what the network takes and the target"
            )
        return found[0], found[1]

    def check_input(self, x: Any, model: nn.Module) -> None:  # noqa: B027 - a task of one's own may have none
        """Can a model take an input of `inputs`? Asked of each batch, once, before the model runs.

        Raises:
            DataError: it cannot; with what was received, and what was expected.
        """

    def unlabelled(self, x: Any) -> Any:
        """The input without what only a loss needs, where the model computes its own: targets, labels."""
        return x

    def output(self, output: Any) -> Any:
        """What a network returned, as the other methods take it; by default its `logits` where it has such a field."""
        return logits_in(output)

    def check(self, output: Any, target: Any, /) -> None:  # noqa: B027 - a task of one's own may have nothing to check
        """Do an output and a target fit?

        Raises:
            TrainingError: they do not; with what was received, and what was expected.
        """

    def meanings(self) -> Meanings:
        """What the outputs of the network stand for, by name, `""` where there is one; empty where nobody says.

        An exported file carries it, so that `adaptive-depth run` can say what it sees.
        """
        return {}

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """What is learned from the labels, a scalar.

        Raises:
            TrainingError: an output and a target that do not fit.
        """

    def parts(self, output: Any) -> dict[str, Tensor]:  # noqa: ARG002 - most have none
        """The parts of the loss that an output tells, by name, for the history."""
        return {}

    def with_losses(self, *modules: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002 - most return the same
        """Inside, modules in eval mode return what `loss` takes."""
        return nullcontext()

    @abstractmethod
    def distil(self, student: Any, teacher: Any, target: Any) -> Tensor:
        """What a sub-network learns from the super-net's output on the same samples, a scalar; 0 where both agree.

        Arguments:
            student, teacher: outputs, or `Watched`; no gradient flows to the teacher.
            target: of the same samples, for what is to be left out (`ignore_index`).
        """

    @abstractmethod
    def metric(self, output: Any) -> "Metric":
        """A new metric, whose `update(output, target)` takes batches and whose `compute()` gives `quality`.

        Arguments:
            output: one of the network, whose shape tells the number of classes.
        """

    def compared(self, output: Any, target: Any) -> tuple[Any, Any]:
        """What a metric compares: predictions and targets; by default output and target as they are."""
        return output, target

    def measure(self, metric: "Metric", output: Any, target: Any) -> None:
        """Add a batch to a metric."""
        metric.update(*self.compared(output, target))

    def hits(self, output: Any, target: Any) -> tuple[Tensor, Tensor] | None:
        """For the accuracy in a history: how many places have the right class, and how many count.

        Returns:
            Two numbers, as tensors on the output's device; None where outputs are not the logits of classes.
        """
        if self.quality != TOP_1 or not (isinstance(output, Tensor) and output.ndim == 2):
            return None
        labels = target if target.ndim == 1 else target.argmax(dim=1)  # of soft labels the largest
        right = output.argmax(dim=1) == labels
        return right.sum(), torch.ones_like(right).sum()

    def value(self, metric: "Metric") -> float:
        """The metric's number in the unit of `quality`: torchmetrics counts in shares, so percent is 100 times that."""
        share = float(metric.compute())
        return 100 * share if self.quality.unit == "%" else share

    def with_metric(self, metric: "Metric | Callable[[Any, Any], Any]", quality: Quality | None = None) -> Self:
        """The same task, judged by another metric.

        Arguments:
            metric: a metric of torchmetrics, or a function that returns one number for all predictions and targets of
                an evaluation. Both receive what `compared` gives: class probabilities `[batch, classes, ...]` and
                indices, probabilities of labels and 0 or 1, numbers, or of a language model the logarithms of
                probabilities `[counted, vocabulary]` and token ids. Ignored classes are among them: give a metric of
                torchmetrics the same `ignore_index`.
            quality: name, unit and direction of its number, which is multiplied by 100 where the unit is `"%"`; by
                default the name of the metric and the direction that torchmetrics gives it.

        Raises:
            TrainingError: something that is no metric, or a metric whose direction nobody says.

        Example:
            >>> from torchmetrics.classification import MulticlassF1Score
            >>> from adaptive_depth.tasks import Classification
            >>> Classification().with_metric(MulticlassF1Score(num_classes=3), Quality("F1", "%")).quality.name
            'F1'
        """
        from .own_metric import OwnMetric

        return copy(self)._judged_by(OwnMetric(self, metric, quality))

    def _judged_as(self, other: "Task") -> Self:
        """This task, judged as another one is: by that one's own metric, where it was given one."""
        own = getattr(vars(other).get("measure"), "__self__", None)
        return self if own is None else self._judged_by(copy(own))

    def _judged_by(self, own: "OwnMetric") -> Self:
        """It stays a task of its class, with all that is learned; these four alone are of the metric."""
        own.task = self
        vars(self).update(quality=own.quality, metric=own.metric, measure=own.measure, value=own.value)
        return self
