"""The loss of a pass: from the labels, and from the super-net's output for the same samples."""

from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError
from ..tasks import Task
from ..tasks.checks import check_finite, single_number


def learned(task: Task, output: Any, target: Any, teacher: Any = None, share: float = 0.0) -> Tensor:
    """The loss of one pass: `(1 - share) * task.loss + share * task.distil`, each computed only if it counts.

    Arguments:
        task: what the network is for.
        output: `task.output` of a sub-network's output.
        target: the labels.
        teacher: the super-net's output for the same samples; no gradient flows to it.
        share: of the teacher, from 0 (labels only) to 1.

    Raises:
        TrainingError: what the task refuses, or a loss that is not finite.
    """
    if teacher is None or not share:
        return checked("the loss", task.loss(output, target), output)
    loss = share * checked("the distillation loss", task.distil(output, teacher, target), output)
    return loss + (1 - share) * checked("the loss", task.loss(output, target), output) if share < 1 else loss


def checked(name: str, loss: Any, output: Any = None) -> Tensor:
    """The loss, checked to be one finite number that depends on the output: a custom task may return anything."""
    check_finite(name, single_number(name, loss))
    learns = isinstance(output, Tensor) and output.requires_grad and torch.is_grad_enabled()
    if learns and not loss.requires_grad:
        raise TrainingError(
            f"{name} has no gradient, but the network's output has: expected a loss computed from the output, "
            "without detach(), no_grad() or item()"
        )
    return loss
