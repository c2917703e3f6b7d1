"""What a loader yields, taken apart: the input, the labels, on the network's device."""

from typing import Any

import torch
from torch import Tensor, nn

from .errors import DataError


def split_batch(batch: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The input `[batch, ...]` and the labels `[batch]` (None where there are none) of one batch.

    Raises:
        DataError: something else than a tensor, or a pair of input and labels.
    """
    x, y = (batch, None) if isinstance(batch, Tensor) else (*batch, None)[:2] if _is_pair(batch) else (None, None)
    if not isinstance(x, Tensor):
        raise DataError(
            f"the loader yielded a {type(batch).__name__}: expected a pair (input tensor [batch, ...], labels "
            "[batch]) or the input alone"
        )
    if not (y is None or isinstance(y, Tensor)):
        raise DataError(f"the loader yielded labels as a {type(y).__name__}: expected a tensor [batch]")
    return x.to(device, non_blocking=True), None if y is None else y.to(device, non_blocking=True)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer; the CPU where it has none."""
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) > 0
