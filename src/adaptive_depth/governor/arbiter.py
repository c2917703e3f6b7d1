"""The arbiter: which of several networks, each with its own queue, gets the device next."""

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from ..errors import BudgetError
from .scheduler import DepthScheduler, Plan, Queue, Speed


class Arbiter:
    """Plans the queues of several networks that take turns on one device.

    A millisecond of the device has one price for all of them: the value of the answers that it could produce at the
    total load of all queues. So a network whose shallow depths lose little becomes shallow first, and the batch that
    runs next is the one worth most together with everything that can still follow it, in its own queue and in the
    others. What one network observes of the device's speed counts for all.

    Arguments:
        schedulers: one for each network, by name. From now on, plan and observe only through the arbiter.

    Raises:
        BudgetError: no scheduler, or the same one twice.

    Example:
        >>> from adaptive_depth import Row, TradeOffs
        >>> slow = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))
        >>> fast = TradeOffs((Row("F", 90.0, 400, 9, 4.0), Row("T", 88.0, 200, 5, 2.0)))
        >>> arbiter = Arbiter(
        ...     {"cars": DepthScheduler(slow, deadline_ms=50), "faces": DepthScheduler(fast, deadline_ms=20)}
        ... )
        >>> plans = arbiter.plan({"cars": [45.0], "faces": [9.0]})
        >>> plans["faces"]  # first, because it cannot wait
        Plan(batch=(0,), skip='F', shed=(), expected_ms=4.0)
        >>> plans["cars"].batch
        ()
    """

    def __init__(self, schedulers: Mapping[str, DepthScheduler]) -> None:
        if not schedulers or len({id(each) for each in schedulers.values()}) < len(schedulers):
            raise BudgetError(f"{len(schedulers)} schedulers: expected one or more, a separate one for each network")
        self._schedulers = dict(schedulers)
        self._lock, speed = threading.RLock(), Speed()
        for scheduler in self._schedulers.values():
            scheduler.joins(self._lock, speed)

    def plan(
        self,
        left_ms: Mapping[str, Sequence[float]],
        accepted: Mapping[str, Sequence[Collection[str] | None] | None] | None = None,
    ) -> dict[str, Plan]:
        """What to do with each queue; at most one of the plans has a batch. Call it when the device is free.

        Arguments:
            left_ms: by network, how much time each of its requests has left (see `DepthScheduler.plan`). A network
                that is not named has an empty queue.
            accepted: by network, the depths that each request accepts; None for any.

        Raises:
            BudgetError: an unknown network.
            SkipError: a depth that a table does not have.
        """
        accepted = accepted or {}
        if strange := sorted({*left_ms, *accepted} - {*self._schedulers}):
            raise BudgetError(f"network {strange[0]!r}: expected some of {', '.join(self._schedulers)}")
        with self._lock:
            queues = {
                name: scheduler.received(left_ms.get(name, ()), accepted.get(name))
                for name, scheduler in self._schedulers.items()
            }
            slope = self._slope(queues)
            prices = {name: scheduler.prices.of(slope) for name, scheduler in self._schedulers.items()}
            after = {name: each.worth_after(queues[name], prices[name]) for name, each in self._schedulers.items()}
            value, chosen, plans = -math.inf, None, {}
            for name, scheduler in self._schedulers.items():
                others = [each for other, each in after.items() if other != name]
                # A batch of late requests is worth -inf, but runs if there is no other.
                found, plans[name] = scheduler.planned(queues[name], prices[name], _together(others))
                if plans[name].batch and (chosen is None or found > value):
                    value, chosen = found, name
            # Only the batch waits: shed requests cannot be answered in time, whoever gets the device.
            plans = {name: plan if name == chosen else _waits(plan) for name, plan in plans.items()}
            for name, plan in plans.items():
                self._schedulers[name].leave(len(left_ms.get(name, ())) - len(plan.batch) - len(plan.shed))
            return plans

    def observe(self, network: str, skip: str, batch: int, latency_ms: float) -> None:
        """Report how long a network's batch took; see `DepthScheduler.observe`."""
        if network not in self._schedulers:
            raise BudgetError(f"network {network!r}: expected one of {', '.join(self._schedulers)}")
        self._schedulers[network].observe(skip, batch, latency_ms)

    def __repr__(self) -> str:
        return f"Arbiter of {', '.join(self._schedulers)}"

    # -- inside -------------------------------------------------------------------------------------------------

    def _slope(self, queues: Mapping[str, Queue]) -> float:
        """What a millisecond is worth: time goes to the steepest parts of all hulls until it is used up."""
        parts = []
        for name, scheduler in self._schedulers.items():
            load = scheduler.load(queues[name])
            parts += [(slope, load * time) for time, slope in scheduler.prices.parts]
        used = 0.0
        for slope, time in sorted(parts, reverse=True):
            used += time
            # More than all of the device's time.
            if used > 1:
                return slope
        return 0.0


def _together(others: Sequence[Callable[[float], float]]) -> Callable[[float], float] | None:
    """What the other networks' queues are worth after a given number of milliseconds."""
    if not others:
        return None
    return others[0] if len(others) == 1 else lambda took: sum(each(took) for each in others)


def _waits(plan: Plan) -> Plan:
    return Plan((), plan.skip, plan.shed, 0.0)
