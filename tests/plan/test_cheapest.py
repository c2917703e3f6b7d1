"""Stretches of layers that cost least, against every choice there is."""

import itertools
from math import ceil, inf

import pytest
import torch

import adaptive_depth as ad
from adaptive_depth.plan import cheapest_stretches


def stretches_of(chosen: tuple[int, ...]) -> list[range]:
    """Maximal runs of numbers that follow each other."""
    found: list[range] = []
    for number in chosen:
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


def best_of_all(costs: list[float], stages: int, skipped: int) -> float:
    """The smallest sum over all choices of so many layers in so many stretches, none too long, the first kept."""
    longest = ceil(1.5 * skipped / stages)
    sums = [inf]
    for chosen in itertools.combinations(range(1, len(costs)), skipped):
        stretches = stretches_of(chosen)
        if len(stretches) == stages and max(map(len, stretches)) <= longest:
            sums.append(sum(costs[number] for number in chosen))
    return min(sums)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("layers", "stages", "skipped"), [(5, 1, 2), (7, 2, 3), (8, 2, 5), (9, 3, 5), (11, 3, 6)])
def test_no_other_choice_costs_less(layers: int, stages: int, skipped: int, seed: int) -> None:
    torch.manual_seed(seed)
    costs = [inf, *torch.rand(layers - 1).tolist()]
    found = cheapest_stretches(costs, stages, skipped)
    chosen = [number for stretch in found for number in stretch]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == skipped
    assert stretches_of(tuple(chosen)) == found  # a layer stays before each
    assert len(found) == stages
    assert found[0].start > 0
    assert max(map(len, found)) <= ceil(1.5 * skipped / stages)
    assert sum(costs[number] for number in chosen) == pytest.approx(best_of_all(costs, stages, skipped))


def test_by_hand() -> None:
    # All three cheap layers beside each other would be one stretch; two stretches of at most three.
    assert cheapest_stretches([9, 0, 0, 0, 9, 9, 4, 9], 2, 4) == [range(1, 4), range(6, 7)]
    assert cheapest_stretches([0, 1, 5, 1], 2, 2) == [range(1, 2), range(3, 4)]
    # The longest stretch is half as long again as its share, 3 of 6 / 3: so not all four cheap ones.
    costs = [9, 0, 0, 0, 0.5, 9, 1, 9, 1, 2, 9]
    assert cheapest_stretches(costs, 3, 6) == [range(1, 4), range(6, 7), range(8, 10)]


@pytest.mark.parametrize(("stages", "skipped"), [(0, 0), (2, 1), (1, 4), (2, 3), (-1, 2)])
def test_more_than_there_are(stages: int, skipped: int) -> None:
    with pytest.raises(ad.StagesError, match=f"{stages} stages that skip {skipped} of 4 layers: expected at least one"):
        cheapest_stretches([1.0] * 4, stages, skipped)


def test_nothing_but_infinite_costs() -> None:
    with pytest.raises(ad.StagesError, match="1 stages cannot skip 1 of 3 layers: expected fewer of either"):
        cheapest_stretches([1.0, inf, inf], 1, 1)
