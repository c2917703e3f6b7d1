"""Running statistics per context: the BatchNorms of every sub-network measured after training.

Training gathers running statistics in two contexts only, nothing skipped and everything skipped. Intermediate
sub-networks have others. What a stage sees depends only on the flags of the stages up to its own, so 2 + 4 + ... + 2^N
sets of statistics cover all 2^N sub-networks; they are gathered with shared prefixes in one pass over some batches.
All weights stay shared and switching stays instant.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..batches import arguments, device_of, on_device, samples_in, split_batch
from ..core.distributed import Distributed
from ..core.network import AdaptiveNetwork, RunningStatistics, check_runs
from ..core.sharing import SharedForward
from ..errors import DataError
from ..modes import evaluating
from ..plan.frozen import is_frozen
from ..plan.norms import has_statistics
from ..tasks import Detection, as_task
from ..tasks.detectors import detector_of


def calibrate(
    network: AdaptiveNetwork,
    batches: Iterable[Any],
    *,
    limit: int | None = None,
    task: Any = None,
    across_processes: bool = False,
) -> int:
    """Measure BatchNorm statistics for every context; afterwards each sub-network normalises with its own.

    Each statistic is the plain average over batches of the batch mean and variance. Weights, and the two sets of
    statistics from training, are unchanged; `network.reset_statistics(per_context=False)` goes back to them.
    A network without BatchNorm (a transformer, say) has nothing to calibrate.

    Arguments:
        network: a trained network.
        batches: training batches (the labels are not used), such as a DataLoader; batches of fewer than two samples
            are skipped. Several thousand images are plenty. For graphs and lists of images, a batch is what the
            network takes at once, and counts as one.
        limit: the maximum number of batches; all by default.
        task: what the network is for, if that determines how a batch becomes an input (`Task.inputs`). Without one, a
            detector takes images with or without targets.
        across_processes: all processes of a training call this, each with its share of the samples, and each gets the
            mean over all batches.

    Returns:
        The number of batches measured, by all processes together; 0 for a network without BatchNorm.

    Raises:
        DataError: no batch to measure, or non-finite inputs. The network is then unchanged.
        StagesError: hand-written stages that the first input proves wrong.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10))
        >>> calibrate(net, [torch.randn(4, 3, 64, 64)])
        1
    """
    check_runs(network, "calibrate", DataError)
    if not any(True for _ in network.contexts()):
        return 0
    before = network.statistics
    with evaluating(network):
        try:
            inputs = _taken(network, task)
            processes = Distributed() if across_processes else None
            measured = _measure(network, islice(batches, limit), inputs, processes)
        except BaseException:
            network.statistics = before
            network.forget_views()
            raise
    return measured


def _taken(network: AdaptiveNetwork, task: Any) -> Callable[[Any], Any]:
    """How a batch becomes an input: as the task defines; without a task, labels may be missing."""
    if task is not None:
        judged = as_task(task, network.model)
        return lambda batch: judged.unlabelled(judged.taken_apart(batch)[0])
    if detector_of(network.model) is not None:
        return Detection().of(network.model).images
    return lambda batch: split_batch(batch, None)[0]


def _measure(
    network: AdaptiveNetwork,
    batches: Iterable[Any],
    inputs: Callable[[Any], Any],
    processes: Distributed | None,
) -> int:
    device, measured = device_of(network), 0
    network.reset_statistics(per_context=True)
    # In inference mode, buffers would become tensors that later training cannot change.
    with _measuring(network) as start, torch.inference_mode(False), torch.no_grad():
        shared = SharedForward(network)
        for batch in batches:
            x = on_device(inputs(batch), device)
            if samples_in(x) in (0, 1):  # a BatchNorm cannot measure the variance of one sample
                continue
            args, kwargs = arguments(x)
            if not network.proven:
                network.prove(*args, **kwargs)
            measured += _add(network, shared, start, measured, args, kwargs)
    if processes is not None:
        measured = _reduce(network, measured, processes)
    if not measured:
        raise DataError("calibrate received no batch of two or more samples: expected training batches")
    if not all(torch.isfinite(buffer).all() for buffer in network.statistics.buffers()):
        raise DataError(
            "calibrate measured non-finite statistics: look for non-finite inputs, or for weights that diverged in "
            "training (lower the learning rate)"
        )
    return measured


def _add(
    network: AdaptiveNetwork,
    shared: SharedForward,
    start: Callable[[], None],
    measured: int,
    args: Any,
    kwargs: Any,
) -> int:
    """Add one batch to the mean over those before it; return the number of batches added, 0 if it is too small."""
    buffers = list(network.statistics.buffers())
    before = [buffer.clone() for buffer in buffers]

    def measure() -> None:
        start()
        for _ in shared.outputs(network.skips, *args, **kwargs):
            pass

    try:
        shareable = shared.shareable
        measure()
        if shared.shareable != shareable:  # interrupted: from now on the sub-networks run one by one
            measure()
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        for buffer, other in zip(buffers, before, strict=True):
            buffer.copy_(other)
        return 0  # a single sample, in an input that does not reveal its number
    for buffer, other in zip(buffers, before, strict=True):
        if buffer.is_floating_point():
            buffer.add_(other, alpha=measured).div_(measured + 1)
        else:
            buffer.fill_(measured + 1)
    return 1


def _reduce(network: AdaptiveNetwork, measured: int, processes: Distributed) -> int:
    """The mean over the batches of all processes, from each one's mean over its own."""
    device = device_of(network)
    total = int(processes.sum(torch.tensor(measured, device=device)))
    for buffer in network.statistics.buffers():
        if buffer.is_floating_point():
            buffer.copy_(processes.sum(buffer * measured) / max(1, total))
        else:
            buffer.fill_(total)
    return total


@contextmanager
def _measuring(network: AdaptiveNetwork) -> Iterator[Callable[[], None]]:
    """Norms behind the first flag record what they see; sub-networks built inside are dropped afterwards.

    Yields a function to call before each batch.
    """
    every: list[Any] = [part for path in network.homes for part in network.model.get_submodule(path).modules()]
    every += network.skip_norms.modules()
    norms = [norm for norm in every if has_statistics(norm) and not isinstance(norm, RunningStatistics)]
    frozen = [norm for norm in every if is_frozen(norm)]  # its thawed copy shares its mode
    before = [(norm, norm.training, getattr(norm, "momentum", None)) for norm in (*norms, *frozen)]
    seen = _Seen()
    hooks = [hook for norm in norms for hook in seen.watch(norm)]
    for norm in frozen:
        norm.training = True
    for norm in norms:
        norm.training = True
        if isinstance(norm, _NormBase):
            norm.momentum = 1.0  # this batch only, nothing from before
    network.forget_views()
    try:
        yield seen.clear
    finally:
        for hook in hooks:
            hook.remove()
        for norm, training, momentum in before:
            norm.training = training
            if isinstance(norm, _NormBase):
                norm.momentum = momentum
        network.forget_views()


class _Seen:
    """What each norm saw in one batch: the mean over its calls, whatever its rule for a running mean.

    A torch norm stores the numbers of a call as they are (momentum 1). Any other is called once more on the same input:
    a running mean that moves from r to s to t, by the same fraction each time, converges to r + (s - r) / fraction,
    where fraction = 1 - (t - s) / (s - r).
    """

    def __init__(self) -> None:
        self._before: dict[int, tuple[dict[str, Tensor], dict[str, tuple[Tensor, int]]]] = {}
        self._means: dict[int, tuple[int, dict[str, Tensor]]] = {}

    def clear(self) -> None:
        """Start a new batch."""
        self._means.clear()

    def watch(self, norm: nn.Module) -> list[Any]:
        return [norm.register_forward_pre_hook(self._start), norm.register_forward_hook(self._end, with_kwargs=True)]

    def _start(self, norm: nn.Module, _: Any) -> None:
        there = {name: buffer for name, buffer in norm._buffers.items() if buffer is not None}
        # Keyed by the buffers, which a norm shares with its twins in all views.
        self._before[id(norm._buffers)] = _numbers(norm), {n: (value, value._version) for n, value in there.items()}

    def _end(self, norm: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
        key = id(norm._buffers)
        before, tensors = self._before.pop(key)
        seen = _numbers(norm)
        untouched = all(norm._buffers[n] is value and value._version == old for n, (value, old) in tensors.items())
        if untouched and all(
            torch.equal(seen[name], value) for name, value in before.items()
        ):  # not all leave a version
            return  # it did not run: a shared output was reused
        if not (isinstance(norm, _NormBase) and type(norm).__module__.startswith(("torch.nn.", "timm.layers."))):
            # Not `norm(...)`, which would call these hooks.
            type(norm).forward(norm, *args, **kwargs)
            again = _numbers(norm)
            seen = {name: _goal(before[name], value, again[name]) for name, value in seen.items()}
        number, means = self._means.get(key, (0, {}))
        if number:
            seen = {name: (means[name] * number + value) / (number + 1) for name, value in seen.items()}
        self._means[key] = number + 1, seen
        for name, value in seen.items():
            norm._buffers[name] = tensors[name][0].copy_(value)  # its rule may have replaced the tensor


def _numbers(norm: nn.Module) -> dict[str, Tensor]:
    kept = {name: value for name, value in norm._buffers.items() if value is not None and value.is_floating_point()}
    return {name: value.detach().clone() for name, value in kept.items()}


def _goal(before: Tensor, once: Tensor, twice: Tensor) -> Tensor:
    """The limit of a running mean that went from `before` to `once` to `twice`."""
    first, second = (once - before).double(), (twice - once).double()
    length = float(first.square().sum())
    part = 1 - float((first * second).sum()) / length if length else 1.0
    if not 1e-4 < part <= 1.001:
        return once  # another rule, or nothing moved
    return (before + first / part).to(once.dtype)
