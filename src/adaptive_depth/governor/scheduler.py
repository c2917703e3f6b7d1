"""The scheduler: which waiting requests run together, at which depth, and which are shed."""

import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..choose.tradeoffs import TradeOffs
from ..errors import BudgetError, MeasurementError, SkipError
from ..stopwatch import Steps
from .governor import check_table, is_positive
from .prices import Price, Prices

ROOM = 1.05  # the margin by which a batch must meet the deadline
MEMORY = 3.0  # deadlines over which arrivals are averaged
USUAL = 0.25  # share of the arrivals within a deadline that wait if nothing is late
RECENT = 3  # passes whose median tells how slow the device is
_TIE = 1e-6  # among equals, the batch that saves most time; if batching saves none, the smallest
_CHOICES = 64  # kinds of requests whose depths are cached


@dataclass(frozen=True)
class Plan:
    """What to do with the waiting requests.

    Attributes:
        batch: positions in the queue of those to run together now; empty if none is left.
        skip: the depth for them.
        shed: positions of those to turn away.
        expected_ms: how long the batch is expected to take.
    """

    batch: tuple[int, ...]
    skip: str
    shed: tuple[int, ...]
    expected_ms: float


class _Depths(NamedTuple):
    """The depths that a request accepts, fastest first: names, worth, and milliseconds by batch size."""

    skips: tuple[str, ...]
    worth: list[float]
    times: list[list[float]]


class Speed:
    """How slow the device was in the last passes of all schedulers that share it.

    Attributes:
        number: of passes observed.
        recent: latency of each of the last ones as a multiple of its profile.
    """

    def __init__(self) -> None:
        self.number, self.recent = 0, deque[float](maxlen=RECENT)

    def observe(self, times: float) -> None:
        self.number += 1
        self.recent.append(times)


class Queue(NamedTuple):
    """The waiting requests by position, earliest deadline first.

    Attributes:
        alive, left: those that can still meet the deadline, and how much time each has, in milliseconds of the profile.
        late: those that cannot.
        shed: those that are turned away.
        choices: what each request accepts, by position; None if all accept any depth.
    """

    alive: Sequence[int]
    left: Sequence[float]
    late: Sequence[int]
    shed: tuple[int, ...]
    choices: "Sequence[_Depths] | None"


class DepthScheduler:
    """Plans a queue so that as many requests as possible are answered well and within their deadlines.

    It knows how long each depth takes for each batch size, and learns how slow the device is and how many requests
    arrive. While time is plentiful, requests run at the deepest depth that meets the deadline; the more requests
    compete for the device, the more its time is worth, and the shallower and larger the batches. Threads may share one
    scheduler; every method holds a lock for a few microseconds.

    Arguments:
        table: quality of each depth, and its latency by batch size (`profile(..., batch_sizes=(1, 4, 16))`), measured
            as it will run. Sizes in between are interpolated.
        deadline_ms: from the arrival of a request to its answer.
        max_batch: the largest batch; the largest that was measured by default.
        shed: which requests are turned away if not all can be answered in time: `"oldest"`, those already too late, or
            `"newest"`, once those before them fill the time. None answers all, late ones when there is room.
        worth: what an answer in time is worth, by skip; by default the table's quality, if it is in percent.
        clock: seconds; `time.monotonic` by default.

    Raises:
        BudgetError: an invalid deadline, size, `shed` or `worth`.
        MeasurementError: no table, or one without latencies by batch size.

    Example:
        >>> from adaptive_depth import Row
        >>> table = TradeOffs(
        ...     (
        ...         Row("F", 80.0, 400, 9, 20.0, throughput={1: 50.0, 4: 125.0}),
        ...         Row("T", 60.0, 200, 5, 10.0, throughput={1: 100.0, 4: 250.0}),
        ...     )
        ... )
        >>> scheduler = DepthScheduler(table, deadline_ms=50)
        >>> scheduler.plan([45.0, 50.0])
        Plan(batch=(0, 1), skip='F', shed=(), expected_ms=24.0)
        >>> scheduler.plan([3.0, 15.0, 30.0])
        Plan(batch=(1, 2), skip='T', shed=(0,), expected_ms=12.0)
        >>> scheduler.plan([30.0, 50.0], [None, ("F",)])  # the second one accepts only F
        Plan(batch=(0, 1), skip='F', shed=(), expected_ms=24.0)
    """

    def __init__(
        self,
        table: TradeOffs,
        deadline_ms: float,
        *,
        max_batch: int | None = None,
        shed: str | None = "oldest",
        worth: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not is_positive(deadline_ms):
            raise BudgetError(f"deadline_ms={deadline_ms!r}: expected milliseconds, a finite number above 0")
        if shed not in ("oldest", "newest", None):
            raise BudgetError(f"shed={shed!r}: expected 'oldest', 'newest' or None")
        self.deadline_ms, self.shed = float(deadline_ms), shed
        self.max_batch, times = _times(table, max_batch)
        values = _worth(table, worth)
        self._profiled, self._values = times, values
        self._depths = self._of(_front(values, times, self.max_batch))
        self._chosen: dict[frozenset[str], _Depths] = {}  # by what a request accepts
        self.prices = Prices(self._depths.worth, self._depths.times, self.deadline_ms)
        self._step = Steps(clock)
        self._lock: AbstractContextManager[Any] = threading.Lock()
        self._waiting = 0  # requests that the last plan left
        # As if nothing had arrived before, so that a first burst is not mistaken for the rate.
        self._arrived, self._passed = 0.0, MEMORY * self.deadline_ms  # requests and ms, with decaying weight
        self._speed, self._known, self._idle = Speed(), 0, 0.0  # ms since the last observed pass
        self.ignored = 0  # observations with impossible latencies

    # -- planning and observing ---------------------------------------------------------------------------------

    def plan(self, left_ms: Sequence[float], accepted: Sequence[Collection[str] | None] | None = None) -> Plan:
        """What to run next; call it when the device is free.

        If some requests accept only certain depths, the one with the earliest deadline leads: depth and batch are
        planned for it and for all that accept everything it accepts. Others that accept the chosen depth fill up the
        batch as long as no deadline is missed.

        Arguments:
            left_ms: how much time each waiting request has left, in order of arrival. A request stays in the queue
                until a plan names it.
            accepted: the depths that each of them accepts, None for any; None if all accept any.

        Raises:
            SkipError: a depth that the table does not have, or none.
            BudgetError: `accepted` does not have one entry per request, or a time is nan.
        """
        with self._lock:
            queue = self.received(left_ms, accepted)
            _, found = self.planned(queue, self.prices.at(self.load(queue)))
            self.leave(len(left_ms) - len(found.batch) - len(found.shed))
            return found

    def observe(self, skip: str, batch: int, latency_ms: float) -> None:
        """Report how long a batch took.

        A latency that is not finite or not above 0 is a clock error: it is only counted in `ignored`.

        Raises:
            SkipError: a depth that is not in the table.
            BudgetError: an invalid batch size, or one larger than `max_batch`.
        """
        if skip not in self._profiled:
            raise SkipError(f"skip {skip!r} is not in the table: expected one of {', '.join(self._profiled)}")
        if type(batch) is not int or not 1 <= batch <= self.max_batch:  # True is also an int
            raise BudgetError(f"batch={batch!r}: expected a whole number from 1 to {self.max_batch}")
        with self._lock:
            if 0 < latency_ms < math.inf:
                self._speed.observe(latency_ms / self._profiled[skip][batch])
            else:
                self.ignored += 1

    def joins(self, lock: AbstractContextManager[Any], speed: Speed) -> None:
        """Share the lock of an `Arbiter`, and what it knows of the device's speed."""
        self._lock, self._speed = lock, speed

    # -- what it knows ------------------------------------------------------------------------------------------

    @property
    def slowdown(self) -> float:
        """The latency expected for the next batch, as a multiple of the profiled one.

        It decays while nothing is observed, as when all requests are shed: otherwise one slow pass would shed all
        requests forever.
        """
        seen = sorted(self._speed.recent)
        found = seen[len(seen) // 2] if seen else 1.0
        stale = self._idle - self.deadline_ms
        return found if stale <= 0 or found <= 1 else 1 + (found - 1) * math.exp(-stale / (MEMORY * self.deadline_ms))

    @property
    def arrivals_per_s(self) -> float:
        """The current number of requests per second."""
        return 1000 * self._rate

    def latency_ms(self, skip: str, batch: int) -> float:
        """The profiled latency of a batch at a depth."""
        return self._profiled[skip][batch]

    def __repr__(self) -> str:
        return (
            f"DepthScheduler for {self.deadline_ms:g} ms over {', '.join(self._depths.skips)}, "
            f"up to {self.max_batch} together"
        )

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def _rate(self) -> float:
        return self._arrived / self._passed

    def _count(self, waiting: int) -> None:
        """Record how many arrived since the last plan."""
        passed = 1000 * self._step()
        self._idle = self._idle + passed if self._known == self._speed.number else 0.0
        self._known = self._speed.number
        fade = math.exp(-passed / (MEMORY * self.deadline_ms))
        # Negative if clients gave up meanwhile.
        self._arrived = fade * self._arrived + max(0, waiting - self._waiting)
        self._passed = fade * self._passed + passed

    def _of(self, skips: Sequence[str]) -> _Depths:
        return _Depths(tuple(skips), [self._values[skip] for skip in skips], [self._profiled[skip] for skip in skips])

    def _accepting(self, accepted: Collection[str] | None) -> _Depths:
        """The depths that a request accepts, without those that another of them beats."""
        if accepted is None:
            return self._depths
        key = frozenset(accepted)
        if key not in self._chosen:
            if not key or not key <= self._profiled.keys():
                raise SkipError(
                    f"a request accepts {', '.join(sorted(key)) or 'no depth'}: expected some of "
                    f"{', '.join(self._profiled)}"
                )
            if len(self._chosen) >= _CHOICES:
                self._chosen.clear()
            values, times = {skip: self._values[skip] for skip in key}, {skip: self._profiled[skip] for skip in key}
            self._chosen[key] = self._of(_front(values, times, self.max_batch))
        return self._chosen[key]

    def received(self, left_ms: Sequence[float], accepted: Sequence[Collection[str] | None] | None) -> Queue:
        """The waiting requests, counted and sorted into those that can meet the deadline, late and shed ones."""
        if accepted is not None and len(accepted) != len(left_ms):
            raise BudgetError(f"accepted has {len(accepted)} entries for {len(left_ms)} requests: expected one each")
        if any(map(math.isnan, left_ms)):
            raise BudgetError("left_ms holds nan: expected the milliseconds that each request has left")
        choices = None if accepted is None else [self._accepting(each) for each in accepted]
        # After all checks, so that a rejected call is not counted.
        self._count(len(left_ms))
        places = sorted(range(len(left_ms)), key=left_ms.__getitem__)
        left = [left_ms[place] / self._slow for place in places]
        if choices is None:
            first = bisect_left(left, self._depths.times[0][1])
            late, alive, left = places[:first], places[first:], left[first:]
        else:
            fits = [time >= choices[place].times[0][1] for place, time in zip(places, left, strict=True)]
            late = [place for place, fit in zip(places, fits, strict=True) if not fit]
            alive = [place for place, fit in zip(places, fits, strict=True) if fit]
            left = [time for time, fit in zip(left, fits, strict=True) if fit]
        shed = late if self.shed else []
        if self.shed == "newest":
            number = self._in_time(left)
            shed, alive, left = [*shed, *alive[number:]], alive[:number], left[:number]
        return Queue(alive, left, late, tuple(shed), choices)

    def leave(self, waiting: int) -> None:
        """Record how many still wait after a plan."""
        self._waiting = waiting

    @property
    def _slow(self) -> float:
        """The factor on profiled latencies, with a safety margin."""
        return self.slowdown * ROOM

    def load(self, queue: Queue) -> float:
        """Requests per millisecond of the profile: those that arrive, and those that wait in excess of the usual."""
        rate, deadline = self._rate * self._slow, self.deadline_ms / self._slow
        return rate + max(0.0, len(queue.alive) - USUAL * rate * deadline) / deadline

    def worth_after(self, queue: Queue, price: Price) -> Callable[[float], float]:
        """What the waiting requests are worth if another network first takes the device for a given time in ms."""
        left, fastest = queue.left, self._depths.times[0][1]
        rate, deadline = self._rate * self._slow, self.deadline_ms / self._slow

        def worth(took: float) -> float:
            least = took + fastest  # the soonest that the first can be answered
            first = bisect_left(left, least)
            found = price.next(len(left) - first, left[first] - took) if first < len(left) else 0.0
            if least > deadline:  # some that arrive meanwhile will be too late, too
                found -= rate * (least - deadline) * price.each
            return found

        return worth

    def planned(self, queue: Queue, price: Price, beyond: Callable[[float], float] | None = None) -> tuple[float, Plan]:
        """The plan, and what it is worth including all that can follow.

        Arguments:
            beyond: what other networks' queues are worth after a given number of milliseconds.
        """
        alive, left, choices = queue.alive, queue.left, queue.choices
        if not alive:
            return -math.inf, self._of_late(queue)
        together, others, depths = list(zip(alive, left, strict=True)), [], self._depths
        if choices is not None:
            depths = choices[alive[0]]
            accepts = {*depths.skips}
            others = [(place, time) for place, time in together if not accepts <= {*choices[place].skips}]
            together = [(place, time) for place, time in together if accepts <= {*choices[place].skips}]
        value, depth, start, size = self._best(
            [time for _, time in together], price, depths, [time for _, time in others], beyond
        )
        skip, times, room = depths.skips[depth], depths.times[depth], together[start][1]
        chosen = [place for place, _ in together[start : start + size]]
        if self.shed is None:
            others += [(place, math.inf) for place in queue.late]  # nothing to lose
        for place, ends in others:  # as many as fit without delaying the first
            if len(chosen) == self.max_batch or times[len(chosen) + 1] > room:
                break
            if (choices is None or skip in choices[place].skips) and times[len(chosen) + 1] <= ends:
                chosen, room = [*chosen, place], min(room, ends)
        # Without the safety margin, which is for deadlines.
        return value, Plan(tuple(chosen), skip, queue.shed, times[len(chosen)] * self.slowdown)

    def _of_late(self, queue: Queue) -> Plan:
        """If all are too late: those that accept what the first one accepts, at its fastest depth; or none."""
        late, choices = queue.late, queue.choices
        depths = self._depths if choices is None or not late else choices[late[0]]
        batch: tuple[int, ...] = ()
        if not self.shed:
            accepting = [at for at in late if choices is None or depths.skips[0] in choices[at].skips]
            batch = tuple(accepting[: self.max_batch])
        return Plan(batch, depths.skips[0], queue.shed, depths.times[0][len(batch)] * self.slowdown)

    def _in_time(self, left: Sequence[float]) -> int:
        """How many can be answered in time, in order of deadline, at the fastest depth in full batches."""
        times, done, ends = self._depths.times[0], 0, 0.0
        while done < len(left):
            size = min(self.max_batch, len(left) - done)
            while size and ends + times[size] > left[done]:
                size -= 1
            if not size:
                return done
            ends += times[size]
            done += size
        return done

    def _best(
        self,
        left: Sequence[float],
        price: Price,
        depths: _Depths,
        others: Sequence[float],
        beyond: Callable[[float], float] | None,
    ) -> tuple[float, int, int, int]:
        """What the best batch is worth, its depth, first request and size; `others` wait for another batch."""
        waiting, most = len(left), self.max_batch
        rate, deadline = self._rate * self._slow, self.deadline_ms / self._slow
        full = min(waiting, most)
        best, found = -math.inf, (0, 0, 1)
        # Only three sizes, because planning must take only microseconds.
        for size in sorted({full, (full + 1) // 2, (full + 3) // 4}):
            for depth, times in enumerate(depths.times):
                took = times[size]
                start = bisect_left(left, took)
                count = min(size, waiting - start)
                if count <= 0:
                    break  # the other depths are slower
                if count < size:
                    took = times[count]
                rest = waiting - start - count
                coming = rate * took
                room = deadline - took
                if rest:
                    room = min(room, left[start + count] - took)
                if others:
                    rest, room = rest + len(others), min(room, others[0] - took)
                value = depths.worth[depth] * count - price.slope * took + price.next(rest + coming, room)
                value += _TIE * (count * times[1] - took)
                if beyond is not None:
                    # Requests arrive during any pass, so longer passes look better. For a single network that does no
                    # harm (benchmarks/scheduling.py); among several it would favour the slowest, so it is subtracted.
                    value += beyond(took) - coming * price.each
                if value > best:
                    best, found = value, (depth, start, count)
        return best, *found


def _times(table: TradeOffs, max_batch: int | None) -> tuple[int, dict[str, list[float]]]:
    """The largest batch, and milliseconds by skip and batch size; 0 for size 0."""
    check_table(table, "a scheduler")
    table.cost_name("latency_ms")
    measured: dict[str, dict[int, float]] = {}
    for row in table.rows:
        assert row.latency_ms is not None
        measured[row.skip] = {
            table.batch_size: row.latency_ms,
            **{size: 1000 * size / rate for size, rate in row.throughput.items()},
        }
    largest = max(measured[table.rows[0].skip])
    if max_batch is None:
        max_batch = largest
    if type(max_batch) is not int or max_batch < 1:
        raise BudgetError(f"max_batch={max_batch!r}: expected a whole number of at least 1")
    if max_batch > largest:
        raise MeasurementError(
            f"max_batch={max_batch}, but latencies were measured for batches of at most {largest}: profile with "
            f"batch_sizes=(1, {max_batch}) (--batch-sizes 1,{max_batch})"
        )
    return max_batch, {skip: _every(sizes, max_batch) for skip, sizes in measured.items()}


def _every(measured: Mapping[int, float], most: int) -> list[float]:
    """Latency of each size: interpolated between measured sizes, proportional below the smallest, never decreasing."""
    sizes = sorted(measured)
    found = [0.0]
    for size in range(1, most + 1):
        place = bisect_left(sizes, size)
        if sizes[place] == size or place == 0:
            value = measured[sizes[place]] * size / sizes[place]
        else:
            low, high = sizes[place - 1], sizes[place]
            value = measured[low] + (measured[high] - measured[low]) * (size - low) / (high - low)
        found.append(max(value, found[-1]))
    return found


def _worth(table: TradeOffs, worth: Mapping[str, float] | None) -> dict[str, float]:
    if worth is None:
        if table.quality.unit != "%" or not table.quality.higher_is_better:
            raise BudgetError(
                f"the worth of an answer does not follow from {table.quality}: pass worth={{skip: number}}, the worth "
                "of an answer in time (a late one is worth 0)"
            )
        return {row.skip: row.accuracy for row in table.rows}
    skips = [row.skip for row in table.rows]
    if {*worth} != {*skips} or not all(is_positive(value) for value in worth.values()):
        raise BudgetError(f"worth={dict(worth)!r}: expected a finite number above 0 for each of {', '.join(skips)}")
    return dict(worth)


def _front(worth: Mapping[str, float], times: Mapping[str, Sequence[float]], most: int) -> list[str]:
    """Depths that no other one beats at every batch size, fastest first."""

    def beats(a: str, b: str) -> bool:
        no_worse = worth[a] >= worth[b] and all(times[a][n] <= times[b][n] for n in range(1, most + 1))
        return no_worse and (worth[a], times[b]) != (worth[b], times[a])

    kept = [skip for skip in times if not any(beats(other, skip) for other in times if other != skip)]
    return sorted(kept, key=lambda skip: times[skip][1])
