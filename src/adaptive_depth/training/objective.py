"""What a pass learns: one sub-network, one batch, one loss. Which sub-network and when is the schedule's business."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batches import logits_in
from ..errors import TrainingError


@dataclass(frozen=True)
class Objective:
    """What a sub-network learns in a pass, as two functions of what it returned.

    Attributes:
        criterion: `criterion(output, target)`, a scalar: what is learned from the labels.
        distil: `distil(output, teacher)`, a scalar: what is learned from the output of the super-net on the same
            samples. Only asked for where a schedule has a share of the teacher; None where there is no such loss.

    Example:
        >>> Objective(nn.MSELoss(), distil=nn.MSELoss())(torch.zeros(2, 1), torch.ones(2, 1))
        tensor(1.)
    """

    criterion: Callable[[Any, Any], Tensor]
    distil: Callable[[Any, Any], Tensor] | None = None

    def __call__(self, output: Any, target: Any, teacher: Any = None, share: float = 0.0) -> Tensor:
        """The loss of one pass: `(1 - share) * criterion + share * distil`, each asked for only where it counts.

        Arguments:
            output: what the network returned, or the logits in it.
            target: the labels.
            teacher: what the super-net returned for the same samples; no gradient flows to it.
            share: of the teacher, from 0 (labels alone) to 1.

        Raises:
            TrainingError: labels out of range, a loss that is no single number, or one that is not finite.
        """
        if teacher is None or not share:
            return self._from_labels(output, target)
        if self.distil is None:
            raise TrainingError(
                f"a teacher's share of {share:g} needs a loss between two outputs, and the objective has none: pass "
                "Objective(criterion, distil=...), or teacher_share=0"
            )
        loss = share * single_number("distil", self.distil(output, teacher))
        if share < 1:
            loss = loss + (1 - share) * self._from_labels(output, target)
        check_finite("the loss", loss)
        return loss

    def _from_labels(self, output: Any, target: Any) -> Tensor:
        if isinstance(output, Tensor):
            check_labels(self.criterion, output, target)
        try:
            loss = single_number("the criterion", self.criterion(output, target))
        except IndexError as error:  # what torch's own criteria raise for a label that names no class
            raise TrainingError(f"the criterion refused the labels ({error}): do they name the outputs?") from error
        check_finite("the loss", loss)
        return loss


def as_objective(given: Any) -> Objective:
    """A criterion as an objective; cross-entropy with KL where nothing is given.

    Raises:
        TrainingError: something that cannot be called.
    """
    if isinstance(given, Objective):
        return given
    if isinstance(given, type) or not (given is None or callable(given)):
        raise TrainingError(f"criterion={given!r}: expected a callable, such as nn.CrossEntropyLoss(), or an Objective")
    criterion: Any = nn.CrossEntropyLoss() if given is None else given
    # Only cross-entropy says for certain that outputs are the logits of classes.
    return Objective(criterion, distil_classes if isinstance(criterion, nn.CrossEntropyLoss) else None)


def distil_classes(output: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`distillation_loss` as an objective takes it: of logits whose classes stand in their usual place."""
    return distillation_loss(classes_last(teacher), classes_last(output), temperature)


def single_number(name: str, loss: Any) -> Tensor:
    """The loss as it is, where it is one number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        received = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise TrainingError(
            f"{name} returned {received}: expected one number, as nn.CrossEntropyLoss() gives (an instance, "
            "with reduction='mean')"
        )
    return loss


def distillation_loss(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of the softmax outputs, times the temperature squared (paper, Algorithm 1).

    Arguments:
        teacher, student: logits, `[batch, classes]`; no gradient flows to the teacher.

    Returns:
        A scalar: the mean over the batch, in nats, computed in float32 or better.

    Example:
        >>> distillation_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item()
        0.0
    """
    exact = torch.promote_types(student.dtype, torch.float32)
    target = F.log_softmax(teacher.detach().to(exact) / temperature, dim=-1)
    answer = F.log_softmax(student.to(exact) / temperature, dim=-1)
    divergence = F.kl_div(answer, target, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.numel() // student.shape[-1])


def logits_of(output: Any) -> Tensor:
    output = logits_in(output)
    if not isinstance(output, Tensor):
        raise TrainingError(
            f"the network returned a {type(output).__name__}: self-distillation expects one tensor of logits, "
            "[batch, classes], or an object that holds it as .logits; wrap the model so that it returns them"
        )
    if output.ndim < 2 or classes_last(output).shape[-1] < 2:
        raise TrainingError(
            f"the network returned {list(output.shape)}: self-distillation compares probabilities over two or more "
            "classes, [batch, classes], and the softmax of one logit is always 1; build the model with num_classes=2"
        )
    return output


def classes_last(output: Tensor) -> Tensor:
    """Logits `[batch, classes]` and `[batch, tokens, classes]` as they are; dense ones, `[batch, classes, height,
    width]`, turned so that the classes are last."""
    return output if output.ndim < 4 else output.movedim(1, -1)


def check_labels(criterion: Any, output: Tensor, y: Tensor) -> None:
    """Class indices must name a class: on an accelerator the criterion itself would say so only by a crash."""
    one_each = isinstance(y, Tensor) and y.ndim == output.ndim - 1
    if not (one_each and isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss)):
        return
    if y.shape[:1] != output.shape[:1]:
        raise TrainingError(f"{len(y)} labels for a batch of {len(output)}: expected one for each sample")
    if y.is_floating_point():
        raise TrainingError(
            f"labels of {str(y.dtype).removeprefix('torch.')}: expected class indices, whole numbers from 0 to "
            f"{output.shape[1] - 1}; convert them with y.long()"
        )
    low, high = _range(y)
    if low < 0 or high >= output.shape[1]:
        low, high = _range(y[y != criterion.ignore_index])  # seldom: a copy of the labels in every step costs time
    if low < 0 or high >= output.shape[1]:
        raise TrainingError(
            f"labels from {low} to {high}, but the network has {output.shape[1]} classes: expected labels from 0 to "
            f"{output.shape[1] - 1}; build the model with num_classes={high + 1} or map the labels"
        )


def _range(y: Tensor) -> tuple[int, int]:
    """The lowest and the highest value, in one transfer from the device; 0 and -1 where there is none."""
    if not y.numel():
        return 0, -1
    low, high = torch.stack(y.aminmax()).tolist()
    return low, high


def check_finite(name: str, loss: Tensor) -> None:
    if not torch.isfinite(loss).all():
        raise TrainingError(
            f"{name} is {float(loss.detach().sum())}: expected a finite number; look for a learning rate that is too "
            "high, inputs that are not finite, or float16 without a gradient scaler. This step changed no weight"
        )
