"""A governor tried on a trace of how slow a device was, and the best that anyone could have done on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.errors import BudgetError
from adaptive_depth.governor.generation import TextGovernor
from adaptive_depth.governor.governor import Governor
from adaptive_depth.quality import Quality


@dataclass(frozen=True)
class Simulated:
    """What a governor did on a trace, one entry an input.

    Attributes:
        skips: the depths that ran.
        starts_s: when each began.
        waited_ms, latency_ms: how long each input waited, and then took.
        missed: which ended after the target.
        expected: the mean of what the table says that the depths that ran reach, in the unit of its quality.
    """

    skips: tuple[str, ...]
    starts_s: tuple[float, ...]
    waited_ms: tuple[float, ...]
    latency_ms: tuple[float, ...]
    missed: tuple[bool, ...]
    expected: float

    @property
    def misses(self) -> int:
        return sum(self.missed)

    @property
    def switches(self) -> int:
        """How often an input ran at another depth than the one before."""
        return sum(a != b for a, b in zip(self.skips, self.skips[1:], strict=False))


class SimulatedClock:
    """A clock that stands still until it is set; give it to the governor that is simulated."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(
    governor: Governor,
    clock: SimulatedClock,
    slowdowns: Sequence[float],
    *,
    interval_ms: float | Sequence[float],
    queue: bool = False,
) -> Simulated:
    """Run a governor over a trace; nothing is computed, an input takes its profiled latency times its slowdown.

    Arguments:
        governor: a new one, made with `clock`.
        clock: is set to the simulated time.
        slowdowns: of each input.
        interval_ms: from one input to the next, one number for all or one for each; with `queue=False` inputs that
            come while another one runs are not taken, as with a camera.
        queue: do inputs wait for those before them?

    Raises:
        BudgetError: an empty trace, or one with slowdowns that are not above 0.

    Example:
        >>> table = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))
        >>> clock = SimulatedClock()
        >>> governor = Governor(table, target_ms=30, clock=clock)
        >>> run = simulate(governor, clock, [1.0] * 20 + [2.0] * 20, interval_ms=33)
        >>> run.skips[19:23], run.misses
        (('F', 'F', 'F', 'T'), 2)
    """
    _check(slowdowns)
    intervals = [interval_ms] * len(slowdowns) if isinstance(interval_ms, int | float) else interval_ms
    skips, starts, waits, latencies = [], [], [], []
    arrival = free = clock.now
    for slowdown, interval in zip(slowdowns, intervals, strict=True):
        start = max(arrival, free)
        clock.now, waited = start, 1000 * (start - arrival) if queue else 0.0
        skip = governor.choose(waited)
        latency = governor.latency_ms(skip) * slowdown
        clock.now = free = start + latency / 1000
        governor.observe(skip, latency, waited)
        skips.append(skip)
        starts.append(start)
        waits.append(waited)
        latencies.append(latency)
        arrival = (arrival if queue else start) + interval / 1000
    target = governor.target_ms
    missed = tuple(wait + latency > target for wait, latency in zip(waits, latencies, strict=True))
    expected = sum(governor.expected(skip) for skip in skips) / len(skips)
    return Simulated(tuple(skips), tuple(starts), tuple(waits), tuple(latencies), missed, expected)


def simulate_texts(
    governor: TextGovernor,
    clock: SimulatedClock,
    table: TradeOffs,
    texts: Sequence[tuple[int, float, float]],
    *,
    first_token_ms: float,
    token_ms: float,
    new_tokens: int = 64,
    attention: float = 0.0,
) -> tuple[tuple[str, ...], float, float]:
    """Run a governor over texts, one after the other, with what the device takes for them at the depth that it chooses.

    Arguments:
        governor: a new one, made with `clock`; or anything with `choose` and `observe`, such as a fixed depth.
        clock: is set to the simulated time.
        table: the times of each depth; its prompt's length is known.
        texts: of each its prompt's tokens, and how slow the device is at prefill and at decoding.
        first_token_ms, token_ms: the limits.
        new_tokens: of each text.
        attention: what part of the first token's time in the table grows with the square of the prompt.

    Returns:
        The depths, and the parts of the texts that met each limit.
    """
    rows, skips, met = {row.skip: row for row in table.rows}, [], [0, 0]
    assert table.prompt_tokens is not None
    for tokens, prefill, decoding in texts:
        skip = governor.choose(prompt_tokens=tokens)
        row, length = rows[skip], (tokens - 1) / (table.prompt_tokens - 1)
        first, one = row.first_token_ms or 0.0, row.token_ms or 0.0
        taken = prefill * (one + (first - one) * ((1 - attention) * length + attention * length**2))
        each = decoding * one
        clock.now += (taken + each * (new_tokens - 1)) / 1000
        governor.observe(skip, first_token_ms=taken, token_ms=each, prompt_tokens=tokens)
        skips.append(skip)
        met = [met[0] + (taken <= first_token_ms), met[1] + (each <= token_ms)]
    return tuple(skips), met[0] / len(texts), met[1] / len(texts)


def oracle(
    table: TradeOffs, slowdowns: Sequence[float], *, target_ms: float, misses: int, inputs_a_switch: int = 1
) -> float:
    """The best mean quality, in its unit, of one that knows every slowdown beforehand, exactly.

    It may miss as many deadlines as is given, and spends them where they gain most. Nothing waits.

    Arguments:
        table: the depths it chooses from.
        slowdowns: of each input.
        target_ms: the deadline.
        misses: how many inputs may miss it. Inputs that no depth meets are left out: they miss whatever runs.
        inputs_a_switch: it may change the depth every so many inputs.

    Raises:
        BudgetError: an empty trace, or one with slowdowns that are not above 0.
        MeasurementError: latency was not measured.

    Example:
        >>> table = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))
        >>> oracle(table, [1.0, 1.0, 2.0, 2.0], target_ms=30, misses=1)
        75.0
    """
    _check(slowdowns)
    front = table.front("latency_ms")
    meetable = sum((front[0].latency_ms or 0.0) * slowdown <= target_ms for slowdown in slowdowns)
    best = [0.0] * (misses + 1)  # the most points with at most so many misses; points are negative if lower is better
    for start in range(0, len(slowdowns), inputs_a_switch):
        options = _options(front, slowdowns[start : start + inputs_a_switch], target_ms, table.quality)
        best = [
            max(best[left - cost] + points for cost, points in options if cost <= left) for left in range(misses + 1)
        ]
    return table.quality.gain(best[-1] / meetable, 0.0) if meetable else front[0].accuracy


def _options(
    front: Sequence[Row], block: Sequence[float], target_ms: float, quality: Quality
) -> list[tuple[int, float]]:
    """Each depth for a block of inputs: misses and points, without the inputs that not even the fastest one meets."""
    meetable = [slowdown for slowdown in block if (front[0].latency_ms or 0.0) * slowdown <= target_ms]
    return [
        (
            sum((row.latency_ms or 0.0) * slowdown > target_ms for slowdown in meetable),
            quality.gain(row.accuracy, 0.0) * len(meetable),
        )
        for row in front
    ]


def _check(slowdowns: Sequence[float]) -> None:
    if not slowdowns or not all(0 < slowdown < float("inf") for slowdown in slowdowns):
        raise BudgetError(f"a trace of {len(slowdowns)} slowdowns: expected at least one, and finite numbers above 0")
