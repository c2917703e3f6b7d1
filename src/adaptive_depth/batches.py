"""What a loader yields, split into input and labels on the network's device; and the parts of a network's output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .errors import DataError

_LABELS = ("labels", "label")  # their names in a collator's dict


def split_batch(batch: Any, device: torch.device | None) -> tuple[Any, Any]:
    """The input and labels of one batch; None if there are no labels.

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
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(list(batch[2:]))):  # dropped, it would be lost silently
            raise DataError(
                f"the loader yielded a {type(batch).__name__} of {len(batch)}: expected a pair (input, labels); group "
                "several inputs, ((a, b), labels), and drop anything else in the collate_fn, or return a pair from "
                "inputs() of a custom task"
            )
        x, y = (*batch, None, None)[:2]  # pads a tuple of one
    else:
        x, y = batch, None
    if isinstance(x, Mapping):
        x = dict(x)
    elif isinstance(x, list):
        x = tuple(x)
    leaves = tree_leaves(x)
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        if kind := next((type(leaf).__name__ for leaf in leaves if callable(getattr(leaf, "to", None))), None):
            raise DataError(
                f"the loader yielded a {kind}, an unknown type: expected tensors; unpack it in the "
                "collate_fn, such as ((batch.x, batch.edge_index), batch.y) for a model that takes these; or return "
                f"the {kind} and its labels from inputs() of a custom task"
            )
        what = f"a {type(batch).__name__}"
        if any(type(leaf).__module__ == "numpy" for leaf in leaves):
            what = "arrays of NumPy, and a network takes tensors (torch.from_numpy)"
        raise DataError(
            f"the loader yielded {what}: expected a pair (input tensor [batch, ...], labels [batch]), a dict of "
            "tensors with 'labels' in it, or the input alone"
        )
    if y is not None and not all(isinstance(leaf, Tensor) for leaf in tree_leaves(y) or [None]):
        raise DataError(
            f"the loader yielded labels as a {type(y).__name__}: expected a tensor [batch], or tensors in dicts and "
            "tuples, one for each head"
        )
    return (x, y) if device is None else on_device((x, y), device)


def on_device(value: Any, device: torch.device) -> Any:
    """The value with every tensor, and every object that can be moved (such as a batch of graphs), on a device."""

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    return tree_map(moved, value)


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An input as the arguments of a model: a dict by keyword, a tuple or list by position, a tensor alone.

    Example:
        >>> arguments({"input_ids": 1}), arguments((1, 2)), arguments(1)
        (((), {'input_ids': 1}), ((1, 2), {}), ((1,), {}))
    """
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x), {}) if isinstance(x, tuple | list) else ((x,), {})


def samples_in(x: Any) -> int | None:
    """The number of samples in an input; None if that is uncertain.

    It is certain if all tensors that are not scalars have the same first dimension. A list of images `[channels,
    height, width]`, or of dicts such as boxes, has one entry per sample; in any other list (such as a graph's nodes
    and edges) the first dimension means something else.

    Example:
        >>> samples_in({"pixel_values": torch.zeros(3, 1), "scale": torch.tensor(2.0)})
        3
        >>> samples_in(([torch.zeros(3, 40, 60), torch.zeros(3, 50, 50)], [{"boxes": 1}, {"boxes": 2}]))
        2
        >>> samples_in((torch.zeros(20, 3), torch.zeros(2, 60)))
    """
    # A top-level tuple or list holds positional arguments, unless it is a list of dicts, one per sample.
    positional = isinstance(x, tuple | list) and not _are_mappings(x)
    sizes = {size for each in (x if positional else (x,)) for size in _first_dimensions(each)}
    return sizes.pop() if len(sizes) == 1 else None


def _first_dimensions(x: Any) -> Iterator[int | None]:
    """Of all tensors; None for anything that may hold samples in another way."""
    if isinstance(x, Tensor):
        yield from x.shape[:1]
    elif _has_an_entry_a_sample(x):
        yield len(x)
    elif isinstance(x, tuple | Mapping):
        for each in x.values() if isinstance(x, Mapping) else x:
            yield from _first_dimensions(each)
    elif not isinstance(x, _NO_SAMPLES):
        yield None


def _has_an_entry_a_sample(x: Any) -> bool:
    """Is it a list of images, or of dicts?"""
    return _are_mappings(x) or (
        isinstance(x, tuple | list)
        and bool(x)
        and all(isinstance(each, Tensor) and each.ndim == 3 and each.is_floating_point() for each in x)
        and len({each.shape[0] for each in x}) == 1
        and 1 <= x[0].shape[0] <= _CHANNELS
    )


def _are_mappings(x: Any) -> bool:
    return isinstance(x, tuple | list) and bool(x) and all(isinstance(each, Mapping) for each in x)


_CHANNELS = 4  # at most, to count as an image
_NO_SAMPLES = (bool, int, float, str, type(None))


def is_empty(x: Any) -> bool:
    """Does an input hold no samples?"""
    leaves = tree_leaves(x)
    known = all(isinstance(leaf, (Tensor, *_NO_SAMPLES)) for leaf in leaves)
    return samples_in(x) == 0 or (known and not any(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)))


def entries_in(target: Any) -> int:
    """The weight of a batch in a mean: its number of samples or, if uncertain, the entries of its first target.

    Example:
        >>> entries_in([{"boxes": torch.zeros(5, 4)}, {"boxes": torch.zeros(1, 4)}])
        2
    """
    number = samples_in(target)
    first = next((leaf for leaf in tree_leaves(target) if isinstance(leaf, Tensor) and leaf.ndim), ())
    return number if number is not None else len(first) or 1


def shapes_in(x: Any) -> str:
    """The shapes of the tensors in an input, for an error.

    Example:
        >>> shapes_in((torch.zeros(20, 3), {"edges": torch.zeros(2, 60)}))
        '[20, 3], [2, 60]'
    """
    return ", ".join(str(list(leaf.shape)) for leaf in tree_leaves(x) if isinstance(leaf, Tensor)) or described(x)


def first_samples(x: Any, number: int) -> Any:
    """The first samples of an input.

    Raises:
        DataError: an input whose number of samples is uncertain (`samples_in`).

    Example:
        >>> first_samples((torch.zeros(3, 2), torch.zeros(3)), 2)[1].shape
        torch.Size([2])
    """
    if samples_in(x) is None:
        raise DataError(
            f"cannot take the first {number} samples of tensors {shapes_in(x)}: expected one entry per sample in "
            "each, the same first dimension, no lists other than of images, and no other objects"
        )
    return map_samples(x, lambda samples: samples[:number])


def map_samples(x: Any, take: Callable[[Any], Any]) -> Any:
    """An input with other samples: `take` selects from every tensor or list that has one entry per sample.

    Example:
        >>> map_samples((torch.zeros(3, 2), [{"a": 1}, {"a": 2}, {"a": 3}]), lambda samples: samples[1:])[1]
        [{'a': 2}, {'a': 3}]
    """
    top_is_arguments = not _are_mappings(x)

    def is_list(value: Any) -> bool:
        return not (value is x and top_is_arguments) and _has_an_entry_a_sample(value)

    def taken(leaf: Any) -> Any:
        holds_samples = leaf.ndim > 0 if isinstance(leaf, Tensor) else is_list(leaf)
        return take(leaf) if holds_samples else leaf

    return tree_map(taken, x, is_leaf=is_list)


def is_whole(tensor: Tensor) -> bool:
    """Does it hold integers, such as class indices or token ids? Booleans do not count."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def logits_in(output: Any) -> Any:
    """The logits in a network's output: the field of that name, as in models of Hugging Face, or all of it.

    Example:
        >>> logits_in({"logits": torch.zeros(2, 3)}).shape
        torch.Size([2, 3])
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return found if isinstance(found, Tensor) else output


def outputs_in(output: Any) -> dict[str, Any]:
    """The parts of a network's output that are not None: of a dict, a dataclass or a named tuple by name, of another
    tuple as `output_0`, `output_1`, ...; of a single tensor none.

    Example:
        >>> list(outputs_in({"kind": torch.zeros(1, 2), "size": torch.zeros(1), "loss": None}))
        ['kind', 'size']
        >>> list(outputs_in((torch.zeros(1, 2), torch.zeros(1))))
        ['output_0', 'output_1']
    """
    if isinstance(output, Mapping):
        parts = {str(name): part for name, part in output.items()}
    elif is_dataclass(output) and not isinstance(output, type):
        parts = {field.name: getattr(output, field.name) for field in fields(output)}
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", None) or [f"output_{place}" for place in range(len(output))]
        parts = dict(zip(names, output, strict=True))
    else:
        parts = {}
    return {name: part for name, part in parts.items() if part is not None}


def with_outputs(output: Any, parts: Mapping[str, Any]) -> Any:
    """A network's output with other parts in it, named as by `outputs_in`; those that are not named are dropped.

    Example:
        >>> with_outputs((torch.zeros(1), torch.zeros(1)), {"output_0": 1, "output_1": 2})
        (1, 2)
    """
    if isinstance(output, Mapping):
        return dict(parts)
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{field.name: parts.get(field.name) for field in fields(output)})
    given: Any = output
    if names := getattr(given, "_fields", None):  # a named tuple
        return type(given)(*(parts.get(name) for name in names))
    return type(given)(parts.get(f"output_{place}") for place in range(len(given)))


def taken_from(output: Any, names: Sequence[str]) -> Any:
    """The named parts of a network's output, in this order; without names its logits, or all of it.

    Example:
        >>> taken_from({"kind": 1, "size": 2}, ["size"]), taken_from(3, ())
        ({'size': 2}, 3)
    """
    if not names:
        return logits_in(output)
    parts = outputs_in(output)
    return {name: parts[name] for name in names}


def described(output: Any) -> str:
    """A network's output in words, for an error.

    Example:
        >>> described({"out": torch.zeros(1), "aux": torch.zeros(1)})
        "a dict with 'out', 'aux'"
    """
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with {', '.join(map(repr, output))}"
    of = f" of {len(output)}" if isinstance(output, tuple | list) else ""
    return f"a {type(output).__name__}{of}"


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer; the CPU if it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device
