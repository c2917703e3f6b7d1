"""Frozen norms: BatchNorms of detectors that keep pretrained numbers as buffers, so that they are not trained.

A second frozen copy would be useless. The copy is *thawed* instead: a BatchNorm with the same numbers, which trains,
gathers statistics and is calibrated. The frozen one is unchanged.
"""

import copy

import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn

_EPS = 1e-5  # torch cannot train a BatchNorm with 0, which torchvision's pretrained detectors have
_NUMBERS = ("weight", "bias", "running_mean", "running_var")


def is_frozen(norm: nn.Module) -> bool:
    """Is it a norm whose numbers, one per channel, are buffers?

    Example:
        >>> import torchvision
        >>> is_frozen(torchvision.ops.FrozenBatchNorm2d(8)), is_frozen(nn.BatchNorm2d(8))
        (True, False)
    """
    named = "frozen" in type(norm).__name__.lower() and "norm" in type(norm).__name__.lower()
    return named and not any(True for _ in norm.parameters()) and bool(norm._buffers)


def can_be_doubled(norm: nn.Module) -> bool:
    """Would a second copy have anything to train?"""
    return not is_frozen(norm) or thawed(norm) is not None


def thawed(norm: nn.Module) -> nn.Module | None:
    """A BatchNorm with the numbers of a frozen one; None if it would compute something else.

    Example:
        >>> import torchvision
        >>> type(thawed(torchvision.ops.FrozenBatchNorm2d(8))).__name__
        'BatchNorm2d'
    """
    numbers = [norm._buffers.get(name) for name in _NUMBERS]
    shape = None if numbers[0] is None else numbers[0].shape
    if shape is None or len(shape) != 1 or any(each is None or each.shape != shape for each in numbers):
        return None
    own = float(getattr(norm, "eps", _EPS))  # transformers' have it only in their code
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
        other.get_buffer("running_var").sub_(eps - own).clamp_(min=0)  # only the sum of both counts
    return other.train(norm.training) if _computes_the_same(norm, other, first) else None


def _computes_the_same(norm: nn.Module, other: nn.Module, like: Tensor) -> bool:
    if like.is_meta:  # no numbers to compare; names and shapes match
        return True
    # Drawn on the CPU, so that the result does not depend on the device.
    noise = torch.rand(2, len(like), 3, 3, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    training = other.training
    try:
        with torch.no_grad():
            given = 4 * noise - 2
            # A clone, because a fused activation may work in place.
            expected, found = norm(given.clone()), other.eval()(given)
    except Exception:  # noqa: BLE001 - such as one-dimensional norms
        return False
    finally:
        other.train(training)
    size = float(expected.abs().max()) if expected.numel() else 0.0
    # Half precisions have only two or three significant digits.
    return torch.allclose(found, expected, rtol=1e-2 if like.dtype.itemsize < 4 else 1e-4, atol=1e-5 * max(1.0, size))
