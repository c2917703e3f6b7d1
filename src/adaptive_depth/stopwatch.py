"""Timing of interleaved runs, in an order reshuffled every round, so that a machine's drift affects all alike."""

import random
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

Runs = Mapping[str, Callable[[], Any]]
Clock = Callable[[], float]  # seconds
_LONGEST_STEP = 1.0  # seconds: a clock that jumps ahead counts as this much


class Steps:
    """The seconds since the last call, by a clock that may jump: if it goes back, or is NaN, no time has passed.

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
    """The planned number of rounds, updated as they run: as given, else as many as the time allows.

    Arguments:
        rounds: as given; None for as many as the time allows.
        seconds: for all rounds.
        done, elapsed: finished rounds, and the seconds that they took.
        least, most: bounds if the number is not given; a 95 % interval needs six.
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
        runs: what to time, by name.
        plan: called with (rounds done, seconds so far); returns the planned number of rounds.
        on_round: called with (rounds done, rounds planned).
        wait: returns once the device has finished.
        twice: run each once untimed before the timed run, as if it ran repeatedly.
        clock: in seconds; by default `time.perf_counter`.
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
    # Integer nanoseconds if possible: float seconds since a distant start are rounded.
    start = perf_counter_ns() if clock is None else clock()
    run()
    wait()
    return (perf_counter_ns() - start) / 1e6 if clock is None else 1000 * (clock() - start)


def drift(times: Mapping[str, list[float]]) -> float | None:
    """By how many percent rounds took longer in the second half than in the first; None for fewer than two."""
    rounds = [sum(passes) for passes in zip(*times.values(), strict=True)]
    half = len(rounds) // 2
    return 100 * (median(rounds[-half:]) / median(rounds[:half]) - 1) if half else None
