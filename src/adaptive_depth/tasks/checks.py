"""Checks of outputs and targets before a loss is computed: errors here, where they enter, instead of a later crash."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TrainingError
from ..quality import Quality

# The task that a criterion of torch implies unambiguously.
MEANT: dict[Any, str] = {
    nn.CrossEntropyLoss: "Classification",
    nn.NLLLoss: "Classification",  # takes log-probabilities, which a log-softmax leaves unchanged
    nn.BCEWithLogitsLoss: "MultiLabel",
    nn.MultiLabelSoftMarginLoss: "MultiLabel",
    nn.MSELoss: "Regression",
    nn.L1Loss: "Regression",
    nn.SmoothL1Loss: "Regression",
    nn.HuberLoss: "Regression",
    F.cross_entropy: "Classification",
    F.nll_loss: "Classification",
    F.binary_cross_entropy_with_logits: "MultiLabel",
    F.mse_loss: "Regression",
    F.l1_loss: "Regression",
    F.smooth_l1_loss: "Regression",
    F.huber_loss: "Regression",
}
_OF_PROBABILITIES = (nn.BCELoss, F.binary_cross_entropy)


def kind_of(criterion: Any) -> Any:
    """The class of a criterion if it is a module; a function itself."""
    return type(criterion) if isinstance(criterion, nn.Module) else criterion


def check_meant(task: str, criterion: Any, such_as: str) -> Any:
    """The criterion, checked not to contradict the task.

    Raises:
        TrainingError: a criterion of another task or of probabilities, or something other than a criterion.
    """
    if isinstance(criterion, type) or not callable(criterion):
        raise TrainingError(f"{task} received criterion={criterion!r}: expected a criterion such as {such_as}")
    kind = kind_of(criterion)
    name, meant = getattr(kind, "__name__", repr(kind)), MEANT.get(kind)
    if meant is not None and meant != task:
        raise TrainingError(
            f"{task} received {name}, which is a criterion for {meant}: expected one such as {such_as}, or the task "
            f"adaptive_depth.tasks.{meant}"
        )
    if kind in _OF_PROBABILITIES:
        raise TrainingError(
            f"{task} received {name}, which takes probabilities: expected a criterion of logits, such as "
            "nn.BCEWithLogitsLoss(), with the task adaptive_depth.tasks.MultiLabel and a network without a sigmoid"
        )
    return criterion


def tensor_of(what: str, value: Any, hint: str) -> Tensor:
    """The value, checked to be a tensor."""
    if not isinstance(value, Tensor):
        raise TrainingError(f"{what} is a {type(value).__name__}: expected one tensor; {hint}")
    return value


def target_beside(output: Tensor, target: Any, hint: str) -> Tensor:
    """The target, checked to be comparable with an output: a tensor of finite numbers on the same device."""
    y = tensor_of("the target", target, hint)
    if output.device != y.device:
        raise TrainingError(
            f"the output is on {output.device} and the target on {y.device}: move both to one device, "
            f"target.to({str(output.device)!r})"
        )
    if y.is_complex() and not output.is_complex():
        raise TrainingError(f"the target has complex numbers ({dtype_name(y)}): expected {hint}")
    if y.is_floating_point() and not torch.isfinite(y).all():
        raise TrainingError("a target is not a finite number (nan or inf): leave such samples out, or repair them")
    return y


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def same_shape(task: str, output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        one = target.ndim == 1 and output.ndim == 2  # a value for each sample, but an output of several
        fix = (
            "; a target of one value per sample needs an output [batch, 1], of a model built with num_classes=1"
            if one
            else f"; squeeze the target to {list(output.shape)}"
            if target.numel() == output.numel()
            else ""
        )
        raise TrainingError(
            f"{task}: the network returned {list(output.shape)} for a target {list(target.shape)}: expected the same "
            f"shape{fix}"
        )


def opposite(name: str, known: bool | None, quality: Quality) -> str | None:
    """What is wrong if a metric says the opposite of a quality's direction; None if it does not, or is silent.

    The worst depth would be chosen as the best.

    Arguments:
        name: of the metric.
        known: its own `higher_is_better`.
        quality: what it should measure.
    """
    if known is None or known == quality.higher_is_better:
        return None
    return (
        f"{'higher' if known else 'lower'} is better for the metric {name}, but {quality.name!r} says the opposite: "
        f"give the quality higher_is_better={known}"
    )


def check_quality(task: Any) -> None:
    """Raise if a custom task does not define what its metric measures: before an evaluation, not after it."""
    quality = getattr(task, "quality", None)
    if not isinstance(quality, Quality):
        raise TrainingError(
            f"the task {type(task).__name__} has quality={quality!r}: expected what its metric measures, "
            'quality = Quality("NAME", "UNIT", higher_is_better=False)'
        )


def single_number(name: str, loss: Any) -> Tensor:
    """The loss, checked to be one number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        received = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise TrainingError(
            f"{name} returned {received}: expected one number, as from nn.CrossEntropyLoss() (an instance, "
            "with reduction='mean')"
        )
    return loss


def called(criterion: Callable[[Any, Any], Any], output: Any, target: Any) -> Tensor:
    """A criterion's loss, checked to be one number."""
    try:
        return single_number("the criterion", criterion(output, target))
    except IndexError as error:  # raised by torch's criteria for a label out of range
        raise TrainingError(f"the criterion refused the labels ({error}): do they fit the outputs?") from error


def check_finite(name: str, loss: Tensor) -> None:
    if not torch.isfinite(loss).all():
        raise TrainingError(
            f"{name} is {float(loss.detach().sum())}: expected a finite number; look for a learning rate that is too "
            "high, inputs or targets that are not finite, or float16 without a gradient scaler. This step changed no "
            "weight"
        )


def value_range(y: Tensor) -> tuple[int, int]:
    """The lowest and the highest value, in one transfer from the device; 0 and -1 if there are none."""
    if not y.numel():
        return 0, -1
    low, high = torch.stack(y.aminmax()).tolist()
    return low, high
