"""benchmarks/simulation.py: a governor on a trace, and the best that anyone could have done on it."""

import runpy
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.errors import BudgetError
from adaptive_depth.governor.governor import Governor
from adaptive_depth.quality import Quality

_MODULE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "simulation.py"))
SimulatedClock, oracle, simulate = (_MODULE[name] for name in ("SimulatedClock", "oracle", "simulate"))

TABLE = TradeOffs(
    (Row("FF", 80.0, 400, 9, 20.0), Row("TF", 75.0, 300, 8, 15.0), Row("TT", 60.0, 200, 5, 10.0)),
)


# The same of a quality where lower is better.
ERRORS = TradeOffs(
    tuple(replace(row, accuracy=100 - row.accuracy) for row in TABLE.rows),
    quality=Quality("error", "%", higher_is_better=False),
)


def governed(slowdowns, target_ms=30.0, interval_ms=33.0, table=TABLE, **settings):
    clock = SimulatedClock()
    return simulate(
        Governor(table, target_ms=target_ms, clock=clock), clock, slowdowns, interval_ms=interval_ms, **settings
    )


# -- simulating -----------------------------------------------------------------------------------------------------


def test_a_trace_by_hand():
    run = governed([1.6, 1.6, 1.0])
    assert run.skips == ("FF", "TF", "TF")
    assert run.latency_ms == (32.0, 24.0, 15.0)
    assert run.starts_s == pytest.approx((0.0, 0.033, 0.066))
    assert run.missed == (True, False, False)
    assert (run.misses, run.switches) == (1, 1)
    assert run.expected == pytest.approx((80 + 75 + 75) / 3)


def test_inputs_that_come_while_another_runs_are_not_taken():
    run = governed([1.0, 1.0, 1.0], interval_ms=5.0)
    assert run.starts_s == pytest.approx((0.0, 0.020, 0.040))
    assert run.waited_ms == (0.0, 0.0, 0.0)


def test_in_a_queue_they_wait():
    run = governed([1.0, 1.0, 1.0], target_ms=100.0, interval_ms=[5.0, 50.0, 5.0], queue=True)
    assert run.starts_s == pytest.approx((0.0, 0.020, 0.055))
    assert run.waited_ms == pytest.approx((0.0, 15.0, 0.0))


def test_a_backlog_is_worked_off():
    intervals = [33.0] * 30 + [18.0] * 60 + [33.0] * 100
    run = governed([1.0] * 190, target_ms=60.0, interval_ms=intervals, queue=True)
    assert run.misses == 0
    assert set(run.skips[30:90]) > {"FF"}
    assert run.waited_ms[-1] == 0.0
    assert run.skips[-1] == "FF"


def test_a_steady_device_is_left_alone():
    assert governed([1.2] * 300).switches == 0


@pytest.mark.parametrize("slowdowns", [[], [1.0, 0.0], [float("nan")], [float("inf")]])
def test_what_is_no_trace_is_refused(slowdowns):
    with pytest.raises(BudgetError, match=f"a trace of {len(slowdowns)} slowdowns: expected at least one, and finite"):
        governed(slowdowns)
    with pytest.raises(BudgetError, match="a trace of"):
        oracle(TABLE, slowdowns, target_ms=30.0, misses=0)


# -- the oracle -----------------------------------------------------------------------------------------------------


def by_trying_all(slowdowns, misses, inputs_a_switch):
    blocks = [slowdowns[i : i + inputs_a_switch] for i in range(0, len(slowdowns), inputs_a_switch)]
    best = 0.0
    for rows in product(TABLE.rows, repeat=len(blocks)):
        ran = [(row, slowdown) for row, block in zip(rows, blocks, strict=True) for slowdown in block]
        fair = [(row, slowdown) for row, slowdown in ran if 10.0 * slowdown <= 30.0]
        if sum(row.latency_ms * slowdown > 30.0 for row, slowdown in fair) <= misses:
            best = max(best, sum(row.accuracy for row, _ in fair) / len(fair))
    return best


@pytest.mark.parametrize("misses", [0, 1, 2, 5])
@pytest.mark.parametrize("inputs_a_switch", [1, 2, 3])
def test_the_oracle_is_the_best_of_all_ways(misses, inputs_a_switch):
    slowdowns = [1.0, 1.9, 2.5, 1.2, 4.0, 1.8, 1.0]
    found = oracle(TABLE, slowdowns, target_ms=30.0, misses=misses, inputs_a_switch=inputs_a_switch)
    assert found == pytest.approx(by_trying_all(slowdowns, misses, inputs_a_switch))


@pytest.mark.parametrize("misses", [0, 1, 2, 5])
@pytest.mark.parametrize("inputs_a_switch", [1, 2, 3])
def test_where_lower_is_better_the_oracle_finds_the_lowest(misses, inputs_a_switch):
    slowdowns = [1.0, 1.9, 2.5, 1.2, 4.0, 1.8, 1.0]
    found = oracle(ERRORS, slowdowns, target_ms=30.0, misses=misses, inputs_a_switch=inputs_a_switch)
    assert found == pytest.approx(100 - by_trying_all(slowdowns, misses, inputs_a_switch))
    assert oracle(ERRORS, [9.0], target_ms=30.0, misses=3) == 40.0


def test_an_error_is_governed_as_an_accuracy():
    slowdowns = ([1.0] * 90 + [1.8] * 90) * 3
    one, other = governed(slowdowns), governed(slowdowns, table=ERRORS)
    assert one.skips == other.skips
    assert set(one.skips) == {"FF", "TF"}
    assert other.expected == pytest.approx(100 - one.expected)


def test_where_nothing_can_be_met_there_is_nothing_to_choose():
    assert oracle(TABLE, [9.0], target_ms=30.0, misses=3) == 60.0


def test_slow_phases_cost_a_governor_little():
    slowdowns = ([1.0] * 90 + [1.8] * 90) * 3
    run = governed(slowdowns)
    assert run.misses <= 0.05 * len(slowdowns)
    assert run.expected >= 0.98 * oracle(TABLE, slowdowns, target_ms=30.0, misses=run.misses)
