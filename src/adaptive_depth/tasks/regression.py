"""Numbers: one per sample, several, or one per position."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..meaning import Meaning, Meanings
from ..quality import Quality
from .checks import called, check_meant, same_shape, target_beside, tensor_of
from .task import Task

if TYPE_CHECKING:
    from torchmetrics import Metric


class Regression(Task):
    """Numbers in any shape, the same for output and target.

    An output `[batch, 1]` fits a target `[batch]`, too. A sub-network learns the super-net's numbers by the criterion
    itself. The quality is the root of the mean squared error (RMSE).

    Arguments:
        criterion: such as `nn.MSELoss()`, `nn.L1Loss()` or `nn.HuberLoss()`; the first if None.
        unit: of the numbers, such as `"m"`.

    Example:
        >>> import torch
        >>> Regression().loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0]))
        tensor(5.)
    """

    learns_from = ("numbers", None)

    def __init__(self, criterion: Any = None, *, unit: str = "") -> None:
        criterion = nn.MSELoss() if criterion is None else criterion
        self.criterion: Any = check_meant("Regression", criterion, "nn.MSELoss()")
        self.unit = unit
        self.quality = Quality("RMSE", unit, higher_is_better=False)

    def meanings(self) -> Meanings:
        return {"": Meaning("numbers", getattr(self, "unit", ""))}

    def loss(self, output: Any, target: Any) -> Tensor:
        numbers, y = self._both(output, target)
        return called(self.criterion, numbers, y.to(numbers.dtype))

    def distil(self, student: Any, teacher: Any, target: Any = None) -> Tensor:  # noqa: ARG002 - all numbers count
        return called(self.criterion, self._numbers(student), self._numbers(teacher).detach())

    def metric(self, output: Any) -> "Metric":  # noqa: ARG002 - of any shape
        from torchmetrics import MeanSquaredError

        return MeanSquaredError(squared=False)

    def compared(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        """Numbers of one shape."""
        numbers, y = self._both(output, target)
        return numbers.float(), y.float()

    def measure(self, metric: "Metric", output: Any, target: Any) -> None:
        numbers, y = self.compared(output, target)
        metric.update(numbers.reshape(-1), y.reshape(-1))

    def value(self, metric: "Metric") -> float:
        return float(metric.compute())  # in the unit of the numbers: even "%" is not scaled

    def check(self, output: Any, target: Any, /) -> None:
        self._both(output, target)

    def _both(self, output: Any, target: Any) -> tuple[Tensor, Tensor]:
        numbers = self._numbers(output)
        y = target_beside(numbers, target, f"numbers {list(numbers.shape)}")
        if numbers.shape == (*y.shape, 1):  # else broadcasting would compare each number with every other
            numbers = numbers.squeeze(-1)
        same_shape("regression", numbers, y)
        return numbers, y

    def _numbers(self, output: Any) -> Tensor:
        hint = "the predicted numbers; wrap the model so that it returns them, or use a dict of tasks"
        return tensor_of("the network's output", self.output(output), hint)
