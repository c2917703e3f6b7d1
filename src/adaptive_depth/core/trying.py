"""Sub-networks tried on an input: does every skip skip, and does what is left run?"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import StagesError, one_line
from ..modes import evaluating, looking_at, without_fast_paths
from ..plan import Stages
from ..plan.calls import fresh, same_output, tensors_of
from .left import Left


class Network(Protocol):
    """What is needed of an adapted network."""

    model: nn.Module
    stages: Stages
    skips: tuple[str, ...]
    skip_norms: nn.Module
    left: Left

    def view(self, skip: Any) -> Any: ...


Outputs = Callable[[Sequence[str], Any, Any], Iterator[tuple[str, Any]]]


def one_by_one(network: Network) -> Outputs:
    """The outputs of sub-networks, each run by itself."""

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
    """Run sub-networks on an input and check each: all 2^N, of at most 64.

    Of more, the super-net, the base-net, and those that skip one stage. The super-net must return what the model
    returns, bit for bit; no skipped block may run; every output must be of this run, finite where the model's is, and
    of its shapes; a norm that is doubled must be used in both copies.

    Arguments:
        network: an adapted network; nothing in it is changed.
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
    ran.clear()
    used.clear()
    found = outputs(skips, *fresh(args, kwargs))
    for skip in skips:
        _check_output(network, skip, _next(found, skip), expected, args, kwargs)
        _check_skipped(network, skip, ran)
        ran.clear()
    for path in doubled:
        if (f"{path} F" in used) != (f"{path} T" in used):
            raise StagesError(
                f"norm {path!r} runs in one of its two copies only: the model reaches it in another way than through "
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
            "that the plan leaves out; name its stages by hand, without that block"
        ) from error
    assert found == skip
    return output


def _check_output(network: Network, skip: str, output: Any, expected: Any, args: Any, kwargs: Any) -> None:
    finite = all(torch.isfinite(tensor).all() for tensor in tensors_of(expected))
    if skip == network.skips[0] and finite and not same_output(output, expected):
        own_args, own_kwargs = fresh(args, kwargs)
        if not same_output(network.model(*own_args, **own_kwargs), expected):
            raise StagesError(
                f"{type(network.model).__name__} returns something else when it runs again on the same input in eval "
                "mode, so its depths cannot be compared: what is random in it, or is carried from one call to the "
                "next, must be off while it is adapted"
            )
        raise StagesError("the super-net returns something else than the model: name the stages by hand")
    got, wanted = tensors_of(output), tensors_of(expected)
    if [tensor.shape for tensor in got] != [tensor.shape for tensor in wanted]:
        raise StagesError(
            f"sub-network {skip} returns {[list(tensor.shape) for tensor in got]} where the model returns "
            f"{[list(tensor.shape) for tensor in wanted]}: name the stages by hand"
        )
    for tensor, model in zip(got, wanted, strict=True):
        if torch.isfinite(model).all() and not torch.isfinite(tensor).all():
            raise StagesError(f"sub-network {skip} returns numbers that are not finite, unlike the model")


def _check_skipped(network: Network, skip: str, ran: set[str]) -> None:
    for stage, flag in zip(network.stages, skip, strict=True):
        for path in stage.skippable:
            if flag == "T" and path in ran:
                raise StagesError(
                    f"block {path!r} ran in sub-network {skip}, which skips it, so the skip changes nothing: the model "
                    "reaches it at another place too (in an object or a closure of its own, say); name stages by hand "
                    "without it, or let the model call its blocks through its own modules"
                )


def _reject_left_over(network: Network, args: Sequence[Any], kwargs: Mapping[str, Any], expected: Any) -> None:
    """What a skipped block put somewhere in the run before must not come out of the base-net."""
    skip = network.skips[-1]
    own_args, own_kwargs = fresh(args, kwargs)
    before = {_place(tensor) for tensor in tensors_of(expected)}
    trees = (network.model, network.skip_norms)
    constant = {_place(tensor) for tree in trees for tensor in (*tree.parameters(), *tree.buffers())}
    try:
        output = network.view(skip).module(*own_args, **own_kwargs)
    except Exception:  # noqa: BLE001 - the depths are tried one by one behind this, and the first that fails is told
        return
    for tensor in tensors_of(output):
        if _place(tensor) in before - constant:
            raise StagesError(
                f"sub-network {skip} returns a tensor {list(tensor.shape)} that an earlier run left behind: something "
                "outside the model's modules keeps what a skipped block returned; name the stages by hand, without "
                "that block"
            )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
