"""Verifies a plan on an input before it is returned."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..plan.checks import prove
from .network import AdaptiveNetwork
from .sharing import SharedForward
from .trying import try_depths


def prove_every_depth(
    network: AdaptiveNetwork,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    named: Collection[str] = (),
    *,
    asked: bool = False,
) -> None:
    """Check the skippable blocks (`prove`), and try sub-networks (`try_depths`), with common computations shared.

    Arguments:
        network: built from the plan; left unchanged.
        args, kwargs: an input of the model.
        named: norms that the user named, which must run.
        asked: as for `prove`.

    Raises:
        StagesError: with the block or the sub-network, and the reason.
    """

    def outputs(skips: Sequence[str], args: Any, kwargs: Any) -> Iterator[tuple[str, Any]]:
        for skip, output, _ in SharedForward(network).outputs(skips, *args, **kwargs):
            yield skip, output

    prove(network.model, network.stages, args, kwargs, asked=asked)
    try_depths(network, args, kwargs, named, outputs)
