import json
import logging
import math
import random
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise

import pytest

from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.errors import BudgetError, MeasurementError, SkipError
from adaptive_depth.governor.decisions import Decision
from adaptive_depth.governor.governor import Governor, replay
from adaptive_depth.quality import Quality

#                accuracy macs parameters latency        energy
TABLE = TradeOffs(
    (
        Row("FF", 80.0, 400, 9, 20.0, energy_mj=100.0),
        Row("TF", 75.0, 300, 8, 15.0, energy_mj=75.0),
        Row("FT", 70.0, 350, 7, 17.0, energy_mj=80.0),  # dominated by TF
        Row("TT", 60.0, 200, 5, 10.0, energy_mj=50.0),
    )
)
TWO = TradeOffs((TABLE.rows[0], TABLE.rows[3]))
LATENCY = {row.skip: row.latency_ms for row in TABLE.rows}


class SimulatedClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Device:
    """Inputs every 33 ms, for a governor with a clock that stands still between."""

    def __init__(self, table=TABLE, interval_s=0.033, **settings):
        self.clock = SimulatedClock()
        self.interval_s = interval_s
        self.governor = Governor(table, **{"target_ms": 30.0, "keep": None, **settings}, clock=self.clock)

    def run(self, *slowdowns, waited_ms=0.0):
        """The depths that were chosen."""
        return [self.step(slowdown, waited_ms) for slowdown in slowdowns]

    def step(self, slowdown, waited_ms=0.0):
        skip = self.governor.choose(waited_ms)
        self.clock.now += self.interval_s
        self.governor.observe(skip, LATENCY[skip] * slowdown, waited_ms)
        return skip


# -- choosing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "first"), [(21.0, "FF"), (19.9, "TF"), (16.0, "TF"), (12.0, "TT"), (5.0, "TT")])
def test_it_begins_with_the_most_accurate_depth_whose_profile_fits(target, first):
    assert Governor(TABLE, target_ms=target).choose() == first


def test_dominated_depths_are_never_used():
    device = Device()
    chosen = {skip for slowdown in (1.0, 1.7, 1.9, 2.5) for skip in device.run(*[slowdown] * 30)}
    assert chosen == {"FF", "TF", "TT"}


def test_without_a_miss_to_spare_it_is_shallower_after_the_first_slow_input():
    # The first input: left = 1 - 1 + 0.05. 1.6 x 20 = 32 ms; 1.6 x 1.05 x 15 = 25.2 ms fits.
    assert Device().run(1.6, 1.6) == ["FF", "TF"]


def test_a_slow_input_counts_at_once_when_it_took_the_last_miss():
    assert Device().run(1.0, 1.6, 1.0) == ["FF", "FF", "TF"]


def test_the_depth_it_drops_to_fits_with_room_to_spare():
    assert Device().run(1.96, 1.0) == ["FF", "TT"]  # 1.96 x 15 = 29.4 ms, with 5 % more 30.9


def test_a_phase_that_nothing_could_have_met_is_not_paid_for():
    device = Device()
    device.run(*[1.0] * 40, *[4.0] * 50)
    assert device.run(*[1.0] * 8)[-1] == "FF"


def test_a_single_slow_input_is_forgiven_while_a_miss_is_left():
    device = Device()
    device.run(*[1.0] * 20)  # left = 1 + 20 x 0.05 = 2
    assert device.run(1.6, 1.0, 1.0, 1.0) == ["FF"] * 4


def test_two_slow_inputs_are_not():
    device = Device()
    device.run(*[1.0] * 20)
    assert device.run(1.6, 1.6, 1.6) == ["FF", "FF", "TF"]


def test_it_drops_as_far_as_needed_at_once():
    # 2.5 x 1.05 x 15 = 39.4 ms does not fit, 2.5 x 10 = 25 does.
    assert Device().run(2.5, 2.5) == ["FF", "TT"]


def test_a_danger_that_is_seen_before_a_miss_counts():
    device = Device(target_ms=30.0)
    device.run(*[1.45] * 5)  # 29 ms
    assert device.governor.choose(waited_ms=2.0) == "TF"  # 31 ms; 15 x 1.45 x 1.05 = 22.8


def test_it_climbs_once_the_deeper_one_has_fitted_for_the_hold():
    device = Device(hold_s=0.3)
    device.run(2.5)  # ends at 0.033 s; left = 0.05
    quiet = device.run(*[1.0] * 40)
    # left is 1 after 19 more inputs; the hold (9 inputs) is over before
    assert quiet == ["TT"] * 19 + ["FF"] * 21


def test_it_waits_for_the_hold():
    device = Device(hold_s=2.0, met=0.5)  # each input earns half a miss
    device.run(2.5)
    quiet = device.run(*[1.0] * 70)
    assert quiet.index("FF") == math.ceil(2.0 / 0.033)  # 61 inputs of 33 ms


def test_a_slow_input_starts_the_hold_again():
    device = Device(hold_s=2.0, met=0.5)
    device.run(2.5)
    device.run(*[1.0] * 50)
    device.run(2.5)
    assert device.run(*[1.0] * 62).index("FF") == 61


def test_waiting_inputs_make_it_shallower_and_keep_it_there():
    device = Device()
    assert device.run(1.0, 1.0, waited_ms=0.0) == ["FF", "FF"]
    assert device.run(*[1.0] * 60, waited_ms=14.0) == ["TF"] * 60  # 16 ms are left
    assert device.run(1.0) == ["TF"]  # the deeper one did not fit before
    assert device.run(*[1.0] * 10)[-1] == "FF"


def test_an_input_that_waited_too_long_gets_the_fastest_depth():
    assert Device().run(1.0, waited_ms=100.0) == ["TT"]


@pytest.mark.parametrize("depth", ["FF", "TF", "TT"])
def test_what_it_learns_from_any_depth_is_the_same(depth):
    governor = Governor(TABLE, target_ms=30.0)
    governor.observe(depth, 1.7 * LATENCY[depth])
    assert governor.slowdown == pytest.approx(1.7)
    assert governor.choose() == "TF"  # 1.7 x 15 = 25.5 ms


def climbs_against(strikes, inputs=1200, **settings):
    """Misses, and seconds at which it climbed, on a device that `strikes(skip, inputs since the climb)` slows down."""
    device = Device(**settings)
    device.run(2.5)
    misses, climbs, since = 0, [], 1000
    for _ in range(inputs):
        skip = device.governor.choose()
        since += 1
        if device.governor.log[-1].why == "deeper":
            climbs.append(device.clock.now)
            since = 0
        device.clock.now += device.interval_s
        latency = LATENCY[skip] * (2.5 if strikes(skip, since) else 1.0)
        misses += latency > 30.0
        device.governor.observe(skip, latency)
    return misses, climbs


def test_a_failed_climb_doubles_the_wait():
    _, climbs = climbs_against(lambda skip, _: skip == "FF", table=TWO, met=0.5)
    waits = [b - a for a, b in pairwise(climbs)]
    assert waits[-1] == pytest.approx(2 * waits[-2], rel=0.1)
    assert len(climbs) <= 9  # after 0.5, 0.5, 0.8, 1.6, 3.2, 6.4 and 12.8 of 40 seconds


def test_a_climb_that_lasts_makes_the_wait_as_at_first():
    failing = True
    device = Device(table=TWO, met=0.5)

    def step():
        skip = device.governor.choose()
        device.clock.now += 0.033
        device.governor.observe(skip, LATENCY[skip] * (2.5 if skip == "FF" and failing else 1.0))
        return skip

    runs = [step() for _ in range(1200)]  # climbs fail: the wait is 12.8 s by then
    assert runs[-100:].count("FF") <= 1
    failing = False
    assert [step() for _ in range(500)][-1] == "FF"
    device.run(2.5, 2.5, 2.5, 2.5)
    assert device.governor.choose() == "TT"
    assert device.run(*[1.0] * 20)[-1] == "FF"  # after SPACING at most


@pytest.mark.parametrize("after", [0, 2, 3, 4, 10, 25])
def test_whoever_strikes_after_each_climb_wins_no_more_than_the_share(after):
    misses, _ = climbs_against(lambda skip, since: skip != "TT" and after <= since < after + 10)
    assert misses <= 0.05 * 1201 + 1 + 3


def test_switching_is_bounded_where_misses_are_cheap():
    _, climbs = climbs_against(lambda _, since: 3 <= since < 6, met=0.5, hold_s=0.01, interval_s=0.01)
    assert len(climbs) > 10
    assert min(b - a for a, b in pairwise(climbs)) >= 0.5


# -- targets and limits -------------------------------------------------------------------------------------------


def test_a_throughput_is_a_deadline_for_each_batch():
    table = TradeOffs(TABLE.rows, batch_size=4)
    assert Governor(table, images_per_s=200).target_ms == 20.0
    assert Governor(table, images_per_s=200).choose() == "FF"
    assert Governor(table, images_per_s=250).choose() == "TF"


def test_limits_of_a_callback_hold_beside_the_target():
    limits = {"energy_mj": 60}
    device = Device(limit=lambda: limits)
    assert device.run(1.0) == ["TT"]
    limits = {}
    device.run(*[1.0] * 29)
    assert device.run(*[1.0] * 3) == ["TT", "FF", "FF"]  # asked again after a second: 31 inputs
    limits = {"energy_mj": 80, "macs": 300}
    assert device.run(*[1.0] * 40)[-1] == "TF"


def test_a_callback_alone_is_enough():
    asked = []

    def limit():
        asked.append(True)
        return {"energy_mj": 70} if len(asked) == 1 else {}

    device = Device(target_ms=None, limit=limit)
    device.run(*[5.0] * 30)
    assert {decision.skip for decision in device.governor.log} == {"TT"}
    assert device.run(*[5.0] * 3)[-1] == "FF"
    assert len(asked) == 2


def test_latencies_are_not_needed_without_a_target():
    untimed = TradeOffs((Row("FF", 80.0, 400, 9), Row("TT", 60.0, 200, 5)))
    governor = Governor(untimed, limit=lambda: {"macs": 300})
    governor.observe("TT", 1000.0)
    assert governor.choose() == "TT"
    with pytest.raises(MeasurementError, match="latency_ms was not measured"):
        Governor(untimed, target_ms=30)


def test_limits_that_nothing_meets_give_the_nearest_and_are_said_once(caplog):
    device = Device(limit=lambda: {"energy_mj": 10})
    assert device.run(*[1.0] * 100) == ["TT"] * 100
    assert [record.message for record in caplog.records] == [
        "no depth is within {'energy_mj': 10}: running the nearest one"
    ]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (40, r"limit returned 40: expected limits such as"),
        ({"watts": 3}, "returned watts=3, but the table has latency_ms, macs, energy_mj, parameters"),
        ({"memory_mb": 3}, "returned memory_mb=3, but the table has"),
        ({"macs": -1}, "returned macs=-1: expected a finite number above 0"),
        ({"macs": math.nan}, "returned macs=nan: expected a finite number above 0"),
    ],
)
def test_a_callback_that_returns_no_limits_is_refused_and_nothing_changes(returned, message):
    governor = Governor(TABLE, target_ms=30, limit=lambda: returned)
    for _ in range(2):
        with pytest.raises(BudgetError, match=message):
            governor.choose()
    assert governor.log == ()


def test_only_depths_that_can_be_run():
    governor = Governor(TABLE, target_ms=30, skips=("TF", "FT"))
    assert governor.choose() == "TF"
    with pytest.raises(SkipError, match=r"skips=\['XX'\]: expected some of those in the table, FF, TF, FT, TT"):
        Governor(TABLE, target_ms=30, skips=["XX"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a governor without a target: give target_ms=, images_per_s= or limit="),
        ({"target_ms": 30, "images_per_s": 30}, "target_ms=30 and images_per_s=30: expected one of the two"),
        ({"target_ms": 0}, "target_ms=0: expected a finite number above 0"),
        ({"target_ms": True}, "target_ms=True: expected a finite number above 0"),
        ({"images_per_s": math.inf}, "images_per_s=inf: expected a finite number above 0"),
        ({"target_ms": 30, "met": 95}, "met=95: expected a share of inputs between 0 and 1, such as 0.95"),
        ({"target_ms": 30, "hold_s": 0}, "hold_s=0: expected seconds, a finite number above 0"),
        ({"target_ms": 30, "keep": -1}, "keep=-1: expected a number of decisions, 0 or more, or None for all"),
        ({"target_ms": 30, "keep": True}, "keep=True: expected a number of decisions"),
    ],
)
def test_targets_that_are_none_are_refused(settings, message):
    with pytest.raises(BudgetError, match=message):
        Governor(TABLE, **settings)


# -- faults -------------------------------------------------------------------------------------------------------


def test_a_target_that_nothing_meets_runs_the_base_net_and_is_said_once_an_episode(caplog):
    device = Device()
    device.run(1.0)
    assert set(device.run(*[4.0] * 50)[2:]) == {"TT"}
    assert [record.message for record in caplog.records] == [
        "no depth meets 30 ms while the device takes 4.00 times its profiled latency: running TT"
    ]
    assert caplog.records[0].levelno == logging.WARNING
    device.run(*[1.0] * 15, *[4.0] * 10)  # not long enough for another episode
    assert len(caplog.records) == 1
    device.run(*[1.0] * 30, *[4.0] * 10)
    assert len(caplog.records) == 2


def test_a_target_that_was_just_met_is_said_when_it_no_longer_is(caplog):
    Device(target_ms=12.0).run(*[1.0] * 5, *[4.0] * 5)
    assert len(caplog.records) == 1


def test_a_target_below_the_base_nets_profile_is_said_at_once(caplog):
    governor = Governor(TABLE, target_ms=5)
    assert [governor.choose() for _ in range(3)] == ["TT"] * 3
    assert len(caplog.records) == 1


@pytest.mark.parametrize("latency", [math.nan, math.inf, -math.inf, -3.0, 0.0])
def test_impossible_latencies_are_ignored(latency):
    governor = Governor(TABLE, target_ms=30)
    governor.observe("FF", 20.0)
    governor.observe("FF", latency)
    assert (governor.slowdown, governor.ignored, governor.choose()) == (1.0, 1, "FF")


@pytest.mark.parametrize("waited", [math.nan, math.inf, -5.0])
def test_impossible_waits_are_none(waited):
    governor = Governor(TABLE, target_ms=30)
    assert governor.choose(waited) == "FF"
    governor.observe("FF", 20.0, waited)
    assert governor.choose() == "FF"
    assert [decision.waited_ms for decision in governor.log] == [0.0, 0.0]
    assert governor.log[1].seen[0].waited_ms == 0.0


@pytest.mark.parametrize("jump", [-1e6, 1e6, math.nan])
def test_a_clock_that_jumps_does_no_harm(jump):
    device = Device()
    device.run(*[1.0] * 30)
    before, device.clock.now = device.clock.now, device.clock.now + jump
    assert device.run(*[1.0] * 10) == ["FF"] * 10
    device.clock.now = before
    assert device.run(*[1.0] * 10) == ["FF"] * 10
    times = [decision.at_s for decision in device.governor.log]
    assert times == sorted(times)
    assert times[-1] < 49 * 0.033 + 2.1


def test_a_pass_that_seems_to_take_an_hour_is_forgotten_after_three_others():
    device = Device()
    device.run(*[1.0] * 20)
    device.run(180_000.0)
    assert device.run(*[1.0] * 30)[-1] == "FF"
    assert device.governor.slowdown == 1.0


def test_a_backend_that_throws_is_counted_and_the_governor_goes_on():
    clock = SimulatedClock()
    governor = Governor(TABLE, target_ms=30, clock=clock)

    def session(x, skip):
        clock.now += 0.025
        if x is None:
            raise RuntimeError("out of memory")
        return x, skip

    assert governor.run(session, 1) == (1, "FF")
    with pytest.raises(RuntimeError, match="out of memory"):
        governor.run(session, None)
    assert governor.run(session, 3) == (3, "FF")
    assert governor.run(session, 4, waited_ms=10) == (4, "TF")  # 20 ms are left; 15 x 1.25 x 1.05 = 19.7
    assert governor.failures == 1
    assert [[seen.latency_ms for seen in each.seen] for each in governor.log] == [
        [],
        [pytest.approx(25.0)],
        [],
        [pytest.approx(25.0)],
    ]


def test_an_unknown_depth_is_refused():
    with pytest.raises(SkipError, match="skip 'TTT' is not in the governor's table: expected one of FF, TF, FT, TT"):
        Governor(TABLE, target_ms=30).observe("TTT", 3.0)


# -- the log ------------------------------------------------------------------------------------------------------


def eventful(**settings):
    limits = {}
    device = Device(limit=lambda: limits, **settings)
    device.run(*[1.0] * 20, *[1.7] * 20, *[1.0] * 40, *[3.0] * 10, 180_000.0, *[1.0] * 60)
    device.run(*[1.0] * 10, waited_ms=12.0)
    limits = {"energy_mj": 60}
    device.run(*[1.0] * 40)
    limits = {}
    device.clock.now -= 1000
    device.run(*[1.1] * 100)
    return device.governor


def test_a_log_is_replayed_to_the_same_decisions_after_json():
    log = eventful().log
    assert {decision.why for decision in log} == {"start", "stay", "deeper", "shallower"}
    lines = [json.dumps(decision.to_json()) for decision in log]
    read = [Decision.from_json(json.loads(line)) for line in lines]
    assert replay(read, TABLE, target_ms=30.0) == log


def test_replay_tells_what_another_target_would_have_chosen():
    log = eventful().log
    assert {decision.skip for decision in replay(log, TABLE, target_ms=5.0)} == {"TT"}


def test_the_log_is_bounded_and_all_decisions_can_be_written_elsewhere():
    written = []
    governor = eventful(keep=10, on_decision=written.append)
    assert len(governor.log) == 10
    assert governor.log == tuple(written[-10:])
    assert replay(written, TABLE, target_ms=30.0) == tuple(written)
    with pytest.raises(MeasurementError, match="a log of 10 decisions does not start with the first one or has gaps"):
        replay(governor.log, TABLE, target_ms=30.0)
    with pytest.raises(MeasurementError, match="a log of 0 decisions"):
        replay([], TABLE, target_ms=30.0)


def test_what_is_no_decision_is_refused():
    with pytest.raises(MeasurementError, match="expected an object with number, at_s, waited_ms, limits, skip, why"):
        Decision.from_json({"skip": "FF", "seen": []})


# -- other qualities than top-1 -----------------------------------------------------------------------------------


def mirrored(table):
    """The same table of a quality that is the negative: what was higher and better is lower and better."""
    rows = tuple(replace(row, accuracy=-row.accuracy) for row in table.rows)
    return replace(table, rows=rows, quality=Quality("loss", "m", higher_is_better=False))


def test_where_lower_is_better_the_lowest_that_fits_is_chosen():
    rows = tuple(replace(row, accuracy=1 - row.accuracy / 100) for row in TABLE.rows)  # 0.2 m to 0.4 m
    table = TradeOffs(rows, quality=Quality("RMSE", "m", higher_is_better=False))
    assert [Governor(table, target_ms=target).choose() for target in (21.0, 19.9, 12.0)] == ["FF", "TF", "TT"]
    governor = Governor(table, target_ms=30)
    assert repr(governor) == "Governor for 30 ms over TT, TF, FF; decisions: 0"  # FT is dominated
    assert governor.quality == table.quality
    assert governor.expected("TF") == pytest.approx(0.25)


def test_a_table_and_its_mirror_image_are_governed_alike():
    one = eventful().log
    assert eventful(table=mirrored(TABLE)).log == one
    assert {decision.skip for decision in one} == {"FF", "TF", "TT"}
    assert replay(one, mirrored(TABLE), target_ms=30.0) == one


@pytest.mark.parametrize("seed", range(5))
def test_any_table_and_its_mirror_image_are_governed_alike(seed):
    draw = random.Random(seed)
    rows = [
        Row(skip, draw.choice([-2.0, 0.0, 1.5, 3.0]), draw.randint(1, 9), 9, draw.randint(2, 9) * 3.0)
        for skip in ("FFF", "FFT", "FTF", "FTT", "TFF", "TFT", "TTF", "TTT")
    ]
    table = TradeOffs(tuple(rows), quality=Quality("gain", "m"))
    slowdowns = [draw.choice([0.8, 1.0, 1.0, 1.3, 2.0]) for _ in range(300)]
    assert governed_by(table, slowdowns) == governed_by(mirrored(table), slowdowns)


def governed_by(table, slowdowns):
    clock = SimulatedClock()
    governor = Governor(table, target_ms=30.0, keep=None, clock=clock)
    for slowdown in slowdowns:
        skip = governor.choose()
        clock.now += 0.033
        governor.observe(skip, governor.latency_ms(skip) * slowdown)
    return governor.log


# -- the rest -----------------------------------------------------------------------------------------------------


def test_threads_may_share_one():
    governor = Governor(TABLE, target_ms=30, keep=None)

    def work():
        for _ in range(500):
            governor.observe(governor.choose(), 15.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [decision.number for decision in governor.log] == list(range(1, 2001))
    assert sum(len(decision.seen) for decision in governor.log) + len(governor._seen) == 2000
    assert replay(governor.log, TABLE, target_ms=30) == governor.log


def test_it_needs_neither_torch_nor_numpy():
    code = "import sys, adaptive_depth.governor.governor; print({'torch', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_it_prints_what_it_is():
    governor = Governor(TABLE, target_ms=30)
    governor.choose()
    assert repr(governor) == "Governor for 30 ms over TT, TF, FF; decisions: 1"


def test_no_table():
    with pytest.raises(MeasurementError, match="a governor received a NoneType instead of a table: expected tradeoffs"):
        Governor(None, target_ms=30)


# -- inputs of more work ------------------------------------------------------------------------------------------


def test_an_input_of_more_work_gets_a_shallower_depth():
    # Of 30 ms, twice the work leaves 15 for a pass like the table's, three times 10.
    assert [Governor(TABLE, target_ms=30.0).choose(work=work) for work in (0.5, 1.5, 2.0, 3.0)] == [
        "FF",
        "FF",
        "TF",
        "TT",
    ]
    assert Governor(TABLE, target_ms=30.0).choose(2.0, work=2.0) == "TT"  # 14 ms are left


def test_what_it_took_is_judged_by_its_work():
    device = Device()
    device.governor.observe("FF", 44.0, work=2.0)  # 1.1 times 40; missed
    assert device.governor.slowdown == pytest.approx(1.1)
    assert device.governor.choose(work=2.0) == "TT"  # 1.1 x 15 = 16.5 ms of 15
    assert device.governor.choose(work=0.5) == "TT"  # what it can climb to has to be seen first
    for _ in range(20):  # and the miss has to be earned back
        device.clock.now += 0.2
        device.governor.observe("TT", 5.5, work=0.5)
    assert device.governor.choose(work=0.5) == "FF"


def test_what_long_inputs_would_have_missed_is_not_tried_on_them():
    device = Device()
    assert device.run(2.5, 1.0) == ["FF", "TT"]
    for _ in range(40):
        device.clock.now += 0.2
        device.governor.observe("TT", 20.0, work=2.0)  # of 30 ms FF would have taken 40
    assert device.governor.choose() == "TT"


def test_work_is_in_the_log_and_replayed():
    device = Device()
    for slowdown, work in zip((1.0, 1.3, 0.9, 2.0) * 20, (0.3, 1.0, 2.2, 1.1, 0.7) * 16, strict=True):
        skip = device.governor.choose(work=work)
        device.clock.now += 0.033
        device.governor.observe(skip, LATENCY[skip] * slowdown * work, work=work)
    log = [Decision.from_json(json.loads(json.dumps(each.to_json()))) for each in device.governor.log]
    assert [each.work for each in log[:5]] == [0.3, 1.0, 2.2, 1.1, 0.7]
    assert len({each.skip for each in log}) > 1
    assert replay(log, TABLE, target_ms=30.0) == device.governor.log
    older = log[0].to_json()
    del older["work"]
    assert Decision.from_json(older).work == 1.0


@pytest.mark.parametrize("work", [0, -1.0, math.nan, math.inf, "2", True])
def test_work_that_is_none_is_refused_and_nothing_is_counted(work):
    governor = Governor(TABLE, target_ms=30.0)
    for call in (lambda: governor.choose(work=work), lambda: governor.observe("FF", 20.0, work=work)):
        with pytest.raises(BudgetError, match=r"work=.*: expected a finite number above 0, 1 for an input like"):
            call()
    assert governor.log == ()
    assert governor.ignored == 0


def test_some_depths_of_a_table_with_ties():
    table = replace(TABLE, ties=(("TF", "FT"), ("FF", "TF")))
    assert Governor(table, target_ms=30.0, skips=["FF", "TT", "TF"]).choose() == "FF"
