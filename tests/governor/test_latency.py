"""Latencies of depths, on a clock that is set by hand."""

from dataclasses import replace

import pytest

from adaptive_depth import Row, TradeOffs
from adaptive_depth.errors import MeasurementError
from adaptive_depth.governor.latency import measure_latencies, with_latencies
from adaptive_depth.quality import Quality

TABLE = TradeOffs(
    (
        Row("FF", 80.0, 400, 9, 20.0, memory_mb=5.0, energy_mj=7.0, alone=79.0, latency_high_ms=21.0),
        Row("FT", 70.0, 300, 7, 15.0, memory_mb=4.0, energy_mj=6.0, alone=69.0, latency_high_ms=16.0),
        Row("TT", 60.0, 200, 5, 10.0, memory_mb=3.0, energy_mj=5.0, alone=59.0, latency_high_ms=11.0),
    ),
    batch_size=8,
    device={"processor": "another"},
    ties=(("FF", "FT"),),
    images=900,
)


class Machine:
    """Each pass takes its time on a clock; 100 ms more after another depth, 50 ms more where it is the slow one."""

    def __init__(self, slow=0, **milliseconds):
        self.slow = slow
        self.milliseconds, self.now, self.passes = milliseconds, 50.0, []

    def __call__(self, x, skip):
        assert x == "an image"
        changed = not self.passes or self.passes[-1] != skip
        self.passes.append(skip)
        spike = 50 if len(self.passes) == self.slow else 0
        self.now += (self.milliseconds[skip] + 100 * changed + spike) / 1000

    def clock(self):
        return self.now


def test_the_median_of_passes_after_one_of_the_same_depth():
    machine = Machine(slow=2, FF=20.0, TT=10.0)
    measured = measure_latencies(machine, "an image", ["FF", "TT"], seconds=1.0, clock=machine.clock)
    assert measured == pytest.approx({"FF": 20.0, "TT": 10.0})


def test_all_depths_in_turn_in_changing_order():
    machine = Machine(FF=20.0, FT=15.0, TT=10.0)
    measure_latencies(machine, "an image", ["FF", "FT", "TT"], seconds=3.0, clock=machine.clock)
    rounds = [tuple(machine.passes[start : start + 6 : 2]) for start in range(0, len(machine.passes), 6)]
    assert all(sorted(each) == ["FF", "FT", "TT"] for each in rounds)
    assert len(set(rounds)) > 2


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [(0.0, 3), (1.3, 5), (1000.0, 30)],  # a round takes 260 ms: 2 * (100 + 15 + 15)
)
def test_as_many_rounds_as_the_time_allows(seconds, rounds):
    machine, told = Machine(FF=15.0, TT=15.0), []
    measure_latencies(
        machine,
        "an image",
        ["FF", "TT"],
        seconds=seconds,
        clock=machine.clock,
        on_round=lambda *said: told.append(said),
    )
    assert len(machine.passes) == 4 * rounds
    assert [done for done, _ in told] == list(range(1, rounds + 1))
    assert told[-1] == (rounds, rounds)


def test_a_table_with_latencies_of_here():
    table = with_latencies(TABLE, {"TT": 3.0, "FF": 6.0}, device={"backend": "onnxruntime"})
    assert table.rows == (
        Row("FF", 80.0, 400, 9, 6.0, alone=79.0),
        Row("TT", 60.0, 200, 5, 3.0, alone=59.0),
    )
    assert table.batch_size == 1
    assert table.device == {"backend": "onnxruntime"}
    assert table.ties == ()
    assert table.images == 900


def test_the_quality_stays():
    table = replace(TABLE, quality=Quality("RMSE", "m", higher_is_better=False))
    own = with_latencies(table, {"TT": 3.0, "FF": 6.0}, device={})
    assert own.quality == table.quality
    assert own.rows[0].accuracy == 80.0


def test_latencies_of_other_depths():
    with pytest.raises(MeasurementError, match=r"has FF, FT, TT, but the latencies are for FFF: expected the same"):
        with_latencies(TABLE, {"FFF": 3.0}, device={})


def test_times_of_text_of_another_device_are_left_out():
    rows = tuple(replace(row, first_token_ms=9.0, token_ms=2.0, cache_kb=1.0) for row in TABLE.rows)
    table = with_latencies(replace(TABLE, rows=rows), {"FF": 3.0, "TT": 2.0}, device={})
    assert table.measured == ("latency_ms", "macs", "parameters")
