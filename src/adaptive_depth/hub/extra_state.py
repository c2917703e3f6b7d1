"""The extra state of modules (`get_extra_state`), which may be more than tensors: JSON and separate tensors."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

_PLAIN = (str, int, float, bool, type(None))
_BITS = 53  # of integers that all JSON readers support
_DEEPEST = 24  # levels of nesting; in a file there may be twice as many and a few more


def apart(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state dict as tensors, and everything else as JSON; lists, tuples and dictionaries of tensors are split.

    Raises:
        CheckpointError: something that neither can store.

    Example:
        >>> import torch
        >>> apart({"a": torch.ones(1), "b._extra_state": {"amax": torch.ones(2), "axes": (0, 1)}})[1]
        {'b._extra_state': {'dict': {'amax': {'tensor': 'b._extra_state/1'}, 'axes': {'tuple': [0, 1]}}}}
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    extra = {name: _packed(value, name, tensors) for name, value in state.items() if not isinstance(value, Tensor)}
    return tensors, extra


def together(tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `apart`.

    Raises:
        CheckpointError: JSON that it did not write, or tensors that are missing.
    """
    inside = set()

    def unpacked(value: Any) -> Any:
        if isinstance(value, list):
            return [unpacked(each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, held),) = value.items()
        if kind == "tensor":
            inside.add(held)
            return tensors[held]
        if kind == "tuple":
            return tuple(unpacked(each) for each in held)
        if kind in _NUMBERS:
            return _NUMBERS[kind](held)
        if kind != "dict":
            raise ValueError(f"{kind!r} is not a kind of value")
        return {name: unpacked(each) for name, each in held.items()}

    try:
        state = {name: unpacked(value) for name, value in extra.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the modules' extra state is damaged ({error!r})") from error
    return {name: tensor for name, tensor in tensors.items() if name not in inside} | state


_NUMBERS: dict[str, Any] = {"float": float, "int": lambda text: int(text, 16)}  # which JSON cannot store


def _packed(value: Any, name: str, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise CheckpointError(f"{name} contains values nested more than {_DEEPEST} levels deep, too deep for a file")
    # Exact types: a subclass, such as an IntEnum, would come back as a plain number.
    if type(value) in _PLAIN:
        return _plain(value)
    if isinstance(value, Tensor):
        key = f"{name}/{1 + sum(each.startswith(f'{name}/') for each in tensors)}"
        tensors[key] = value
        return {"tensor": key}
    if type(value) in (list, tuple):
        inside = [_packed(each, name, tensors, depth + 1) for each in value]
        return inside if isinstance(value, list) else {"tuple": inside}
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {"dict": {key: _packed(each, name, tensors, depth + 1) for key, each in value.items()}}
    raise CheckpointError(
        f"{name} contains a {type(value).__name__}, which cannot be saved such that loading runs no code: expected "
        "tensors, numbers and text, in lists, tuples or dictionaries by name, from get_extra_state of its module"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, int) and value.bit_length() > _BITS:
        return {"int": hex(value)}
    return value
