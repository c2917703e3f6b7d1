"""Marks caches of keys and values with their depth: another depth would silently compute wrong results with them."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from ..errors import DataError, StagesError

_NAMES = ("past_key_values", "cache_params")  # its names in models of transformers, as an input and in the output
_TOKENS = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")  # `[texts, ...]`
_HELD = ("keys", "conv_states", "recurrent_states")  # contents of a cache layer, `[texts, ...]`
_MARK = "_adaptive_depth"


def guarded(module: nn.Module, network: str, skip: str, *, plain: bool) -> MethodType:
    """The forward of a sub-network that marks the caches it fills, and refuses those of others.

    Arguments:
        module: the root of a view, with its own forward.
        network: identifies this network.
        skip: the sub-network.
        plain: whether it is the super-net, which also takes unmarked caches, filled by the original model.
    """
    run = module.__dict__["forward"]

    def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return run(*args, **kwargs)
        for name in _NAMES:
            if (cache := _given(run, name, args, kwargs)) is not None:
                _check(cache, network, skip, plain, getattr(module, "config", None))
                _check_rows(cache, [_given(run, tokens, args, kwargs) for tokens in _TOKENS])
        output = run(*args, **kwargs)
        for name in _NAMES:
            _mark(output.get(name) if isinstance(output, Mapping) else None, network, skip)
            _mark(_given(run, name, args, kwargs), network, skip)
        return output

    # Its own code object, for torch.compile, as in views.py.
    own = FunctionType(forward.__code__.replace(), forward.__globals__, "forward", None, forward.__closure__)
    return MethodType(functools.wraps(run.__func__)(own), module)


def marking(module: nn.Module, network: str, skip: str) -> MethodType:
    """The `generate` of a sub-network, which marks returned caches: Whisper's returns copies of those it filled."""
    run = module.generate

    def generate(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)  # type: ignore[operator]
        for name in _NAMES:
            _mark(output.get(name) if isinstance(output, Mapping) else None, network, skip)
        return output

    return MethodType(functools.wraps(run.__func__)(generate), module)  # type: ignore[union-attr]


def _given(run: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if name in kwargs or not args:
        return kwargs.get(name)
    names = _positions(run.__func__)  # type: ignore[attr-defined] - a bound method
    return args[names[name]] if names.get(name, len(args)) < len(args) else None


@functools.lru_cache(maxsize=256)
def _positions(function: Callable[..., Any]) -> dict[str, int]:
    return {name: place - 1 for place, name in enumerate(inspect.signature(function).parameters)}


def _mark(cache: Any, network: str, skip: str) -> None:
    # Tuples, which older models use as caches, cannot be marked.
    if hasattr(cache, "__dict__"):
        cache.__dict__[_MARK] = (network, skip)


def _check_rows(cache: Any, tokens: Sequence[Any]) -> None:
    """Raise if a cache was filled for another number of texts than the input has, in whichever form."""
    known = rows_in(cache)
    given = next((len(each) for each in tokens if isinstance(each, torch.Tensor) and each.ndim > 1), known)
    if known is not None and given != known:
        raise DataError(
            f"a cache of {known} text{'s' * (known != 1)} for a batch of {given}: expected the number that it was "
            "filled for, in the same order (in beam search, the number of its current beams); fill one for "
            "this batch"
        )


def _check(cache: Any, network: str, skip: str, plain: bool, config: Any) -> None:
    mark = getattr(cache, _MARK, None)
    if mark is None and plain:
        _check_layers(cache, skip, config)
    if mark == (network, skip) or not filled(cache) or (mark is None and plain):
        return
    way = (
        "run the tokens so far through this one to fill its own cache (language.catch_up), or run every step of "
        "a text at one depth"
    )
    if mark is None:
        raise StagesError(
            f"sub-network {skip} received a {type(cache).__name__} that it did not fill, so the origin of its "
            f"keys and values is unknown: {way}"
        )
    other = f"sub-network {mark[1]}" if mark[0] == network else "another network"
    raise StagesError(f"sub-network {skip} received a cache that {other} filled: {way}")


def _check_layers(cache: Any, skip: str, config: Any) -> None:
    """Raise if an unmarked cache has other layers than the model would fill."""
    kind = getattr(sys.modules.get("transformers.cache_utils"), "DynamicCache", None)
    if config is None or kind is None or type(cache) is not kind or not filled(cache):
        return
    expected = len(kind(config=config).layers)
    if expected and len(cache.layers) != expected:
        raise StagesError(
            f"sub-network {skip} received a cache of {len(cache.layers)} layers, but fills one of {expected}: it is "
            "from another model or depth; run the tokens so far through this one to fill its own cache "
            "(language.catch_up)"
        )


def cache_in(output: Any) -> tuple[str, Any] | None:
    """The cache in a transformers model's output, after the name of the input that takes it; None if there is none."""
    found = ((name, output.get(name)) for name in _NAMES) if isinstance(output, Mapping) else ()
    return next(((name, cache) for name, cache in found if cache is not None), None)


def rows_in(cache: Any) -> int | None:
    """The number of texts in a cache of transformers; None if unknown."""
    for layer in getattr(getattr(cache, "self_attention_cache", cache), "layers", None) or ():
        for name in _HELD:
            held = getattr(layer, name, None)
            held = next(iter(held.values()), None) if isinstance(held, Mapping) else held
            if isinstance(held, torch.Tensor) and held.ndim > 1 and held.numel():
                return len(held)
    return None


def no_cache(model: nn.Module) -> str:
    """The error for a model that returned no cache."""
    return (
        f"{type(model).__name__} returned no cache that the next token could continue: expected a model that returns "
        "past_key_values or cache_params"
    )


def filled(cache: Any) -> bool:
    """Does a cache hold anything?"""
    for ask in ("get_seq_length", "has_previous_state"):
        try:
            if bool(getattr(cache, ask)()):
                return True
        except (AttributeError, ValueError, TypeError, IndexError):
            continue
    return isinstance(cache, tuple | list) and len(cache) > 0
