"""Every sub-network tried on an input, before a plan is handed out."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import StagesError, one_line
from ..modes import evaluating, without_fast_paths
from ..plan.checks import prove, same_output, tensors_of
from .network import AdaptiveNetwork
from .sharing import SharedForward


def prove_every_depth(network: AdaptiveNetwork, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Run all sub-networks on an input, what they have in common once, and check each.

    The super-net must return what the model returns, bit for bit; no skipped block may run; every output must be
    finite where the model's is, and of its shapes; every norm that is doubled must be used, in both copies.

    Raises:
        StagesError: with the sub-network and the reason.
    """
    model, ran, used = network.model, set[str](), set[str]()
    handles: list[Any] = []
    prove(model, network.stages, args, kwargs)

    def note(where: set[str], path: str, *_: Any) -> None:
        where.add(path)

    doubled = [path for stage in network.stages for path in stage.norms or ()]
    try:
        for path in (path for stage in network.stages for path in stage.skippable):
            handles += [model.get_submodule(path).register_forward_hook(partial(note, ran, path))]
        for path in doubled:
            own, other = model.get_submodule(path), network.skip_norms.get_submodule(path)
            handles.append(own.register_forward_hook(partial(note, used, f"{path} F")))
            handles.append(other.register_forward_hook(partial(note, used, f"{path} T")))
        with evaluating(network), torch.no_grad(), without_fast_paths():
            expected = model(*args, **kwargs)
            ran.clear()
            used.clear()
            outputs = SharedForward(network).outputs(network.skips, *args, **kwargs)
            for skip in network.skips:
                _check_output(network, skip, _next(outputs, skip), expected)
                _check_skipped(network, skip, ran)
                ran.clear()
    finally:
        for handle in handles:
            handle.remove()
    for path in doubled:
        for flag in "FT":
            if f"{path} {flag}" not in used:
                raise StagesError(
                    f"norm {path!r} never ran, so doubling it changes nothing: leave it out of the stage's norms"
                )


def _next(outputs: Any, skip: str) -> Any:
    try:
        found, output, _ = next(outputs)
    except Exception as error:
        raise StagesError(
            f"sub-network {skip} does not run ({type(error).__name__}: {one_line(error)}): the model needs a block "
            "that the plan leaves out; name its stages by hand, without that block"
        ) from error
    assert found == skip
    return output


def _check_output(network: AdaptiveNetwork, skip: str, output: Any, expected: Any) -> None:
    if skip == network.skips[0] and not same_output(output, expected):
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


def _check_skipped(network: AdaptiveNetwork, skip: str, ran: set[str]) -> None:
    for stage, flag in zip(network.stages, skip, strict=True):
        for path in stage.skippable:
            if flag == "T" and path in ran:
                raise StagesError(
                    f"block {path!r} ran in sub-network {skip}, which skips it: the model holds it at another place "
                    "too (in a list of its own, say); name stages by hand without it"
                )
