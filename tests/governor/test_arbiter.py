"""The arbiter: who is next by hand, limits that hold for any queues, and one network as if it were alone."""

import random

import pytest

import adaptive_depth as ad
from adaptive_depth.errors import BudgetError, SkipError
from adaptive_depth.governor.arbiter import Arbiter
from adaptive_depth.governor.scheduler import DepthScheduler, Plan

CARS = ad.TradeOffs(
    (
        ad.Row("F", 80.0, 400, 9, 20.0, throughput={1: 50.0, 4: 125.0}),
        ad.Row("T", 60.0, 200, 5, 10.0, throughput={1: 100.0, 4: 250.0}),
    )
)
# Depth buys little here: 2 points for 2 ms, where cars have 20 points for 10 ms.
FACES = ad.TradeOffs((ad.Row("F", 90.0, 400, 9, 4.0), ad.Row("T", 88.0, 200, 5, 2.0)))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def arbiter(clock: Clock | None = None, **options) -> Arbiter:
    clock = clock or Clock()
    return Arbiter(
        {
            "cars": DepthScheduler(CARS, 50, clock=clock, **options),
            "faces": DepthScheduler(FACES, 20, clock=clock, **options),
        }
    )


def test_who_cannot_wait_is_first() -> None:
    plans = arbiter().plan({"cars": [45.0], "faces": [9.0]})
    assert plans == {"cars": Plan((), "F", (), 0.0), "faces": Plan((0,), "F", (), 4.0)}
    assert arbiter().plan({"cars": [22.0], "faces": [12.0]})["cars"].batch == ()  # after T of cars faces are too late
    assert arbiter().plan({"cars": [22.0], "faces": [20.0]})["cars"].skip == "T"  # and after F
    assert arbiter().plan({"cars": [11.0], "faces": [18.0]})["cars"] == Plan((0,), "T", (), 10.0)


def test_where_time_is_dear_the_network_that_loses_little_is_shallow() -> None:
    """A car every 5 ms is more than F can do in full batches (8 ms each), so what T saves is worth 5 points a ms."""
    assert arbiter().plan({"faces": [9.0]})["faces"].skip == "F"
    clock = Clock()
    many = arbiter(clock)
    for _ in range(40):
        clock.now += 0.005
        many.plan({"cars": [50.0]})
    assert many.plan({"faces": [9.0]})["faces"] == Plan((0,), "T", (), 2.0)


def test_a_long_pass_is_not_begun_where_it_costs_others_their_deadline() -> None:
    """Cars alone would run all four at F in 32 ms, after which the faces that come meanwhile are too late."""
    clock = Clock()
    many = arbiter(clock)
    for _ in range(40):  # faces come every 4 ms
        clock.now += 0.004
        plans = many.plan({"faces": [20.0]})
        assert plans["faces"].batch == (0,)
    assert arbiter().plan({"cars": [45.0] * 4})["cars"] == Plan((0, 1, 2, 3), "F", (), 32.0)
    plan = many.plan({"cars": [45.0] * 4})["cars"]
    assert plan.batch
    assert plan.expected_ms < 20


def test_one_network_is_planned_as_by_its_scheduler() -> None:
    rng, clock = random.Random(0), Clock()
    alone, only = DepthScheduler(CARS, 50, clock=clock), Arbiter({"cars": DepthScheduler(CARS, 50, clock=clock)})
    for _ in range(300):
        clock.now += rng.uniform(0, 0.03)
        left = sorted(rng.uniform(0, 50) for _ in range(rng.randrange(8)))
        accepted = None if rng.random() < 0.5 else [rng.choice([None, ("F",), ("T", "F")]) for _ in left]
        plan = alone.plan(left, accepted)
        assert only.plan({"cars": left}, {"cars": accepted}) == {"cars": plan}
        if plan.batch:
            took = plan.expected_ms * rng.uniform(0.8, 1.5)
            alone.observe(plan.skip, len(plan.batch), took)
            only.observe("cars", plan.skip, len(plan.batch), took)


@pytest.mark.parametrize("shed", ["oldest", "newest", None])
def test_of_any_queues_one_batch_runs_and_nobody_is_named_twice(shed: str | None) -> None:
    rng, clock = random.Random(1), Clock()
    many = arbiter(clock, shed=shed)
    tables = {"cars": CARS, "faces": FACES}
    for _ in range(500):
        clock.now += rng.uniform(0, 0.03)
        left = {name: [rng.uniform(-5, 50) for _ in range(rng.randrange(7))] for name in tables}
        plans = many.plan(left)
        batches = [name for name, plan in plans.items() if plan.batch]
        assert {*plans} == {*left}
        assert len(batches) <= 1
        waiting = sum(len(left[name]) - len(plan.shed) for name, plan in plans.items())
        assert bool(batches) == bool(waiting)  # while anybody waits who is not shed, the device is not idle
        for name, plan in plans.items():
            named = [*plan.batch, *plan.shed]
            assert sorted(named) == sorted({*named})
            assert {*named} <= {*range(len(left[name]))}
            if shed == "oldest":
                assert all(
                    left[name][place] < 1.2 * min(row.latency_ms for row in tables[name].rows) for place in plan.shed
                )


def test_what_one_network_observes_counts_for_the_other() -> None:
    many = arbiter()
    assert many.plan({"faces": [5.0]})["faces"].skip == "F"
    for _ in range(3):
        many.observe("cars", "T", 1, 20.0)  # twice its latency
    assert many.plan({"faces": [5.0]})["faces"] == Plan((0,), "T", (), 4.0)


def test_who_is_late_runs_only_where_nobody_else_waits() -> None:
    many = arbiter(shed=None)
    plans = many.plan({"cars": [-5.0], "faces": [9.0]})
    assert (plans["cars"].batch, plans["faces"].batch) == ((), (0,))
    assert many.plan({"cars": [-5.0]})["cars"] == Plan((0,), "T", (), 10.0)


def test_depths_that_requests_accept() -> None:
    assert arbiter().plan({"faces": [9.0]}, {"faces": [("T",)]})["faces"].skip == "T"
    with pytest.raises(SkipError, match="a request accepts X"):
        arbiter().plan({"faces": [9.0]}, {"faces": [("X",)]})


def test_bad_input() -> None:
    one = DepthScheduler(CARS, 50)
    with pytest.raises(BudgetError, match="0 schedulers: expected one or more"):
        Arbiter({})
    with pytest.raises(BudgetError, match="a separate one for each network"):
        Arbiter({"a": one, "b": one})
    with pytest.raises(BudgetError, match="network 'dogs': expected some of cars, faces"):
        arbiter().plan({"dogs": [1.0]})
    with pytest.raises(BudgetError, match="network 'dogs': expected one of cars, faces"):
        arbiter().observe("dogs", "F", 1, 3.0)
    with pytest.raises(SkipError, match="skip 'X' is not in the table"):
        arbiter().observe("cars", "X", 1, 3.0)
