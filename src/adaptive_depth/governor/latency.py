"""The latencies of depths on this machine, for a table that was measured elsewhere."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from ..choose.costs import OF_TEXT
from ..choose.tradeoffs import TradeOffs
from ..errors import MeasurementError
from ..stopwatch import planned, time_all

_LEAST, _MOST = 3, 30  # rounds


def measure_latencies(
    session: Callable[[Any, str], Any],
    x: Any,
    skips: Iterable[str],
    *,
    seconds: float = 3.0,
    on_round: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """The median time of a pass of each depth; all depths in turn, in a newly shuffled order each round.

    Each timed pass follows an untimed one of the same depth, as if a depth had been in use for a while.

    Arguments:
        session: called as `session(x, skip)`.
        x: the input.
        skips: the depths.
        seconds: approximate duration; at least three rounds, at most thirty.
        on_round: called with (rounds done, estimated total).
        clock: seconds.

    Returns:
        Milliseconds by skip.

    Example:
        >>> sorted(measure_latencies(lambda x, skip: x, None, ["F", "T"], seconds=0))
        ['F', 'T']
    """
    runs = {skip: partial(session, x, skip) for skip in skips}
    plan = partial(planned, None, seconds, least=_LEAST, most=_MOST)
    times = time_all(runs, plan, on_round, twice=True, clock=clock)
    return {skip: median(passes) for skip, passes in times.items()}


def with_latencies(
    table: TradeOffs,
    latencies: Mapping[str, float],
    *,
    device: Mapping[str, Any],
) -> TradeOffs:
    """A table of the measured depths: their quality, and latencies of single images on another device.

    Arguments:
        table: for the quality; everything else measured on its own device (memory, energy, text times) is left out.
        latencies: milliseconds by skip.
        device: what they were measured on, as in `Profile`.

    Raises:
        MeasurementError: no depth in common.

    Example:
        >>> from adaptive_depth import Row
        >>> table = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))
        >>> [row.latency_ms for row in with_latencies(table, {"F": 3.0, "T": 2.0}, device={}).rows]
        [3.0, 2.0]
    """
    rows = tuple(
        replace(
            row,
            latency_ms=latencies[row.skip],
            latency_high_ms=None,
            memory_mb=None,
            energy_mj=None,
            throughput={},
            **dict.fromkeys(OF_TEXT),
        )
        for row in table.rows
        if row.skip in latencies
    )
    if not rows:
        raise MeasurementError(
            f"the table has {', '.join(row.skip for row in table.rows)}, but the latencies are for "
            f"{', '.join(latencies)}: expected the same depths"
        )
    return TradeOffs(rows, batch_size=1, device=dict(device), images=table.images, quality=table.quality)
