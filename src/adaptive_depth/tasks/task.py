"""What a network is for: the one object that defines inputs, losses and quality for training and evaluation."""

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
        output: of the network, as from `Task.output`.
        seen: what the modules at `watch` returned, by path.
    """

    output: Any
    seen: Mapping[str, Any]


class Task(ABC):
    """What a network is for. A custom task needs `quality`, `loss`, `distil` and `metric`; the rest has defaults.

    Attributes:
        quality: what `metric` measures.
        can_distil: whether there is a loss between two outputs; a custom criterion may only know at the first batch.
        can_judge: whether there is a metric; likewise.
        watch: the paths of modules whose outputs `distil` compares as well: it then receives `Watched`, and is the
            whole loss of a sub-network. The super-net runs on the same batch for this, under a schedule of passes only
            up to these modules, so that its `output` is None.
        learns_from: of the library's own tasks, the target of a sample in words, and how a data set of the command line
            shows it: `"class"`, `"boxes"`, `"masks"`, or None if none does. It is not inherited: a custom task may
            derive its targets from any labels, in `inputs`.

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
    learns_from: tuple[str, str | None] | None = None

    def of(self, model: nn.Module) -> Self:  # noqa: ARG002 - most tasks are the same for any
        """The task for a model: a copy with facts from the model's class, or the task itself.

        Arguments:
            model: the model to train or judge, for an adapted network its `model`.

        Raises:
            TrainingError: a model that does not suit the task.
        """
        return self

    @classmethod
    def needs(cls) -> tuple[str, str | None] | None:
        """`learns_from` of exactly this class; None for a custom task, which may take any labels."""
        return vars(cls).get("learns_from")

    def inputs(self, batch: Any) -> tuple[Any, Any]:
        """A batch of the loader as the network's input and the target of its output.

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
        """The pair that `inputs` returns, checked.

        Raises:
            DataError: as `inputs`, or anything other than a pair.
        """
        found = self.inputs(batch)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            several = f" of {len(found)}" if isinstance(found, tuple | list) else ""
            raise DataError(
                f"inputs() of the task {type(self).__name__} returned a {type(found).__name__}{several}: expected a "
                "pair, the network's input and the target"
            )
        return found[0], found[1]

    def check_input(self, x: Any, model: nn.Module) -> None:  # noqa: B027 - a custom task may have none
        """Check that a model can take an input of `inputs`; called once for each batch, before the model runs.

        Raises:
            DataError: it cannot; with what was received, and what was expected.
        """

    def unlabelled(self, x: Any) -> Any:
        """The input without what only the model's own loss needs: targets, labels."""
        return x

    def output(self, output: Any) -> Any:
        """A network's output as the other methods take it; by default its `logits`, if it has such a field."""
        return logits_in(output)

    def check(self, output: Any, target: Any, /) -> None:  # noqa: B027 - a custom task may have nothing to check
        """Check that an output and a target fit.

        Raises:
            TrainingError: they do not; with what was received, and what was expected.
        """

    def meanings(self) -> Meanings:
        """What the outputs of the network mean, by name, `""` for a single one; empty if unknown.

        Exported files carry it, so that `adaptive-depth run` can interpret outputs.
        """
        return {}

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """The loss from the labels, a scalar.

        Raises:
            TrainingError: an output and a target that do not fit.
        """

    def parts(self, output: Any, target: Any) -> dict[str, Tensor]:  # noqa: ARG002 - most have none
        """The parts of the loss, by name, for the history."""
        return {}

    def with_losses(self, *modules: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002 - most return the same
        """Inside, modules in eval mode return what `loss` takes."""
        return nullcontext()

    @abstractmethod
    def distil(self, student: Any, teacher: Any, target: Any) -> Tensor:
        """The loss against the super-net's output on the same samples, a scalar; 0 if both agree.

        Arguments:
            student, teacher: outputs, or `Watched`; no gradient flows to the teacher.
            target: of the same samples, for what to leave out (`ignore_index`).
        """

    @abstractmethod
    def metric(self, output: Any) -> "Metric":
        """A new metric, whose `update(output, target)` takes batches and whose `compute()` returns `quality`.

        Arguments:
            output: one of the network, whose shape determines the number of classes.
        """

    def compared(self, output: Any, target: Any) -> tuple[Any, Any]:
        """What a metric compares: predictions and targets; by default output and target unchanged."""
        return output, target

    def measure(self, metric: "Metric", output: Any, target: Any) -> None:
        """Add a batch to a metric."""
        metric.update(*self.compared(output, target))

    def hits(self, output: Any, target: Any) -> tuple[Tensor, Tensor] | None:
        """For the accuracy in a history: how many positions have the right class, and how many count.

        Returns:
            Two numbers, as tensors on the output's device; None if outputs are not the logits of classes.
        """
        if self.quality != TOP_1 or not (isinstance(output, Tensor) and output.ndim == 2):
            return None
        labels = target if target.ndim == 1 else target.argmax(dim=1)  # of soft labels, the largest
        right = output.argmax(dim=1) == labels
        # A sum instead of `len`, so that both stay on the device and nothing waits for it.
        return right.sum(), torch.ones_like(right).sum()

    def value(self, metric: "Metric") -> float:
        """The metric's number in the unit of `quality`: torchmetrics returns fractions, so percent is 100 times it."""
        share = float(metric.compute())
        return 100 * share if self.quality.unit == "%" else share

    def with_metric(self, metric: "Metric | Callable[[Any, Any], Any]", quality: Quality | None = None) -> Self:
        """The same task, judged by another metric.

        Arguments:
            metric: a metric of torchmetrics, or a function that returns one number for all predictions and targets of
                an evaluation. Both receive what `compared` returns: class probabilities `[batch, classes, ...]` and
                indices, probabilities of labels and 0 or 1, numbers, or for a language model log-probabilities
                `[counted, vocabulary]` and token ids. Ignored classes are included: give a metric of torchmetrics the
                same `ignore_index`.
            quality: name, unit and direction of its number, which is multiplied by 100 if the unit is `"%"`; by
                default the metric's name and its direction in torchmetrics.

        Raises:
            TrainingError: something other than a metric, or a metric without a direction.

        Example:
            >>> from torchmetrics.classification import MulticlassF1Score
            >>> from adaptive_depth.tasks import Classification
            >>> Classification().with_metric(MulticlassF1Score(num_classes=3), Quality("F1", "%")).quality.name
            'F1'
        """
        from .own_metric import OwnMetric

        return copy(self)._judged_by(OwnMetric(self, metric, quality))

    def _judged_as(self, other: "Task") -> Self:
        """This task, judged as another one is: by that one's custom metric, if it has one."""
        own = getattr(vars(other).get("measure"), "__self__", None)
        return self if own is None else self._judged_by(copy(own))

    def _judged_by(self, own: "OwnMetric") -> Self:
        """It remains a task of its class; only these four attributes come from the metric."""
        own.task = self
        vars(self).update(quality=own.quality, metric=own.metric, measure=own.measure, value=own.value)
        return self
