"""The loss of an output and its labels, both checked."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import logits_in
from ..core.sharing import tensors_in
from ..errors import DataError, MeasurementError, TrainingError
from ..tasks import Task


class Criterion:
    """A criterion that says what is wrong with what it receives, and counts the classes that it meets.

    Arguments:
        criterion: a mean over samples, or a task of `adaptive_depth.tasks`; cross-entropy by default.

    Attributes:
        classes: of the network's outputs; None where labels are no class indices.
        seen: the classes that the labels named.
    """

    def __init__(self, criterion: Task | Callable[[Any, Any], Tensor] | None = None) -> None:
        self.task = criterion if isinstance(criterion, Task) else None
        criterion = criterion.loss if isinstance(criterion, Task) else criterion
        if isinstance(criterion, type) or not (criterion is None or callable(criterion)):
            raise MeasurementError(f"criterion={criterion!r}: expected a callable, such as nn.CrossEntropyLoss()")
        self.criterion = nn.CrossEntropyLoss() if criterion is None else criterion
        self.classes: int | None = None
        self.seen: set[int] = set()

    def __call__(self, whose: str, output: Any, y: Any) -> Tensor:
        """The loss of an output: a scalar.

        Arguments:
            whose: the output is, for errors.
            output, y: what the network returned, and the labels.

        Raises:
            DataError: no labels, labels that name no class, or outputs that are not finite.
            MeasurementError: a criterion that does not return one finite number.
        """
        if y is None:
            raise DataError("the loader yielded inputs without labels: expected pairs (input, labels)")
        output = self.task.output(output) if self.task else logits_in(output)
        if not all(torch.isfinite(tensor).all() for tensor in tensors_in(output)):
            raise DataError(
                f"{whose} returned numbers that are not finite: look for inputs that are not, or for weights that "
                "diverged in training (a lower learning rate)"
            )
        if isinstance(self.criterion, nn.CrossEntropyLoss | nn.NLLLoss):
            self._check(output, y, self.criterion.ignore_index)
        try:
            loss = self.criterion(output, y)
        except TrainingError as error:  # what a task says of an output and a target that do not fit
            raise DataError(str(error)) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            received = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise MeasurementError(f"the criterion returned {received}: expected one number, the mean over samples")
        if not torch.isfinite(loss).all():
            raise MeasurementError(
                f"the loss of {whose} is {float(loss)}: expected a finite number; look at the criterion, and for "
                "weights that diverged in training"
            )
        return loss

    def _check(self, output: Any, y: Tensor, ignored: int) -> None:
        """Labels must name classes: on an accelerator the criterion itself would say so only by a crash."""
        dense = isinstance(output, Tensor) and output.ndim >= 2
        if dense and y.shape == output.shape and y.is_floating_point():
            return  # a probability for each class
        if not dense or y.shape != output.shape[:1] + output.shape[2:]:
            received = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise DataError(
                f"the network returned {received} for labels {list(y.shape)}: expected [batch, classes] and [batch]"
            )
        if y.is_floating_point():
            raise DataError(
                f"labels of {str(y.dtype).removeprefix('torch.')}: expected whole numbers, the classes' indices"
            )
        self.classes = classes = output.shape[1]
        found = set(y[y != ignored].unique().tolist())
        if found and not 0 <= min(found) <= max(found) < classes:
            raise DataError(
                f"labels from {min(found)} to {max(found)}, but the network has {classes} classes: expected labels "
                f"from 0 to {classes - 1}"
            )
        self.seen |= found
