"""Several sub-networks on one input, with common computations done once.

Two sub-networks that first differ at stage s do the same until one of them meets something that the flag of stage s
changes: a skip-aware norm, or the first skippable block. A run up to that point (ended there by an exception) leaves a
*branch*: the outputs of all modules that ran before, as few and as large modules as possible. The sub-networks then run
from the branch: a module that ran before it returns its recorded output instead of computing it. All 2^N sub-networks
form a tree with a branch at every stage.

Nothing is traced and no forward is rewritten: the modules are twins (views.py) whose forward asks a tape first.

The code around the recorded modules runs again for every sub-network, and must then do the same. If it may not (it
draws random numbers, calls other modules or in another order), or if a module does more than return something (it
changes its input: a cache, a list of features), the sub-networks run one by one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only
from torchvision.models.detection.image_list import ImageList

from ..batches import device_of
from ..modes import Generators, evaluating, looking_at
from .network import AdaptiveNetwork
from .views import View, intercepted, pointing_to, twin


class _BranchReached(BaseException):
    """Ends a run at a branch. Not an error: a BaseException, so that no forward catches it as one."""


class _AllSeen(BaseException):
    """Ends a run when all watched modules have run. Not an error either."""


class _NotShareable(BaseException):
    """A run from a branch may differ from what the sub-network alone would do; the sub-networks must run one by one.

    It never leaves this module; not an error either, so that no forward catches it.
    """


# Immutable values. Any other object that a module receives or returns may be a cache, and is not inspected.
_PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), type, Enum, slice, range, FunctionType, BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format),
)


@dataclass(frozen=True)
class _Fork:
    """What the flag of one stage touches, by module path.

    Attributes:
        entered: containers around a touched module, whose forward runs in every sub-network; and containers
            without a forward.
        touched: modules that the flag changes or skips.
        later: modules that contain what the flags of later stages touch.
    """

    entered: frozenset[str]
    touched: frozenset[str]
    later: frozenset[str]

    def records(self, path: str) -> bool:
        """Is this one of the largest modules that the flag does not affect?"""
        return path not in self.entered and path.rpartition(".")[0] in self.entered


@dataclass(frozen=True)
class _Call:
    """A recorded module: its path, its input (`_described`), and its output (`_opened`)."""

    path: str
    given: Any
    output: Any


@dataclass
class Branch:
    """What ran before two sub-networks diverge, in the order of the calls.

    Attributes:
        fork: the stage at which they diverge.
        calls: the recorded modules.
        later: outputs of modules after the fork whose input is a recorded output (a shortcut's convolution), by
            path: computed by the first sub-network that needs them.
    """

    fork: _Fork
    calls: list[_Call]
    later: dict[str, tuple[nn.Module, Tensor, Tensor, int]] | None = field(default_factory=dict)
    versions: dict[int, tuple[Tensor, int]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise if a recorded tensor was changed in place since it was recorded."""
        if any(_version(tensor) != version for tensor, version in self.versions.values()):
            raise _NotShareable

    def detached(self) -> "Branch":
        """The same branch with autograd leaves as outputs, to differentiate both sides separately."""

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_(tensor.requires_grad)

        calls = [replace(call, output=tree_map_only(Tensor, leaf, call.output)) for call in self.calls]
        return Branch(self.fork, calls, later=None, versions=_versions(call.output for call in calls))

    def differentiate(self, leaves: "Branch") -> None:
        """Backpropagate the gradients of the leaves from `detached` through what ran before the branch."""
        hand_on([call.output for call in self.calls], [call.output for call in leaves.calls])


def hand_on(values: Any, leaves: Any) -> None:
    """Backpropagate through tensors, in any nesting, the gradients that the leaves in their place have collected."""
    pairs = zip(tensors_in(values), tensors_in(leaves), strict=True)
    found = [(root, leaf.grad) for root, leaf in pairs if root is not leaf and leaf.grad is not None]
    if found:
        torch.autograd.backward([root for root, _ in found], [gradient for _, gradient in found])


def _versions(outputs: Iterable[Any]) -> dict[int, tuple[Tensor, int]]:
    return {id(leaf): (leaf, _version(leaf)) for value in outputs for leaf in tensors_in(value)}


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have no version


def _contents(args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """What a module may change in its input: the nesting, the objects, and the versions of tensors."""
    plain = not kwargs and all(isinstance(each, Tensor) for each in args)  # a fast path for the usual case
    leaves, nesting = (list(args), None) if plain else tree_flatten((args, kwargs))
    return nesting, [(leaf, _version(leaf)) if isinstance(leaf, Tensor) else (leaf, 0) for leaf in leaves]


def _same(before: tuple[Any, list[Any]], after: tuple[Any, list[Any]], returned: Iterable[Tensor] = ()) -> bool:
    """Are contents unchanged, except for tensors that were changed in place and returned?"""
    free = {id(tensor) for tensor in returned}
    return (before[0], len(before[1])) == (after[0], len(after[1])) and all(
        a is b and (v == w or id(a) in free) for (a, v), (b, w) in zip(before[1], after[1], strict=True)
    )


def _described(contents: tuple[Any, list[Any]]) -> Any:
    """What must be the same when the module is called again: the nesting, shapes, and plain values."""
    nesting, leaves = contents
    return nesting, [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf, _ in leaves]


def _saving_hooks() -> Any:
    """Autograd's current hooks for saved tensors, which `torch.utils.checkpoint` replaces inside."""
    # torch has no public function for that.
    return torch._C._autograd._top_saved_tensors_default_hooks(False)  # pyright: ignore[reportAttributeAccessIssue]


def _check_plain(leaves: Iterable[Any]) -> None:
    if not all(isinstance(leaf, (Tensor, *_PLAIN)) for leaf in leaves):
        raise _NotShareable


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def _leaves(value: Any) -> list[Any]:
    return [value] if isinstance(value, Tensor) else tree_leaves(value)


class _Images(NamedTuple):
    """The content of an `ImageList`, a torchvision detector's images as one tensor, which is no pytree container."""

    tensors: Tensor
    sizes: list[tuple[int, int]]


def _opened(output: Any) -> Any:
    """A module's output, in containers that pytree can traverse."""
    if isinstance(output, Tensor):
        return output
    return tree_map(lambda leaf: _Images(leaf.tensors, leaf.image_sizes) if type(leaf) is ImageList else leaf, output)


def _closed(opened: Any) -> Any:
    """The inverse of `_opened`, in new lists, which the code around may change."""
    if isinstance(opened, Tensor):
        return opened
    return tree_map(
        lambda leaf: ImageList(leaf.tensors, [*leaf.sizes]) if isinstance(leaf, _Images) else leaf,
        opened,
        is_leaf=lambda value: isinstance(value, _Images),
    )


class _Before:
    """The state of buffers and generators before a run that may have to be undone."""

    def __init__(self, generators: Generators) -> None:
        self.generators, self.state = generators, generators.state()
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def remember(self, module: nn.Module) -> None:
        """Save the buffers that the module may change when it runs."""
        parts = (part for part in module.modules() if part.training and part._buffers)
        buffers = [buffer for part in parts for buffer in part._buffers.values() if buffer is not None]
        self.buffers += [(buffer, buffer.clone()) for buffer in buffers]

    def put_back(self) -> None:
        with torch.no_grad():
            # In reverse, so that the oldest copy of a buffer that was saved several times wins.
            for buffer, value in reversed(self.buffers):
                buffer.copy_(value)
        self.generators.put(self.state)


class _Tape:
    """One run's memory: what to replay (from a branch), and what to record (for the next)."""

    def __init__(self, source: _Fork | None, target: _Fork | None, watched: Sequence[str]) -> None:
        self.source, self.target, self.watched = source, target, frozenset(watched)

    def start(
        self,
        branch: Branch | None,
        random: Callable[[], Any] = lambda: None,
        before: _Before | None = None,
        *,
        ends: bool = False,
    ) -> None:
        self.branch, self.random, self.before = branch, random, before
        self.ends = ends  # when all watched modules have run
        self.waiting = deque(branch.calls if branch else ())
        self.recorded: list[_Call] = []
        self.versions: dict[int, tuple[Tensor, int]] = {}
        self.seen: dict[str, Any] = {}
        self.known = {id(leaf) for call in self.waiting for leaf in tensors_in(call.output)}
        self.drawn = random()
        self.hooks = _saving_hooks()

    def call(self, path: str, original: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.target and path in self.target.touched:
            self._check_drawn()
            raise _BranchReached
        if self.target and self.target.records(path):
            output = self._recorded(path, original, forward, args, kwargs)
        else:
            output = self._output(path, original, forward, args, kwargs)
        if path in self.watched:
            self.seen[path] = output
            if self.ends and self.seen.keys() >= self.watched:
                raise _AllSeen
        return output

    def _check_drawn(self) -> None:
        """Raise if the code around the modules drew random numbers: run again, it would draw others."""
        if self.random() != self.drawn:
            raise _NotShareable

    def _recorded(self, path: str, original: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        assert self.target is not None
        self._check_drawn()
        given = _contents(args, kwargs)
        _check_plain(leaf for leaf, _ in given[1])
        # It depends on a later flag but runs before this one; or the model's own checkpointing will run it again in the
        # backward pass, when nothing is replayed any more.
        if path in self.target.later or self.hooks != _saving_hooks():
            raise _NotShareable
        if self.before is not None:
            self.before.remember(original)
        output = self._output(path, original, forward, args, kwargs)
        opened = _opened(output)
        _check_plain(_leaves(opened))
        # In-place changes that are returned (a ReLU on a recorded output) are fine: both are recorded as used later.
        returned = [tensor for tensor in tensors_in(opened) if id(tensor) in self.versions]
        if not _same(given, _contents(args, kwargs), returned):
            raise _NotShareable
        self.recorded.append(_Call(path, _described(given), opened))
        self.versions |= _versions([opened])
        self.drawn = self.random()
        return output

    def _output(self, path: str, original: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.source is None or not self.source.records(path):
            return forward(*args, **kwargs)
        if self.waiting:
            call = self.waiting.popleft()
            if call.path != path or call.given != _described(_contents(args, kwargs)):
                raise _NotShareable
            return _closed(call.output)
        shares = self.branch is not None and self.branch.later is not None and path not in self.source.touched
        shares = shares and self.hooks == _saving_hooks()
        if not shares or kwargs or len(args) != 1 or id(args[0]) not in self.known:
            return forward(*args, **kwargs)
        return self._later(path, original, forward, args[0])

    def _later(self, path: str, original: nn.Module, forward: Callable[..., Any], given: Tensor) -> Any:
        assert self.branch is not None
        assert self.branch.later is not None
        if path in self.branch.later:
            module, received, output, version = self.branch.later[path]
            if module is original and received is given and output._version == version:
                return output
        output = forward(given)
        if isinstance(output, Tensor):
            self.branch.later[path] = (original, given, output, output._version)
        return output


class SharedForward:
    """Runs sub-networks of one network on the same input, sharing common computations.

    It keeps twins of the network's modules: create one and use it from one thread for many inputs. Outputs and
    gradients are those of the sub-networks run one by one; a norm before a branch gathers its running statistics
    once for all that follow.

    Attributes:
        shareable: whether every run from a branch has matched what the sub-network alone would do. Once one has not,
            nothing is shared any more.
    """

    def __init__(self, network: AdaptiveNetwork) -> None:
        self.network = network
        self.forks = [_fork(network, number) for number in range(1, len(network.stages) + 1)]
        self.shareable = True
        self._views: Any = None
        self._trees: dict[Any, tuple[View, _Tape]] = {}
        self._watched: set[tuple[int, bool]] = set()
        self._generators: tuple[torch.device, Generators] | None = None
        self._before: _Before | None = None  # the first run, until it has succeeded

    def _follow_network(self) -> None:
        """Start over if the network's sub-networks were rebuilt (it was calibrated)."""
        if self._views is not self.network._views:
            self._views, self._trees, self._watched = self.network._views, {}, set()

    def outputs(
        self,
        skips: Sequence[str],
        *args: Any,
        watch: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Yield (skip, output, watched outputs) of the sub-networks `skips`, in the order of `all_skips`.

        Arguments:
            skips: canonical letters, without repetition.
            *args, **kwargs: the input, as the model takes it.
            watch: for each skip, paths of modules whose outputs are also returned.
        """
        watch = watch or {}
        if self.shareable:
            done = []  # yielded already
            self._before = _Before(self._drawn_from())
            try:
                for skip, output, seen in self._below(sorted(skips), None, watch, args, kwargs):
                    yield skip, output, seen
                    done.append(skip)
                return
            except _NotShareable:
                self._share_no_more()
                skips = [skip for skip in skips if skip not in done]
        for skip in sorted(skips):
            yield skip, *self._run(skip, None, args, kwargs, watch.get(skip, ()))

    def probe(
        self, skips: Sequence[str], *args: Any, watch: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        """Find out on one input whether these sub-networks can share, without changing gradients or statistics."""
        with looking_at(self.network), evaluating(self.network), torch.no_grad():
            for _ in self.outputs(skips, *args, watch=watch, **kwargs):
                pass

    def branch(self, skips: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Branch | None:
        """The common part of several sub-networks on an input; None if it cannot be shared."""
        if not self.shareable:
            return None
        self._before = _Before(self._drawn_from())
        try:
            return self._branch(skips[0], None, self.forks[_parting(skips)], args, kwargs)
        except _NotShareable:
            self._share_no_more()
            return None

    def run(
        self,
        skip: str,
        branch: Branch | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        watch: Sequence[str] = (),
    ) -> tuple[Any, dict[str, Any]]:
        """The output of one sub-network, and the watched outputs: from a branch, or from the start if that fails."""
        if branch is not None and self.shareable:
            try:
                return self._run(skip, branch, args, kwargs, watch)
            except _NotShareable:
                self._share_no_more()
        return self._run(skip, None, args, kwargs, watch)

    def seen(self, skip: str, args: Sequence[Any], kwargs: Mapping[str, Any], watch: Sequence[str]) -> dict[str, Any]:
        """The outputs of some modules in a sub-network, which runs only up to the last of them."""
        self._follow_network()
        view, tape = self._tree(skip, None, None, tuple(watch))
        tape.start(None, ends=True)
        try:
            view.module(*args, **kwargs)
        except _AllSeen:
            pass
        finally:
            seen = tape.seen
            tape.start(None)  # drops what was recorded
        return seen

    def _share_no_more(self) -> None:
        """From now on run sub-networks one by one; the attempt is undone if none has succeeded yet."""
        self.shareable = False
        if self._before is not None:
            self._before.put_back()
        self._before = None

    def _drawn_from(self) -> Generators:
        device = device_of(self.network)
        if self._generators is None or self._generators[0] != device:
            self._generators = device, Generators(self.network, device)
        return self._generators[1]

    def _run(self, skip: str, branch: Branch | None, args: Any, kwargs: Any, watch: Sequence[str]) -> Any:
        if branch is not None:
            branch.check()
        self._follow_network()
        if branch is None and not watch:
            output, seen = self.network.view(skip)(*args, **kwargs), {}
        else:
            view, tape = self._tree(skip, branch.fork if branch else None, None, tuple(watch))
            written = self._watch(view)
            tape.start(branch)
            try:
                output = view(*args, **kwargs)
                if branch is not None and not tape.seen.keys() >= tape.watched:
                    raise _NotShareable  # a watched module inside a recorded one did not run
                seen = tape.seen
            finally:
                tape.start(None)
            if branch is not None and written():
                raise _NotShareable
        self._before = None
        return output, seen

    def _watch(self, view: View) -> Callable[[], bool]:
        """Returns a function to call after a run: did modules store something on themselves? Replay would miss it."""
        key = id(view), view.module.training
        if key in self._watched or not view.writes:
            return lambda: False
        self._watched.add(key)
        return self.network.left.watch(view.pairs)

    def _below(self, skips: Sequence[str], branch: Branch | None, watch: Any, args: Any, kwargs: Any) -> Any:
        if len(skips) == 1:
            yield skips[0], *self._run(skips[0], branch, args, kwargs, watch.get(skips[0], ()))
            return
        parting = _parting(skips)
        inner = self._branch(skips[0], branch, self.forks[parting], args, kwargs)
        for flag in "FT":
            yield from self._below([s for s in skips if s[parting] == flag], inner, watch, args, kwargs)
        inner.check()  # even the last one must not change what all gradients need

    def _branch(self, skip: str, outer: Branch | None, target: _Fork, args: Any, kwargs: Any) -> Branch:
        if outer is not None:
            outer.check()
        self._follow_network()
        view, tape = self._tree(skip, outer.fork if outer else None, target, ())
        written = self._watch(view)
        given = _contents(args, kwargs)
        # In eval mode hardly any code draws from the other generators, and checking them slows down small networks.
        random = partial(self._drawn_from().state, quickly=not self.network.training)
        tape.start(outer, random, self._before)
        try:
            view.module(*args, **kwargs)
        except _BranchReached:
            branch = Branch(target, tape.recorded, versions=tape.versions)
            branch.check()
            if any(tensor._backward_hooks for tensor, _ in tape.versions.values()):
                raise _NotShareable from None  # each sub-network would register the hook again
            if _same(given, _contents(args, kwargs)) and not written():  # else the next run would have another input
                return branch
        finally:
            tape.start(None)
        raise _NotShareable  # the run never met the fork

    def _tree(
        self, skip: str, source: _Fork | None, target: _Fork | None, watched: tuple[str, ...]
    ) -> tuple[View, _Tape]:
        followed = self.network.view(skip)
        key = (skip, source, target, watched)
        if key not in self._trees:
            tape = _Tape(source, target, watched)
            self._trees[key] = (_instrument(followed, tape), tape)
        view, tape = self._trees[key]
        view.follow_modes()
        view.follow_attributes()
        return view, tape


def _parting(skips: Sequence[str]) -> int:
    """The first stage at which skips differ."""
    return next(i for i, flags in enumerate(zip(*skips, strict=True)) if len(set(flags)) > 1)


def _touched(network: AdaptiveNetwork, number: int) -> frozenset[str]:
    skippable = network.stages[number - 1].skippable
    inside = tuple(f"{block}." for block in skippable)
    norms = [path for path, home in network.homes.items() if home == number and not path.startswith(inside)]
    touched = {id(network.model.get_submodule(path)) for path in (*norms, *skippable)}
    # A module registered at several places may be called through any of them.
    return frozenset(path for path, part in network.model.named_modules(remove_duplicate=False) if id(part) in touched)


def _fork(network: AdaptiveNetwork, number: int) -> _Fork:
    touched = _touched(network, number)
    entered = set(_ancestors(touched))
    for path, module in network.model.named_modules():
        # A ModuleList is never called, but its children are.
        never_called = getattr_static(type(module), "forward") is nn.Module.forward
        if path and never_called and path.rpartition(".")[0] in entered:
            entered.add(path)
    later = frozenset[str]().union(*(_touched(network, n) for n in range(number + 1, len(network.stages) + 1)))
    return _Fork(frozenset(entered), touched, (later | _ancestors(later)) - entered)


def _ancestors(paths: Iterable[str]) -> frozenset[str]:
    """The paths of all containers around these modules, including the root's empty path."""
    parts = [path.split(".") for path in paths]
    return frozenset({""} | {".".join(names[:depth]) for names in parts for depth in range(1, len(names))})


def _instrument(view: View, tape: _Tape) -> View:
    """A twin of a sub-network whose modules ask the tape before they run."""
    entered = _ancestors(tape.watched)
    for fork in (tape.source, tape.target):
        entered |= fork.entered if fork else set()
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def wrap(path: str, original: nn.Module) -> nn.Module:
        if isinstance(original, torch.jit.ScriptModule):  # it has no twin, and runs for every sub-network
            return original
        copy = intercepted(original, partial(tape.call, path, original)) if path else twin(original)
        pairs.append((copy, original))
        if path in entered:
            for name, child in original._modules.items():
                if child is not None:
                    copy._modules[name] = wrap(f"{path}.{name}" if path else name, child)
        return copy

    top = View(wrap("", view.module), links=view.links, left=view.left, skip=view.skip, below=view)
    top.copies.update((id(original), copy) for copy, original in pairs)
    for copy, original in pairs:
        own = {"forward": copy.__dict__.get("forward", copy.forward)}
        if id(original) in view.referring:
            own = pointing_to(top.copies, original) | own
        copy.__dict__.update(own)
        top.add_twin(copy, original, own)
    return top
