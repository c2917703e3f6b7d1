"""Tries sub-networks on an input: does every skip take effect, and does the rest run?"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from ..errors import StagesError, one_line
from ..modes import evaluating, looking_at, without_fast_paths
from ..plan import Stages
from ..plan.calls import fresh, same_output, tensors_of
from .left import Left


class Network(Protocol):
    """What is needed from an adapted network."""

    model: nn.Module
    stages: Stages
    skips: tuple[str, ...]
    skip_norms: nn.Module
    left: Left

    def view(self, skip: Any) -> Any: ...


Outputs = Callable[[Sequence[str], Any, Any], Iterator[tuple[str, Any]]]


def one_by_one(network: Network) -> Outputs:
    """The outputs of sub-networks, each run alone."""

    def outputs(skips: Sequence[str], args: Any, kwargs: Any) -> Iterator[tuple[str, Any]]:
        for skip in skips:
            own_args, own_kwargs = fresh(args, kwargs)
            yield skip, network.view(skip).module(*own_args, **own_kwargs)

    return outputs


def try_depths(
    network: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    named: Collection[str] = (),
    outputs: Outputs | None = None,
) -> None:
    """Run sub-networks on an input and check each: all 2^N if these are at most 64.

    Otherwise the super-net, the base-net, and those that skip one stage. The super-net must return what the model
    returns, bit for bit; no skipped block may run; every output must come from this run, be finite if the model's is,
    and have its shapes; a doubled norm must be used in both copies.

    Arguments:
        network: an adapted network; left unchanged.
        args, kwargs: an input of the model.
        named: norms that the user named, which must run.
        outputs: runs the sub-networks; by default one by one.

    Raises:
        StagesError: with the sub-network and the reason.
    """
    with looking_at(network), evaluating(network), torch.no_grad(), without_fast_paths(), ExitStack() as hooks:
        hooks.callback(setattr, network.left, "hooks_are_ours", False)
        _try(network, args, kwargs, named, outputs or one_by_one(network), hooks)


def _try(network: Network, args: Any, kwargs: Any, named: Collection[str], outputs: Outputs, hooks: ExitStack) -> None:
    model, ran, used = network.model, set[str](), set[str]()
    skips = network.skips if len(network.stages) <= 6 else _those_that_tell(network)

    def note(where: set[str], path: str, *_: Any) -> None:
        where.add(path)

    doubled = [path for stage in network.stages for path in stage.norms or ()]
    places = [(model, ran, path, path) for stage in network.stages for path in stage.skippable]
    for path in doubled:
        places += [(model, used, path, f"{path} F"), (network.skip_norms, used, path, f"{path} T")]
    network.left.hooks_are_ours = not any(part._forward_hooks for part in model.modules())
    for tree, where, path, name in places:
        hooks.callback(tree.get_submodule(path).register_forward_hook(partial(note, where, name)).remove)
    own_args, own_kwargs = fresh(args, kwargs)
    expected = model(*own_args, **own_kwargs)
    _reject_left_over(network, args, kwargs, expected)
    # The model's own run does not count.
    ran.clear()
    used.clear()
    found = outputs(skips, *fresh(args, kwargs))
    for skip in skips:
        output = _next(found, skip)
        ran_in_it = frozenset(ran)  # checking an output may run the model
        _check_output(network, skip, output, expected, args, kwargs)
        _check_skipped(network, skip, ran_in_it)
        ran.clear()
    for path in doubled:
        if (f"{path} F" in used) != (f"{path} T" in used):
            raise StagesError(
                f"norm {path!r} runs in only one of its two copies: the model reaches it in another way than through "
                "its blocks; leave it out of the stage's norms"
            )
    for path in named:
        if f"{path} F" not in used:
            raise StagesError(
                f"norm {path!r} never ran, so doubling it changes nothing: leave it out of the stage's norms"
            )


def _those_that_tell(network: Network) -> tuple[str, ...]:
    number = len(network.stages)
    alone = tuple("F" * place + "T" + "F" * (number - place - 1) for place in range(number))
    return tuple(sorted({network.skips[0], *alone, network.skips[-1]}))


def _next(outputs: Any, skip: str) -> Any:
    try:
        found, output = next(outputs)
    except Exception as error:
        raise StagesError(
            f"sub-network {skip} does not run ({type(error).__name__}: {one_line(error)}): the model needs a block "
            "that the plan skips; write its stages by hand, without that block"
        ) from error
    assert found == skip
    return output


def _check_output(network: Network, skip: str, output: Any, expected: Any, args: Any, kwargs: Any) -> None:
    finite = all(torch.isfinite(tensor).all() for tensor in tensors_of(expected))
    if skip == network.skips[0] and finite and not same_output(output, expected):
        own_args, own_kwargs = fresh(args, kwargs)
        if not same_output(network.model(*own_args, **own_kwargs), expected):
            raise StagesError(
                f"{type(network.model).__name__} returns different outputs for the same input in eval mode, so its "
                "depths cannot be compared: switch off randomness in it, or state carried from one call to the next, "
                "while it is adapted"
            )
        raise StagesError("the super-net's output differs from the model's: write the stages by hand")
    got, wanted = tensors_of(output), tensors_of(expected)
    if _shapes(got) != _shapes(wanted) and not _alike_but_for_what_was_found(network, output, expected, args, kwargs):
        raise StagesError(
            f"sub-network {skip} returns {_shapes(got)} but the model returns {_shapes(wanted)}: write the stages by "
            "hand; if the sizes depend on the data, let the model return a list with one entry per image"
        )
    for tensor, model in zip(got, wanted, strict=True):
        if torch.isfinite(model).all() and not torch.isfinite(tensor).all():
            raise StagesError(f"sub-network {skip} returns numbers that are not finite, unlike the model")


def _shapes(tensors: Sequence[Tensor]) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors]


def _alike_but_for_what_was_found(network: Network, output: Any, expected: Any, args: Any, kwargs: Any) -> bool:
    """Do outputs differ only in how much was found in the data (such as boxes)?

    Their structure, dtypes and all other sizes must be the same. How much is found is the first size of tensors in a
    list, and any size that changes when the model runs on other numbers in the same shapes.
    """
    (first, form), (second, wanted) = tree_flatten(output), tree_flatten(expected)
    if form != wanted or len(tensors_of(expected)) != sum(isinstance(leaf, Tensor) for leaf in second):
        return False
    free = _sizes_in_lists(expected)
    # Three attempts, because a different input may happen to find just as much.
    for seed in range(3):
        if _match(first, second, free):
            return True
        try:
            own_args, own_kwargs = tree_map_only(Tensor, partial(_shuffled, seed=seed), fresh(args, kwargs))
            third, form = tree_flatten(network.model(*own_args, **own_kwargs))
        except Exception:  # noqa: BLE001 - the shuffled numbers may be no valid input
            return False
        if form != wanted:
            return False
        free = [known | _other_sizes(a, b) for known, a, b in zip(free, second, third, strict=True)]
    return _match(first, second, free)


def _sizes_in_lists(output: Any) -> list[set[int]]:
    """For each leaf, the sizes that may vary from the start: a list has an entry per image, whose first size is how
    much was found there. (In a list of features it is the batch, which no depth changes.)"""
    parts = tree_leaves(output, is_leaf=lambda value: isinstance(value, list))
    return [{0} if isinstance(part, list) else set[int]() for part in parts for _ in tree_leaves(part)]


def _other_sizes(a: Any, b: Any) -> set[int]:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim == b.ndim):
        return set()
    return {place for place, (one, other) in enumerate(zip(a.shape, b.shape, strict=True)) if one != other}


def _match(first: Sequence[Any], second: Sequence[Any], free: Sequence[set[int]]) -> bool:
    """Do tensors have the same dtypes, and the same sizes except in the free dimensions?"""
    pairs = [(a, b, any_size) for a, b, any_size in zip(first, second, free, strict=True) if isinstance(a, Tensor)]
    return all(a.dtype == b.dtype and a.ndim == b.ndim and _other_sizes(a, b) <= any_size for a, b, any_size in pairs)


def _shuffled(tensor: Tensor, seed: int) -> Tensor:
    """The same numbers in other places: only floats, because integers may be indices."""
    if not tensor.is_floating_point():
        return tensor
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(seed)).to(tensor.device)
    return tensor.flatten()[order].view_as(tensor)


def _check_skipped(network: Network, skip: str, ran: Collection[str]) -> None:
    for stage, flag in zip(network.stages, skip, strict=True):
        for path in stage.skippable:
            if flag == "T" and path in ran:
                raise StagesError(
                    f"block {path!r} ran in sub-network {skip}, which skips it, so the skip has no effect: the model "
                    "also reaches it elsewhere (such as in an object or a closure); write stages by hand "
                    "without it, or let the model call its blocks through its own modules"
                )


def _reject_left_over(network: Network, args: Sequence[Any], kwargs: Mapping[str, Any], expected: Any) -> None:
    """Refuse a base-net that returns what a skipped block stored somewhere in an earlier run."""
    skip = network.skips[-1]
    own_args, own_kwargs = fresh(args, kwargs)
    # Empty tensors all have the same address.
    before = {_place(tensor) for tensor in tensors_of(expected) if tensor.numel()}
    trees = (network.model, network.skip_norms)
    # Parameters and buffers may be part of any output.
    constant = {_place(tensor) for tree in trees for tensor in (*tree.parameters(), *tree.buffers())}
    try:
        output = network.view(skip).module(*own_args, **own_kwargs)
    except Exception:  # noqa: BLE001 - every depth is tried after this, and the first failure is reported
        return
    for tensor in tensors_of(output):
        if tensor.numel() and _place(tensor) in before - constant:
            raise StagesError(
                f"sub-network {skip} returns a tensor {list(tensor.shape)} from an earlier run: something "
                "outside the model's modules keeps what a skipped block returned; write the stages by hand, without "
                "that block"
            )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
