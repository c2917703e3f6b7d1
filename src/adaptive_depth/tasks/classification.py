"""Classes: of a sample, or of each position in it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TrainingError
from ..meaning import Meaning, Meanings
from ..quality import TOP_1
from .checks import called, check_meant, dtype_name, target_beside, tensor_of, value_range
from .task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric


class Classification(Task):
    """One class per sample, or per position in it: logits `[batch, classes, ...]`, labels `[batch, ...]`.

    Labels are class indices, or a distribution per position (mixup, smoothed labels) in the shape of the logits. A
    sub-network learns the super-net's probabilities by KL(super-net ‖ sub-network), over the class axis.

    Arguments:
        criterion: the loss of the labels; cross-entropy if None. Its `ignore_index` is left out of the loss, the
            distillation and the metric.
        temperature: of the softmax in distillation; the loss is scaled by its square (Hinton et al., 2015).

    Raises:
        TrainingError: a temperature that is not above 0, or a criterion that cannot be called.

    Example:
        >>> task = Classification()
        >>> task.loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(0.6931)
    """

    quality = TOP_1
    learns_from = ("one class", "class")

    def __init__(self, criterion: Callable[[Any, Any], Tensor] | None = None, *, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise TrainingError(f"temperature={temperature!r}: expected a number above 0")
        criterion = nn.CrossEntropyLoss() if criterion is None else criterion
        self.criterion: Any = check_meant("Classification", criterion, "nn.CrossEntropyLoss()")
        self.temperature = temperature
        self.ignore_index = getattr(self.criterion, "ignore_index", -100)

    def meanings(self) -> Meanings:
        return {"": Meaning("classes")}

    def loss(self, output: Any, target: Any) -> Tensor:
        logits = self._logits(output)
        self.check(logits, target)
        # torch's criteria accept only int64 class indices; other integers are just as right.
        return called(self.criterion, logits, target if target.is_floating_point() else target.long())

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:
        student, teacher = self._logits(student).movedim(1, -1), self._logits(teacher).movedim(1, -1)
        if isinstance(target, Tensor) and target.shape == student.shape[:-1] and not target.is_floating_point():
            counted = target != self.ignore_index
            student, teacher = student[counted], teacher[counted]
        return distillation_loss(teacher, student, self.temperature)

    def metric(self, output: Any) -> "Metric":
        from torchmetrics.classification import MulticlassAccuracy

        classes = self._logits(output).shape[1]
        # No validation: it would wait for the device in every batch, and `check` has already done it.
        return MulticlassAccuracy(classes, average="micro", ignore_index=self.ignore_index, validate_args=False)

    def classes_of(self, output: Any) -> int:
        """The number of classes of an output."""
        return self._logits(output).shape[1]

    def compared(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        """Class probabilities and class indices."""
        logits = self._logits(output)
        return logits.float().softmax(dim=1), _indices(logits, target)

    def measure(self, metric: "Metric", output: Any, target: Any) -> None:
        logits = self._logits(output)
        metric.update(logits.argmax(dim=1), _indices(logits, target))

    def hits(self, output: Any, target: Any) -> tuple[Tensor, Tensor] | None:
        """How many positions have the right class, and how many count: all but the ignored ones."""
        logits = self._logits(output)
        wanted = _indices(logits, target)
        counted = wanted != self.ignore_index
        return ((logits.argmax(dim=1) == wanted) & counted).sum(), counted.sum()

    def value(self, metric: "Metric") -> float:
        if self.quality != TOP_1:
            return super().value(metric)
        right, wrong = int(metric.tp), int(metric.fn)  # type: ignore[arg-type] - compute() would round to float32
        return 100 * right / max(1, right + wrong)

    def check(self, output: Any, target: Any, /) -> None:
        """Labels must name a class: on an accelerator the criterion itself would crash without saying so."""
        logits = self._logits(output)
        y = target_beside(logits, target, f"class indices {_shape(logits)} for logits {list(logits.shape)}")
        if y.shape == logits.shape and y.is_floating_point():
            _check_distributions(y)
            return
        if y.shape[:1] != logits.shape[:1]:
            raise TrainingError(f"{len(y)} labels for a batch of {len(logits)}: expected one for each sample")
        if y.shape != logits.shape[:1] + logits.shape[2:]:
            raise TrainingError(
                f"labels {list(y.shape)} for logits {list(logits.shape)}: expected class indices {_shape(logits)}, "
                f"or a distribution {list(logits.shape)}; several labels per sample need the task MultiLabel, classes "
                "of pixels on a finer grid Segmentation"
            )
        if y.is_floating_point():
            raise TrainingError(
                f"labels of {dtype_name(y)}: expected class indices, integers from 0 to "
                f"{logits.shape[1] - 1}; convert them with y.long()"
            )
        low, high = value_range(y)
        # Includes the case that everything is ignored, which is reported below.
        if low < 0 or high >= logits.shape[1] or low == high == self.ignore_index:
            low, high = value_range(y[y != self.ignore_index])  # only now, because copying the labels costs time
        if (low, high) == (0, -1):
            raise TrainingError(
                f"all labels of this batch are ignore_index={self.ignore_index}: nothing can be learned from it; leave "
                "such batches out"
            )
        if low < 0 or high >= logits.shape[1]:
            fix = f"build the model with num_classes={high + 1} or map the labels"
            if low < 0:
                fix = f"map the labels, or set the one to leave out, criterion ignore_index={low}"
            raise TrainingError(
                f"labels from {low} to {high}, but the network has {logits.shape[1]} classes: expected labels from 0 "
                f"to {logits.shape[1] - 1}; {fix}"
            )

    def _logits(self, output: Any) -> Tensor:
        logits = tensor_of("the network's output", self.output(output), _HINT)
        if logits.ndim < 2 or logits.shape[1] < 2:
            raise TrainingError(
                f"the network returned {list(logits.shape)}: expected logits [batch, classes, ...] of two or more "
                "classes, because the softmax of one logit is always 1; build the model with num_classes=2, or use "
                "another task: MultiLabel (yes or no per sample) or Regression"
            )
        return logits


_HINT = (
    "logits [batch, classes, ...]; wrap the model so that it returns them, or choose another task, such as a dict of "
    "tasks for several heads"
)


def _check_distributions(y: Tensor) -> None:
    """Refuse yes or no for each label, or arbitrary numbers: a softmax would silently learn something wrong."""
    if not y.numel():
        return
    sums = y.sum(dim=1, dtype=torch.float32)
    low, high, least = torch.stack([sums.amin(), sums.amax(), y.amin().float()]).tolist()  # one transfer
    if low < 1 - _ROUNDING or high > 1 + _ROUNDING or least < -_ROUNDING:
        raise TrainingError(
            f"labels {list(y.shape)} of {dtype_name(y)}, from {least:.4g}, that sum to {low:.4g} to {high:.4g}: "
            "expected distributions over the classes, which sum to 1; several labels per sample need the task "
            "MultiLabel, numbers the task Regression"
        )


_ROUNDING = 0.02  # of smoothed labels in half precision, over a thousand classes


def _indices(logits: Tensor, target: Tensor) -> Tensor:
    """The classes in targets; in distributions the most probable ones."""
    return target.argmax(dim=1) if target.shape == logits.shape else target


def _shape(logits: Tensor) -> list[int]:
    return [logits.shape[0], *logits.shape[2:]]


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
    # "batchmean" would divide by the batch only, not by all positions.
    return divergence * temperature**2 / (student.numel() // student.shape[-1])
