"""The governor: picks the depth for the next input from its observations of the device."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

from ..choose.costs import COSTS
from ..choose.tradeoffs import TradeOffs
from ..errors import BudgetError, MeasurementError, SkipError
from ..quality import Quality
from ..stopwatch import Steps
from .decisions import Decision, Seen
from .policy import Policy

_LOGGER = logging.getLogger(__name__)


class Governor:
    """Picks the depth for the next input: the best quality in the table that meets deadlines and limits.

    Only depths on the table's Pareto front are used; if lower quality values are better, those with the lowest ones.
    Threads may share one governor; every method holds a lock for a few microseconds.

    Arguments:
        table: quality and latency of each depth, measured as it will run: same backend, threads and batch size.
        target_ms: a deadline for each input, from its arrival to its output.
        images_per_s: instead of `target_ms`: a stream of this many images per second, in which each input must be done
            before the next one arrives.
        limit: called once a second; returns what one pass may cost at present, as `TradeOffs.best` takes it:
            `{"energy_mj": 40}` while the battery is low, `{"macs": 3e9}` while the device is hot, `{}` for no limit.
        met: the share of inputs that should meet the target.
        hold_s: how long a deeper one must have fitted before it is used.
        skips: the depths that can be run (`session.skips`); by default all in the table.
        on_decision: called with each `Decision`, for example to write it to a file; `log` keeps only the last ones.
        keep: how many decisions `log` keeps; None keeps all.
        clock: seconds; `time.monotonic` by default.

    Raises:
        BudgetError: invalid targets or limits.
        MeasurementError: no table, or a target for one without latencies.

    Example:
        >>> from adaptive_depth import Row
        >>> table = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))
        >>> governor = Governor(table, target_ms=30)
        >>> governor.choose()
        'F'
        >>> governor.observe("F", latency_ms=55.0)
        >>> governor.choose()
        'T'
    """

    def __init__(
        self,
        table: TradeOffs,
        *,
        target_ms: float | None = None,
        images_per_s: float | None = None,
        limit: Callable[[], Mapping[str, float]] | None = None,
        met: float = 0.95,
        hold_s: float = 0.1,
        skips: Iterable[str] | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        keep: int | None = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_table(table, "a governor")
        self.target_ms = _target(table, target_ms, images_per_s, limit)
        if not (is_positive(met) and met < 1):
            raise BudgetError(f"met={met!r}: expected a share of inputs between 0 and 1, such as 0.95")
        if not is_positive(hold_s):
            raise BudgetError(f"hold_s={hold_s!r}: expected seconds, a finite number above 0")
        if keep is not None and not (type(keep) is int and keep >= 0):
            raise BudgetError(f"keep={keep!r}: expected a number of decisions, 0 or more, or None for all")
        self._table = table if skips is None else only(table, set(skips))
        self._rows = {row.skip: row for row in self._table.rows}
        self._ladder = self._table.front()
        self._places = {row.skip: place for place, row in enumerate(self._ladder)}
        self._policy = Policy(self._ladder, self.target_ms, met, hold_s)
        self._limit, self._on_decision, self._clock = limit, on_decision, clock
        # Reentrant, because the `limit` callback may read the governor.
        self._lock = threading.RLock()
        self._log: deque[Decision] = deque(maxlen=keep)
        self._seen: list[Seen] = []
        self._number, self._at_s, self._step = 0, 0.0, Steps(clock)
        self._limits: Mapping[str, float] = {}
        self._allowed = tuple(range(len(self._ladder)))
        self._asked_s = -math.inf
        self._unmet = self._over = False
        self.failures = 0  # passes of `run` that raised
        self.ignored = 0  # observations with impossible latencies

    # -- choosing and observing ---------------------------------------------------------------------------------

    def choose(self, waited_ms: float = 0.0, *, work: float = 1.0) -> str:
        """The skip for the next input.

        Arguments:
            waited_ms: how long it has already waited.
            work: its expected time as a multiple of that of the table's input, at every depth: for a longer prompt,
                say.

        Raises:
            BudgetError: work that is not a number above 0, or an invalid limit from the callback, whose own exceptions
                propagate. The governor is unchanged.
        """
        _check_work(work)
        with self._lock:
            at_s = self._time()
            if self._limit is not None and at_s - self._asked_s >= 1:
                limits = self._limit()
                allowed = self._within(limits)
                # Only now: if the callback or the check raises, the governor is unchanged.
                self._limits, self._allowed, self._asked_s = limits, allowed, at_s
            decision = self._decide(at_s, waited_ms if 0 <= waited_ms < math.inf else 0.0, work)
        # Outside the lock, because the callback may be slow (writing to a disk).
        if self._on_decision is not None:
            self._on_decision(decision)
        return decision.skip

    def observe(self, skip: str, latency_ms: float, waited_ms: float = 0.0, *, work: float = 1.0) -> None:
        """Report how long an input took.

        A latency that is not finite or not above 0 is a clock error: it is only counted in `ignored`.

        Arguments:
            skip: the depth that ran.
            latency_ms: of the pass.
            waited_ms: how long the input had waited before that.
            work: as in `choose`, at this depth.

        Raises:
            SkipError: a depth that is not in the table.
            BudgetError: work that is not a number above 0.
        """
        _check_work(work)
        if skip not in self._rows:
            raise SkipError(f"skip {skip!r} is not in the governor's table: expected one of {', '.join(self._rows)}")
        with self._lock:
            at_s = self._time()
            if 0 < latency_ms < math.inf:  # also rejects nan
                self._take(Seen(at_s, skip, latency_ms, waited_ms if 0 <= waited_ms < math.inf else 0.0, work))
            else:
                self.ignored += 1

    def run(self, session: Callable[[Any, str], Any], x: Any, waited_ms: float = 0.0) -> Any:
        """Choose, run, observe.

        Arguments:
            session: called as `session(x, skip)`.
            x: the input.
            waited_ms: how long it has already waited.

        Returns:
            What the session returned.

        Exceptions of the session propagate and are counted in `failures`; the next input is unaffected.
        """
        skip = self.choose(waited_ms)
        start = self._clock()
        try:
            output = session(x, skip)
        except BaseException:
            with self._lock:
                self.failures += 1
            raise
        self.observe(skip, 1000 * (self._clock() - start), waited_ms)
        return output

    # -- what it knows ------------------------------------------------------------------------------------------

    @property
    def log(self) -> tuple[Decision, ...]:
        """The last decisions, oldest first."""
        with self._lock:
            return tuple(self._log)

    @property
    def slowdown(self) -> float:
        """The latency expected for the next input, as a multiple of the profiled one."""
        with self._lock:
            return self._policy.slowdown

    def latency_ms(self, skip: str) -> float:
        """The profiled latency of a depth; 0 if the table has none."""
        return self._rows[skip].latency_ms or 0.0

    @property
    def quality(self) -> Quality:
        """What depths are judged by: the table's quality."""
        return self._table.quality

    def expected(self, skip: str) -> float:
        """A depth's quality according to the table, in the unit of `quality`."""
        return self._rows[skip].accuracy

    accuracy = expected  # its name in version 0.1

    def __repr__(self) -> str:
        ladder = ", ".join(row.skip for row in self._ladder)
        return f"Governor for {self.target_ms:g} ms over {ladder}; decisions: {self._number}"

    # -- inside -------------------------------------------------------------------------------------------------

    def _time(self) -> float:
        self._at_s += self._step()
        return self._at_s

    def _take(self, seen: Seen) -> None:
        self._seen.append(seen)
        profiled = self._rows[seen.skip].latency_ms
        # Without latencies there is no deadline.
        slowdown = seen.latency_ms / (profiled * seen.work) if profiled else 1.0
        missed = seen.waited_ms + seen.latency_ms > self.target_ms
        # In milliseconds of the table's input, as the ladder's latencies are.
        room = (self.target_ms - seen.waited_ms) / seen.work
        self._policy.observe(seen.at_s, self._places.get(seen.skip), slowdown, missed, room)

    def _decide(self, at_s: float, waited_ms: float, work: float) -> Decision:
        policy = self._policy
        why = policy.decide(at_s, (self.target_ms - waited_ms) / work, self._allowed)
        assert policy.at is not None
        skip = self._ladder[policy.at].skip
        self._number += 1
        seen = tuple(self._seen)
        decision = Decision(self._number, at_s, waited_ms, self._limits, skip, why, policy.slowdown, seen, work)
        self._seen.clear()
        self._log.append(decision)
        self._say_once(policy.meets(self._allowed[0]), skip)
        return decision

    def _again(self, decision: Decision) -> Decision:
        """Replay a logged decision."""
        for seen in decision.seen:
            self._take(seen)
        if decision.limits != self._limits:
            self._limits, self._allowed = decision.limits, self._within(decision.limits)
        return self._decide(decision.at_s, decision.waited_ms, decision.work)

    def _say_once(self, meets: bool | None, skip: str) -> None:
        """Warn if the shallowest depth cannot meet the target; again only after it could for a while."""
        if self._policy.at != self._allowed[0] and not meets:
            return
        if meets is False and not self._unmet:
            _LOGGER.warning(
                "no depth meets %.4g ms while the device takes %.2f times its profiled latency: running %s",
                self.target_ms,
                self._policy.slowdown,
                skip,
            )
        self._unmet = self._unmet if meets is None else not meets

    def _within(self, limits: Mapping[str, float]) -> tuple[int, ...]:
        """The places on the ladder that the limits allow; if there are none, the nearest one, with a warning."""
        _check_limits(limits, self._table)
        places = range(len(self._ladder))
        # 0 by default: without any limit there is nothing to exceed.
        over = [
            max((getattr(self._ladder[place], name) / limits[name] for name in limits), default=0) for place in places
        ]
        allowed = tuple(place for place in places if over[place] <= 1)
        if not allowed and self._over is False:
            _LOGGER.warning("no depth is within %s: running the nearest one", dict(limits))
        self._over = not allowed
        return allowed or (over.index(min(over)),)


def replay(log: Iterable[Decision], table: TradeOffs, **settings: Any) -> tuple[Decision, ...]:
    """The decisions that a governor makes from the observations in a log: the same ones, given the same settings.

    Arguments:
        log: every decision from the first one on (`keep=None`, or written by `on_decision`).
        table: as it was for the governor, or another one with the same depths.
        **settings: of `Governor`: as they were, or others, to see what they would have chosen. Limits come from the
            log.

    Raises:
        MeasurementError: a log that is empty, lacks its beginning or has gaps.
        SkipError: a log with depths that are not in the table.

    Example:
        >>> from adaptive_depth import Row
        >>> table = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))
        >>> governor = Governor(table, target_ms=30)
        >>> for _ in range(3):
        ...     governor.observe(governor.choose(), latency_ms=25.0)
        >>> replay(governor.log, table, target_ms=30) == governor.log
        True
    """
    decisions = list(log)
    if not decisions or [each.number for each in decisions] != list(range(1, len(decisions) + 1)):
        raise MeasurementError(
            f"a log of {len(decisions)} decisions does not start with the first one or has gaps: keep all of them with "
            "Governor(keep=None) or on_decision"
        )
    # `dict` returns no limits; those of the log are set before each decision.
    governor = Governor(table, **{"limit": dict, **settings, "keep": None, "on_decision": None})
    return tuple(governor._again(decision) for decision in decisions)


def _target(table: TradeOffs, target_ms: object, images_per_s: object, limit: object) -> float:
    """The deadline in milliseconds; infinite if only a callback sets limits."""
    if target_ms is None and images_per_s is None and limit is None:
        raise BudgetError("a governor without a target: give target_ms=, images_per_s= or limit=")
    if target_ms is not None and images_per_s is not None:
        raise BudgetError(f"target_ms={target_ms!r} and images_per_s={images_per_s!r}: expected one of the two")
    for name, value in (("target_ms", target_ms), ("images_per_s", images_per_s)):
        if value is not None and not is_positive(value):
            raise BudgetError(f"{name}={value!r}: expected a finite number above 0")
    if target_ms is None and images_per_s is None:
        return math.inf
    table.cost_name("latency_ms")
    # One pass takes a whole batch, whose images arrive one by one.
    return float(target_ms or 1000 * table.batch_size / images_per_s)  # type: ignore[arg-type, operator]


def check_table(table: object, whose: str) -> None:
    """Raise if something other than a table was given."""
    if not isinstance(table, TradeOffs):
        raise MeasurementError(
            f"{whose} received a {type(table).__name__} instead of a table: expected tradeoffs(accuracy, cost), or the "
            "trade_offs of an artifact that was exported with them"
        )


def is_positive(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _check_work(work: object) -> None:
    if not is_positive(work):
        raise BudgetError(f"work={work!r}: expected a finite number above 0, 1 for an input like the table's")


def _check_limits(limits: object, table: TradeOffs) -> None:
    example = 'expected limits such as {"energy_mj": 40.0}, or {} for none'
    if not isinstance(limits, Mapping):
        raise BudgetError(f"the governor's limit returned {limits!r}: {example}")
    for name, value in limits.items():
        if name not in COSTS or name not in table.measured:
            raise BudgetError(
                f"the governor's limit returned {name}={value!r}, but the table has {', '.join(table.measured)}: "
                f"{example}"
            )
        if not is_positive(value):
            raise BudgetError(f"the governor's limit returned {name}={value!r}: expected a finite number above 0")


def only(table: TradeOffs, skips: set[str]) -> TradeOffs:
    """The table restricted to some of its depths."""
    rows = tuple(row for row in table.rows if row.skip in skips)
    if skips - {row.skip for row in rows} or not rows:
        raise SkipError(
            f"skips={sorted(skips)}: expected some of those in the table, {', '.join(row.skip for row in table.rows)}"
        )
    return replace(table, rows=rows, ties=tuple(pair for pair in table.ties if skips.issuperset(pair)))
