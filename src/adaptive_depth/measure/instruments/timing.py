"""Time: all sub-networks in turn, in an order shuffled anew in each round, so that a machine's drift hits all alike."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import torch

_LEAST, _MOST = 6, 100  # rounds chosen by itself; an interval of 95 % needs six
_STEADY = 1.05  # a round of warm-up that takes at most so much longer or shorter than the one before ends it
_MOST_WARMUP = 10  # rounds; a machine that is not steady by then will not be

Runs = Mapping[str, Callable[[], Any]]


def planned(rounds: int | None, seconds: float, done: int, elapsed: float) -> int:
    """How many rounds there shall be, as it looks after some of them: as given, else what the seconds allow."""
    if rounds is not None:
        return rounds
    affordable = done * seconds / max(elapsed, 1e-9)
    return max(done, int(min(_MOST, max(_LEAST, affordable))))


def warm_up(runs: Runs, wait: Callable[[], None], rounds: int | None, seconds: float) -> int:
    """Run rounds that are not kept; return how many.

    As many as given; else until two in a row take the same time, or these seconds are over.
    """
    times: list[float] = []
    while len(times) < (_MOST_WARMUP if rounds is None else rounds):
        times.append(sum(milliseconds(run, wait) for run in runs.values()))
        steady = len(times) > 1 and max(times[-2:]) <= _STEADY * min(times[-2:])
        if rounds is None and (steady or sum(times) > 1000 * seconds):
            break
    return len(times)


def time_all(
    runs: Runs,
    wait: Callable[[], None],
    plan: Callable[[int, float], int],
    on_round: Callable[[int, int], None],
) -> dict[str, list[float]]:
    """Milliseconds of every timed pass, by skip: the k-th of each belongs to round k."""
    times: dict[str, list[float]] = {skip: [] for skip in runs}
    order = list(runs)
    shuffle = random.Random(0).shuffle
    start, done, total = perf_counter(), 0, plan(0, 0.0)
    while done < total:
        shuffle(order)
        for skip in order:
            times[skip].append(milliseconds(runs[skip], wait))
        done += 1
        total = plan(done, perf_counter() - start)
        on_round(done, total)
    return times


def milliseconds(run: Callable[[], Any], wait: Callable[[], None]) -> float:
    wait()
    start = perf_counter_ns()
    run()
    wait()
    return (perf_counter_ns() - start) / 1e6


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done everything it was given."""
    if device.type == "cpu":
        return lambda: None
    if device.type == "mps":
        return torch.mps.synchronize
    return partial(torch.accelerator.synchronize, device)


def drift(times: Mapping[str, list[float]]) -> float | None:
    """By how many percent a round took longer in the second half than in the first; None for fewer than two."""
    rounds = [sum(passes) for passes in zip(*times.values(), strict=True)]
    half = len(rounds) // 2
    return 100 * (median(rounds[-half:]) / median(rounds[:half]) - 1) if half else None
