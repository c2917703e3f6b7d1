"""Time: things that run in turn, in an order shuffled anew in each round, so that a machine's drift hits all alike."""

import random
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

Runs = Mapping[str, Callable[[], Any]]
Clock = Callable[[], float]  # seconds
_LONGEST_STEP = 1.0  # seconds: a clock that jumps ahead is taken to have gone on by so much


class Steps:
    """The seconds since the last call, by a clock that may jump: one that goes back, or is no number, stands still.

    Example:
        >>> ticks = iter([0.0, 0.25, 0.1, 99.0])
        >>> step = Steps(lambda: next(ticks))
        >>> step(), step(), step()
        (0.25, 0.0, 1.0)
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._tick = clock, clock()

    def __call__(self) -> float:
        tick = self._clock()
        passed, self._tick = tick - self._tick, tick
        return min(passed, _LONGEST_STEP) if passed > 0 else 0.0


def planned(rounds: int | None, seconds: float, done: int, elapsed: float, *, least: int = 6, most: int = 100) -> int:
    """How many rounds there shall be, as it looks after some of them: as given, else what the seconds allow.

    Arguments:
        rounds: as given; None for as many as the seconds allow.
        seconds: for all rounds.
        done, elapsed: rounds that are over, and the seconds that they took.
        least, most: bounds of a number that is not given; an interval of 95 % needs six.
    """
    if rounds is not None:
        return rounds
    affordable = done * seconds / max(elapsed, 1e-9)
    return max(done, int(min(most, max(least, affordable))))


def time_all(
    runs: Runs,
    plan: Callable[[int, float], int],
    on_round: Callable[[int, int], None] | None = None,
    *,
    wait: Callable[[], None] = lambda: None,
    twice: bool = False,
    clock: Clock | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of every timed run, by name: the k-th of each belongs to round k.

    Arguments:
        runs: what is timed, by name.
        plan: called with (rounds done, seconds so far); how many rounds there shall be.
        on_round: called with (rounds done, rounds planned).
        wait: returns once the device has done what it was given.
        twice: each timed run follows one of the same that is not timed, as where one is kept for a while.
        clock: seconds; `time.perf_counter` where None.
    """
    now = clock or perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    start, done, total = now(), 0, plan(0, 0.0)
    while done < total:
        shuffle(order)
        for name in order:
            if twice:
                runs[name]()
            times[name].append(milliseconds(runs[name], wait, clock))
        done += 1
        total = plan(done, now() - start)
        if on_round is not None:
            on_round(done, total)
    return times


def milliseconds(run: Callable[[], Any], wait: Callable[[], None] = lambda: None, clock: Clock | None = None) -> float:
    wait()
    # Whole nanoseconds where there is a choice: seconds since long ago, as a float, are rounded.
    start = perf_counter_ns() if clock is None else clock()
    run()
    wait()
    return (perf_counter_ns() - start) / 1e6 if clock is None else 1000 * (clock() - start)


def drift(times: Mapping[str, list[float]]) -> float | None:
    """By how many percent a round took longer in the second half than in the first; None for fewer than two."""
    rounds = [sum(passes) for passes in zip(*times.values(), strict=True)]
    half = len(rounds) // 2
    return 100 * (median(rounds[-half:]) / median(rounds[:half]) - 1) if half else None
