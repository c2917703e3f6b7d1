"""Which layers a flat network can skip at the least cost, in stretches."""

from collections.abc import Sequence
from functools import cache
from math import ceil, inf

from ..errors import StagesError


def cheapest_stretches(costs: Sequence[float], stages: int, skipped: int) -> list[range]:
    """Stretches of layers with the smallest total cost.

    Before each stretch at least one layer stays, the stage's mandatory sub-path, and no stretch has more than one and a
    half times its share, so that all stages are worth skipping.

    Arguments:
        costs: the cost of skipping each layer, in the order in which they run.
        stages: how many stretches.
        skipped: how many layers they have in total.

    Returns:
        The numbers of the layers of each stretch.

    Raises:
        StagesError: more layers or stages than there are.

    Example:
        >>> cheapest_stretches([9, 1, 1, 9, 9, 2, 3], stages=2, skipped=3)
        [range(1, 3), range(5, 6)]
    """
    if not 0 < stages <= skipped <= len(costs) - stages:
        raise StagesError(
            f"{stages} stages that skip {skipped} of {len(costs)} layers: expected at least one skippable and one "
            "mandatory layer per stage"
        )
    longest = ceil(1.5 * skipped / stages)

    @cache
    def best(start: int, stages: int, skipped: int) -> tuple[float, tuple[range, ...]]:
        """For the layers from `start` on, which itself stays."""
        if stages == 0:
            return (0.0, ()) if skipped == 0 else (inf, ())
        # Each remaining stage keeps at least one layer.
        if len(costs) - start < stages + skipped:
            return inf, ()
        found = best(start + 1, stages, skipped)
        for length in range(1, min(longest, skipped - stages + 1) + 1):
            first = start + 1
            cost, rest = best(first + length, stages - 1, skipped - length)
            cost += sum(costs[first : first + length])
            if cost < found[0]:
                found = cost, (range(first, first + length), *rest)
        return found

    cost, stretches = best(0, stages, skipped)
    if cost == inf:
        raise StagesError(f"{stages} stages cannot skip {skipped} of {len(costs)} layers: expected fewer of either")
    return list(stretches)
