"""Time on a torch device: synchronisation and warm-up; the clock itself is `stopwatch.py`."""

from collections.abc import Callable
from functools import partial

import torch

from ...stopwatch import Runs, milliseconds

_STEADY = 1.05  # warm-up ends when two rounds in a row differ by at most this factor
_MOST_WARMUP = 10  # rounds; a machine that is not steady by then will not be


def warm_up(runs: Runs, wait: Callable[[], None], rounds: int | None, seconds: float) -> int:
    """Run untimed rounds; return how many.

    As many as given; otherwise until two in a row take the same time, or `seconds` have passed.
    """
    times: list[float] = []
    while len(times) < (_MOST_WARMUP if rounds is None else rounds):
        times.append(sum(milliseconds(run, wait) for run in runs.values()))
        steady = len(times) > 1 and max(times[-2:]) <= _STEADY * min(times[-2:])
        if rounds is None and (steady or sum(times) > 1000 * seconds):
            break
    return len(times)


def waiter(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has finished all its work."""
    if device.type == "cpu":
        return lambda: None
    if device.type == "mps":
        return torch.mps.synchronize
    return partial(torch.accelerator.synchronize, device)
