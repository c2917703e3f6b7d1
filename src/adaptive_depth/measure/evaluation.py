"""The quality of every sub-network; shared work is computed once."""

from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..batches import arguments, device_of, is_empty, on_device
from ..core.distributed import Distributed
from ..core.network import AdaptiveNetwork, check_runs
from ..core.sharing import SharedForward, tensors_in
from ..errors import DataError, MeasurementError, TrainingError
from ..modes import evaluating
from ..quality import Measured
from ..skip import Skip, parse_skip
from ..tasks import Classification, Task, as_task
from ..tasks.checks import opposite
from ..weights import first_not_finite
from ..wrapping import unwrapped

if TYPE_CHECKING:
    from torchmetrics import Metric


def evaluate(
    network: AdaptiveNetwork,
    batches: Iterable[Any],
    skips: Iterable[Skip] | None = None,
    *,
    task: Any = None,
    across_processes: bool = False,
) -> Measured:
    """The quality of sub-networks: top-1 accuracy in percent, or a task's own metric.

    The network runs in eval mode without gradients and is left as it was. Outputs are bit-identical to those of the
    sub-networks run one after the other; a network of four stages takes less than half the time.

    Arguments:
        network: a network whose outputs fit the task; without a task, logits `[batch, classes]` or an object with
            `logits`.
        batches: pairs of input `[batch, ...]` and labels `[batch]`, or dicts with `"labels"`, such as a DataLoader.
        skips: the sub-networks; all by default.
        task: what the network is for: a task of `adaptive_depth.tasks`, or what `train` takes; if None, what the
            model's class implies (`as_task`), or else one class per sample.
        across_processes: all processes of a training call this, each with its share of the samples, and each gets the
            quality on all of them.

    Returns:
        A dict with, for each skip, super-net first, the number that `task.quality` names; by default the share of
        samples whose largest logit is the label's. Its attribute `quality` describes it.

    Raises:
        DataError: no batch, no labels, labels that are not classes of the network, token ids outside a language
            model's vocabulary or texts beyond its context, a data set (the loader's `dataset`) with fewer classes than
            the network, or non-finite outputs.
        MeasurementError: a custom metric that rejects what the task compares.
        SkipError: a skip that does not fit the network.
        StagesError: stages written by hand that the first input proves wrong.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=2))
        >>> batches = [(torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))]
        >>> list(evaluate(net, batches, ["FFFF", "TTTT"], task=ad.tasks.Regression(unit="m")))
        ['FFFF', 'TTTT']
    """
    if isinstance(network, nn.Module) and not isinstance(unwrapped(network), AdaptiveNetwork):
        raise DataError(
            f"evaluate received a {type(network).__name__}: expected an adapted network, adapt(model); for a plain one "
            "use adaptive_depth.measure.evaluation.evaluate_one(model, batches)"
        )
    check_runs(network, "evaluate", DataError)
    chosen = [parse_skip(skip, len(network.stages)) for skip in (network.skips if skips is None else skips)]
    # Sorted, so that neighbours share the longest prefixes.
    chosen = sorted(set(chosen))
    if not chosen:
        raise DataError("evaluate received no sub-network: expected skips such as ['FFFF'], or None for all")
    judged = as_task(task, network.model)
    strict = task is None and type(judged) is Classification
    metrics: dict[str, Metric] = {}
    device, shared = device_of(network), SharedForward(network)
    with evaluating(network), torch.inference_mode(False), torch.no_grad():
        for batch in batches:
            x, y = on_device(judged.taken_apart(batch), device)
            if is_empty(x):
                continue
            judged.check_input(x, network.model)
            args, kwargs = arguments(judged.unlabelled(x))
            if not network.proven:
                network.prove(*args, **kwargs)
            for skip, output, _ in shared.outputs(chosen, *args, **kwargs):
                if strict:
                    _check_one_class(judged.output(output), y)
                found = taken(judged, f"sub-network {skip}", output, y, network)
                if isinstance(judged, Classification) and isinstance(found, Tensor) and found.ndim == 2:
                    _check_classes(getattr(batches, "dataset", None), found.shape[1])
                if skip not in metrics:
                    metrics[skip] = _new_metric(judged, found).to(device)
                judged.measure(metrics[skip], found, y)
    if across_processes:
        _join(metrics, device)
    if not metrics:
        raise DataError("evaluate received an empty loader: expected at least one batch of (input, labels)")
    return Measured({skip: judged.value(metric) for skip, metric in metrics.items()}, judged.quality)


def evaluate_one(model: nn.Module, batches: Iterable[Any], *, task: Any = None) -> float:
    """The quality of a plain network, measured as `evaluate` measures a sub-network.

    Arguments:
        model: not adapted; it runs in eval mode without gradients and is left as it was.
        batches, task: as for `evaluate`.

    Raises:
        DataError: as `evaluate`.

    Example:
        >>> import torch
        >>> evaluate_one(nn.Identity(), [(torch.eye(2), torch.tensor([0, 1]))])
        100.0
    """
    judged, metric = as_task(task, model), None
    first = next((tensor for tensor in (*model.parameters(), *model.buffers())), None)
    device = torch.device("cpu") if first is None else first.device
    with evaluating(model), torch.inference_mode(False), torch.no_grad():
        for batch in batches:
            x, y = on_device(judged.taken_apart(batch), device)
            if is_empty(x):
                continue
            args, kwargs = arguments(judged.unlabelled(x))
            found = taken(judged, "the network", model(*args, **kwargs), y, model)
            if metric is None:
                metric = _new_metric(judged, found).to(device)
            judged.measure(metric, found, y)
    if metric is None:
        raise DataError("evaluate_one received an empty loader: expected at least one batch of (input, labels)")
    return judged.value(metric)


def _new_metric(task: Task, output: Any) -> "Metric":
    """A metric that does not sync when it computes: other processes may be evaluating something else."""
    from torchmetrics import Metric

    metric = task.metric(output)
    if not isinstance(metric, Metric):
        raise MeasurementError(
            f"the task's metric() returned a {type(metric).__name__}: expected a new torchmetrics.Metric"
        )
    if wrong := opposite(type(metric).__name__, metric.higher_is_better, task.quality):
        raise MeasurementError(f"the task {type(task).__name__}: {wrong}")
    for part in _parts_of(metric):
        part.distributed_available_fn = _alone  # `sync_on_compute` is only read at construction
    return metric


def _parts_of(metric: "Metric") -> "list[Metric]":
    """A metric and its parts."""
    from torchmetrics import Metric

    return [part for part in metric.modules() if isinstance(part, Metric)]


def _alone() -> bool:
    """torchmetrics' question: are there other processes?"""
    return False


def taken(task: Task, whose: str, output: Any, y: Any, network: nn.Module) -> Any:
    """A network's output, in the form that the task takes.

    Arguments:
        task: what the network is for.
        whose: the source of the output, for errors.
        output, y: what it returned, and the labels.
        network: its weights may be why an output is not finite.

    Raises:
        DataError: an output that is not finite or does not fit the labels.
    """
    try:
        found = task.output(output)
        task.check(found, y)
    except TrainingError as error:
        raise DataError(str(error)) from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors_in(found)):
        raise DataError(f"{whose} returned non-finite numbers, {_why_not_finite(network)}")
    return found


def _why_not_finite(network: nn.Module) -> str:
    if (name := first_not_finite(network)) is not None:
        return (
            f"because its weights are non-finite, the first of them {name}: reload them from before they diverged in "
            "training (lower the learning rate), or in a wider precision (bfloat16 or float32 instead of float16)"
        )
    return (
        "but its weights are finite: look for non-finite inputs, or for a precision that overflows (float16; use "
        "bfloat16 or float32)"
    )


def _check_one_class(output: Any, y: Any) -> None:
    """Without a task, only one class per sample is unambiguous."""
    fits = isinstance(output, Tensor) and isinstance(y, Tensor) and output.ndim == 2 and y.shape == output.shape[:1]
    if not fits:
        labels = list(y.shape) if isinstance(y, Tensor) else f"in a {type(y).__name__}"
        received = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"the network returned {received} for labels {labels}: expected [batch, classes] and [batch]; for anything "
            "else pass the task, evaluate(network, batches, task=...): MultiLabel, Regression, Segmentation, "
            "Detection, LanguageModel, a dict of tasks for several heads, or a custom one"
        )


def _join(metrics: dict[str, "Metric"], device: torch.device) -> None:
    """Merge the state of all processes into the metrics of each."""
    processes = Distributed()
    if processes.count == 1:
        return
    ready = int(processes.sum(torch.tensor(int(bool(metrics)), device=device)))
    if ready < processes.count:
        raise DataError(f"{processes.count - ready} of {processes.count} processes had no batch: give each its share")
    for part in (part for metric in metrics.values() for part in _parts_of(metric)):
        part.sync(distributed_available=lambda: True)
        joined = dict(part.metric_state)
        part.unsync()  # a synced metric refuses to compute unless it syncs itself
        for name, value in joined.items():
            setattr(part, name, value)


def _check_classes(data: Any, outputs: int) -> None:
    """A data set that names its classes and numbers labels by them must have one per output."""
    classes = getattr(data, "classes", None)
    if isinstance(classes, Sized) and len(classes) < outputs and getattr(data, "target_transform", None) is None:
        raise DataError(
            f"the data has {len(classes)} classes, the network {outputs}: an output without a label can only be "
            f"wrong; build the model with num_classes={len(classes)}, or number the labels like the network's outputs "
            "(target_transform= of the data set)"
        )
