"""What forward passes store on modules: an auxiliary loss (`self.aux = ...`), a counter, kept features.

A sub-network runs on twins, and what it stores on a twin must be found on the model. A skipped block stores nothing:
tensors on it from an earlier run belong to another depth and another input. They are set aside while it is skipped, and
restored when it runs again, because a block may build on its own (a hidden state).
"""

import dis
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from operator import is_
from types import CodeType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

OWN = frozenset(nn.Module().__dict__)  # attributes of nn.Module itself; all others are the model's
_NEVER_LEFT = OWN | {"_compiled_call_impl", "forward"}
_MISSING = object()

Attribute = tuple[int, str]  # the id of a module of the model, and the name
Pairs = Sequence[tuple[nn.Module, nn.Module]]  # what runs, and the module of the model that it replaces


class Left:
    """The plain attributes that a model's forward passes write, learned from the first run per depth and mode."""

    def __init__(self) -> None:
        self.hooks_are_ours = False  # the proof's, which write nothing
        self._modules: dict[int, nn.Module] = {}
        self._before: dict[Attribute, Any] = {}  # the values before the first run
        self._aside: dict[Attribute, Any] = {}
        self._watched: set[Any] = set()

    @contextmanager
    def run(self, view: Any) -> Iterator[None]:
        """Around a run of a view: afterwards the model's modules have what it stored on the twins.

        Its first run in each mode is watched. Before each, skipped blocks are cleared of tensors from other depths.
        """
        for attribute in [attribute for attribute in self._aside if attribute[0] not in view.skipped]:
            self._put(attribute, self._aside.pop(attribute))
        self._set_aside(view.skipped)
        view.follow_attributes()
        shown = [(stand_in, block, _snapshot(vars(stand_in))) for stand_in, block in view.stand_ins]
        key = view.skip, view.module.training
        written = None if key in self._watched else self.watch(view.pairs)
        yield
        if written is not None:
            written()
            self._watched.add(key)
        view.hand_attributes_back()
        for stand_in, block, before in shown:  # code around the blocks may have set something on all of them
            _hand_on(vars(stand_in), before, block)
        self._set_aside(view.skipped)

    def _set_aside(self, skipped: frozenset[int]) -> None:
        for attribute, before in self._before.items():
            module, name = attribute
            if module in skipped and attribute not in self._aside:
                value = vars(self._modules[module]).get(name)
                if holds_tensors(value):
                    self._aside[attribute] = value
                    self._put(attribute, nothing_of(before))

    def watch(self, pairs: Pairs) -> Callable[[], bool]:
        """Snapshot modules before a run; call the result after it: did they write what others may read or build on?"""
        before = [dict(vars(copy)) for copy, _ in pairs]

        def written() -> bool:
            matters = False
            for (copy, original), attributes in zip(pairs, before, strict=True):
                now = vars(copy)
                # A shortcut, because usually nothing was written.
                if len(now) == len(attributes) and all(map(is_, now.values(), attributes.values())):
                    continue
                for name, value in now.items():
                    old = attributes.get(name, _MISSING)
                    if name not in _NEVER_LEFT and old is not value:
                        self._modules[id(original)] = original
                        self._before.setdefault((id(original), name), old)
                        matters |= _matters(old, value)
            return matters

        return written

    def values(self) -> dict[Attribute, Any]:
        """The tensors stored on the model now, alone or in lists; not counters, which keep counting."""
        found = {key: vars(self._modules[key[0]]).get(key[1], _MISSING) for key in self._before}
        return {key: value for key, value in found.items() if holds_tensors(value)}

    def put(self, values: Mapping[Attribute, Any]) -> None:
        """The inverse of `values`: undo what a later run stored."""
        for attribute, value in values.items():
            self._put(attribute, value)
            self._aside.pop(attribute, None)

    def _put(self, attribute: Attribute, value: Any) -> None:
        attributes = vars(self._modules[attribute[0]])
        if value is _MISSING:
            attributes.pop(attribute[1], None)
        else:
            attributes[attribute[1]] = value


def _matters(old: Any, value: Any) -> bool:
    """Tensors matter, except the same numbers again (anchors); so does a number that changed (a counter).

    A newly stored size does not.
    """
    if holds_tensors(value):
        return not _same_numbers(old, value)
    return old is not _MISSING and old is not None and type(old) in (int, float) and old != value


def _same_numbers(old: Any, value: Any) -> bool:
    before, now = tree_leaves(old), tree_leaves(value)
    return len(before) == len(now) and all(
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and (a.shape, a.dtype, a.device, a.requires_grad) == (b.shape, b.dtype, b.device, b.requires_grad)
        and torch.equal(a, b)
        for a, b in zip(before, now, strict=True)
    )


def holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _snapshot(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _snapshot(vars(v)) if isinstance(v, SimpleNamespace) else v for name, v in values.items()}


def _hand_on(values: Mapping[str, Any], before: Mapping[str, Any], module: nn.Module) -> None:
    """Copy what was set on a stand-in, or on its substitute parts, since `before` to the block."""
    for name, value in values.items():
        if isinstance(value, SimpleNamespace):
            part = module._modules.get(name)
            if part is not None:
                _hand_on(vars(value), before.get(name, {}), part)
        elif name not in _NEVER_LEFT and before.get(name, _MISSING) is not value:
            vars(module)[name] = value


def nothing_of(value: Any) -> Any:
    """A value's substitute if nothing ran: itself, but for tensors 0 (such as a loss) or None."""
    if not holds_tensors(value):
        return value
    return torch.zeros_like(value) if isinstance(value, Tensor) and not value.ndim else None


def may_write(modules: Iterable[nn.Module]) -> bool:
    """May a forward pass of these write an attribute, judging by their code? Few do, and only these are watched."""
    return any(_forward_writes(type(part)) or _stores(vars(part).get("forward"), type(part)) for part in modules)


@lru_cache(maxsize=4096)
def _forward_writes(kind: type[nn.Module]) -> bool:
    return not kind.__module__.startswith("torch.nn.modules") and _stores(
        inspect.getattr_static(kind, "forward", None), kind
    )


def _stores(function: Any, kind: type) -> bool:
    """Does the code of a function, or of methods that it names, store an attribute?"""
    todo, seen = [function], set()
    while todo:
        function = todo.pop()
        function = getattr(function, "func", function) if isinstance(function, partial) else function
        code = getattr(function, "__code__", None)
        if wrapped := getattr(function, "__wrapped__", None):
            todo.append(wrapped)
        if code is None or code in seen:
            continue
        seen.add(code)
        for part in _with_inner(code):
            if "setattr" in part.co_names or any(each.opname == "STORE_ATTR" for each in dis.get_instructions(part)):
                return True
            methods = (
                inspect.getattr_static(kind, name, None) for name in part.co_names if not hasattr(nn.Module, name)
            )
            todo += [getattr(method, "__func__", method) for method in methods if method is not None]
    return False


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)
