"""Several sub-networks on one input, what they have in common computed once.

Two sub-networks that first differ at stage s do the same until one of them meets something that the flag of stage s
changes: a skip-aware norm, or the first skippable block. A run up to that point (it is ended there by an exception)
leaves a *branch*: the outputs of all modules that ran before, as few and as large modules as possible. The
sub-networks then run from the branch: a module that ran before it hands out its recorded output instead of
computing it. All 2^N sub-networks form a tree with a branch at every stage.

Nothing is traced and no forward is rewritten: the modules are twins (views.py) whose forward asks a tape first.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..modes import evaluating
from .network import AdaptiveNetwork
from .views import View, intercepted, pointing_to, twin


class _BranchReached(BaseException):
    """Ends a run at a branch. No error: a BaseException, so that no forward takes it for one."""


class _NotShareable(Exception):
    """A tensor was changed in place behind the tape's back; the sub-networks must run one by one."""


@dataclass(frozen=True)
class _Fork:
    """What the flag of one stage touches, by module path.

    Attributes:
        entered: containers around a touched module, whose forward runs in every sub-network; and containers
            without a forward.
        touched: modules that differ or are left out with the flag.
    """

    entered: frozenset[str]
    touched: frozenset[str]

    def records(self, path: str) -> bool:
        """Is this one of the largest modules that the flag leaves alone?"""
        return path not in self.entered and path.rpartition(".")[0] in self.entered


@dataclass
class Branch:
    """What ran before two sub-networks part: module paths and outputs, in the order of the calls.

    Attributes:
        fork: the stage at which they part.
        outputs: each recorded module's path and output.
        later: outputs of modules behind the fork that got a recorded output as their input (a shortcut's
            convolution): computed by whoever comes first, by path.
    """

    fork: _Fork
    outputs: list[tuple[str, Any]]
    later: dict[str, tuple[nn.Module, Tensor, Tensor, int]] | None = field(default_factory=dict)
    versions: dict[int, tuple[Tensor, int]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise if a recorded tensor was changed in place since it was recorded."""
        if any(tensor._version != version for tensor, version in self.versions.values()):
            raise _NotShareable

    def detached(self) -> "Branch":
        """The same branch with leaves of the autograd graph for outputs, to differentiate both sides apart."""

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_(tensor.requires_grad)

        outputs = [(path, tree_map_only(Tensor, leaf, value)) for path, value in self.outputs]
        return Branch(self.fork, outputs, later=None, versions=_versions(outputs))


def _versions(outputs: Sequence[tuple[str, Any]]) -> dict[int, tuple[Tensor, int]]:
    return {id(leaf): (leaf, leaf._version) for _, value in outputs for leaf in tensors_in(value)}


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class _Tape:
    """One run's memory: what to hand out (from a branch), what to write down (for the next)."""

    def __init__(self, source: _Fork | None, target: _Fork | None, watched: Sequence[str]) -> None:
        self.source, self.target, self.watched = source, target, frozenset(watched)

    def start(self, branch: Branch | None) -> None:
        self.branch = branch
        self.waiting = deque(branch.outputs if branch else ())
        self.recorded: list[tuple[str, Any]] = []
        self.versions: dict[int, tuple[Tensor, int]] = {}
        self.seen: dict[str, Any] = {}
        self.known = {id(leaf) for _, value in self.waiting for leaf in tensors_in(value)}

    def call(self, path: str, original: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.target and path in self.target.touched:
            raise _BranchReached
        output = self._output(path, original, forward, args, kwargs)
        if self.target and self.target.records(path):
            self.recorded.append((path, output))
            self.versions |= _versions(self.recorded[-1:])
        if path in self.watched:
            self.seen[path] = output
        return output

    def _output(self, path: str, original: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.source is None or not self.source.records(path):
            return forward(*args, **kwargs)
        if self.waiting:
            expected, output = self.waiting.popleft()
            if expected != path:
                raise _NotShareable
            return output
        shares = self.branch is not None and self.branch.later is not None and path not in self.source.touched
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
    """Runs sub-networks of one network on the same input, sharing what they have in common.

    It keeps twins of the network's modules: make one and use it from one thread for many inputs. Outputs and
    gradients are those of the sub-networks run one by one; a norm before a branch gathers its running statistics
    once for all behind it.
    """

    def __init__(self, network: AdaptiveNetwork) -> None:
        self.network = network
        self.forks = [_fork(network, number) for number in range(1, len(network.stages) + 1)]
        self.shareable = True
        self._views: Any = None
        self._trees: dict[Any, tuple[View, _Tape]] = {}

    def _follow_network(self) -> None:
        """Start anew where the network's sub-networks were made anew (it was calibrated)."""
        if self._views is not self.network._views:
            self._views, self._trees = self.network._views, {}

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
            watch: for a skip, paths of modules whose outputs are wanted too.
        """
        watch = watch or {}
        if self.shareable:
            done = []
            try:
                for skip, output, seen in self._below(sorted(skips), None, watch, args, kwargs):
                    yield skip, output, seen
                    done.append(skip)
                return
            except _NotShareable:
                self.shareable = False
                skips = [skip for skip in skips if skip not in done]
        for skip in sorted(skips):
            yield skip, *self.run(skip, None, args, kwargs, watch.get(skip, ()))

    def probe(
        self, skips: Sequence[str], *args: Any, watch: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        """Find out on one input whether these sub-networks can share, with no trace in gradients or statistics."""
        with evaluating(self.network), torch.no_grad():
            for _ in self.outputs(skips, *args, watch=watch, **kwargs):
                pass

    def branch(self, skips: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Branch | None:
        """What several sub-networks have in common on an input; None where that cannot be shared."""
        if not self.shareable:
            return None
        try:
            return self._branch(skips[0], None, self.forks[_parting(skips)], args, kwargs)
        except _NotShareable:
            self.shareable = False
            return None

    def run(
        self,
        skip: str,
        branch: Branch | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        watch: Sequence[str] = (),
    ) -> tuple[Any, dict[str, Any]]:
        """The output of one sub-network, from a branch on, and the watched outputs."""
        if branch is not None:
            branch.check()
        self._follow_network()
        tree, tape = self._tree(skip, branch.fork if branch else None, None, tuple(watch))
        tape.start(branch)
        try:
            output = tree(*args, **kwargs)
            if branch is not None and not tape.seen.keys() >= tape.watched:
                raise _NotShareable  # a watched module lies inside a recorded one, and so it did not run
            return output, tape.seen
        finally:
            tape.start(None)

    def _below(self, skips: Sequence[str], branch: Branch | None, watch: Any, args: Any, kwargs: Any) -> Any:
        if len(skips) == 1:
            yield skips[0], *self.run(skips[0], branch, args, kwargs, watch.get(skips[0], ()))
            return
        parting = _parting(skips)
        inner = self._branch(skips[0], branch, self.forks[parting], args, kwargs)
        for flag in "FT":
            yield from self._below([s for s in skips if s[parting] == flag], inner, watch, args, kwargs)
        inner.check()  # the last one, too, must leave alone what the gradients of all will need

    def _branch(self, skip: str, outer: Branch | None, target: _Fork, args: Any, kwargs: Any) -> Branch:
        if outer is not None:
            outer.check()
        self._follow_network()
        tree, tape = self._tree(skip, outer.fork if outer else None, target, ())
        tape.start(outer)
        try:
            tree(*args, **kwargs)
        except _BranchReached:
            branch = Branch(target, tape.recorded, versions=tape.versions)
            branch.check()
            return branch
        finally:
            tape.start(None)
        raise _NotShareable  # the run never met the fork

    def _tree(
        self, skip: str, source: _Fork | None, target: _Fork | None, watched: tuple[str, ...]
    ) -> tuple[nn.Module, _Tape]:
        followed = self.network.view(skip)
        followed.follow_attributes()
        subnet = followed.module
        key = (skip, source, target, watched)
        if key not in self._trees:
            tape = _Tape(source, target, watched)
            self._trees[key] = (_instrument(subnet, tape), tape)
        view, tape = self._trees[key]
        view.follow_modes()
        view.follow_attributes()
        return view.module, tape


def _parting(skips: Sequence[str]) -> int:
    """The first stage at which skips differ."""
    return next(i for i, flags in enumerate(zip(*skips, strict=True)) if len(set(flags)) > 1)


def _fork(network: AdaptiveNetwork, number: int) -> _Fork:
    skippable = network.stages[number - 1].skippable
    inside = tuple(f"{block}." for block in skippable)
    norms = [path for path, home in network.homes.items() if home == number and not path.startswith(inside)]
    touched = frozenset([*norms, *skippable])
    entered = set(_ancestors(touched))
    for path, module in network.model.named_modules():
        never_called = type(module).forward is nn.Module.forward  # a ModuleList: what it holds is called, it is not
        if path and never_called and path.rpartition(".")[0] in entered:
            entered.add(path)
    return _Fork(frozenset(entered), touched)


def _ancestors(paths: Iterable[str]) -> frozenset[str]:
    """The paths of all containers around some modules, the root's empty path among them."""
    parts = [path.split(".") for path in paths]
    return frozenset({""} | {".".join(names[:depth]) for names in parts for depth in range(1, len(names))})


def _instrument(view: nn.Module, tape: _Tape) -> View:
    """A twin of a sub-network whose modules ask the tape before they run."""
    entered = _ancestors(tape.watched)
    for fork in (tape.source, tape.target):
        entered |= fork.entered if fork else set()
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def wrap(path: str, original: nn.Module) -> nn.Module:
        copy = intercepted(original, partial(tape.call, path, original)) if path else twin(original)
        pairs.append((copy, original))
        if path in entered:
            for name, child in original._modules.items():
                if child is not None:
                    copy._modules[name] = wrap(f"{path}.{name}" if path else name, child)
        return copy

    top = View(wrap("", view))
    top.copies.update((id(original), copy) for copy, original in pairs)
    for copy, original in pairs:
        own = pointing_to(top.copies, original) | {"forward": copy.__dict__.get("forward", copy.forward)}
        copy.__dict__.update(own)
        top.add_twin(copy, original, own)
    return top
