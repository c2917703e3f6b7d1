"""Temporary changes of a module's state, restored whatever happens; and the random numbers it may draw."""

import pickle
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every sub-module is in its former mode, even after an error."""
    parts = list(module.modules())
    training = [part for part in parts if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            if type(part).train is not nn.Module.train and not part.training:
                part.train()  # undoes what its custom `eval` did, such as merging weights
        for part in parts:
            part.training = False
        for part in training:
            part.training = True
        _follow(parts)


def _follow(parts: Iterable[nn.Module]) -> None:
    """Notify modules that keep others in sync with the modes of these parts."""
    for part in parts:
        follow = getattr(type(part), "follow_modes", None)
        if callable(follow):
            follow(part)


_looked_at: ContextVar[frozenset[int]] = ContextVar("the ids of modules that are put back already", default=frozenset())


@contextmanager
def looking_at(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside, the model is unchanged afterwards: its modules and their classes, attributes, hooks and
    modes, the numbers of its buffers, and the state of all random generators that it can draw from.

    Exchanged data of parameters is restored; but a forward that changes its own weights in place changes them, as it
    always does.
    """
    with torch.inference_mode(False):  # restored tensors must not become inference tensors
        yield from _looking_at(model)


def _looking_at(model: nn.Module) -> Iterator[None]:
    kept = _looked_at.get()
    # What an outer call restores need not be saved again.
    parts = () if id(model) in kept else model.modules()
    before = [_Kept(part) for part in parts if id(part) not in kept]
    token = _looked_at.set(kept | {id(part.module) for part in before})
    generators = Generators(model, *{parameter.device for parameter in model.parameters()})
    state = generators.state()
    try:
        yield
    finally:
        _looked_at.reset(token)
        for part in before:
            part.put_back()
        generators.put(state)


class _Kept:
    """A snapshot of one module."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.attributes = dict(module.__dict__)
        containers = (value for value in self.attributes.values() if type(value) in _CONTAINERS)
        self.contents = [found for container in containers for found in _contents(container)]
        buffers = [buffer for buffer in module._buffers.values() if buffer is not None and not buffer.is_meta]
        self.buffers = [(buffer, buffer.data, buffer.detach().clone()) for buffer in buffers]
        # A class with its own `train` may change weights in it (adapters that are merged for evaluation).
        changes = type(module).train is not nn.Module.train
        parameters = [p for p in module._parameters.values() if p is not None and not p.is_meta]
        self.parameters = [(p, p.data, p.detach().clone() if changes else None) for p in parameters]

    def put_back(self) -> None:
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        self.module.__dict__.clear()
        self.module.__dict__.update(self.attributes)
        for container, content in self.contents:
            _put_back(container, content)
        with torch.no_grad():
            for buffer, data, numbers in self.buffers:
                buffer.data = data
                if not torch.equal(buffer, numbers):
                    buffer.copy_(numbers)
        for parameter, data, numbers in self.parameters:
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            if numbers is not None and not torch.equal(data, numbers):
                data.copy_(numbers)


_CONTAINERS = (dict, OrderedDict, list, set, deque)


def _contents(container: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """A container and those inside, each with a copy; None for empty ones."""
    yield container, copy(container) if container else None
    if container and depth < 3 and len(container) < 1000:
        for value in container.values() if isinstance(container, dict) else container:
            if type(value) in _CONTAINERS:
                yield from _contents(value, depth + 1)


def _put_back(container: Any, content: Any) -> None:
    if content is None:
        container.clear()
        return
    if len(container) == len(content) and (
        all(map(is_, container, content))
        and (not isinstance(container, dict) or all(map(is_, container.values(), content.values())))
    ):
        return
    container.clear()
    container.extend(content) if isinstance(container, list | deque) else container.update(content)


@contextmanager
def modes_restored_on_error(module: nn.Module) -> Iterator[None]:
    """If the body raises, restore the mode (training, evaluation) of every sub-module."""
    before = [(part, part.training) for part in module.modules()]
    try:
        yield
    except BaseException:
        for part, training in before:
            part.training = training
        _follow(module.modules())
        raise


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Disable the fast paths of torch's transformer layers, which skip sub-modules if there are no hooks."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def buffers_restored_on_error(parts: Iterable[nn.Module]) -> Iterator[None]:
    """If the body raises, restore running statistics and all other buffers.

    Arguments:
        parts: the modules whose own buffers are saved: `network.modules()`, or a list that a loop made once.
    """
    buffers = [buffer for part in parts for buffer in part._buffers.values() if buffer is not None]
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        raise


class Generators:
    """All generators that a module can draw from: torch's, NumPy's, Python's, and those in its attributes.

    Arguments:
        module: whose attributes are searched.
        devices: on which it runs.
    """

    def __init__(self, module: nn.Module, *devices: torch.device) -> None:
        found: list[Any] = [torch.default_generator]
        for device in devices:
            if device.type == "cuda":
                index = torch.cuda.current_device() if device.index is None else device.index
                found.append(torch.cuda.default_generators[index])
        kinds = (torch.Generator, np.random.Generator, random.Random)
        found += [value for part in module.modules() for value in vars(part).values() if isinstance(value, kinds)]
        self._of = [_access(generator) for generator in (*found, random, np.random)]
        self._quick = len(found)

    def state(self, *, quickly: bool = False) -> list[Any]:
        """The state of each generator: two such lists are equal if nothing was drawn in between.

        Arguments:
            quickly: without Python's and NumPy's, which take ten times as long as the others.
        """
        return [get() for get, _ in (self._of[: self._quick] if quickly else self._of)]

    def put(self, state: list[Any]) -> None:
        """Go back to what `state()` returned."""
        for (_, put), value in zip(self._of, state, strict=True):
            put(value)


def _access(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Functions that read and write the state of a generator, as a comparable value."""
    if isinstance(generator, torch.Generator):

        def put(state: bytes) -> None:
            generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

        return lambda: generator.get_state().numpy().tobytes(), put
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return lambda: pickle.dumps(bits.state), lambda state: setattr(bits, "state", pickle.loads(state))
    if generator is np.random:
        return lambda: pickle.dumps(generator.get_state()), lambda state: generator.set_state(pickle.loads(state))
    return generator.getstate, generator.setstate
