"""The scheduler: which of the requests that wait run together, at which depth, and which are turned away."""

import math
import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..choose.tradeoffs import TradeOffs
from ..errors import BudgetError, MeasurementError, SkipError
from ..stopwatch import Steps
from .governor import check_table, is_positive

ROOM = 1.05  # a batch must end so much before the deadline
MEMORY = 3.0  # deadlines over which arrivals are averaged
USUAL = 0.25  # of the arrivals within a deadline, so many wait where nothing is late
_RECENT = 3  # passes, of which the middle one says how slow the device is
_CHOICES = 64  # kinds of requests whose depths are kept


@dataclass(frozen=True)
class Plan:
    """What to do with the requests that wait.

    Attributes:
        batch: the places in the queue of those to run now, together; none where none is left.
        skip: the depth for them.
        shed: the places of those to turn away.
        expected_ms: what the batch is expected to take.
    """

    batch: tuple[int, ...]
    skip: str
    shed: tuple[int, ...]
    expected_ms: float


class _Depths(NamedTuple):
    """Those that a request accepts, fastest first: names, worth, and milliseconds by batch size."""

    skips: tuple[str, ...]
    worth: list[float]
    times: list[list[float]]


class DepthScheduler:
    """Plans a queue, so that as much as possible of what is asked is answered well and within its deadline.

    It knows what each depth takes for a batch of each size, and learns how slow the device is and how many requests
    come. While time is left over, requests run at the deepest depth that ends in time; the more requests there are for
    the device's time, the dearer that time, and the shallower and larger the batches. Threads may share one; every
    method holds a lock for some microseconds.

    Arguments:
        table: quality of each depth, and its latency by batch size (`profile(..., batch_sizes=(1, 4, 16))`), measured
            as it will run. Sizes in between are interpolated.
        deadline_ms: from the arrival of a request to its answer.
        max_batch: the largest batch; the largest that was measured by default.
        shed: who is turned away where not all can be answered in time: `"oldest"`, those that are too late already,
            or `"newest"`, as soon as those before them fill the time. None answers all, late ones when there is room.
        worth: what an answer in time is worth, by skip; by default the table's quality where it is in percent.
        clock: seconds; `time.monotonic` by default.

    Raises:
        BudgetError: a deadline, size, `shed` or `worth` that is none.
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
        >>> scheduler.plan([30.0, 50.0], [None, ("F",)])  # the second one accepts F alone
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
        self._prices = _Prices(self._depths.worth, self._depths.times, self.deadline_ms)
        self._step, self._lock = Steps(clock), threading.Lock()
        self._waiting = 0  # that the last plan left
        self._arrived, self._passed = 0.0, MEMORY * self.deadline_ms  # requests and ms, older ones weighing less
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self.ignored = 0  # observations that no clock can have measured

    # -- planning and observing ---------------------------------------------------------------------------------

    def plan(self, left_ms: Sequence[float], accepted: Sequence[Collection[str] | None] | None = None) -> Plan:
        """What to run next; to be called when the device is free.

        Where some requests accept certain depths only, the one whose deadline is first leads: depth and batch are
        planned for it and for all that accept whatever it accepts. Others that accept that depth fill the batch, as
        many as do not delay it beyond a deadline.

        Arguments:
            left_ms: how much time each request that waits has left, in the order of their arrival. A request stays in
                the queue until a plan names it.
            accepted: the depths that each of them accepts, None for any; None where all accept any.

        Raises:
            SkipError: a depth that the table does not have, or none.
        """
        with self._lock:
            choices = None if accepted is None else [self._accepting(each) for each in accepted]
            self._count(len(left_ms))
            found = self._plan(left_ms, choices)
            self._waiting = len(left_ms) - len(found.batch) - len(found.shed)
            return found

    def observe(self, skip: str, batch: int, latency_ms: float) -> None:
        """Tell what a batch took.

        A latency that is not finite or not above 0 comes from a broken clock: it is counted in `ignored`.

        Raises:
            SkipError: a depth that is not in the table.
            BudgetError: a batch that is none, or larger than `max_batch`.
        """
        if skip not in self._profiled:
            raise SkipError(f"skip {skip!r} is not in the table: expected one of {', '.join(self._profiled)}")
        if type(batch) is not int or not 1 <= batch <= self.max_batch:
            raise BudgetError(f"batch={batch!r}: expected a whole number from 1 to {self.max_batch}")
        with self._lock:
            if 0 < latency_ms < math.inf:
                self._recent.append(latency_ms / self._profiled[skip][batch])
            else:
                self.ignored += 1

    # -- what it knows ------------------------------------------------------------------------------------------

    @property
    def slowdown(self) -> float:
        """How many times its profiled latency the device is expected to take for the next batch."""
        seen = sorted(self._recent)
        return seen[len(seen) // 2] if seen else 1.0

    @property
    def arrivals_per_s(self) -> float:
        """How many requests come a second, at present."""
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
        """Take in how many came since the last plan."""
        passed = 1000 * self._step()
        fade = math.exp(-passed / (MEMORY * self.deadline_ms))
        self._arrived = fade * self._arrived + max(0, waiting - self._waiting)
        self._passed = fade * self._passed + passed

    def _of(self, skips: Sequence[str]) -> _Depths:
        return _Depths(tuple(skips), [self._values[skip] for skip in skips], [self._profiled[skip] for skip in skips])

    def _accepting(self, accepted: Collection[str] | None) -> _Depths:
        """Of the depths that a request accepts those worth running: on the front, or all where none of them is."""
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
            front = [skip for skip in self._depths.skips if skip in key]
            self._chosen[key] = self._of(front or sorted(key, key=lambda skip: self._profiled[skip][1]))
        return self._chosen[key]

    def _plan(self, left_ms: Sequence[float], choices: Sequence[_Depths] | None) -> Plan:
        slow = self.slowdown * ROOM
        places = sorted(range(len(left_ms)), key=left_ms.__getitem__)
        left = [left_ms[place] / slow for place in places]  # in milliseconds of the profile
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
        if not alive:
            return self._of_late(late, tuple(shed), choices)
        together, others, depths = list(zip(alive, left, strict=True)), [], self._depths
        if choices is not None:
            depths = choices[alive[0]]
            accepts = {*depths.skips}
            others = [(place, time) for place, time in together if not accepts <= {*choices[place].skips}]
            together = [(place, time) for place, time in together if accepts <= {*choices[place].skips}]
        depth, start, size = self._best([time for _, time in together], slow, depths, [time for _, time in others])
        skip, times, room = depths.skips[depth], depths.times[depth], together[start][1]
        chosen = [place for place, _ in together[start : start + size]]
        if self.shed is None:
            others += [(place, math.inf) for place in late]
        for place, ends in others:  # as many as do not delay the first
            if len(chosen) == self.max_batch or times[len(chosen) + 1] > room:
                break
            if (choices is None or skip in choices[place].skips) and times[len(chosen) + 1] <= ends:
                chosen, room = [*chosen, place], min(room, ends)
        return Plan(tuple(chosen), skip, tuple(shed), times[len(chosen)] * self.slowdown)

    def _of_late(self, late: Sequence[int], shed: tuple[int, ...], choices: Sequence[_Depths] | None) -> Plan:
        """Where all are too late: those who accept what the first one accepts, at its fastest depth; or nobody."""
        depths = self._depths if choices is None or not late else choices[late[0]]
        batch: tuple[int, ...] = ()
        if not self.shed:
            accepting = [at for at in late if choices is None or depths.skips[0] in choices[at].skips]
            batch = tuple(accepting[: self.max_batch])
        return Plan(batch, depths.skips[0], shed, depths.times[0][len(batch)] * self.slowdown)

    def _in_time(self, left: Sequence[float]) -> int:
        """How many can be answered in time in the order of their deadlines, by the fastest depth in full batches."""
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
        self, left: Sequence[float], slow: float, depths: _Depths, others: Sequence[float]
    ) -> tuple[int, int, int]:
        """Depth, first of the batch, and its size; `others` wait, and are not for this batch."""
        waiting, most = len(left), self.max_batch
        rate = self._rate * slow  # for a millisecond of the profile
        deadline = self.deadline_ms / slow
        backlog = max(0.0, waiting + len(others) - USUAL * rate * deadline)
        price = self._prices.at(rate + backlog / deadline)
        full = min(waiting, most)
        best, found = -math.inf, (0, 0, 1)
        for size in {full, (full + 1) // 2, (full + 3) // 4}:
            for depth, times in enumerate(depths.times):
                took = times[size]
                start = bisect_left(left, took)
                count = min(size, waiting - start)
                if count <= 0:
                    break
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
                if value > best:
                    best, found = value, (depth, start, count)
        return found


class _Price:
    """What a batch is worth while a millisecond of the device is worth `slope`."""

    def __init__(self, slope: float, worth: Sequence[float], times: Sequence[Sequence[float]]) -> None:
        self.slope = slope
        self.largest = len(times[0]) - 1
        self.rooms: list[list[float]] = [[]]
        self.values: list[list[float]] = [[]]
        for size in range(1, self.largest + 1):
            ends = sorted(
                (each[size], size * value - slope * each[size]) for value, each in zip(worth, times, strict=True)
            )
            rooms, values, best = [], [], -math.inf
            for end, value in ends:
                if value > best:
                    rooms.append(end)
                    values.append(value)
                    best = value
            self.rooms.append(rooms)
            self.values.append(values)
        self.each = max(0.0, max(values[-1] / size for size, values in enumerate(self.values) if size))

    def next(self, requests: float, room: float) -> float:
        """What so many requests are worth, of which the next batch must end within `room`."""
        size = min(self.largest, math.ceil(requests))
        while size:
            place = bisect_right(self.rooms[size], room)
            if place:
                share = min(1.0, requests / size)
                return share * max(0.0, self.values[size][place - 1]) + max(0.0, requests - size) * self.each
            size //= 2
        return max(0.0, requests - 1) * self.each


class _Prices:
    """What a millisecond of the device is worth by the load, from the best mixture of depths that carries it.

    Of a load of so many requests a millisecond, each has `1 / load` of the device's time. What that buys is the upper
    hull of (time of a request, worth of its answer) over all depths, and of nothing for no time; its slope there is the
    price.
    """

    def __init__(self, worth: Sequence[float], times: Sequence[Sequence[float]], deadline: float) -> None:
        points = [(0.0, 0.0)]
        for value, each in zip(worth, times, strict=True):
            fitting = [size for size in range(1, len(each)) if each[size] <= deadline / 2] or [1]
            points.append((min(each[size] / size for size in fitting), value))
        hull: list[tuple[float, float]] = []
        for point in sorted(points):
            while len(hull) >= 2 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
                hull.pop()
            if not hull or point[1] > hull[-1][1]:
                hull.append(point)
        self._ends = [time for time, _ in hull[1:]]  # in ascending order
        self._prices = [_Price(_slope(a, b), worth, times) for a, b in pairwise(hull)]
        self._prices.append(_Price(0.0, worth, times))

    def at(self, load: float) -> _Price:
        """
        Arguments:
            load: requests a millisecond.
        """
        return self._prices[bisect_right(self._ends, 1 / load) if load > 0 else len(self._ends)]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else math.inf


def _times(table: TradeOffs, max_batch: int | None) -> tuple[int, dict[str, list[float]]]:
    """The largest batch, and milliseconds by skip and batch size; of size 0 nothing."""
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
            f"max_batch={max_batch}, and latencies were measured for batches of {largest} at most: profile with "
            f"batch_sizes=(1, {max_batch}) (--batch-sizes 1,{max_batch})"
        )
    return max_batch, {skip: _every(sizes, max_batch) for skip, sizes in measured.items()}


def _every(measured: Mapping[int, float], most: int) -> list[float]:
    """Of each size: between two that were measured on the line that joins them, below the smallest in proportion to it,
    and never less than of a smaller one.
    """
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
                f"what an answer is worth does not follow from {table.quality}: give worth={{skip: number}}, what "
                "one in time is worth where one that is late is worth 0"
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
