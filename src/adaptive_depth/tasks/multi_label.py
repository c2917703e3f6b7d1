"""Several labels per sample: yes or no for each."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TrainingError
from ..meaning import Meaning, Meanings
from ..quality import Quality
from .checks import called, check_meant, same_shape, target_beside, tensor_of
from .task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric


class MultiLabel(Task):
    """Yes or no for each label: logits and targets `[batch, labels, ...]`, targets from 0 to 1.

    A sub-network learns the super-net's probability of each label by the KL of two Bernoulli distributions, averaged
    over labels and samples. The quality is the mean over labels of the average precision (mAP).

    Arguments:
        criterion: `nn.BCEWithLogitsLoss` (if None), or a custom one of logits and targets.
        threshold: a target above it counts as yes in the metric.

    Example:
        >>> MultiLabel().loss(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 1.0]]))
        tensor(0.6931)
    """

    quality = Quality("mAP", "%")
    learns_from = ("a yes or no per label", None)

    def __init__(self, criterion: Any = None, *, threshold: float = 0.5) -> None:
        criterion = nn.BCEWithLogitsLoss() if criterion is None else criterion
        self.criterion: Any = check_meant("MultiLabel", criterion, "nn.BCEWithLogitsLoss()")
        self.threshold = threshold

    def meanings(self) -> Meanings:
        return {"": Meaning("labels")}

    def loss(self, output: Any, target: Any) -> Tensor:
        logits = self._logits(output)
        self.check(logits, target)
        return called(self.criterion, logits, target.to(logits.dtype))

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:  # noqa: ARG002 - all labels count
        student, teacher = self._logits(student), self._logits(teacher).detach()
        exact = torch.promote_types(student.dtype, torch.float32)
        student, teacher = student.to(exact), teacher.to(exact)
        expected = teacher.sigmoid()
        # Minus the teacher's entropy, so that it is 0 if both agree.
        return F.binary_cross_entropy_with_logits(student, expected) - F.binary_cross_entropy_with_logits(
            teacher, expected
        )

    def metric(self, output: Any) -> "Metric":
        from torchmetrics.classification import BinaryAveragePrecision, MultilabelAveragePrecision

        labels = self._logits(output).shape[1]
        if labels == 1:
            return BinaryAveragePrecision(validate_args=False)
        return MultilabelAveragePrecision(labels, average="macro", validate_args=False)

    def compared(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        """The probability of each label, and 0 or 1."""
        return self._logits(output).float().sigmoid(), (target > self.threshold).long()

    def check(self, output: Any, target: Any, /) -> None:
        logits = self._logits(output)
        y = target_beside(logits, target, f"yes or no for each label, {list(logits.shape)}")
        same_shape("multi-label", logits, y)
        low, high = torch.stack(y.detach().float().aminmax()).tolist() if y.numel() else (0.0, 0.0)
        if low < 0 or high > 1:
            raise TrainingError(f"targets from {low:g} to {high:g}: expected 0 (no) to 1 (yes) for each label")

    def _logits(self, output: Any) -> Tensor:
        hint = "logits [batch, labels, ...]; wrap the model so that it returns them"
        logits = tensor_of("the network's output", self.output(output), hint)
        if logits.ndim < 2:
            raise TrainingError(f"the network returned {list(logits.shape)}: expected logits [batch, labels, ...]")
        return logits
