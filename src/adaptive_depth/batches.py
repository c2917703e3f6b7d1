"""What a loader yields, taken apart: the input, the labels, on the network's device; and what a network returns."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .errors import DataError

_LABELS = ("labels", "label")  # how collators call them in a dict


def split_batch(batch: Any, device: torch.device | None) -> tuple[Any, Any]:
    """The input of one batch, and its labels; None where there are none.

    Arguments:
        batch: a pair (input, labels), a dict that holds the labels as `"labels"` or `"label"`, or the input alone. An
            input is a tensor `[batch, ...]`, a dict of keyword arguments, or a tuple or list of positional ones.
        device: where to move all tensors; None leaves them where they are.

    Raises:
        DataError: something else.
    """
    if isinstance(batch, Mapping):
        x: Any = {str(name): value for name, value in batch.items() if name not in _LABELS}
        y = next((batch[name] for name in _LABELS if name in batch), None)
    elif isinstance(batch, tuple | list):
        x, y = (*batch, None, None)[:2]
    else:
        x, y = batch, None
    if isinstance(x, Mapping):
        x = dict(x)
    elif isinstance(x, list):
        x = tuple(x)
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(x)):
        raise DataError(
            f"the loader yielded a {type(batch).__name__}: expected a pair (input tensor [batch, ...], labels "
            "[batch]), a dict of tensors with 'labels' in it, or the input alone"
        )
    if y is not None and not all(isinstance(leaf, Tensor) for leaf in tree_leaves(y) or [None]):
        raise DataError(
            f"the loader yielded labels as a {type(y).__name__}: expected a tensor [batch], or tensors in dicts and "
            "tuples, one for each head"
        )
    return (x, y) if device is None else on_device((x, y), device)


def on_device(value: Any, device: torch.device) -> Any:
    """The same with every tensor in it on a device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), value)


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An input as the arguments of a model: a dict by keyword, a tuple or list by position, a tensor alone.

    Example:
        >>> arguments({"input_ids": 1}), arguments((1, 2)), arguments(1)
        (((), {'input_ids': 1}), ((1, 2), {}), ((1,), {}))
    """
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x), {}) if isinstance(x, tuple | list) else ((x,), {})


def samples_in(x: Any) -> int:
    """The number of samples of an input: the length of its first tensor.

    Example:
        >>> samples_in({"pixel_values": torch.zeros(3, 1)})
        3
    """
    return len(next(leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)))


def first_samples(x: Any, number: int) -> Any:
    """An input of the first samples only: every tensor in it that has one entry a sample is cut.

    Example:
        >>> first_samples((torch.zeros(3, 2), torch.zeros(5)), 2)[0].shape
        torch.Size([2, 2])
    """
    size = samples_in(x)
    return tree_map_only(Tensor, lambda tensor: tensor[:number] if tensor.ndim and len(tensor) == size else tensor, x)


def logits_in(output: Any) -> Any:
    """The logits of what a network returned: the field of that name, as models of Hugging Face have it, or all of it.

    Example:
        >>> logits_in({"logits": torch.zeros(2, 3)}).shape
        torch.Size([2, 3])
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return found if isinstance(found, Tensor) else output


def described(output: Any) -> str:
    """What a network returned, in words for an error.

    Example:
        >>> described({"out": torch.zeros(1), "aux": torch.zeros(1)})
        "a dict with 'out', 'aux'"
    """
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with {', '.join(map(repr, output))}"
    of = f" of {len(output)}" if isinstance(output, tuple | list) else ""
    return f"a {type(output).__name__}{of}"


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer; the CPU where it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device
