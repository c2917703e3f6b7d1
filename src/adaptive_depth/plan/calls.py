"""Records a run of a model: the calls of its modules, with inputs and outputs."""

import contextvars
import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

NOWHERE = -1  # the number of a returned value that was not among the inputs
_PLAIN = (Tensor, nn.Module, bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class Context:
    """The current context that a forward may set around its modules: context variables and `torch.autocast`."""

    def __init__(self) -> None:
        self._variables = contextvars.copy_context()
        kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        self._autocast = [(k, torch.get_autocast_dtype(k), torch.is_autocast_enabled(k)) for k in kinds]

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function in it."""
        with ExitStack() as stack:
            for kind, dtype, enabled in self._autocast:
                if enabled != torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled))
            return self._variables.run(function, *args, **kwargs)


@dataclass(frozen=True)
class Call:
    """One call of a module: its path, its position in the order in which calls began, its input and output.

    Attributes:
        path, number: which module, and when.
        args, kwargs: the inputs; objects (such as a cache) as they were when the call began.
        output: what was returned.
        names: of the inputs, in the order of the module's signature.
        unused: places of a returned tuple that the model does not use.
        context: in which it was called: context variables and the state of `torch.autocast`.
    """

    path: str
    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    names: tuple[str, ...] = ()
    unused: frozenset[int] = field(default_factory=frozenset)
    context: "Context" = field(default_factory=lambda: Context())

    @property
    def given(self) -> list[Any]:
        """The inputs in the order of the signature."""
        return in_order(self.names, self.args, self.kwargs)

    @property
    def tensor(self) -> Tensor | None:
        """The returned tensor, alone or first in a tuple whose other values are available without the block."""
        if isinstance(self.output, Tensor):
            return self.output
        return None if self.returns is None else self.output[0]

    @property
    def output_shape(self) -> torch.Size | None:
        return None if self.tensor is None else self.tensor.shape

    @property
    def places(self) -> tuple[int | None, ...] | None:
        """The origin of each entry of a returned tuple: the number of an input, None, or `NOWHERE`."""
        if not (isinstance(self.output, tuple) and self.output and isinstance(self.output[0], Tensor)):
            return None
        given = self.given
        places: list[int | None] = [0]
        for value in self.output[1:]:
            same = (number for number, taken in enumerate(given) if number and _is_same(taken, value))
            places.append(None if value is None else next(same, NOWHERE))
        return tuple(places)

    @property
    def returns(self) -> tuple[int | None, ...] | None:
        """As `Stage.returns`: the origin of each entry of a returned tuple; None for anything else."""
        places = self.places
        if places is None:
            return None
        known = tuple(None if number in self.unused else place for number, place in enumerate(places))
        return None if NOWHERE in known else known

    @property
    def keeps_shape(self) -> bool:
        hidden = hidden_of(self)
        return hidden is not None and hidden.shape == self.output_shape

    @property
    def growth(self) -> int | None:
        """By how many channels (dimension 1) the output is wider; None if anything else differs."""
        hidden, shape = hidden_of(self), self.output_shape
        if hidden is None or shape is None or len(shape) < 2 or hidden.ndim != len(shape):
            return None
        same = hidden.shape[:1] == shape[:1] and hidden.shape[2:] == shape[2:]
        return shape[1] - hidden.shape[1] if same else None

    def describe(self) -> str:
        hidden, given = hidden_of(self), self.given
        took = f"a {type(given[0]).__name__}" if given else "no tensor"
        took = took if hidden is None else str(list(hidden.shape))
        gave = f"a {type(self.output).__name__}" if self.output_shape is None else str(list(self.output_shape))
        return f"widens its input by {self.growth} channels" if self.growth else f"takes {took} and returns {gave}"


def _is_same(given: Any, value: Any) -> bool:
    """Was a value passed through: the same tensors, and otherwise equal values?"""
    first, second = tree_leaves(given), tree_leaves(value)
    return len(first) == len(second) and all(
        a is b if isinstance(a, Tensor) or isinstance(b, Tensor) else type(a) is type(b) and a == b
        for a, b in zip(first, second, strict=True)
    )


def in_order(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The inputs of a call in the order of a signature, None for missing ones; then all others.

    Example:
        >>> in_order(("x", "mask", "bias"), (1,), {"bias": 3, "more": 4})
        [1, None, 3, 4]
    """
    rest = dict(kwargs)
    named = [rest.pop(name, None) for name in names[len(args) :]]
    if not args and not names:  # any keywords at all: tensors first
        return sorted(rest.values(), key=lambda value: not _is_stream(value))
    return [*args, *named, *rest.values()]


def input_names(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's inputs, in order; empty if its forward takes any (`*args`)."""
    forward = module.forward
    # Cached by function, because a bound method would keep its model alive.
    return _input_names(getattr(forward, "__func__", forward), hasattr(forward, "__func__"))


@lru_cache(maxsize=4096)
def _input_names(forward: Callable[..., Any], bound: bool) -> tuple[str, ...]:
    try:
        parameters = list(signature(forward).parameters.values())[bound:]
    except (TypeError, ValueError):  # a forward written in C++
        return ()
    if any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters):
        return ()
    return tuple(parameter.name for parameter in parameters if parameter.kind is not Parameter.VAR_KEYWORD)


def hidden_of(call: Call) -> Tensor | None:
    """What a block adds to: its first input; None if that is not a floating tensor."""
    given = call.given
    return given[0] if given and _is_stream(given[0]) else None


def _is_stream(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def record(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], paths: Iterable[str]
) -> tuple[list[Call], Any]:
    """Run a model and record the calls of its modules at `paths`, in the order in which they began.

    The input is copied first, because a model may change it.
    """
    calls: list[Call] = []
    begun = itertools.count()
    open_calls: list[tuple[int, Any, Any, Context]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        open_calls.append((next(begun), *as_now(args, kwargs), Context()))

    def after(path: str, module: nn.Module, _: Any, output: Any) -> None:
        number, args, kwargs, context = open_calls.pop()  # a stack, because inner calls end before outer ones
        calls.append(Call(path, number, args, kwargs, output, input_names(module), context=context))

    args, kwargs = fresh(args, kwargs)
    handles = []
    try:
        for path in paths:
            module = model.get_submodule(path)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(partial(after, path)))
        output = model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return sorted(calls, key=lambda call: call.number), output


def without_use(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], calls: Iterable[Call], expected: Any
) -> list[Call]:
    """The calls, with the places of returned tuples that the model does not use marked as `unused`.

    Each such value is replaced by an unusable one: if the model still runs and returns `expected`, bit for bit, it did
    not use the value.
    """
    calls = list(calls)
    free = [call for call in calls if call.places is not None and NOWHERE in call.places]
    # Also one by one: otherwise a single value in use would make all count as used.
    dropped = {
        call.path
        for group in ([free] if len(free) == 1 else [free, *([call] for call in free)])
        if group and _runs_without(model, args, kwargs, group, expected)
        for call in group
    }

    def marked(call: Call) -> Call:
        places = call.places or ()
        return replace(call, unused=frozenset(number for number, place in enumerate(places) if place == NOWHERE))

    return [marked(call) if call in free and call.path in dropped else call for call in calls]


class _Unusable:
    """Replaces a value to see whether anything uses it."""


def _runs_without(model: nn.Module, args: Any, kwargs: Any, calls: Sequence[Call], expected: Any) -> bool:
    def replaced(places: Sequence[int | None], _: nn.Module, __: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_Unusable() if place == NOWHERE else value for place, value in zip(places, output, strict=True))

    hooks = [
        model.get_submodule(call.path).register_forward_hook(partial(replaced, call.places or ())) for call in calls
    ]
    args, kwargs = fresh(args, kwargs)
    try:
        return same_output(model(*args, **kwargs), expected)
    except Exception:  # noqa: BLE001 - it was used
        return False
    finally:
        for hook in hooks:
            hook.remove()


def fresh(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of a model's inputs, which it may change: tensors in place, or a cache by extending it."""
    return tree_map(_copied, (tuple(args), dict(kwargs)))


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone().requires_grad_(leaf.requires_grad)
    return leaf if isinstance(leaf, _PLAIN) else _or_itself(leaf, lambda: copy.deepcopy(leaf))


def as_now(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same tensors in copied lists, dicts and objects, because a module may change those that it receives."""

    if all(isinstance(value, _PLAIN) for value in (*args, *kwargs.values())):
        return args, dict(kwargs)

    def now(leaf: Any) -> Any:
        return leaf if isinstance(leaf, _PLAIN) else _or_itself(leaf, lambda: _with_tensors_shared(leaf))

    return tree_map(now, (args, kwargs))


def _or_itself(leaf: Any, copied: Callable[[], Any]) -> Any:
    try:
        return copied()
    except Exception:  # noqa: BLE001 - what cannot be copied is passed on unchanged
        return leaf


def _with_tensors_shared(value: Any) -> Any:
    with _TensorsShared():
        return copy.deepcopy(value)


class _TensorsShared(TorchFunctionMode):
    """Inside, a deep copy of an object refers to the same tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            return args[0]
        return func(*args, **(kwargs or {}))


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in a model's output: a tensor, or nested tuples, lists, dicts and dataclasses of them."""
    leaves = tree_leaves(output)
    # pytree does not know the class, such as a custom subclass of dict.
    if len(leaves) == 1 and leaves[0] is output and not isinstance(output, Tensor):
        leaves = [*output.values()] if isinstance(output, Mapping) else []
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def same_output(a: Any, b: Any) -> bool:
    """Are all tensors of two outputs equal, bit for bit, and free of NaN, which equals nothing?"""
    first, second = tensors_of(a), tensors_of(b)
    return len(first) == len(second) and all(map(torch.equal, first, second))
