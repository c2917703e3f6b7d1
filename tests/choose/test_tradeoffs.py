import json
import math
import random
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import adaptive_depth as ad
from adaptive_depth import BudgetError
from adaptive_depth.choose.costs import Cost, Profile
from adaptive_depth.choose.quantities import quality_of, quantities
from adaptive_depth.choose.tradeoffs import Row, TradeOffs, tradeoffs
from adaptive_depth.errors import MeasurementError
from adaptive_depth.hub.card import trade_off_table
from adaptive_depth.quality import Measured, Quality

#                 accuracy  macs  parameters  latency
SUPER = Row("FF", 77.6, 4_110, 900, 50.0)
FIRST = Row("TF", 77.1, 3_900, 800, 47.0)
LAST = Row("FT", 76.0, 3_000, 600, 48.0)  # dominated by TF in latency, not in macs
BASE = Row("TT", 76.1, 2_580, 500, 31.1234)
TABLE = TradeOffs((SUPER, FIRST, LAST, BASE), 2, {"type": "cpu", "processor": "an EPYC", "backend": "compiled"})
UNTIMED = TradeOffs(tuple(Row(row.skip, row.accuracy, row.macs, row.parameters) for row in TABLE.rows))


def skips(rows):
    return [row.skip for row in rows]


# -- joining ------------------------------------------------------------------------------------------------------


def measured(*names):
    return Profile({name: Cost(name, 10, 5, 2.0, 1.9, 2.1) for name in names}, 4, {"type": "cuda"}, {})


def test_accuracy_and_cost_are_joined_by_skip():
    table = tradeoffs({"TT": 70, "FF": np.float32(71.5)}, measured("FF", "TT"))
    joined = (Row("FF", 71.5, 10, 5, 2.0, latency_high_ms=2.1), Row("TT", 70, 10, 5, 2.0, latency_high_ms=2.1))
    assert table.rows == joined
    assert table.batch_size == 4
    assert table.device == {"type": "cuda", "backend": "eager"}


@pytest.mark.parametrize(
    ("accurate", "profiled", "message"),
    [
        (["FF"], ["FF", "TT", "TF"], "accuracy lacks the sub-networks TT, TF: evaluate and profile the same ones"),
        (["F", "T"], ["F"], "cost lacks the sub-networks T: evaluate and profile the same ones"),
    ],
)
def test_different_sub_networks_are_refused(accurate, profiled, message):
    with pytest.raises(MeasurementError, match=message):
        tradeoffs(dict.fromkeys(accurate, 70.0), measured(*profiled))


@pytest.mark.parametrize("accuracy", [-0.1, 100.1, math.nan, "70", None, True])
def test_an_accuracy_that_is_no_percentage_is_refused(accuracy):
    with pytest.raises(MeasurementError, match=f"accuracy of 'F' is {accuracy!r}: expected top-1 in percent"):
        tradeoffs({"F": accuracy}, measured("F"))


@pytest.mark.parametrize("accuracy", [0, 100])
def test_the_ends_of_the_range_are_percentages(accuracy):
    assert tradeoffs({"F": accuracy}, measured("F")).rows[0].accuracy == accuracy


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "without rows: expected at least one sub-network"),
        ((SUPER, SUPER), "a sub-network is listed twice: FF, FF"),
        ((SUPER, UNTIMED.rows[1]), "latency_ms is missing for TF only"),
    ],
)
def test_rows_that_make_no_table_are_refused(rows, message):
    with pytest.raises(MeasurementError, match=message):
        TradeOffs(rows)


# -- the front ----------------------------------------------------------------------------------------------------


def test_the_front_leaves_out_what_is_dominated_and_starts_with_the_cheapest():
    assert skips(TABLE.front()) == ["TT", "TF", "FF"]
    assert TABLE.front() == TABLE.front("latency_ms")
    assert TABLE.front()[0] is BASE


def test_the_front_depends_on_the_cost():
    cheap = Row("FT", 76.2, 2_600, 400, 60.0)
    table = TradeOffs((SUPER, FIRST, cheap, BASE))
    assert skips(table.front("latency_ms")) == ["TT", "TF", "FF"]
    assert skips(table.front("macs")) == ["TT", "FT", "TF", "FF"]
    assert skips(table.front("parameters")) == ["FT", "TF", "FF"]


def test_without_latency_the_front_is_that_of_multiply_adds():
    faster = TradeOffs((Row("F", 77, 10, 20), Row("T", 76, 12, 5)))
    assert skips(faster.front()) == ["F"]
    assert skips(faster.front("parameters")) == ["T", "F"]


@pytest.mark.parametrize(
    ("other", "front"),
    [
        (Row("T", 77, 9, 1), ["T"]),  # as accurate, cheaper
        (Row("T", 78, 10, 1), ["T"]),  # more accurate, as cheap
        (Row("T", 77, 10, 1), ["F", "T"]),  # equal: neither dominates
        (Row("T", 76, 10, 1), ["F"]),
        (Row("T", 77, 11, 1), ["F"]),
    ],
)
def test_dominance_needs_one_strict_advantage(other, front):
    assert skips(TradeOffs((Row("F", 77, 10, 1), other)).front("macs")) == front


@pytest.mark.parametrize(
    ("table", "cost", "message"),
    [
        (TABLE, "energy", "cost='energy': expected one of latency_ms, token_ms, first_token_ms, macs, energy_mj"),
        (UNTIMED, "latency_ms", "latency_ms was not measured, only .*: profile without latency=False"),
    ],
)
def test_a_front_of_an_unknown_cost_is_refused(table, cost, message):
    with pytest.raises(MeasurementError, match=message):
        table.front(cost)


# -- the choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "skip"),
    [
        ({"latency_ms": 50}, "FF"),  # a limit may be met exactly
        ({"latency_ms": 49.9}, "TF"),
        ({"latency_ms": 46}, "TT"),
        ({"macs": 3_900}, "TF"),
        ({"parameters": 799}, "TT"),
        ({"latency_ms": 60, "macs": 3_500}, "TT"),
        ({"latency_ms": 60, "parameters": 800}, "TF"),
        ({"accuracy": 76.1}, "TT"),  # the cheapest, not the most accurate
        ({"accuracy": 76.11}, "TF"),
        ({"accuracy": 76.0, "latency_ms": 48}, "TF"),  # with a cost limit: the most accurate
        ({"macs": np.int64(4_110)}, "FF"),
    ],
)
def test_the_best_within_limits(limits, skip):
    assert TABLE.best(**limits) == skip


def test_accuracy_alone_asks_for_the_fastest_else_for_the_fewest_multiply_adds():
    rows = (Row("F", 77, 20, 9, 5.0), Row("T", 77, 10, 9, 6.0))
    assert TradeOffs(rows).best(accuracy=70) == "F"
    assert TradeOffs(tuple(Row(r.skip, r.accuracy, r.macs, r.parameters) for r in rows)).best(accuracy=70) == "T"


@pytest.mark.parametrize(
    ("rows", "limits", "skip"),
    [
        ((Row("FF", 77, 9, 9, 5.0), Row("FT", 77, 9, 9, 4.0)), {"macs": 9}, "FT"),  # latency
        ((Row("FF", 77, 9, 9, 5.0), Row("FT", 77, 8, 9, 5.0)), {"macs": 9}, "FT"),  # then multiply-adds
        ((Row("TT", 77, 9, 9, 5.0), Row("FT", 77, 9, 9, 5.0)), {"macs": 9}, "FT"),  # then fewest skips
        ((Row("FF", 77, 9, 9, 5.0), Row("FT", 78, 9, 9, 5.0)), {"accuracy": 70}, "FT"),  # cheap: accuracy
        ((Row("FF", 77, 9, 9), Row("FT", 77, 8, 9)), {"parameters": 9}, "FT"),  # no latency
    ],
)
def test_ties(rows, limits, skip):
    assert TradeOffs(rows).best(**limits) == skip


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {},
            "no limit was given: expected one or more of latency_ms, token_ms, first_token_ms, macs, energy_mj, "
            "memory_mb, parameters, cache_kb, accuracy",
        ),
        (
            {"latency": 3},
            "unknown limit latency=3 (did you mean latency_ms?): expected one or more of latency_ms, token_ms, ",
        ),
        ({"macs": math.nan}, "limit macs=nan: expected a finite number above 0"),
        ({"macs": math.inf}, "limit macs=inf: expected a finite number above 0"),
        ({"accuracy": 0.99}, "limit accuracy=0.99: expected percent, such as accuracy=99"),
        ({"accuracy": -1}, "limit accuracy=-1: expected a finite number above 0"),
        ({"latency_ms": 0}, "limit latency_ms=0: expected a finite number above 0"),
        ({"latency_ms": "20"}, "limit latency_ms='20': expected a finite number above 0"),
        ({"parameters": True}, "limit parameters=True: expected a finite number above 0"),
    ],
)
def test_limits_that_are_none_are_refused(limits, message):
    with pytest.raises(BudgetError, match=re.escape(message)):
        TABLE.best(**limits)


def test_a_latency_limit_needs_measured_latency():
    with pytest.raises(BudgetError, match="latency_ms was not measured: profile without latency=False"):
        UNTIMED.best(latency_ms=20)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"latency_ms": 3},
            "no sub-network meets latency_ms <= 3: the fastest, 'TT', needs 31.13; raise the limit to at least that",
        ),
        ({"macs": 100}, "the one with the fewest multiply-adds, 'TT', needs 2580; raise the limit to at least that"),
        (
            {"accuracy": 80, "latency_ms": 50},
            "no sub-network meets latency_ms <= 50 and accuracy >= 80: the most accurate, 'FF', reaches 77.6 %; "
            "lower the limit to that",
        ),
        (
            {"accuracy": 80, "parameters": 5},
            "no sub-network meets parameters <= 5 and accuracy >= 80: the smallest, 'TT', needs 500; raise the "
            "limit to at least that; the most accurate, 'FF', reaches 77.6 %; lower the limit to that",
        ),
        (
            {"accuracy": 77.5, "latency_ms": 48},
            "no sub-network meets latency_ms <= 48 and accuracy >= 77.5 together, although each alone can be met: "
            "'TF' comes closest; set accuracy >= 77.1 to get it",
        ),
        (
            {"accuracy": 77.5, "latency_ms": 49.9},
            "'FF' comes closest; set latency_ms <= 50 to get it",
        ),
    ],
)
def test_a_budget_that_none_meets_names_the_nearest(limits, message):
    with pytest.raises(BudgetError, match=re.escape(message)):
        TABLE.best(**limits)


def test_the_limit_that_an_error_asks_for_is_met():
    table = TradeOffs((Row("F", 77.123456, 1_234_567, 9, 2 / 3),))
    for name, word in (("latency_ms", "needs"), ("macs", "needs"), ("accuracy", "reaches")):
        with pytest.raises(BudgetError) as caught:
            table.best(**{name: 99 if name == "accuracy" else 0.1})
        asked = re.search(rf"{word} ([\d.e+]+)", str(caught.value))
        assert asked
        assert table.best(**{name: float(asked[1])}) == "F"


@pytest.mark.parametrize("cost", ["energy_mj", "memory_mb"])
def test_energy_and_memory_are_limits_as_the_others(cost):
    def row(skip, accuracy, value):
        return Row(skip, accuracy, 10, 10, 5.0, **{cost: value})

    table = TradeOffs((row("F", 77, 20.0), row("T", 76, 10.0)))
    assert table.measured == ("latency_ms", "macs", cost, "parameters")
    assert table.best(**{cost: 20}) == "F"
    assert table.best(**{cost: 19.9, "latency_ms": 5}) == "T"
    assert skips(table.front(cost)) == ["T", "F"]
    with pytest.raises(
        BudgetError, match=rf"the one with the least {cost.partition('_')[0]}, 'T', needs 10; raise the limit"
    ):
        table.best(**{cost: 9})
    with pytest.raises(BudgetError, match=f"{cost} was not measured: profile .*, or limit macs"):
        TABLE.best(**{cost: 9})
    with pytest.raises(MeasurementError, match=f"{cost} is missing for T only"):
        TradeOffs((row("F", 77, 20.0), row("T", 76, None)))


@pytest.mark.parametrize("cost", ["latency_ms", "macs", "parameters"])
def test_choices_are_what_best_returns_at_every_limit(cost):
    steps = TABLE.choices(cost)
    assert [limit for limit, _ in steps] == sorted({limit for limit, _ in steps})
    values = sorted(getattr(row, cost) for row in TABLE.rows)
    for limit in (*values, *(value + 0.01 for value in values), values[-1] * 2):
        assert [skip for least, skip in steps if least <= limit][-1] == TABLE.best(**{cost: limit})
    with pytest.raises(BudgetError, match="no sub-network meets"):
        TABLE.best(**{cost: steps[0][0] * 0.999})


def test_choices_by_hand():
    assert TABLE.choices("latency_ms") == ((31.1234, "TT"), (47.0, "TF"), (50.0, "FF"))
    assert TABLE.choices("macs") == ((2_580, "TT"), (3_900, "TF"), (4_110, "FF"))  # FT is less accurate than TT


def test_a_dominated_sub_network_is_told_with_the_best_that_dominates_it():
    assert TABLE.dominated() == {"FT": "TF"}  # 48 ms, 76.0 %, against 47 ms, 77.1 %
    assert TABLE.dominated("macs") == {"FT": "TT"}  # TF costs more
    equal = TradeOffs((Row("F", 77, 10, 1), Row("T", 77, 10, 1)))
    assert equal.dominated() == {}


# -- why --------------------------------------------------------------------------------------------------------


def test_a_choice_tells_what_it_loses_and_saves():
    choice = TABLE.choose(latency_ms=48, macs=None)
    assert (choice.skip, choice.row, choice.limits, choice.ties) == ("TF", FIRST, {"latency_ms": 48}, ())
    assert str(choice).splitlines() == [
        "Chosen: TF",
        "It is the most accurate of the 3 sub-networks within latency_ms <= 48: 77.10 %.",
        "Compared with the super-net: 0.50 points less accurate, 6.0 % less latency.",
    ]
    assert TABLE.choose(macs=9_999).why == (
        "It is the most accurate of the 4 sub-networks within macs <= 9,999: 77.60 %.",
    )


def test_ties_in_accuracy_are_told():
    rows = (Row("FF", 77, 9, 9, 5.0), Row("FT", 78, 9, 9, 4.0), Row("TF", 78, 9, 9, 3.0), Row("TT", 70, 9, 9, 2.0))
    choice = TradeOffs(rows).choose(macs=9)
    assert (choice.skip, choice.ties) == ("TF", ("FT",))
    assert "Equally accurate: FT; TF has the lowest latency_ms." in choice.why
    assert choice.why[-1] == "Compared with the super-net: 1.00 points more accurate, 40.0 % less latency."


@pytest.mark.parametrize("pair", [("FT", "TF"), ("TF", "FT")])
def test_latencies_that_cannot_be_told_apart_are_told_where_the_fastest_is_asked_for(pair):
    rows = (Row("FF", 78, 9, 9, 5.0), Row("FT", 77, 9, 9, 3.1), Row("TF", 77, 9, 9, 3.0), Row("TT", 70, 9, 9, 2.0))
    table = TradeOffs(rows, ties=(pair, ("FF", "TT")))
    choice = table.choose(accuracy=75)
    assert (choice.skip, choice.ties) == ("TF", ("FT",))
    assert choice.why[:2] == (
        "It has the lowest latency_ms of the 3 sub-networks within accuracy >= 75: 3.",
        "Statistically indistinguishable from it: FT.",
    )
    assert TradeOffs.from_json(json.loads(json.dumps(table.to_json()))) == table
    work = TradeOffs((Row("FF", 78, 9, 9), Row("FT", 77, 8, 9), Row("TF", 77, 7, 9)), ties=(pair,))
    assert (work.choose(accuracy=75).skip, work.choose(accuracy=75).ties) == ("TF", ())  # ties are of latencies
    by_work = TradeOffs(tuple(Row(row.skip, row.accuracy, row.macs, 9) for row in rows), ties=table.ties)
    assert by_work.choose(accuracy=75).ties == ("FT", "TF")  # of equally many multiply-adds; FF is more accurate


def test_the_only_one_that_fits_is_told_as_that():
    (only, _) = TABLE.choose(latency_ms=40).why
    assert only == "It is the only sub-network within latency_ms <= 40: 76.10 %."


def test_a_limit_that_only_the_median_meets_is_told():
    rows = (Row("F", 77, 9, 9, 5.0, latency_high_ms=5.5), Row("T", 76, 9, 9, 3.0, latency_high_ms=3.1))
    said = "The median meets the limit, but its 95 % interval reaches 5.5 ms: measure again on a quiet machine"
    assert TradeOffs(rows).choose(latency_ms=5.4).why[-1].startswith(said)
    assert not any(said in why for why in TradeOffs(rows).choose(latency_ms=5.5).why)
    assert not any(said in why for why in TradeOffs(rows).choose(macs=10).why)


def test_a_saving_within_the_noise_is_told():
    rows = (Row("F", 77, 9, 9, 5.0), Row("T", 76, 5, 9, 4.0))
    tied = TradeOffs(rows, ties=(("F", "T"),)).choose(latency_ms=4).why[-1]
    assert tied.endswith(
        "less accurate, 20.0 % less latency (but the two latencies are statistically indistinguishable)."
    )
    assert "indistinguishable" not in TradeOffs(rows).choose(latency_ms=4).why[-1]


def test_what_may_be_chance_is_told_with_the_number_of_images():
    rows = (Row("F", 90.0, 9, 9), Row("T", 89.0, 5, 9))
    table = TradeOffs(rows, images=1800)
    assert table.chance == pytest.approx(2.0)  # 2 * sqrt(2 * 0.9 * 0.1 / 1800) = 2 %
    both = "All depths are within 1.0 points; on 1800 images, differences of less than 2.0 points may be chance."
    assert table.doubt == both
    assert both in str(table).splitlines()
    apart = TradeOffs((rows[0], Row("T", 88.0, 5, 9)), images=1800)
    assert apart.doubt == "On 1800 images, differences of less than 2.0 points may be chance."
    assert TradeOffs(rows).doubt is None
    assert TradeOffs(rows[:1], images=1800).doubt == apart.doubt  # a single depth
    assert TradeOffs(rows).chance is None
    assert TradeOffs((Row("F", 100.0, 9, 9),), images=50).chance == pytest.approx(200 * math.sqrt(2 * 0.99 * 0.01 / 50))
    assert tradeoffs({"F": 70.0}, measured("F"), images=9).images == 9


def test_a_choice_that_nothing_meets_says_why_as_best_does():
    with pytest.raises(BudgetError, match=r"the fastest, 'TT', needs 31\.13"):
        TABLE.choose(latency_ms=3)


# -- networks trained alone, and what goes together ---------------------------------------------------------------


def test_networks_trained_alone_stand_beside():
    table = tradeoffs({"FF": 71.5, "TT": 70.0}, measured("FF", "TT"), alone={"TT": 70.5})
    assert [row.alone for row in table.rows] == [None, 70.5]
    titles, deep, shallow, *_ = str(table).splitlines()
    assert titles.split()[3:6] == ["alone", "%", "gain"]
    assert deep.split()[3:5] == ["-", "-"]
    assert shallow.split()[2:4] == ["70.50", "-0.50"]
    assert TradeOffs.from_json(json.loads(json.dumps(table.to_json()))) == table


def of_networks_alone(*alone):
    """Adaptive 44.9 and 40.2 %, as on photographs after ten epochs of Algorithm 1; latencies 50 and 30 ms."""
    rows = (("FF", 44.9, 50.0), ("TT", 40.2, 30.0))
    return TradeOffs(
        tuple(
            Row(skip, value, 9, 9, latency, alone=one) for (skip, value, latency), one in zip(rows, alone, strict=True)
        )
    )


def test_a_plain_network_that_beats_the_chosen_depth_is_recommended():
    table = of_networks_alone(58.7, 49.0)
    why = str(table.choose(latency_ms=60))
    assert (
        "A plain network of depth FF, trained alone, is better at the same cost: 58.70 %. If you need only this "
        "depth, train and deploy that network."
    ) in why
    assert "better at FF, TT: train longer if validation still improved, or deploy plain ones" in str(table)
    few = replace(table, images=20)  # on which a point is less than one image
    assert "better at FF, TT: which may be chance: measure on more images, or deploy plain ones" in str(few)
    assert table.plain_instead("TT").skip == "TT"  # the plain super-net would be slower
    shallow = of_networks_alone(None, 49.0)
    assert "A plain network of depth TT, trained alone, is better at a lower latency_ms, 30: 49.00 %." in str(
        shallow.choose(latency_ms=60)
    )


@pytest.mark.parametrize("alone", [(44.9, 40.2), (44.0, 40.0), (None, None)])
def test_no_plain_network_is_recommended_that_is_not_better(alone):
    table = of_networks_alone(*alone)
    assert table.plain_instead("FF") is None is table.plain_instead("TT")
    assert "plain" not in str(table.choose(latency_ms=60))
    assert "Networks trained alone" not in str(table)


def test_lower_errors_of_plain_networks_count_as_better():
    quality = Quality("RMSE", "m", higher_is_better=False)
    rows = Row("F", 0.5, 9, 9, 50.0, alone=0.6), Row("T", 0.7, 9, 9, 30.0, alone=0.4)
    table = TradeOffs(rows, quality=quality)
    assert (table.plain_instead("F").skip, table.plain_instead("T").skip) == ("T", "T")


@pytest.mark.parametrize(
    ("alone", "message"),
    [
        ({"TF": 70.0}, "alone names 'TF': expected skips of this network, FF, TT"),
        ({"FF": 0.7e3}, "accuracy of 'FF' trained alone is 700.0: expected top-1 in percent"),
        ({"FF": math.nan}, "accuracy of 'FF' trained alone is nan"),
        ({"FF": 0.7}, "accuracy of 'FF' trained alone is 0.7: expected percent, such as 70"),
    ],
)
def test_what_was_trained_alone_must_fit(alone, message):
    with pytest.raises(MeasurementError, match=message):
        tradeoffs({"FF": 71.5, "TT": 70.0}, measured("FF", "TT"), alone=alone)


def test_a_profile_of_another_network_or_cut_is_refused():
    cost = replace(measured("F", "T"), network="aaaa")
    accuracy = {"F": 70.0, "T": 69.0}
    assert tradeoffs(accuracy, cost, network="aaaa") == tradeoffs(accuracy, cost)
    assert tradeoffs(accuracy, replace(cost, network=""), network="bbbb")
    with pytest.raises(MeasurementError, match=r"another network or another cut of it \(fingerprint aaaa, .* bbbb\)"):
        tradeoffs(accuracy, cost, network="bbbb")


def test_memory_energy_and_ties_come_from_the_profile():
    times = (1.0, 2.0, 1.0, 2.0, 1.0, 2.0)
    costs = {
        "F": Cost("F", 10, 5, 2.0, 1.9, 2.1, 7.0, 3.0, {}, times),
        "T": Cost("T", 9, 4, 2.0, 1.9, 2.1, 6.0, 2.0, {}, times[::-1]),
    }
    table = tradeoffs({"F": 70.0, "T": 69.0}, Profile(costs, 4, {}, {}))
    assert [(row.memory_mb, row.energy_mj) for row in table.rows] == [(7.0, 3.0), (6.0, 2.0)]
    assert table.ties == (("F", "T"),)
    assert str(table).splitlines()[2].split()[-2:] == ["7.00", "3.00"]


# -- the value ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [TABLE, UNTIMED])
def test_a_table_survives_json(table):
    assert TradeOffs.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize("broken", [{}, {"rows": [{"skip": "F"}]}, {"rows": [], "extra": 1}, {"rows": 3}])
def test_a_broken_table_is_refused(broken):
    with pytest.raises(MeasurementError, match="expected an object with rows, batch_size, device"):
        TradeOffs.from_json(broken)


def test_a_table_prints_every_row_and_marks_the_front():
    titles, *rows, foot, where = str(TABLE).splitlines()
    assert where == "Latency is for a batch of 2 on an EPYC, compiled."
    assert titles.split()[:3] == ["skip", "top-1", "%"]
    assert [row.split()[0] for row in rows] == ["FF", "TF", "FT", "TT"]
    assert [row.split()[1] == "*" for row in rows] == [True, True, False, True]
    assert titles.endswith(" dominated by")
    assert rows[2].endswith(" TF")
    assert rows[0].split() == ["FF", "*", "77.60", "4.110", "900", "50.00"]
    assert foot == "* on the Pareto front of accuracy against latency_ms"
    assert str(UNTIMED).splitlines()[1].split()[5] == "-"


def test_swapped_arguments_are_told():
    with pytest.raises(MeasurementError, match="received a Profile and a dict: expected accuracies by skip"):
        tradeoffs(Profile({}, 1, {}, {}), {"F": 50.0})  # type: ignore[arg-type]


# -- another quality than top-1 ------------------------------------------------------------------------------------

RMSE = ad.tasks.Quality("RMSE", "m", higher_is_better=False)


def errors_in_metres() -> ad.TradeOffs:
    """Deeper is better: 1 m, 2 m, 4 m; the third is no cheaper than the second."""
    rows = (ad.Row("FF", 1.0, 400, 9, alone=1.5), ad.Row("FT", 4.0, 300, 8), ad.Row("TT", 2.0, 300, 7))
    return ad.TradeOffs(rows, quality=RMSE)


def test_where_lower_is_better_the_front_and_the_choice_turn_round():
    table = errors_in_metres()
    assert [row.skip for row in table.front()] == ["TT", "FF"]
    assert table.dominated() == {"FT": "TT"}
    assert table.best(macs=500) == "FF"
    assert table.best(macs=300) == "TT"
    assert table.best(quality=2.5) == "TT"  # the cheapest of those with at most 2.5 m
    assert table.best(quality=1.5) == "FF"
    assert table.choices("macs") == ((300, "TT"), (400, "FF"))


def test_words_name_the_quality_and_its_direction():
    table = errors_in_metres()
    assert str(table.choose(macs=300)) == (
        "Chosen: TT\nIt is the best in RMSE of the 2 sub-networks within macs <= 300: 2.00 m.\n"
        "Compared with the super-net: RMSE 1.00 m worse, 25.0 % less multiply-adds."
    )
    said = str(table)
    assert "RMSE m" in said.splitlines()[0]
    assert "+0.50" in said  # 1.0 beside 1.5 alone is better by 0.5
    assert "Pareto front of RMSE against macs" in said
    assert "Lower RMSE is better." in said
    assert table.chance is None
    with pytest.raises(ad.BudgetError, match=r"meets RMSE <= 0\.5 m: the best, 'FF', reaches 1 m; raise the"):
        table.best(quality=0.5)
    with pytest.raises(
        ad.BudgetError, match=r"unknown limit accuracy=1\.0 \(this table has RMSE: limit quality instead\)"
    ):
        table.best(accuracy=1.0)


def test_a_quality_survives_json_and_top_1_is_written_as_before():
    table = errors_in_metres()
    assert ad.TradeOffs.from_json(json.loads(json.dumps(table.to_json()))) == table
    assert "quality" not in ad.TradeOffs((ad.Row("F", 76.0, 400, 9),)).to_json()
    with pytest.raises(ad.MeasurementError, match="trade offs"):
        ad.TradeOffs.from_json({**table.to_json(), "quality": {"name": "RMSE", "unknown": 1}})


def test_values_are_checked_by_the_quality():
    with pytest.raises(ad.MeasurementError, match="RMSE of 'F' is nan: expected a finite number"):
        ad.TradeOffs((ad.Row("F", float("nan"), 4, 9),), quality=RMSE)
    with pytest.raises(ad.MeasurementError, match="mIoU of 'F' is 120: expected mIoU in percent, from 0 to 100"):
        ad.TradeOffs((ad.Row("F", 120, 4, 9),), quality=ad.tasks.Quality("mIoU", "%"))


def test_a_limit_on_quality_is_named_with_its_unit():
    table = errors_in_metres()
    assert str(table.choose(quality=2.5)) == (
        "Chosen: TT\nIt has the lowest macs of the 2 sub-networks within RMSE <= 2.5 m: 300.\n"
        "Compared with the super-net: RMSE 1.00 m worse, 25.0 % less multiply-adds."
    )
    with pytest.raises(ad.BudgetError, match=r"meets macs <= 300 and RMSE <= 1\.9 m together, .* set RMSE <= 2 m"):
        table.best(quality=1.9, macs=300)
    with pytest.raises(ad.BudgetError, match=r"limit quality=nan: expected a finite number$"):
        table.best(quality=float("nan"))


def test_percent_of_any_name_differ_by_points():
    rows = (ad.Row("F", 61.5, 400, 9), ad.Row("T", 60.25, 300, 8))
    said = str(ad.TradeOffs(rows, quality=ad.tasks.Quality("mIoU", "%")).choose(macs=300))
    assert said.endswith("Compared with the super-net: mIoU 1.25 points worse, 25.0 % less multiply-adds.")


def test_small_numbers_keep_their_digits():
    rows = (ad.Row("F", 0.0312, 400, 9, alone=0.0331), ad.Row("T", 0.0318, 300, 8))
    table = ad.TradeOffs(rows, quality=RMSE)
    assert (table.digits, table.text(rows[0])) == (4, "0.0312 m")
    assert "Compared with the super-net: RMSE 0.0006 m worse" in str(table.choose(macs=300))
    said = str(table).splitlines()
    assert said[1].split()[:5] == ["F", "*", "0.0312", "0.0331", "+0.0019"]
    assert said[2].split()[:3] == ["T", "*", "0.0318"]


# -- the other way round, everything is the same --------------------------------------------------------------------


def drawn(seed: int) -> ad.TradeOffs:
    """Four stages, with many ties, and values on both sides of 0."""
    draw = random.Random(seed)
    skips = ["".join(letters) for letters in product("FT", repeat=4)]
    rows = [
        ad.Row(skip, draw.choice([-1.5, -0.25, 0.0, 0.5, 2.0]), draw.randint(1, 9) * 1000, 9, draw.randint(1, 9) / 4)
        for skip in skips
    ]
    return ad.TradeOffs(tuple(rows), quality=ad.tasks.Quality("gain"))


def mirrored(table: ad.TradeOffs) -> ad.TradeOffs:
    """The same table of a quality that is the negative: what was higher and better is lower and better."""
    rows = tuple(replace(row, accuracy=-row.accuracy) for row in table.rows)
    return replace(
        table, rows=rows, quality=replace(table.quality, higher_is_better=not table.quality.higher_is_better)
    )


@pytest.mark.parametrize("seed", range(8))
def test_a_table_and_its_mirror_image_choose_the_same(seed):
    table, other = drawn(seed), mirrored(drawn(seed))
    for cost in ("latency_ms", "macs", "parameters"):
        assert [row.skip for row in table.front(cost)] == [row.skip for row in other.front(cost)]
        assert table.dominated(cost) == other.dominated(cost)
        assert table.choices(cost) == other.choices(cost)
    for limit in (-1.6, -1.5, -0.3, -0.25, 0.0, 0.1, 0.5, 1.9, 2.0, 2.1):
        for costs in ({}, {"macs": 5000}, {"latency_ms": 1.0}):
            assert chosen(table, quality=limit, **costs) == chosen(other, quality=-limit, **costs), (limit, costs)


def chosen(table: ad.TradeOffs, **limits: float) -> object:
    try:
        choice = table.choose(**limits)
    except ad.BudgetError:
        return None
    return choice.skip, choice.ties


def test_what_evaluate_returns_says_what_it_is():
    """One forgotten argument would turn every choice round."""
    costs = Profile({"F": Cost("F", 400, 9), "T": Cost("T", 200, 5)}, 1, {}, {})
    table = tradeoffs(Measured({"F": 0.1, "T": 0.5}, RMSE), costs)
    assert table.quality == RMSE
    assert table.best(macs=1000) == "F"
    assert tradeoffs({"F": 76.0, "T": 75.0}, costs).quality == ad.tasks.Quality("top-1", "%")
    with pytest.raises(MeasurementError, match=r"these numbers measure RMSE \(m, lower is better\), but quality=F1"):
        tradeoffs(Measured({"F": 0.1, "T": 0.5}, RMSE), costs, quality=ad.tasks.Quality("F1"))


# -- text -------------------------------------------------------------------------------------------------------


PERPLEXITY = Quality("perplexity", higher_is_better=False)
TEXT = TradeOffs(
    (
        Row("FF", 12.0, 4000, 900, first_token_ms=200.0, token_ms=20.0, cache_kb=0.512),
        Row("FT", 12.5, 3000, 800, first_token_ms=160.0, token_ms=15.0, cache_kb=0.384),
        Row("TF", 12.6, 3000, 800, first_token_ms=150.0, token_ms=15.25, cache_kb=0.384),  # dominated in time per token
        Row("TT", 14.0, 2000, 700, first_token_ms=100.0, token_ms=10.0, cache_kb=0.256),
    ),
    2,
    {"processor": "an EPYC", "backend": "eager"},
    (("FT", "TF"),),
    quality=PERPLEXITY,
    prompt_tokens=100,
)


def test_costs_of_text_are_joined_with_the_perplexity():
    costs = {
        row.skip: Cost(
            row.skip,
            row.macs,
            row.parameters,
            first_token_ms=row.first_token_ms,
            token_ms=row.token_ms,
            cache_kb=row.cache_kb,
            times_ms=(row.token_ms,) * 6,
        )
        for row in TEXT.rows
    }
    perplexities = {row.skip: row.accuracy for row in TEXT.rows}
    table = tradeoffs(
        perplexities, Profile(costs, 2, {"processor": "an EPYC"}, {}, prompt_tokens=100), quality=PERPLEXITY
    )
    assert table == replace(TEXT, ties=())


def test_the_time_per_token_leads_where_no_latency_was_measured():
    assert TEXT.measured == ("token_ms", "first_token_ms", "macs", "parameters", "cache_kb")
    assert TEXT.cost_name() == "token_ms"
    assert skips(TEXT.front()) == ["TT", "FT", "FF"]
    assert skips(TEXT.front("first_token_ms")) == ["TT", "TF", "FT", "FF"]
    assert TEXT.dominated() == {"TF": "FT"}
    both = replace(TEXT, rows=tuple(replace(row, latency_ms=1.0) for row in TEXT.rows))
    assert both.cost_name() == "latency_ms"


def test_limits_of_text():
    assert TEXT.best(token_ms=15.0) == "FT"
    assert TEXT.best(first_token_ms=155.0) == "TF"
    assert TEXT.best(cache_kb=0.3) == "TT"
    assert TEXT.best(token_ms=15.1, first_token_ms=155.0) == "TT"
    with pytest.raises(
        BudgetError, match=r"no sub-network meets token_ms <= 9: the one that writes fastest, 'TT', needs 10;"
    ):
        TEXT.best(token_ms=9)
    with pytest.raises(BudgetError, match=r"first_token_ms was not measured: profile_generation, or limit macs"):
        TABLE.best(first_token_ms=9)
    chosen = TEXT.choose(quality=13)
    assert (chosen.skip, chosen.ties) == ("FT", ("TF",))
    assert chosen.why[-1] == "Compared with the super-net: perplexity 0.50 worse, 25.0 % less time per token."


def test_a_table_of_text_prints_times_and_rates():
    lines = str(TEXT).splitlines()
    heads = [" ".join(line.split()) for line in lines if line.startswith("skip")]
    assert heads == ["skip perplexity sample parameters token ms tokens/s ms/token tokens/s", "skip kB/token by"]
    assert " ".join(lines[2].split()) == "FF * 12.00 4.000 900 200.00 1000.0 20.00 100.0"
    assert lines[-1] == "Text times are for a batch of 2, after a prompt of 100 tokens on an EPYC, eager."
    assert TEXT.tokens_a_second(TEXT.rows[3]) == {"prompt": 2000.0, "new": 200.0}
    assert TABLE.tokens_a_second(TABLE.rows[0]) == {}


def test_a_table_of_text_survives_json_and_others_are_written_as_before():
    assert TradeOffs.from_json(json.loads(json.dumps(TEXT.to_json()))) == TEXT
    plain = TABLE.to_json()
    assert "prompt_tokens" not in plain
    assert not {"first_token_ms", "token_ms", "cache_kb"} & {*plain["rows"][0]}


def test_times_of_text_are_of_all_sub_networks_or_none():
    with pytest.raises(MeasurementError, match="token_ms is missing for TT only"):
        TradeOffs((TEXT.rows[0], replace(TEXT.rows[3], token_ms=None)))


def test_depths_that_the_profile_left_out_are_no_rows_and_are_named():
    costs = {"F": Cost("F", 400, 9)}
    table = tradeoffs({"F": 76.0, "T": 75.0}, Profile(costs, 1, {}, {}, left_out={"T": "it has no cache."}))
    assert [row.skip for row in table.rows] == ["F"]
    assert str(table).splitlines()[-1] == "Left out: T (it has no cache)."
    assert TradeOffs.from_json(json.loads(json.dumps(table.to_json()))) == table
    assert "left_out" not in TradeOffs(table.rows).to_json()  # which older versions do not know
    with pytest.raises(MeasurementError, match="cost lacks the sub-networks T"):
        tradeoffs({"F": 76.0, "T": 75.0}, Profile(costs, 1, {}, {}))


def test_what_decides_the_front_differs_in_print():
    """FF dominates FT by 0.003 of perplexity, and TF dominates TT by 4 microseconds."""
    perplexity = Quality("perplexity", higher_is_better=False)
    rows = (
        Row("FF", 12.341, 400, 9, latency_ms=4.0),
        Row("FT", 12.344, 400, 9, latency_ms=4.0),
        Row("TF", 14.0, 200, 5, latency_ms=2.001),
        Row("TT", 14.0, 200, 5, latency_ms=2.005),
    )
    table = TradeOffs(rows, quality=perplexity)
    assert table.dominated() == {"FT": "FF", "TT": "TF"}
    lines = [line.replace(" *", "").split() for line in str(table).splitlines()[1:5]]
    assert [(line[1], line[4]) for line in lines] == [
        ("12.341", "4.000"),
        ("12.344", "4.000"),
        ("14.000", "2.001"),
        ("14.000", "2.005"),
    ]
    known = quantities(table)["latency_ms"]
    assert [known.number(row.latency_ms) for row in rows] == ["4.000", "4.000", "2.001", "2.005"]
    assert quality_of(table).number(12.344) == "12.344"
    assert "| FT | 12.344 | 0.400 | 9 | 4.000 ms |  |" in trade_off_table(table)
