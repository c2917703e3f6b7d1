"""The scheduler: plans worked out by hand, limits that hold for any queue, and queues in virtual time."""

import math
import random
from dataclasses import replace
from threading import Thread

import pytest

import adaptive_depth as ad
from adaptive_depth.governor.scheduler import DepthScheduler, Plan
from adaptive_depth.quality import Quality

# ms of 1 and 4: F 20 and 32, T 10 and 16; between them on a line, F 24 and 28, T 12 and 14.
ROWS = (
    ad.Row("F", 80.0, 400, 9, 20.0, throughput={1: 50.0, 4: 125.0}),
    ad.Row("T", 60.0, 200, 5, 10.0, throughput={1: 100.0, 4: 250.0}),
)
TABLE = ad.TradeOffs(ROWS)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def scheduler(**options) -> DepthScheduler:
    return DepthScheduler(TABLE, **{"deadline_ms": 50.0, "clock": Clock(), **options})


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([50.0], Plan((0,), "F", (), 20.0)),
        ([48.0, 50.0], Plan((0, 1), "F", (), 24.0)),
        ([12.0], Plan((0,), "T", (), 10.0)),
        ([5.0, 12.0], Plan((1,), "T", (0,), 10.0)),  # the first cannot be answered any more
        ([5.0, 6.0], Plan((), "T", (0, 1), 0.0)),
        ([], Plan((), "T", (), 0.0)),
        ([50.0, 5.0, 48.0], Plan((2, 0), "F", (1,), 24.0)),  # of their own deadlines: the first to end comes first
    ],
)
def test_a_plan_by_hand(left: list[float], expected: Plan) -> None:
    assert scheduler().plan(left) == expected


@pytest.mark.parametrize(
    ("left", "accepted", "expected"),
    [
        ([30.0, 50.0], [None, None], Plan((0, 1), "F", (), 24.0)),
        ([30.0, 50.0], [None, ("F",)], Plan((0, 1), "F", (), 24.0)),  # the second fills the batch of the first
        ([15.0, 30.0], [("T",), None], Plan((0, 1), "T", (), 12.0)),  # the first leads
        ([13.0, 13.0, 60.0], [None, ("T",), ("F",)], Plan((0, 1), "T", (), 12.0)),  # the third waits for F
        ([30.0, 31.0, 32.0], [("F",), ("T",), None], Plan((0, 2), "F", (), 24.0)),  # and here the second for T
        ([15.0, 12.0], [("F",), ("T",)], Plan((1,), "T", (0,), 10.0)),  # too late for F, which it insists on
        ([15.0], [("F",)], Plan((), "T", (0,), 0.0)),
    ],
)
def test_requests_that_accept_some_depths_only(left: list[float], accepted: list, expected: Plan) -> None:
    found = scheduler().plan(left, accepted)
    if not expected.batch:
        assert (found.batch, found.shed) == (expected.batch, expected.shed)
    else:
        assert found == expected


def test_who_is_late_runs_at_a_depth_that_it_accepts_where_nobody_is_turned_away() -> None:
    patient = scheduler(shed=None)
    assert patient.plan([1.0, 1.0, 1.0], [("F",), None, ("T",)]) == Plan((0, 1), "F", (), 24.0)


def test_a_depth_that_others_beat_runs_for_whoever_insists_on_it() -> None:
    beaten = ad.Row("X", 50.0, 300, 9, 20.0, throughput={1: 50.0, 4: 100.0})
    rows = [replace(row, skip=f"F{row.skip}") for row in ROWS]
    planner = DepthScheduler(ad.TradeOffs((*rows, replace(beaten, skip="TF"))), 60.0, clock=Clock())
    assert planner.plan([60.0, 55.0], [("TF",), None]) == Plan((1,), "FF", (), 20.0)
    assert planner.plan([60.0], [("TF",)]) == Plan((0,), "TF", (), 20.0)


def test_no_plan_for_a_depth_that_the_table_does_not_have() -> None:
    with pytest.raises(ad.errors.SkipError, match="a request accepts X: expected some of F, T"):
        scheduler().plan([50.0], [("X",)])
    with pytest.raises(ad.errors.SkipError, match="a request accepts no depth"):
        scheduler().plan([50.0], [()])


@pytest.mark.parametrize("shed", ["oldest", "newest", None])
def test_whoever_runs_does_so_at_a_depth_that_it_accepts_and_everyone_is_named_once(shed: str | None) -> None:
    noise = random.Random(1)
    for _ in range(300):
        left = [noise.uniform(0, 80) for _ in range(noise.randrange(1, 12))]
        accepted = [noise.choice([None, ("F",), ("T",), ("F", "T")]) for _ in left]
        plan = scheduler(shed=shed).plan(left, accepted)
        assert all(accepted[place] is None or plan.skip in accepted[place] for place in plan.batch)
        named = [*plan.batch, *plan.shed]
        assert len({*named}) == len(named) > 0
        if shed == "oldest":
            assert all(left[place] >= plan.expected_ms for place in plan.batch)


def test_a_batch_ends_a_little_before_the_first_of_its_deadlines() -> None:
    """Both at the deeper depth take 24 ms, and 5 % more are 25.2."""
    assert scheduler().plan([25.1, 50.0]).expected_ms * 1.05 <= 25.1


def test_between_measured_sizes_it_takes_the_line_that_joins_them() -> None:
    known = scheduler()
    assert [known.latency_ms("F", size) for size in (1, 2, 3, 4)] == pytest.approx([20.0, 24.0, 28.0, 32.0])
    assert known.max_batch == 4


def test_no_batch_takes_less_than_a_smaller_one() -> None:
    noisy = ad.TradeOffs((replace(ROWS[0], throughput={1: 50.0, 2: 110.0, 4: 125.0}),))
    known = DepthScheduler(noisy, 50.0)
    assert [known.latency_ms("F", size) for size in (1, 2)] == [20.0, 20.0]


def test_a_depth_that_another_one_beats_is_not_used() -> None:
    worse = ad.Row("T", 50.0, 200, 5, 25.0, throughput={1: 40.0, 4: 100.0})
    found = DepthScheduler(ad.TradeOffs((ROWS[0], worse)), 50.0)
    assert found.plan([1.0]) == Plan((), "F", (0,), 0.0)
    found.observe("T", 1, 50.0)  # it may run all the same
    assert found.slowdown == 2.0


def test_a_slow_device_runs_shallower() -> None:
    found = scheduler()
    assert found.plan([50.0]).skip == "F"
    for _ in range(3):
        found.observe("F", 1, 60.0)
    assert found.slowdown == 3.0
    assert found.plan([50.0]) == Plan((0,), "T", (), 30.0)
    assert found.plan([30.0]) == Plan((), "T", (0,), 0.0)  # 10 ms times 3, and 5 % of room


def test_a_single_slow_batch_is_no_slow_device() -> None:
    found = scheduler()
    for latency in (20.0, 200.0, 20.0):
        found.observe("F", 1, latency)
    assert found.slowdown == 1.0


def test_many_requests_make_time_dear() -> None:
    """Five hundred a second: the super-net could answer 125 at most, the base-net 250."""
    clock = Clock()
    found = scheduler(clock=clock)
    for _ in range(200):
        clock.now += 0.016
        plan = found.plan([50.0 - 2 * n for n in range(8, 0, -1)])
    assert plan.skip == "T"
    assert len(plan.batch) == 4
    assert found.arrivals_per_s > 200


def test_newest_are_turned_away_at_once_where_those_before_fill_the_time() -> None:
    """Batches of the base-net end at 16, 32 and, of 3, 46 or, of 4, 48 ms, each 5 % later."""
    left = [50.0] * 13
    assert scheduler(shed="newest").plan(left).shed == (11, 12)
    assert scheduler(shed="newest").plan([51.0] * 13).shed == (12,)
    assert scheduler().plan(left).shed == ()


def test_nobody_is_turned_away_unasked_of() -> None:
    found = scheduler(shed=None)
    plan = found.plan([-20.0, 50.0])
    assert plan.shed == ()
    assert plan.batch == (1, 0)  # the late one comes along where there is room
    assert found.plan([-20.0, -10.0]) == Plan((0, 1), "T", (), 12.0)


@pytest.mark.parametrize("shed", ["oldest", "newest", None])
def test_what_holds_for_any_queue(shed: str | None) -> None:
    rng = random.Random(0)
    clock = Clock()
    found = scheduler(shed=shed, clock=clock)
    for _ in range(2000):
        clock.now += rng.random() / 20
        left = sorted(rng.uniform(-20, 50) for _ in range(rng.randrange(30)))
        slow = found.slowdown
        plan = found.plan(left)
        assert len({*plan.batch, *plan.shed}) == len(plan.batch) + len(plan.shed) <= len(left)
        assert len(plan.batch) <= 4
        if plan.batch:
            assert plan.expected_ms == pytest.approx(found.latency_ms(plan.skip, len(plan.batch)) * found.slowdown)
            found.observe(plan.skip, len(plan.batch), plan.expected_ms * rng.uniform(0.8, 1.5))
        if shed is not None:
            assert all(left[place] >= plan.expected_ms for place in plan.batch)
            assert plan.batch or len(plan.shed) == len(left)
        elif max(left, default=0.0) >= 10.5 * slow:  # whoever can be answered in time comes before the late
            assert any(left[place] >= plan.expected_ms for place in plan.batch)


def served(make, rate: float, seconds: float = 60.0) -> float:
    """The expected share of right answers in time, in percent, of Poisson arrivals in virtual time."""
    rng, clock, queue, arrivals = random.Random(1), Clock(), [], [0.0]
    while arrivals[-1] < 1000 * seconds:
        arrivals.append(arrivals[-1] + rng.expovariate(rate))
    planner, right, following, now = make(clock), 0.0, 0, 0.0
    while following < len(arrivals) or queue:
        now = max(now, arrivals[following]) if not queue else now
        while following < len(arrivals) and arrivals[following] <= now:
            queue.append(arrivals[following])
            following += 1
        clock.now = now / 1000
        plan = planner.plan([came + 50 - now for came in queue])
        batch = [queue[place] for place in plan.batch]
        queue = [came for place, came in enumerate(queue) if place not in {*plan.batch, *plan.shed}]
        if batch:
            took = planner.latency_ms(plan.skip, len(batch))
            now += took
            planner.observe(plan.skip, len(batch), took)
            right += (80.0 if plan.skip == "F" else 60.0) * sum(now <= came + 50 for came in batch)
    return right / len(arrivals)


@pytest.mark.parametrize("rate", [0.02, 0.08, 0.15, 0.3])
def test_it_is_at_least_as_good_as_either_depth_alone(rate: float) -> None:
    """Requests a millisecond; the super-net can answer 0.125, the base-net 0.25."""
    both = served(lambda clock: scheduler(clock=clock), rate)
    alone = [
        served(lambda clock, row=row: DepthScheduler(ad.TradeOffs((row,)), 50.0, clock=clock), rate) for row in ROWS
    ]
    assert both >= max(alone) - 1.0
    if rate == 0.08:
        assert both >= max(alone) + 2.0


def test_clocks_that_jump_or_stand_still() -> None:
    clock = Clock()
    found = scheduler(clock=clock)
    for now in (0.0, 5.0, 5.0, 3.0, math.nan, 4.0, 1e12, 4.0):
        clock.now = now
        plan = found.plan([50.0])
        assert plan.batch == (0,)
        assert math.isfinite(found.arrivals_per_s)
    for latency in (math.nan, -1.0, 0.0, math.inf):
        found.observe("F", 1, latency)
    assert found.ignored == 4
    assert found.slowdown == 1.0


def test_threads_share_one() -> None:
    found = DepthScheduler(TABLE, 50.0)
    failed = []

    def use() -> None:
        try:
            for _ in range(500):
                plan = found.plan([40.0, 45.0])
                found.observe(plan.skip, len(plan.batch), 10.0)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"deadline_ms": 0}, ad.BudgetError, "deadline_ms=0: expected milliseconds, a finite number above 0"),
        ({"deadline_ms": math.nan}, ad.BudgetError, "deadline_ms=nan: expected milliseconds"),
        ({"shed": "random"}, ad.BudgetError, "shed='random': expected 'oldest', 'newest' or None"),
        ({"max_batch": 0}, ad.BudgetError, "max_batch=0: expected a whole number of at least 1"),
        (
            {"max_batch": 8},
            ad.MeasurementError,
            r"max_batch=8, but latencies .* of at most 4: profile with",
        ),
        ({"worth": {"F": 1.0}}, ad.BudgetError, "expected a finite number above 0 for each of F, T"),
    ],
)
def test_what_is_refused(options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        scheduler(**options)


def test_tables_that_are_refused() -> None:
    with pytest.raises(ad.MeasurementError, match="a scheduler received a dict instead of a table"):
        DepthScheduler({}, 50.0)  # type: ignore[arg-type]
    untimed = ad.TradeOffs((ad.Row("F", 80.0, 400, 9), ad.Row("T", 60.0, 200, 5)))
    with pytest.raises(ad.MeasurementError, match=r"latency_ms was not measured, only .*: profile without"):
        DepthScheduler(untimed, 50.0)
    single = ad.TradeOffs(tuple(replace(row, throughput={}) for row in ROWS))
    with pytest.raises(ad.MeasurementError, match=r"of at most 1: profile with batch_sizes=\(1, 4\)"):
        DepthScheduler(single, 50.0, max_batch=4)
    assert DepthScheduler(single, 50.0).max_batch == 1
    metres = replace(TABLE, quality=Quality("RMSE", "m", higher_is_better=False))
    with pytest.raises(ad.BudgetError, match="the worth of an answer does not follow from RMSE"):
        DepthScheduler(metres, 50.0)
    assert DepthScheduler(metres, 50.0, worth={"F": 1.0, "T": 0.8}).plan([50.0]).skip == "F"
    with pytest.raises(ad.MeasurementError, match="throughput was measured at different batch sizes"):
        ad.TradeOffs((ROWS[0], replace(ROWS[1], throughput={1: 100.0})))
    with pytest.raises(ad.SkipError, match="skip 'X' is not in the table: expected one of F, T"):
        scheduler().observe("X", 1, 10.0)
    with pytest.raises(ad.BudgetError, match="batch=5: expected a whole number from 1 to 4"):
        scheduler().observe("F", 5, 10.0)


def test_a_table_keeps_its_batch_sizes() -> None:
    again = ad.TradeOffs.from_json(TABLE.to_json())
    assert again == TABLE
    assert again.rows[0].throughput == {1: 50.0, 4: 125.0}
    assert len({*again.rows, *ROWS}) == 2


@pytest.mark.parametrize("shed", ["oldest", "newest"])
def test_a_slow_pass_does_not_turn_everybody_away_for_good(shed: str) -> None:
    """Nothing is observed while all are turned away: what was seen is forgotten, and one request tries again."""
    clock = Clock()
    plans = scheduler(shed=shed, clock=clock)
    plans.plan([50.0])
    plans.observe("F", 1, 1000.0)  # 50 times as slow: even T would take 500 ms
    assert plans.plan([50.0]).batch == ()
    assert plans.slowdown == 50.0
    answered = []
    for _ in range(100):  # 10 s
        clock.now += 0.1
        plan = plans.plan([49.0])
        if plan.batch:
            plans.observe(plan.skip, 1, plans.latency_ms(plan.skip, 1))  # as fast as ever
        answered.append(bool(plan.batch))
    assert answered[-90:] == [True] * 90
    assert not answered[0]  # and not at once


def test_a_device_that_stays_slow_is_tried_now_and_then() -> None:
    clock = Clock()
    plans, tried = scheduler(clock=clock), 0
    plans.plan([50.0])
    plans.observe("F", 1, 1000.0)
    for _ in range(600):  # a minute
        clock.now += 0.1
        plan = plans.plan([49.0])
        if plan.batch:
            tried += 1
            plans.observe(plan.skip, 1, 500.0)
    assert 10 < tried < 200


def test_what_cannot_be_planned_is_an_error() -> None:
    with pytest.raises(ad.errors.BudgetError, match="accepted has 1 entries for 2 requests"):
        scheduler().plan([50.0, 40.0], [("T",)])
    with pytest.raises(ad.errors.BudgetError, match="left_ms holds nan"):
        scheduler().plan([math.nan])


def test_of_accepted_depths_the_best_is_found_though_others_beat_it() -> None:
    """X is as slow as F and worse, and better than T: nobody who accepts F gets it, who does not gets it before T."""
    table = ad.TradeOffs((*ROWS, ad.Row("X", 70.0, 400, 9, 20.0, throughput={1: 50.0, 4: 125.0})))
    plans = DepthScheduler(table, 50.0, clock=Clock())
    assert plans.plan([50.0], [("X", "T")]).skip == "X"
    assert plans.plan([50.0], [("X", "T", "F")]).skip == "F"
    assert plans.plan([12.0], [("X", "T")]).skip == "T"
