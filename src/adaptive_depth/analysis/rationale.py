"""Why the method works (paper, section 3.3), measured on a network: `analyze`."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import arguments, device_of, is_empty, on_device, split_batch
from ..core.network import AdaptiveNetwork, check_runs
from ..errors import DataError, MeasurementError
from ..modes import evaluating, without_fast_paths
from ..tasks import Task
from .advice import advise
from .criterion import Criterion
from .measurement import Measurement
from .observers import frozen
from .values import Analysis

OnProgress = Callable[[int, int | None], None]


def analyze(
    network: AdaptiveNetwork,
    batches: Iterable[Any],
    *,
    criterion: Task | Callable[[Any, Any], Tensor] | None = None,
    compare: nn.Module | None = None,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> Analysis:
    """Measure the method's claims on a network: do skippable sub-paths only refine, and what does a skip cost?

    For each block: ‖F(h)‖₂ / ‖h‖₂ in the super-net (paper, Figure 3). For each skippable sub-path: the first-order
    expansion `L(h_super) ≈ L(h_base) + Σ_j F_j(h_j) · ∂L/∂h_j` (section 3.3), and the cosine between F_j and -∂L/∂h_j.
    For ∂L/∂h_j, block j and all later blocks of its stage are left out of the super-net, so that h_j is the stage's
    output; norms stay those of the super-net. For each stage: KL(h_super ‖ h_base), and the loss of the sub-network
    that skips only this stage. For each norm with running statistics: how these compare with what the norm sees.

    The network runs in eval mode and is left as it was, gradients included. A batch takes a forward pass of the
    super-net, of the base-net and of each sub-network that skips one stage, and a forward and a backward pass for each
    skippable block.

    Arguments:
        network: an adapted network, trained or not.
        batches: pairs of input `[batch, ...]` and labels `[batch]`, or dicts with `"labels"`, such as a DataLoader:
            a few hundred samples of all classes, ideally not trained on.
        criterion: the loss of output and labels, a mean over samples, or a task of `adaptive_depth.tasks`;
            cross-entropy by default.
        compare: the same model, trained without the method (or a network, whose super-net is used): its
            ‖F(h)‖₂ / ‖h‖₂ is reported beside the network's own.
        limit: the maximum number of batches; all by default.
        on_progress: called with (done, total) after each pass; the total is None for a loader without a length.

    Returns:
        All results, with advice in words: print it.

    Raises:
        DataError: no batch, no labels, labels that are not classes of the network, or non-finite outputs.
        MeasurementError: a criterion without a finite value or a gradient, a model to compare with that lacks the
            blocks, blocks that do not run exactly once per batch, or norms with non-finite running statistics.
        StagesError: hand-written stages that the first input proves wrong.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=10, channels=(8, 8, 8, 8)))
        >>> found = analyze(net, [(torch.randn(20, 3, 32, 32), torch.arange(20) % 10)])
        >>> found.stages[0].name, [block.path for block in found.blocks if block.skippable]
        ('layer1', ['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1'])
        >>> list(found.losses)
        ['FFFF', 'FFFT', 'FFTF', 'FTFF', 'TFFF', 'TTTT']
    """
    check_runs(network, "analyze", MeasurementError)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise MeasurementError(f"limit={limit!r}: expected a number of batches, 1 or more, or None for all")
    if not (compare is None or isinstance(compare, nn.Module)):
        raise MeasurementError(f"compare is a {type(compare).__name__}: expected a model, an nn.Module")
    judge, measured, done = Criterion(criterion, network.model), None, count(1)
    with (
        evaluating(network),
        nullcontext() if compare is None else evaluating(compare),
        frozen(network),
        # Gradients are needed, even if the caller is in inference mode.
        torch.inference_mode(False),
        torch.no_grad(),
        without_fast_paths(),
    ):
        for batch in islice(batches, limit):
            taken = judge.task.taken_apart(batch) if judge.task else split_batch(batch, None)
            x, y = on_device(taken, device_of(network))
            if is_empty(x):
                continue
            if judge.task:
                judge.task.check_input(x, network.model)
            args, kwargs = arguments(x)
            if not network.proven:
                network.prove(*args, **kwargs)
            # Only now, because an input must have proven the plan.
            measured = measured or Measurement(network, judge, compare)
            with judge.task.with_losses(*measured.losing):
                for _ in measured.add(x, y):
                    if on_progress is not None:
                        on_progress(next(done), _passes(measured, batches, limit))
    if measured is None:
        raise DataError("analyze received an empty loader: expected at least one batch of (input, labels)")
    result = measured.result()
    return replace(result, advice=advise(result))


def _passes(measured: Measurement, batches: Any, limit: int | None) -> int | None:
    """The number of passes over all batches; None if unknown."""
    if not hasattr(batches, "__len__"):
        return None
    return measured.passes * min(len(batches), limit or len(batches))
