"""Which modules are norms, and which gather running statistics."""

from collections.abc import Sequence

import torch
from torch import nn

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase)
_STATISTICS = ("running_", "moving_", "num_batches_tracked")  # names of buffers gathered in training


def is_norm(module: nn.Module) -> bool:
    """Is it a normalisation layer?

    One of torch's classes; one with running statistics, or "norm" in its name, whose parameters are one number per
    channel (`FrozenBatchNorm2d`, `LayerNorm2d`, `InPlaceABN`); or one with such a name that contains only norms. A
    linear layer or a convolution that normalises its weight is not one, whatever its name.
    """
    if isinstance(module, _NORMS):
        return True
    if isinstance(module, torch.jit.ScriptModule):  # hooks do not see it run
        return False
    named = "norm" in type(module).__name__.lower() or has_statistics(module)
    if not named or isinstance(module, _LAYERS) or not all(map(_one_a_channel, module.parameters())):
        return False
    parts = [part for part in module.modules() if part is not module]
    if not all(is_norm(part) for part in parts if part._parameters):
        return False
    return not parts or bool(module._parameters) or any(map(is_norm, parts))


def _one_a_channel(parameter: torch.Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) <= 1  # also [1, C, 1, 1]


def has_statistics(module: nn.Module) -> bool:
    """Does it gather running statistics itself, as BatchNorm does?"""
    name = type(module).__name__.lower()
    # Its buffers are named like statistics, but nothing updates them.
    if "frozen" in name:
        return False
    names = [buffer for buffer, value in module._buffers.items() if value is not None]
    return any(buffer.startswith(_STATISTICS) for buffer in names) or (
        "norm" in name and any(word in buffer for buffer in names for word in ("mean", "var"))
    )


def gathers_inside(module: nn.Module) -> bool:
    """Does any part of it gather running statistics?"""
    return any(map(has_statistics, module.modules()))


def norms_inside(model: nn.Module, paths: Sequence[str]) -> tuple[str, ...]:
    """Paths of the normalisation layers inside the modules `paths`; of nested ones, the outer."""
    found: list[str] = []
    for path in paths:
        for name, module in model.get_submodule(path).named_modules():
            whole = f"{path}.{name}".rstrip(".")
            block = not name and not module._parameters and any(module.children())  # whatever its name, it has norms
            if is_norm(module) and not block and not (found and whole.startswith(f"{found[-1]}.")):
                found.append(whole)
    return tuple(found)
