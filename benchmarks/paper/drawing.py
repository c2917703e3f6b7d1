"""Other ways to draw the sub-network of an R pass, tried against the schedule's own: each as often as any other."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import images
import torch

import adaptive_depth as ad
from adaptive_depth.training.schedule import Due

LOOKED_AT = 1000  # validation images, after each epoch
FINISH = 0.1  # of the batches

# The sub-network of an R pass, of those of the network.
Drawn = Callable[[Due, Sequence[str]], str]
# What makes one for a training, and what is asked after each epoch.
Way = tuple[Drawn, Callable[[], None]]


def by_gap(network: ad.AdaptiveNetwork, validation: images.Part, batches: int) -> Way:  # noqa: ARG001
    """As often as a sub-network is behind the best one on validation images, in points, plus one."""
    gaps: dict[str, float] = {}
    part = images.in_order(images.Part(validation.images[:LOOKED_AT], validation.labels[:LOOKED_AT]))

    def look() -> None:
        with torch.random.fork_rng():
            found = ad.evaluate(network, part)
        gaps.update({skip: max(found.values()) - value + 1 for skip, value in found.items()})

    def drawn(due: Due, skips: Sequence[str]) -> str:
        between = skips[1:-1]
        weights = [gaps.get(skip, 1.0) for skip in between]
        return random.Random(f"gap {due.drawn}").choices(between, weights)[0]

    return drawn, look


def by_stage(network: ad.AdaptiveNetwork, validation: images.Part, batches: int) -> Way:  # noqa: ARG001
    """Stage by stage, the later the more often skipped: 1/4, 1/2 and 3/4 of three stages."""

    def drawn(due: Due, skips: Sequence[str]) -> str:
        dice, stages = random.Random(f"stage {due.drawn}"), len(skips[0])
        while True:
            skip = "".join("T" if dice.random() < (n + 1) / (stages + 1) else "F" for n in range(stages))
            if skip in skips[1:-1]:
                return skip

    return drawn, lambda: None


def finishing(network: ad.AdaptiveNetwork, validation: images.Part, batches: int) -> Way:  # noqa: ARG001
    """As the schedule, and at the end of the training the super-net and the base-net in turn."""
    own = ad.Schedule.skip_of

    def drawn(due: Due, skips: Sequence[str]) -> str:
        if due.batch < (1 - FINISH) * batches:
            return own(ad.Schedule(), due, skips)
        return skips[0] if due.drawn % 2 else skips[-1]

    return drawn, lambda: None


WAYS = {"by validation gap": by_gap, "later stages more often": by_stage, "a finishing phase": finishing}


@contextmanager
def drawing(drawn: Drawn) -> Iterator[None]:
    """R passes of all schedules draw like this."""
    own = ad.Schedule.skip_of

    def skip_of(self: ad.Schedule, due: Due, skips: Sequence[str]) -> str:
        return drawn(due, skips) if due.letter == "R" else own(self, due, skips)

    ad.Schedule.skip_of = skip_of  # type: ignore[method-assign]
    try:
        yield
    finally:
        ad.Schedule.skip_of = own  # type: ignore[method-assign]
