"""The loss of an output and its labels, both checked."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError, MeasurementError, TrainingError
from ..measure.evaluation import taken
from ..tasks import Classification, as_task


class Criterion:
    """A task's loss that explains what is wrong with its inputs and records the classes that it meets.

    Arguments:
        criterion: a mean over samples, or a task of `adaptive_depth.tasks`; cross-entropy by default.
        model: the source of the outputs; for a causal language model of transformers the default is next-token loss.

    Attributes:
        classes: of the network's outputs; None if labels are not class indices.
        seen: the classes that occurred in labels.
    """

    def __init__(self, criterion: Any = None, model: nn.Module | None = None) -> None:
        try:
            self.task = as_task(criterion, model)
        except TrainingError as error:
            raise MeasurementError(str(error)) from error
        self.model = nn.Identity() if model is None else model
        self.classes: int | None = None
        self.seen: set[int] = set()

    def __call__(self, whose: str, output: Any, y: Any) -> Tensor:
        """The loss of an output: a scalar.

        Arguments:
            whose: the source of the output, for errors.
            output, y: what the network returned, and the labels.

        Raises:
            DataError: no labels, labels that do not fit the output, or outputs that are not finite.
            MeasurementError: a criterion that does not return one finite number.
        """
        if y is None:
            raise DataError("the loader yielded inputs without labels: expected pairs (input, labels)")
        output = taken(self.task, whose, output, y, self.model)
        if isinstance(self.task, Classification) and not y.is_floating_point():
            self.classes = self.task.classes_of(output)
            self.seen |= set(y[y != self.task.ignore_index].unique().tolist())
        try:
            loss = self.task.loss(output, y)
        except TrainingError as error:
            raise MeasurementError(str(error)) from error
        if not torch.isfinite(loss).all():
            raise MeasurementError(
                f"the loss of {whose} is {float(loss)}: expected a finite number; check the criterion, and look for "
                "weights that diverged in training"
            )
        return loss
