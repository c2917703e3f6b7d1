"""Module trees that share every parameter and buffer with the tree they are made from.

A *twin* of a module is a new object of the same class with the *same* parameters, buffers and hooks (the very
dictionaries) and children of its own. A *view* is a tree in which the modules on the way to a changed place are
twins and everything else is the original object. So whatever reaches a parameter of the network, `.to()`,
`load_state_dict`, an optimiser, reaches every view.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from inspect import signature
from itertools import repeat
from operator import getitem, setitem
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn


def twin(module: nn.Module) -> nn.Module:
    """A second object for `module`: same class, parameters, buffers and hooks; a children dictionary of its own."""
    copy = object.__new__(type(module))  # classes may have a __new__ of their own (FSDP's, hub mixins)
    copy.__dict__.update(module.__dict__)
    copy.__dict__["_modules"] = dict(module._modules)
    copy.__dict__.pop("_compiled_call_impl", None)  # compiled code calls the original's children
    forward = copy.__dict__.get("forward")
    if isinstance(forward, MethodType) and forward.__self__ is module:
        copy.__dict__["forward"] = MethodType(forward.__func__, copy)
    return copy


def intercepted(module: nn.Module, around: Callable[..., Any]) -> nn.Module:
    """A twin whose forward is called by `around(forward, *args, **kwargs)`; nothing is registered on the module."""
    copy = twin(module)
    copy.__dict__["forward"] = partial(around, copy.forward)
    return copy


def statistics_twin(norm: nn.Module, statistics: nn.Module) -> nn.Module:
    """A twin of a BatchNorm that shares its affine parameters and reads the running statistics of another module."""
    copy = twin(norm)
    copy.__dict__["_buffers"] = statistics._buffers
    return copy


@dataclass
class View:
    """A sub-network and what keeps its twins in the mode (training, evaluation) of their originals."""

    module: nn.Module
    twins: list[dict[str, Any]] = field(default_factory=list)
    originals: list[dict[str, Any]] = field(default_factory=list)

    def add(self, copy: nn.Module, original: nn.Module) -> None:
        self.twins.append(copy.__dict__)
        self.originals.append(original.__dict__)

    @cached_property
    def parts(self) -> list[nn.Module]:
        """All modules of the sub-network; listed once, for a walk through them takes as long as a small block."""
        return list(self.module.modules())

    def follow_modes(self) -> None:
        # On the way to every depth that is chosen in training: kept free of Python loops.
        mode = repeat("training")
        deque(map(setitem, self.twins, mode, map(getitem, self.originals, mode)), maxlen=0)


class PassThrough(nn.Module):
    """Stands where a block was left out that may take further inputs, or returns a tuple: hands its first input on.

    Arguments:
        returns: as for `Stage`: None to return the input, else what to hand on in the places of a tuple.
    """

    def __init__(self, returns: Sequence[int | None] | None) -> None:
        super().__init__()
        self.returns = returns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
        if self.returns is None:
            return first
        return (first, *(None if place is None else args[place] for place in self.returns[1:]))


def stand_in(block: nn.Module, returns: Sequence[int | None] | None) -> nn.Module:
    """What takes the place of a block that is left out: an `nn.Identity`, or where that does not do a `PassThrough`.

    The place stays, for code may address the blocks by name or index.
    """
    takes = len(signature(block.forward).parameters)
    return nn.Identity() if takes == 1 and returns is None else PassThrough(returns)


def build_view(root: nn.Module, changes: Mapping[str, nn.Module]) -> View:
    """A view of `root` in which the modules at the paths of `changes` are replaced."""
    top = twin(root)
    view = View(top)
    view.add(top, root)
    twins = {"": top}
    for path, change in changes.items():
        parent, _, name = path.rpartition(".")
        _twin_at(root, parent, twins, view)._modules[name] = change
        view.add(change, root.get_submodule(path))
    _own_code(top)
    return view


def _twin_at(root: nn.Module, path: str, twins: dict[str, nn.Module], view: View) -> nn.Module:
    if path not in twins:
        parent, _, name = path.rpartition(".")
        original = root.get_submodule(path)
        twins[path] = twin(original)
        _twin_at(root, parent, twins, view)._modules[name] = twins[path]
        view.add(twins[path], original)
    return twins[path]


def _own_code(module: nn.Module) -> None:
    """Give the forward of a view's root a code object of its own.

    torch.compile keeps its results by code object, eight for each. All views of a model share one forward, so the
    ninth compiled view would be refused ("recompile limit"); with a code object each, every view has its own.
    """
    forward = module.forward
    if not isinstance(forward, MethodType) or not isinstance(forward.__func__, FunctionType):
        return
    function = forward.__func__
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__ = function.__kwdefaults__
    own.__dict__.update(function.__dict__)
    module.__dict__["forward"] = MethodType(own, module)


def plain(module: nn.Module, original: nn.Module) -> nn.Module:
    """Take back what `build_view` added: the forward of the root is that of `original`, and in an `nn.Sequential`,
    which gives one input, an `nn.Identity` does for a block that was left out."""
    for container in module.modules():
        if isinstance(container, nn.Sequential):
            for name, child in container.named_children():
                if isinstance(child, PassThrough) and child.returns is None:
                    container._modules[name] = nn.Identity()
    module.__dict__.pop("forward", None)
    forward = original.__dict__.get("forward")
    if isinstance(forward, MethodType):  # a method that the user gave to this one object
        module.__dict__["forward"] = MethodType(forward.__func__, module)
    return module
