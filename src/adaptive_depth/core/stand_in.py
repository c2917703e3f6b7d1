"""What takes the place of a skipped block.

The place remains, because code may address blocks by name or index, read an attribute of a block before calling it
(`masks[layer.attention_type]`), call it by keyword, or have put a hook on it. A stand-in behaves like the block in all
of these, holds no weights, and returns its input: what a residual block would return if it added nothing.
"""

import linecache
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter, signature
from itertools import count
from types import MethodType, SimpleNamespace
from typing import Any, get_type_hints

import torch
from torch import nn

from ..plan.calls import in_order, input_names
from .left import OWN, nothing_of

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_numbers = count()


class PassThrough(nn.Module):
    """Takes the place of a skipped block: returns its first input.

    Arguments:
        returns: as for `Stage`: None to return the input, else what to return in each place of a tuple.
        names: of the block's inputs, in the order of its signature; empty if it takes any.
    """

    def __init__(self, returns: Sequence[int | None] | None = None, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.returns = None if returns is None else tuple(returns)
        self.names = tuple(names)
        self.reads: list[str] = []  # other attributes that code may read

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = in_order(self.names, args, kwargs)
        if self.returns is None:
            return given[0]
        return (given[0], *(None if place is None else given[place] for place in self.returns[1:]))


def stand_in(
    block: nn.Module,
    returns: Sequence[int | None] | None,
    hooks: Mapping[str, dict[int, Any]] | None = None,
    reads: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A `PassThrough` with the block's signature and plain attributes.

    Arguments:
        block: the skipped block.
        returns: as for `Stage`.
        hooks: forward hooks that see what it returns (`hooks_of`).
        reads: attributes that code may read, `readable(block)`.
    """
    copy = PassThrough(returns, input_names(block))
    copy.__dict__.update(hooks or {})
    for name, value in (readable(block) if reads is None else reads).items():
        if name not in copy.__dict__:
            copy.__dict__[name] = value
            copy.reads.append(name)
    function = getattr(block.forward, "__func__", None)
    if function is not None and copy.names:
        written = _written(function, copy.returns)
        if written is not None:
            copy.__dict__["forward"] = MethodType(written, copy)
    return copy


def hooks_of(block: nn.Module) -> dict[str, dict[int, Any]]:
    """The forward hooks of a block; none for a sharded block, whose hooks free the parameters that it gathered."""
    sharded = hasattr(block, "unshard")
    return {name: OrderedDict() if sharded else OrderedDict(block.__dict__[name]) for name in _HOOKS}


def readable(module: nn.Module) -> dict[str, Any]:
    """What code may read from a module without its weights: plain attributes, also of its children."""
    found = {name: _answer(module, name) for name in _read_of(type(module))}
    found = {name: value for name, value in found.items() if isinstance(value, _PLAIN)}
    found |= {
        name: nothing_of(value) for name, value in module.__dict__.items() if name not in OWN and not callable(value)
    }
    scripted = torch.jit.ScriptModule
    children = {
        n: child for n, child in module._modules.items() if child is not None and not isinstance(child, scripted)
    }
    return found | {name: SimpleNamespace(**readable(child)) for name, child in children.items()}


@lru_cache(maxsize=4096)
def _read_of(kind: type[nn.Module]) -> tuple[str, ...]:
    """The properties and plain attributes of a class and its bases, except torch's own."""
    # From the bases to the class itself, so that it overrides them.
    values = {
        name: value for base in kind.__mro__[-2::-1] if base is not nn.Module for name, value in vars(base).items()
    }
    return tuple(
        name
        for name, value in values.items()
        if isinstance(value, (property, *_PLAIN)) and not name.startswith("__") and not hasattr(nn.Module, name)
    )


def _answer(module: nn.Module, name: str) -> Any:
    """The value of a property; `...` if it needs weights or raises."""
    if hasattr(module, "parametrizations"):
        return ...
    try:
        return getattr(module, name)
    except Exception:  # noqa: BLE001 - a property may raise any error
        return ...


@lru_cache(maxsize=1024)
def _written(function: Callable[..., Any], returns: tuple[int | None, ...] | None) -> Callable[..., Any] | None:
    """A function with the same signature that returns its first input, with source code that TorchScript can read."""
    try:
        parameters = list(signature(function).parameters.values())
        hints = get_type_hints(function)
    except Exception:  # noqa: BLE001 - annotations that cannot be resolved are dropped
        parameters, hints = list(signature(function).parameters.values()), {}
    scope: dict[str, Any] = {}
    shown, kind = [], None
    for number, parameter in enumerate(parameters):
        text = parameter.name
        if parameter.kind is Parameter.VAR_KEYWORD:
            text = f"**{text}"
        elif number and parameter.name in hints:
            scope[f"type_{number}"] = hints[parameter.name]
            text += f": type_{number}"
        if parameter.default is not Parameter.empty:
            scope[f"default_{number}"] = parameter.default
            text += f" = default_{number}"
        if parameter.kind is Parameter.KEYWORD_ONLY and kind is not Parameter.KEYWORD_ONLY:
            shown.append("*")
        if kind is Parameter.POSITIONAL_ONLY and parameter.kind is not kind:
            shown.append("/")
        kind = parameter.kind
        shown.append(text)
    names = [parameter.name for parameter in parameters[1:]]
    if not names:
        return None
    places = [names[0], *("None" if place is None else names[place] for place in (returns or ())[1:])]
    result = places[0] if returns is None else f"({', '.join(places)},)"
    source = f"def forward({', '.join(shown)}):\n    return {result}\n"
    file = f"<adaptive_depth stand-in {next(_numbers)}>"
    exec(compile(source, file, "exec"), scope)
    # TorchScript reads a function's source through linecache.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    return scope["forward"]
