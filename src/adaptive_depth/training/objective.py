"""What a pass learns of its task: from the labels, and from the super-net's output for the same samples."""

from typing import Any

from torch import Tensor

from ..tasks import Task
from ..tasks.checks import check_finite, single_number


def learned(task: Task, output: Any, target: Any, teacher: Any = None, share: float = 0.0) -> Tensor:
    """The loss of one pass: `(1 - share) * task.loss + share * task.distil`, each asked for only where it counts.

    Arguments:
        task: what the network is for.
        output: `task.output` of what a sub-network returned.
        target: the labels.
        teacher: the super-net's output for the same samples; no gradient flows to it.
        share: of the teacher, from 0 (labels alone) to 1.

    Raises:
        TrainingError: what the task refuses, or a loss that is not finite.
    """
    if teacher is None or not share:
        return checked("the loss", task.loss(output, target))
    loss = share * checked("the distillation loss", task.distil(output, teacher, target))
    return loss + (1 - share) * checked("the loss", task.loss(output, target)) if share < 1 else loss


def checked(name: str, loss: Any) -> Tensor:
    """The loss as it is, where it is one finite number: a task of the user's own may return something else."""
    check_finite(name, single_number(name, loss))
    return loss
