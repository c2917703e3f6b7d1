"""Module trees that share every parameter and buffer with the tree they are made from.

A *twin* of a module is a new object of the same class with the *same* parameters, buffers and hooks (the same
dictionaries) and its own children. A *view* is a tree in which the modules around a changed place are twins and
everything else is the original object. So whatever reaches a parameter of the network, `.to()`, `load_state_dict`, an
optimiser, reaches every view.

Objects count, not paths: a module registered at two places is replaced at both, and also in the plain lists and bound
methods that a model keeps beside its children (`self.order = list(self.blocks)`, `self.run = self._fast`).
"""

import copy
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import repeat
from operator import getitem, or_, setitem
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .left import OWN, Left, may_write
from .stand_in import PassThrough, hooks_of, readable

_COMPILED = "_compiled_call_impl"
_Replaced = Mapping[int, nn.Module]  # by the id of the original


def twin(module: nn.Module) -> nn.Module:
    """A second object for `module`: same class, parameters, buffers and hooks; its own dictionary of children."""
    copy = object.__new__(type(module))  # classes may define __new__ (FSDP's, hub mixins)
    copy.__dict__.update(module.__dict__)
    copy.__dict__["_modules"] = dict(module._modules)
    copy.__dict__.pop(_COMPILED, None)  # compiled code calls the original's children
    for name, value in module.__dict__.items():
        if isinstance(value, MethodType) and value.__self__ is module:
            copy.__dict__[name] = MethodType(value.__func__, copy)
    return copy


def intercepted(module: nn.Module, around: Callable[..., Any]) -> nn.Module:
    """A twin whose forward is called through `around(forward, *args, **kwargs)`; the module itself is unchanged."""
    copy = twin(module)
    copy.__dict__["forward"] = partial(around, copy.forward)
    return copy


def statistics_twin(norm: nn.Module, statistics: nn.Module) -> nn.Module:
    """A twin of a norm that shares its affine parameters and reads the running statistics of another module.

    Arguments:
        norm: a BatchNorm, or a norm that contains others.
        statistics: a tree with the same paths and all of their buffers.
    """
    copy = twin(norm)
    copy.__dict__["_buffers"] = statistics._buffers
    for name, child in statistics.named_children():
        copy._modules[name] = statistics_twin(norm.get_submodule(name), child)
    return copy


@dataclass(frozen=True)
class Links:
    """Facts about a model that all of its views share.

    Attributes:
        parts: every module, and the ids of those that it holds or refers to.
        referring: the ids of modules with plain attributes that refer to others.
        may_write: whether a forward pass may store something on the modules, judging by their code.
    """

    parts: list[tuple[nn.Module, set[int]]] = field(default_factory=list)
    referring: frozenset[int] = frozenset()
    may_write: bool = False


@dataclass
class View:
    """A sub-network, with what keeps its twins in sync with their originals: their modes, and the model's attributes.

    Attributes:
        module: the sub-network.
        copies: the substitutes of originals in it, by the original's id: twins and replacements.
        links: of the model.
        left: what forward passes of the network store on its modules.
        skip: the letters of the sub-network.
        below: the view of which this one is a view.
    """

    module: nn.Module
    copies: dict[int, nn.Module] = field(default_factory=dict)
    left: Left = field(default_factory=Left)
    skip: str = ""
    below: "View | None" = None
    links: Links = field(default_factory=Links)
    _twins: list[dict[str, Any]] = field(default_factory=list)
    _originals: list[dict[str, Any]] = field(default_factory=list)
    _followed: tuple[list[dict[str, Any]], ...] = field(default_factory=lambda: ([], [], []))

    def add(self, copy: nn.Module, original: nn.Module) -> None:
        """Let a module follow the mode of another."""
        original = getattr(original, "_orig_mod", original)  # a compiled block has the mode of the inner module
        copy = getattr(copy, "_orig_mod", copy)
        if "training" not in vars(original):
            return
        self._twins.append(copy.__dict__)
        self._originals.append(original.__dict__)

    def add_twin(self, copy: nn.Module, original: nn.Module, own: Mapping[str, Any]) -> None:
        """Let a twin follow the mode and the plain attributes of its original, except its `own`."""
        self.add(copy, original)
        self.add_object(copy, original, {"_modules": copy._modules, _COMPILED: None} | dict(own))

    def add_object(self, copy: Any, original: Any, own: dict[str, Any]) -> None:
        """Let an object of any kind follow the attributes of another, except its `own`."""
        for kept, value in zip(self._followed, (original.__dict__, copy.__dict__, own), strict=True):
            kept.append(value)

    def keep(self, name: str, value: Any) -> None:
        """Give the root its own plain attribute, which neither follows the original's nor is copied back to it."""
        self.module.__dict__[name] = value
        for twin, own in zip(*self._followed[1:], strict=True):
            if twin is self.module.__dict__:
                # Otherwise the next `follow_attributes` would overwrite it.
                own[name] = value

    def hand_attributes_back(self) -> None:
        """Copy the plain attributes that a run stored on twins to their originals."""
        for original, twin, own in zip(*self._followed, strict=True):
            for name, value in twin.items():
                if name not in OWN and name not in own and original.get(name, OWN) is not value:
                    original[name] = value
        if self.below is not None:
            self.below.hand_attributes_back()

    @cached_property
    def stand_ins(self) -> list[tuple[PassThrough, nn.Module]]:
        """The stand-ins, with their blocks."""
        if self.below is not None:
            return self.below.stand_ins
        found = [(self.copies.get(id(part)), part) for part, _ in self.links.parts]
        return [(copy, part) for copy, part in found if isinstance(copy, PassThrough)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the sub-network with the model's current plain attributes."""
        if torch.compiler.is_compiling():
            return self.module(*args, **kwargs)
        if not self.writes:
            self.follow_attributes()
            return self.module(*args, **kwargs)
        with self.left.run(self):
            return self.module(*args, **kwargs)

    @property
    def writes(self) -> bool:
        """May a forward pass store something on the modules, by its own code or by a hook?"""
        return self.links.may_write or (
            not self.left.hooks_are_ours and any(part._forward_hooks for part, _ in self.links.parts)
        )

    @cached_property
    def referring(self) -> frozenset[int]:
        """The ids of modules in the view that refer to others in plain attributes."""
        return frozenset(id(self.copies[each]) if each in self.copies else each for each in self.links.referring)

    @cached_property
    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Every module that runs, and the model's module that it replaces."""
        within = [(part, part) for part, _ in self.links.parts] if self.below is None else self.below.pairs
        found = [(self.copies.get(id(part), part), original) for part, original in within]
        return [pair for pair in found if not isinstance(pair[0], PassThrough)]

    @cached_property
    def skipped(self) -> frozenset[int]:
        """The ids of all modules in skipped blocks."""
        return frozenset(id(inner) for _, block in self.stand_ins for inner in block.modules())

    @cached_property
    def parts(self) -> list[nn.Module]:
        """All modules of the sub-network; cached, because listing them takes as long as a small block."""
        return list(self.module.modules())

    def follow_modes(self) -> None:
        # Runs whenever a depth is chosen in training, so it avoids Python loops.
        mode = repeat("training")
        deque(map(setitem, self._twins, mode, map(getitem, self._originals, mode)), maxlen=0)

    def follow_attributes(self) -> None:
        """Copy the plain attributes of the originals, which may have changed since (a temperature, a gate)."""
        if self.below is not None:
            self.below.follow_attributes()
        elif self.writes:
            for stand_in, block in self.stand_ins:
                reads = readable(block)
                vars(stand_in).update((name, value) for name, value in reads.items() if name in stand_in.reads)
        originals, twins, own = self._followed
        compiled = self.module.__dict__.get(_COMPILED)
        deque(map(dict.update, twins, map(or_, originals, own)), maxlen=0)
        # The originals' compiled code, copied with their attributes, calls the originals' children.
        deque(map(dict.pop, twins, repeat(_COMPILED), repeat(None)), maxlen=0)
        if compiled is not None:
            self.module.__dict__[_COMPILED] = compiled


def build_view(
    root: nn.Module,
    changes: Mapping[str, nn.Module],
    links: Links | None = None,
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> View:
    """A view of `root` in which the modules at the paths of `changes` are replaced, there and anywhere else.

    Arguments:
        root: the model.
        changes: the replacements, by path.
        links: `links_of(root)`, to pass if many views of one model are built.
        own: plain attributes that differ in the view, by module path.
    """
    originals = {path: root.get_submodule(path) for path in changes}
    copies = {id(originals[path]): change for path, change in changes.items()}
    links = links_of(root) if links is None else links
    owned = {id(module): values for path, values in (own or {}).items() if (module := _at(root, path)) is not None}
    around = _around(root, copies, links, owned)
    copies |= {id(module): twin(module) for module in around}
    view = View(copies[id(root)], copies, links=links)
    for module in around:
        copy = copies[id(module)]
        for name, child in module._modules.items():
            if child is not None:
                copy._modules[name] = copies.get(id(child), child)
        mine = _own_code(module, copy) if module is root else {}
        if id(module) in links.referring:
            mine |= pointing_to(copies, module)
        mine |= owned.get(id(module), {})
        copy.__dict__.update(mine)
        view.add_twin(copy, module, mine)
    for path, change in changes.items():
        for name, child in change._modules.items():  # a twin still has the original's children
            inner = copies.get(id(child), change)
            if inner is not change:
                change._modules[name] = inner
        for name, part in change.named_modules():  # also norms inside a norm
            original = _at(originals[path], name)
            if original is not None:
                view.add(part, original)
    return view


def _at(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def links_of(root: nn.Module) -> Links:
    """What `build_view` needs to know about a model."""
    modules = list(root.modules())
    held = [{id(child) for child in module._modules.values()} for module in modules]
    named = [_named(module) for module in modules]
    parts = [(module, one | other) for module, one, other in zip(modules, held, named, strict=True)]
    referring = frozenset(id(module) for module, other in zip(modules, named, strict=True) if other)
    return Links(parts, referring, may_write(modules))


def _around(root: nn.Module, replaced: _Replaced, links: Links, owned: Collection[int] = ()) -> list[nn.Module]:
    """The root, the modules with own attributes, and all that hold or refer to a replaced module, directly or
    indirectly."""
    changed = {*replaced, *owned, id(root)}
    while True:
        more = [
            id(part) for part, referred in links.parts if id(part) not in changed and not changed.isdisjoint(referred)
        ]
        if not more:
            return [part for part, _ in links.parts if id(part) in changed and id(part) not in replaced]
        changed.update(more)


def _named(module: nn.Module) -> set[int]:
    """The ids of the modules that a module refers to in plain attributes, including itself by bound methods."""
    found: set[int] = set()
    for name, value in module.__dict__.items():
        if name not in OWN and not isinstance(value, _NEVER):
            found.update(map(id, _modules_in(value)))
    return found


_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_LONG = 4096  # a list this long is not a list of blocks
_NEVER = (bool, int, float, str, type(None), Tensor, torch.dtype, torch.device, FunctionType)


def _modules_in(value: Any, depth: int = 0) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
        if type(value) in _LISTS:  # a slice of a list of blocks is a new list
            yield from value.children()
    elif isinstance(value, MethodType):
        if isinstance(value.__self__, nn.Module):
            yield value.__self__
    elif depth < 4:
        for inner in _inside(value):
            yield from _modules_in(inner, depth + 1)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque) and len(value) < _LONG:
        yield from value


def pointing_to(copies: _Replaced, module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module that refer to replaced modules, redirected to their replacements."""
    found = {}
    for name, value in module.__dict__.items():
        if name not in OWN and not isinstance(value, _NEVER):
            other = _translated(copies, value)
            if other is not value:
                found[name] = other
    return found


def _translated(copies: _Replaced, value: Any, depth: int = 0) -> Any:
    if isinstance(value, nn.Module):
        if id(value) in copies or type(value) not in _LISTS:
            return copies.get(id(value), value)
        if not any(id(child) in copies for child in value.children()):
            return value
        other = twin(value)
        for name, child in other._modules.items():
            other._modules[name] = None if child is None else copies.get(id(child), child)
        return other
    if isinstance(value, MethodType):
        owner = copies.get(id(value.__self__))
        return value if owner is None else MethodType(value.__func__, owner)
    if depth == 4 or not any(True for _ in _inside(value)):
        return value
    if not any(id(part) in copies for part in _modules_in(value, depth)):
        return value
    if isinstance(value, partial):
        function, *args = (_translated(copies, inner, depth + 1) for inner in (value.func, *value.args))
        return partial(function, *args, **_translated(copies, value.keywords, depth + 1))
    if isinstance(value, dict):
        other = copy.copy(value)
        other.update((key, _translated(copies, inner, depth + 1)) for key, inner in value.items())
        return other
    inner = (_translated(copies, part, depth + 1) for part in value)
    return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)


def _own_code(module: nn.Module, copy: nn.Module) -> dict[str, Any]:
    """A forward for a view's root with its own code object.

    torch.compile caches eight results per code object. All views of a model share one forward, so the ninth compiled
    view would be refused ("recompile limit"); with separate code objects, every view has its own cache.
    """
    forward = module.forward
    if not isinstance(forward, MethodType) or not isinstance(forward.__func__, FunctionType):
        return {}
    function = forward.__func__
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__, own.__annotations__ = function.__kwdefaults__, function.__annotations__
    own.__dict__.update(function.__dict__)
    return {"forward": MethodType(own, copy)}


def independent_copy(module: nn.Module) -> nn.Module:
    """A deep copy, even of a module with non-leaf tensors (the weight of a pruned or normalised layer)."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        values = [value for name, value in part.__dict__.items() if name not in OWN]
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                memo[id(leaf)] = leaf.detach().clone()
    return copy.deepcopy(module, memo)


def plain(module: nn.Module, original: nn.Module) -> nn.Module:
    """Undo what a view adds: the root gets the forward (and `generate`) of `original`, and in an `nn.Sequential`, which
    passes one input, an `nn.Identity` replaces stand-ins of blocks with one input."""
    for container in module.modules():
        if type(container) is nn.Sequential:
            for name, child in container.named_children():
                if isinstance(child, PassThrough) and child.returns is None and len(child.names) == 1:
                    identity = nn.Identity().train(child.training)
                    identity.__dict__.update(hooks_of(child))
                    container._modules[name] = identity
    for name in ("forward", "generate"):
        module.__dict__.pop(name, None)
        method = original.__dict__.get(name)
        if isinstance(method, MethodType):  # set by the user on this object
            module.__dict__[name] = MethodType(method.__func__, module)
    return module
