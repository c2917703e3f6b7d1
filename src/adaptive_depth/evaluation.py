"""The accuracy of every sub-network, what they have in common computed once."""

from collections.abc import Iterable, Sized
from typing import Any

import torch
from torch import Tensor

from .batches import arguments, device_of, logits_in, samples_in, split_batch
from .errors import DataError
from .modes import evaluating
from .network import AdaptiveNetwork, check_adapted
from .sharing import SharedForward
from .skip import Skip, parse_skip
from .training.processes import Processes


def evaluate(
    network: AdaptiveNetwork,
    batches: Iterable[Any],
    skips: Iterable[Skip] | None = None,
    *,
    across_processes: bool = False,
) -> dict[str, float]:
    """Top-1 accuracy of sub-networks, in percent.

    The network runs in eval mode without gradients and is left as it was. Outputs are bit-identical to those of the
    sub-networks run one after the other; a network of four stages takes less than half the time.

    Arguments:
        network: a network that returns logits `[batch, classes]`, or an object that holds them as `logits`.
        batches: pairs of input `[batch, ...]` and labels `[batch]`, or dicts with `"labels"`, such as a DataLoader.
        skips: the sub-networks; all by default.
        across_processes: all processes of a training call this, each with its share of the samples, and each gets the
            accuracy on all of them.

    Returns:
        For each skip, super-net first, the share of samples whose largest logit is the label's.

    Raises:
        DataError: no batch, no labels, labels that name no class of the network, a data set (the loader's `dataset`)
            of fewer classes than the network has, or outputs that are not finite.
        SkipError: a skip that does not fit the network.
        StagesError: stages written by hand that the first input proves wrong.

    Example:
        >>> import timm, torch, adaptive_depth as ad
        >>> net = ad.adapt(timm.create_model("resnet18", num_classes=1))
        >>> evaluate(net, [(torch.randn(2, 3, 64, 64), torch.tensor([0, 0]))], ["FFFF", "TTTT"])
        {'FFFF': 100.0, 'TTTT': 100.0}
    """
    check_adapted(network, "evaluate", DataError)
    chosen = [parse_skip(skip, len(network.stages)) for skip in (network.skips if skips is None else skips)]
    if not chosen:
        raise DataError("evaluate received no sub-network: expected skips such as ['FFFF'], or None for all")
    correct, samples = dict.fromkeys(sorted(chosen), 0), 0
    device, shared = device_of(network), SharedForward(network)
    with evaluating(network), torch.inference_mode(False), torch.no_grad():
        for batch in batches:
            x, y = split_batch(batch, device)
            args, kwargs = arguments(x)
            if not network.proven:
                network.prove(*args, **kwargs)
            for skip, output, _ in shared.outputs(list(correct), *args, **kwargs):
                correct[skip] += _count_correct(logits_in(output), y, getattr(batches, "dataset", None))
            samples += samples_in(x)
    if across_processes:
        counts = torch.tensor([samples, *correct.values()], device=device)
        samples, *hits = Processes().sum(counts).tolist()
        correct = dict(zip(correct, hits, strict=True))
    if not samples:
        raise DataError("evaluate received an empty loader: expected at least one batch of (input, labels)")
    return {skip: 100 * count / samples for skip, count in correct.items()}


def _count_correct(output: Any, y: Tensor | None, data: Any = None) -> int:
    if y is None:
        raise DataError("the loader yielded inputs without labels: expected pairs (input, labels)")
    if not isinstance(output, Tensor) or output.ndim != 2 or y.shape != output.shape[:1]:
        received = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"the network returned {received} for labels {list(y.shape)}: expected [batch, classes] and [batch]"
        )
    if y.numel() and y.is_floating_point():
        raise DataError(
            f"labels of {str(y.dtype).removeprefix('torch.')}: expected whole numbers, the classes' indices"
        )
    if not torch.isfinite(output).all():
        raise DataError(
            "the network returned numbers that are not finite: look for inputs that are not, or for weights that "
            "diverged in training (a lower learning rate)"
        )
    if y.numel() and (int(y.min()) < 0 or int(y.max()) >= output.shape[1]):
        raise DataError(
            f"labels from {int(y.min())} to {int(y.max())}, but the network has {output.shape[1]} classes: expected "
            f"labels from 0 to {output.shape[1] - 1}"
        )
    _check_classes(data, output.shape[1])
    return int((output.argmax(dim=1) == y).sum())


def _check_classes(data: Any, outputs: int) -> None:
    """A data set that names its classes, and numbers labels by them, has one for each output."""
    classes = getattr(data, "classes", None)
    if isinstance(classes, Sized) and len(classes) < outputs and getattr(data, "target_transform", None) is None:
        raise DataError(
            f"the data has {len(classes)} classes, the network {outputs}: an output that no label names can only be "
            f"wrong; build the model with num_classes={len(classes)}, or number the labels as the network's outputs "
            "(target_transform= of the data set)"
        )
