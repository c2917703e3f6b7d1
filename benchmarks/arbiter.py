"""Two networks on one device in virtual time: the arbiter beside those who know of one queue each.

    python arbiter.py            judge on the seeds that nothing was tuned on
    python arbiter.py --tune     the same on others

The networks are those of the two tables of governor_simulation.py (80 to 60 %, deadline 100 ms; 76.7 to 75.1 % in a
quarter of the time, deadline 50 ms), with a queue each. Whoever is free to choose serves the queue whose first request
has the least time left, its rivals with fixed depths, a governor each, or a scheduler each that does not know of the
other. Figures as in scheduling.py: right answers in time, in percent of all requests.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from governor_simulation import TABLES
from measure import report
from scheduling import JUDGED, MAX_BATCH, TRACES, TUNED, Planner, Simple, Trace, governed

from adaptive_depth.choose.tradeoffs import TradeOffs
from adaptive_depth.governor.arbiter import Arbiter
from adaptive_depth.governor.scheduler import DepthScheduler, Plan

DEADLINES = {"steep": 100.0, "flat": 50.0}
COST = 0.35  # of each further image of a batch
# Of what each base-net could do alone: with two of them, half of it is a full device.
LOADS: dict[str, tuple[str, float, str, float]] = {
    "both 30 %": ("Poisson, 60 %", 0.5, "Poisson, 60 %", 0.5),
    "both 45 %": ("Poisson, 60 %", 0.75, "Poisson, 60 %", 0.75),
    "both 65 %": ("overload, 130 %", 0.5, "overload, 130 %", 0.5),
    "bursts beside 30 %": ("bursts, short", 0.8, "Poisson, 60 %", 0.5),
    "30 % beside bursts": ("Poisson, 60 %", 0.5, "bursts, short", 0.8),
    "bursts of both": ("bursts, long", 0.6, "bursts, short", 0.6),
    "a day beside 20 %": ("diurnal", 0.7, "Poisson, 60 %", 0.33),
    "a competitor": ("a competitor comes and goes", 0.5, "Poisson, 60 %", 0.4),
}


def tables() -> dict[str, TradeOffs]:
    made = {}
    for name, table, share in (("steep", TABLES["80 to 60 %"], 1.0), ("flat", TABLES["76.7 to 75.1 %"], 0.25)):
        rows = []
        for row in table.rows:
            assert row.latency_ms is not None
            latency = share * row.latency_ms
            each = {size: 1000 * size / (latency * (1 + COST * (size - 1))) for size in (1, 2, 4, 8)}
            rows.append(replace(row, latency_ms=latency, throughput=each))
        made[name] = TradeOffs(tuple(rows))
    return made


class Device(Protocol):
    def plan(self, left_ms: Mapping[str, Sequence[float]]) -> Mapping[str, Plan]: ...

    def observe(self, network: str, skip: str, batch: int, latency_ms: float) -> None: ...


class Each:
    """A planner for each network, which does not know of the other; the request with the least time left is next."""

    def __init__(self, planners: Mapping[str, Planner]) -> None:
        self._planners = planners

    def plan(self, left_ms: Mapping[str, Sequence[float]]) -> Mapping[str, Plan]:
        plans = {name: self._planners[name].plan(left) for name, left in left_ms.items() if left}
        able = [name for name, plan in plans.items() if plan.batch]
        if not able:
            return plans
        first = min(able, key=lambda name: min(left_ms[name][place] for place in plans[name].batch))
        return {name: plan if name == first else replace(plan, batch=()) for name, plan in plans.items()}

    def observe(self, network: str, skip: str, batch: int, latency_ms: float) -> None:
        self._planners[network].observe(skip, batch, latency_ms)


def fixed(known: Mapping[str, TradeOffs], place: int) -> Device:
    return Each(
        {
            name: Simple(table, lambda _, skip=table.rows[place].skip: skip, lambda *_: None)
            for name, table in known.items()
        }
    )


def schedulers(known: Mapping[str, TradeOffs], clock: Callable[[], float]) -> dict[str, DepthScheduler]:
    return {
        name: DepthScheduler(table, DEADLINES[name], max_batch=MAX_BATCH, clock=clock) for name, table in known.items()
    }


RIVALS: dict[str, Callable[[Mapping[str, TradeOffs], Callable[[], float]], Device]] = {
    "super-nets": lambda known, _: fixed(known, 0),
    "base-nets": lambda known, _: fixed(known, -1),
    "governors": lambda known, clock: Each({name: governed(table, clock) for name, table in known.items()}),
    "schedulers": lambda known, clock: Each(schedulers(known, clock)),
}


def simulated(
    traces: Mapping[str, Trace],
    known: Mapping[str, TradeOffs],
    make: Callable[[Mapping[str, TradeOffs], Callable[[], float]], Device],
    rng: random.Random,
) -> dict[str, float]:
    """Percent of right answers in time, of all requests; and microseconds of a decision."""
    now = 0.0
    device = make(known, lambda: now / 1000)
    profiled = schedulers(known, time.monotonic)
    coming = sorted((at, name) for name, trace in traces.items() for at in trace.arrivals)
    queues: dict[str, list[float]] = {name: [] for name in traces}
    accuracy = {name: {row.skip: row.accuracy for row in table.rows} for name, table in known.items()}
    following, right, spent = 0, 0.0, []
    while following < len(coming) or any(queues.values()):
        if not any(queues.values()):
            now = max(now, coming[following][0])
        while following < len(coming) and coming[following][0] <= now:
            queues[coming[following][1]].append(coming[following][0])
            following += 1
        left = {name: [came + DEADLINES[name] - now for came in queue] for name, queue in queues.items()}
        began = time.perf_counter()
        plans = device.plan(left)
        spent.append(time.perf_counter() - began)
        for name, plan in plans.items():
            batch = [queues[name][place] for place in plan.batch]
            gone = {*plan.batch, *plan.shed}
            queues[name] = [came for place, came in enumerate(queues[name]) if place not in gone]
            if batch:
                slow = traces["steep"].slow(now)  # the competitor is one of the device
                took = profiled[name].latency_ms(plan.skip, len(batch)) * slow * rng.lognormvariate(0, 0.05)
                now += took
                device.observe(name, plan.skip, len(batch), took)
                in_time = sum(now <= came + DEADLINES[name] for came in batch)
                right += in_time * accuracy[name][plan.skip] / 100
    return {"right": 100 * right / len(coming), "us": 1e6 * statistics.median(spent)}


def judged(seeds: Sequence[int]) -> dict[str, Any]:
    known, found = tables(), {}
    base = schedulers(known, time.monotonic)
    capacity = {
        name: MAX_BATCH / base[name].latency_ms(table.rows[-1].skip, MAX_BATCH) for name, table in known.items()
    }
    for load, (steep, share, flat, other) in LOADS.items():
        runs: dict[str, list[dict[str, float]]] = {}
        for seed in seeds:
            rng = random.Random(seed)
            traces = {
                "steep": TRACES[steep](share * capacity["steep"], rng),
                "flat": TRACES[flat](other * capacity["flat"], rng),
            }
            for who, make in {**RIVALS, "arbiter": lambda each, clock: Arbiter(schedulers(each, clock))}.items():
                runs.setdefault(who, []).append(simulated(traces, known, make, random.Random(seed)))
        right = {who: round(statistics.mean(run["right"] for run in each), 2) for who, each in runs.items()}
        found[load] = right | {
            "above the best rival": round(right["arbiter"] - max(right[who] for who in RIVALS), 2),
            "us": round(statistics.median(run["us"] for run in runs["arbiter"]), 1),
        }
        print(f"{load:22} {found[load]}", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tune", action="store_true")
    if parser.parse_args().tune:
        judged(TUNED)
    else:
        found = judged(JUDGED)
        within = all(
            each["above the best rival"] >= -1 and each["us"] <= 50 * len(DEADLINES) for each in found.values()
        )
        targets = "at most 1 point below the best rival; a decision at most 50 us for each network"
        report("arbiter", {"targets": targets, "loads": found}, passed=within)
