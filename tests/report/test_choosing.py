"""What the page knows of the choice: the same as TradeOffs.best, and said in words."""

import random

import pytest

from adaptive_depth.choose.quantities import quantities
from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.errors import BudgetError
from adaptive_depth.report.choosing import facts, limits, verdicts


def best(table, **limit):
    try:
        return table.best(**limit)
    except BudgetError:
        return None


def a_table(seed):
    """Five stages, with many ties."""
    draw = random.Random(seed)
    skips = [f"{number:05b}".replace("0", "F").replace("1", "T") for number in range(32)]
    rows = [
        Row(skip, draw.choice([0.5, 70.25, 71.1, 72.0, 73.3]), draw.randint(1, 9) * 123_456_789, 7, draw.random() + 0.5)
        for skip in skips
    ]
    return TradeOffs(tuple(rows))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["latency_ms", "macs", "accuracy"])
def test_every_limit_gives_what_best_returns(seed, name):
    table, draw = a_table(seed), random.Random(seed)
    limit = limits(table)[name]
    values = sorted({getattr(row, name) for row in table.rows})
    between = [draw.uniform(0.9 * values[0], 1.1 * values[-1]) for _ in range(100)]
    for value in (*values, *between, *(0.999999 * value for value in values), *(1.000001 * value for value in values)):
        assert limit.choice(value / limit.quantity.divisor) == best(table, **{name: value}), value


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_no_number_above_0_is_no_limit(table, limit):
    assert all(known.choice(limit) is None for known in limits(table).values())
    assert limits(table)["accuracy"].choice(1.0) is None  # a part of 1 is no percentage: best asks for percent


def test_limits_are_those_that_were_measured(table):
    assert [*limits(table)] == ["latency_ms", "macs", "energy_mj", "memory_mb", "accuracy"]
    untimed = TradeOffs((Row("F", 76.0, 400_000, 9), Row("T", 75.0, 200_000, 5)))
    assert [*limits(untimed)] == ["macs", "accuracy"]


def test_steps_by_hand(table):
    known = limits(table)
    assert known["latency_ms"].steps == ((5.0, "TTT"), (6.0, "TTF"), (22 / 3, "FTT"), (8.0, "FTF"))
    assert known["macs"].steps == ((1.9, "TTT"), (2.4, "TTF"), (2.7, "FTT"), (3.2, "FTF"))
    assert known["accuracy"].steps == ((80.0, "TTT"), (85.25, "TTF"), (88.0, "FTT"), (90.5, "FTF"))
    assert known["latency_ms"].none == "The least that any needs is 5.00\N{NO-BREAK SPACE}ms, by TTT."
    assert known["accuracy"].none == "The most accurate, FTF, reaches 90.50 %."


def test_a_limit_in_few_digits_gives_the_same_choice():
    latencies = {"TT": 1.0000123456, "TF": 1.00002, "FF": 9.0}
    rows = [Row(skip, 70.0 + place, 1, 1, latency) for place, (skip, latency) in enumerate(latencies.items())]
    shown = limits(TradeOffs(tuple(rows)))["latency_ms"].to_json([1.0, 9.0])
    assert [enough for *_, enough in shown["steps"]] == ["1.000013", "1.001", "9.000"]  # 1.00002 gives TF


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.10, 1.78], {"min": "1.058", "max": "1.822", "step": "0.002", "decimals": 3}),
        ([5.0, 5.0], {"min": "4.970", "max": "5.030", "step": "0.002", "decimals": 3}),
        ([0.01, 900.0], {"min": "5", "max": "955", "step": "5", "decimals": 0}),
    ],
)
def test_the_slider_spans_the_costs_in_round_steps(table, values, expected):
    shown = limits(table)["latency_ms"].to_json(values)
    assert {name: shown[name] for name in expected} == expected
    assert float(shown["min"]) <= float(shown["start"]) <= float(shown["max"])


def test_facts_by_hand(table):
    known = facts(table)
    assert known["FFF"]["role"] == "super-net"
    assert [line[2] for line in known["FFF"]["lines"]] == [""] * 6
    lines = {
        title: (value.replace("\N{NO-BREAK SPACE}", " "), compared) for title, value, compared in known["TTT"]["lines"]
    }
    assert lines == {
        "Accuracy": ("80.00 %", "10.00 points below the super-net"),
        "Latency": ("5.00 ms", "50.0 % less"),
        "Multiply-adds": ("1.900 MMACs", "52.5 % less"),
        "Energy": ("500.0 mJ", "44.4 % less"),
        "Memory": ("18.00 MB", "25.0 % less"),
        "Parameters": ("1.700 million", "29.2 % less"),
    }
    assert known["FTF"]["lines"][0][2] == "0.50 points above the super-net"
    assert known["FFT"]["lines"][3][2] == "5.6 % more"


def test_without_the_super_net_the_one_of_most_work_is_the_measure():
    known = facts(TradeOffs((Row("TF", 76.0, 400, 9), Row("FT", 76.001, 300, 9), Row("TT", 75.0, 200, 5))))
    assert [known[skip]["lines"][0][2] for skip in known] == ["", "as accurate as TF", "1.00 points below TF"]
    assert known["FT"]["lines"][2][2] == "the same"


def test_verdicts_by_hand(table):
    said = verdicts(table)
    front = {"FTF": "on the front", "FTT": "on the front", "TTF": "on the front", "TTT": "on the front"}
    beaten = {
        "FFF": "dominated by FTF",
        "FFT": "dominated by FTF",
        "TFF": "dominated by FTT",
        "TFT": "dominated by TTF",
    }
    assert said["latency_ms"] == {**front, **beaten}
    assert said["parameters"]["TFT"] == "on the front"


@pytest.mark.parametrize(
    ("largest", "text"),
    [(1.2345, "1.234 ms"), (12.345, "12.35 ms"), (123.45, "123.5 ms"), (12345.6, "12,346 ms"), (0.0123, "0.01230 ms")],
)
def test_numbers_have_four_digits(largest, text):
    known = quantities(TradeOffs((Row("F", 76.0, 400, 9, largest),)))["latency_ms"]
    assert known.text(largest).replace("\N{NO-BREAK SPACE}", " ") == text


def test_what_would_do_is_rounded_so_that_it_does():
    table = TradeOffs((Row("F", 71.239, 400, 9, 2.5), Row("T", 70.0, 300, 5, 1.2301)))
    known = limits(table)
    assert known["latency_ms"].none == "The least that any needs is 1.231\N{NO-BREAK SPACE}ms, by T."
    assert known["accuracy"].none == "The most accurate, F, reaches 71.23 %."
    assert known["latency_ms"].to_json([1.2, 2.5])["steps"] == [(1.2301, "T", "1.231"), (2.5, "F", "2.500")]
    assert known["accuracy"].to_json([70, 71.2])["steps"] == [(70.0, "T", "70.00"), (71.239, "F", "71.23")]
    assert quantities(table)["latency_ms"].number(1.2301) == "1.230"
