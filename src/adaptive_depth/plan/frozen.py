"""Frozen norms: BatchNorms of detectors that keep the numbers of a pretraining as buffers, so that nothing trains them.

A second copy of one would be for nothing. The copy is *thawed* instead: a BatchNorm with the same numbers, that trains,
gathers statistics and is calibrated. The frozen one stays as it is.
"""

import copy

import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn

_EPS = 1e-5  # torch trains no BatchNorm without one, and pretrained detectors of torchvision have 0
_NUMBERS = ("weight", "bias", "running_mean", "running_var")


def is_frozen(norm: nn.Module) -> bool:
    """Is it a norm whose numbers, one a channel, are buffers?

    Example:
        >>> import torchvision
        >>> is_frozen(torchvision.ops.FrozenBatchNorm2d(8)), is_frozen(nn.BatchNorm2d(8))
        (True, False)
    """
    named = "frozen" in type(norm).__name__.lower() and "norm" in type(norm).__name__.lower()
    return named and not any(True for _ in norm.parameters()) and bool(norm._buffers)


def can_be_doubled(norm: nn.Module) -> bool:
    """Is there anything in a second one that can be trained?"""
    return not is_frozen(norm) or thawed(norm) is not None


def thawed(norm: nn.Module) -> nn.Module | None:
    """A BatchNorm with the numbers of a frozen one; None where it would compute something else.

    Example:
        >>> import torchvision
        >>> type(thawed(torchvision.ops.FrozenBatchNorm2d(8))).__name__
        'BatchNorm2d'
    """
    numbers = [norm._buffers.get(name) for name in _NUMBERS]
    shape = None if numbers[0] is None else numbers[0].shape
    if shape is None or len(shape) != 1 or any(each is None or each.shape != shape for each in numbers):
        return None
    own = float(getattr(norm, "eps", _EPS))  # transformers' have it in their code alone
    eps = own or _EPS
    if isinstance(norm, FrozenBatchNormAct2d):
        other: nn.Module = BatchNormAct2d(shape[0], eps=eps)
        other.drop, other.act = copy.deepcopy(norm.drop), copy.deepcopy(norm.act)
    else:
        other = nn.BatchNorm2d(shape[0], eps=eps)
    first = numbers[0]
    assert first is not None
    other.to(first.device, first.dtype)
    with torch.no_grad():
        for name, value in zip(_NUMBERS, numbers, strict=True):
            getattr(other, name).copy_(value)
        other.get_buffer("running_var").sub_(eps - own).clamp_(min=0)  # the sum of both is what counts
    return other.train(norm.training) if _computes_the_same(norm, other, first) else None


def _computes_the_same(norm: nn.Module, other: nn.Module, like: Tensor) -> bool:
    if like.is_meta:  # no numbers; its names and shapes are those of the others
        return True
    noise = torch.rand(2, len(like), 3, 3, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    training = other.training
    try:
        with torch.no_grad():
            given = 4 * noise - 2
            expected, found = norm(given.clone()), other.eval()(given)
    except Exception:  # noqa: BLE001 - of one dimension, say
        return False
    finally:
        other.train(training)
    size = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=1e-2 if like.dtype.itemsize < 4 else 1e-4, atol=1e-5 * max(1.0, size))
