"""A custom metric for a task: of torchmetrics, or a function of all predictions and targets."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ..errors import MeasurementError, TrainingError, one_line
from ..quality import Quality
from .checks import opposite

_SAY_IT = (
    'Quality("NAME", "UNIT", higher_is_better=False) as the second argument of with_metric, --metric-name "NAME (UNIT, '
    'lower is better)" on the command line, or a custom task with a quality'
)


class Comparing(Protocol):
    """What `OwnMetric` needs of a task."""

    def compared(self, output: Any, target: Any) -> tuple[Any, Any]:
        """Predictions and targets, as a metric takes them."""
        ...


class OwnMetric:
    """Judges a task by another metric: what `Task.with_metric` puts in place of the task's own.

    Arguments:
        task: determines what the metric compares (`compared`).
        metric: a metric of torchmetrics, or a function `(predictions, targets)` that returns a number.
        quality: what its number is; by default the metric's own name and direction.

    Attributes:
        quality: name, unit and direction of the number.

    Raises:
        TrainingError: something other than a metric, no direction, or two that contradict each other.
    """

    def __init__(
        self, task: Comparing, metric: Metric | Callable[[Any, Any], Any], quality: Quality | None = None
    ) -> None:
        self.task = task
        self.name = getattr(metric, "__name__", type(metric).__name__)
        self.given = metric if isinstance(metric, Metric) else _Gathered(_function(metric))
        self.quality = _quality(self.name, self.given, quality)

    def metric(self, output: Any) -> Metric:  # noqa: ARG002 - the given one knows its number of classes
        return self.given.clone()

    def measure(self, metric: Metric, output: Any, target: Any) -> None:
        predictions, targets = self.task.compared(output, target)
        try:
            metric.update(predictions, targets)
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            raise MeasurementError(
                f"the metric {self.name} refused predictions {_shape(predictions)} and targets {_shape(targets)} "
                f"({one_line(error)[:300]}): expected a metric for these; check its arguments, such as num_classes"
            ) from error

    def value(self, metric: Metric) -> float:
        try:
            found = metric.compute()
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            raise MeasurementError(f"the metric {self.name} failed ({one_line(error)[:300]})") from error
        if isinstance(found, Mapping):  # torchmetrics' metric of boxes returns many
            found = found.get("map", found)
        if not (isinstance(found, int | float) or (isinstance(found, Tensor) and found.numel() == 1)):
            received = f"numbers {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise MeasurementError(
                f"the metric {self.name} returned {received}: expected one number; average, as average='macro' does"
            )
        return 100 * float(found) if self.quality.unit == "%" else float(found)


class _Gathered(Metric):
    """Applies a function to all predictions and targets: a mean over batches would differ."""

    full_state_update = False
    outputs: list[Tensor]
    targets: list[Tensor]

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function
        for name in ("outputs", "targets"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, output: Tensor, target: Tensor) -> None:
        self.outputs.append(output)
        self.targets.append(target)

    def compute(self) -> Any:
        return self.function(_joined(self.outputs), _joined(self.targets))


def _joined(batches: list[Any]) -> Any:
    """All batches as one: tensors along their first dimension, lists (such as boxes of images) concatenated."""
    if batches and all(isinstance(batch, list) for batch in batches):
        return [each for batch in batches for each in batch]
    return dim_zero_cat(batches)


def _function(metric: Any) -> Callable[[Any, Any], Any]:
    # A MetricCollection has `add_metrics`, and returns several numbers.
    if isinstance(metric, type) or not callable(metric) or hasattr(metric, "add_metrics"):
        raise TrainingError(
            f"metric={metric!r}: expected a metric of torchmetrics, an instance such as "
            "torchmetrics.classification.MulticlassF1Score(num_classes=3), or a function of predictions and targets "
            "that returns one number"
        )
    return metric


def _quality(name: str, metric: Metric, given: Quality | None) -> Quality:
    known = metric.higher_is_better
    if given is None:
        if known is None:
            raise TrainingError(f"the metric {name} does not define whether higher or lower is better: pass {_SAY_IT}")
        return Quality(name, higher_is_better=known)
    if not isinstance(given, Quality):
        raise TrainingError(f"quality={given!r}: expected Quality(name, unit, higher_is_better=...)")
    if wrong := opposite(name, known, given):
        is_better = "higher" if known else "lower"
        raise TrainingError(f"{wrong}; on the command line --metric-name '{given.name} ({is_better} is better)'")
    return given


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"of a {type(value).__name__}"
