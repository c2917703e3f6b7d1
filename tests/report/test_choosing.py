"""The page's choices: the same as TradeOffs.best, and in words."""

import json
import random
from dataclasses import replace

import pytest

from adaptive_depth.choose.quantities import quality_of, quantities
from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.errors import BudgetError
from adaptive_depth.quality import Quality
from adaptive_depth.report.choosing import facts, limits, verdicts
from adaptive_depth.report.words import columns, rows, summary, tiles, training
from adaptive_depth.training.history import Epoch, History

from .conftest import mirrored


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
    assert known["latency_ms"].none == "The minimum is 5.00\N{NO-BREAK SPACE}ms, by TTT."
    assert known["accuracy"].none == "The most accurate, FTF, reaches 90.50\N{NO-BREAK SPACE}%."


def test_a_limit_in_few_digits_gives_the_same_choice():
    latencies = {"TT": 1.0000123456, "TF": 1.00002, "FF": 9.0}
    rows = [Row(skip, 70.0 + place, 1, 1, latency) for place, (skip, latency) in enumerate(latencies.items())]
    shown = limits(TradeOffs(tuple(rows)))["latency_ms"].to_json([1.0, 9.0])
    assert [enough for *_, enough in shown["steps"]] == ["1.000013", "1.00002", "9.00000"]


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
    known = facts(TradeOffs((Row("TF", 76.0, 400, 9), Row("FT", 76.000001, 300, 9), Row("TT", 75.0, 200, 5))))
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
    assert known["latency_ms"].none == "The minimum is 1.231\N{NO-BREAK SPACE}ms, by T."
    assert known["accuracy"].none == "The most accurate, F, reaches 71.23\N{NO-BREAK SPACE}%."
    assert known["latency_ms"].to_json([1.2, 2.5])["steps"] == [(1.2301, "T", "1.231"), (2.5, "F", "2.500")]
    assert known["accuracy"].to_json([70, 71.2])["steps"] == [(70.0, "T", "70.00"), (71.239, "F", "71.23")]
    assert quantities(table)["latency_ms"].number(1.2301) == "1.230"


# -- other qualities than top-1 ---------------------------------------------------------------------------------

GAIN = Quality("gain", "dB")
QUALITIES = [
    (GAIN, [-3.5, -0.25, 0.0, 0.5, 12.0]),
    (replace(GAIN, higher_is_better=False), [-3.5, -0.25, 0.0, 0.5, 12.0]),
    (Quality("mIoU", "%"), [0.0, 0.5, 41.25, 63.0, 100.0]),
    (Quality("error", "%", higher_is_better=False), [0.0, 0.5, 41.25, 63.0, 100.0]),
    (Quality("perplexity", higher_is_better=False), [11.5, 12.0, 12.25, 14.0, 40.0]),
]


def judged_by(quality, values, seed=0):
    draw = random.Random(seed)
    table = a_table(seed)
    return replace(table, rows=tuple(replace(row, accuracy=draw.choice(values)) for row in table.rows), quality=quality)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("quality", "values"), QUALITIES, ids=lambda value: str(value)[:12])
def test_every_limit_on_any_quality_gives_what_best_returns(quality, values, seed):
    table, draw = judged_by(quality, values, seed), random.Random(seed)
    limit = limits(table)["quality"]
    assert limit.at_least == quality.higher_is_better
    near = [value + step for value in values for step in (-1e-9, 1e-9)]
    for value in (*values, *near, *(draw.uniform(values[0] - 1, values[-1] + 1) for _ in range(100)), float("inf")):
        assert limit.choice(value) == best(table, quality=value), value


@pytest.mark.parametrize("seed", range(5))
def test_a_table_and_its_mirror_image_give_the_same_page(seed):
    table = judged_by(GAIN, [-3.5, -0.25, 0.0, 0.5, 12.0], seed)
    other = mirrored(table)
    one, two = limits(table), limits(other)
    for name in ("latency_ms", "macs"):
        assert one[name].steps == two[name].steps
    assert one["quality"].steps == tuple((-limit, skip) for limit, skip in reversed(two["quality"].steps))
    assert verdicts(table) == verdicts(other)
    assert [tile["name"] for tile in tiles(table)] == [tile["name"] for tile in tiles(other)]
    assert tiles(table)[-1]["value"] == tiles(other)[-1]["value"]


def test_steps_and_words_where_lower_is_better(errors):
    limit = limits(errors)["quality"]
    assert (limit.at_least, limit.on_quality, limit.above) == (False, True, None)
    assert limit.steps == ((0.095, "FTF"), (0.12, "FTT"), (0.1475, "TTF"), (0.2, "TTT"))
    assert limit.none == "The best, FTF, reaches 0.095\N{NO-BREAK SPACE}m."
    shown = limit.to_json([row.accuracy for row in errors.rows])
    # As written, rounded up, so that the limit is met: 0.1475 would be 0.147 to the nearest.
    assert [enough for *_, enough in shown["steps"]] == ["0.095", "0.120", "0.148", "0.200"]
    assert (shown["title"], shown["word"], shown["unit"], shown["above"]) == ("RMSE", "RMSE", "m", None)
    assert json.loads(json.dumps(shown, allow_nan=False))["atLeast"] is False


def test_what_would_do_on_an_error_is_rounded_up_so_that_it_does(errors):
    table = replace(errors, rows=(Row("F", 0.0951234, 400, 9), Row("T", 0.5, 300, 5)))
    assert limits(table)["quality"].none == "The best, F, reaches 0.096\N{NO-BREAK SPACE}m."
    assert table.best(quality=0.096) == "F"


def test_facts_say_which_way_is_worse(errors):
    known = {skip: fact["lines"][0] for skip, fact in facts(errors).items()}
    assert known["TTT"] == ("RMSE", "0.200\N{NO-BREAK SPACE}m", "0.100 m above the super-net (worse)")
    assert known["FTF"][2] == "0.005 m below the super-net (better)"
    assert known["FFF"][2] == ""


def test_heads_cells_and_sentences_of_a_regression(errors):
    heads = {column["name"]: column["title"] for column in columns(errors, None)}
    assert (heads["quality"], heads["lost"]) == ("RMSE (m, lower is better)", "Vs. FFF (m)")
    assert heads["latency_ms"] == "Latency (ms)"
    cells = {row["skip"]: [cell["text"] for cell in row["cells"][:3]] for row in rows(errors, None)}
    assert cells["TTT"] == ["0.200", "+0.100", "on the front"]
    assert cells["FTF"] == ["0.095", "−0.005", "on the front"]
    assert cells["FFF"] == ["0.100", "–", "dominated by FTF"]
    assert [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in summary(errors)] == [
        "One network, 8 depths: from RMSE 0.200 m in 5.00 ms (TTT, the base-net) to RMSE 0.100 m in 10.00 ms (FFF, "
        "the super-net).",
        "The cheapest, TTT, takes 50.0 % less latency; its RMSE is 0.100 m above that of the super-net (worse).",
        "4 of 8 are on the Pareto front of RMSE against latency; each of the others is dominated by one of these.",
        "Lower RMSE is better.",
    ]
    assert tiles(errors)[-1]["name"] == "Best RMSE"
    assert tiles(errors)[-1]["value"] == "FTF"


def test_words_of_percent_of_another_name():
    table = replace(a_table(0), rows=(Row("F", 61.5, 400, 9), Row("T", 60.25, 300, 8)), quality=Quality("mIoU", "%"))
    heads = {column["name"]: column["title"] for column in columns(table, None)}
    assert (heads["quality"], heads["lost"]) == ("mIoU (%)", "Points vs. F")
    assert facts(table)["T"]["lines"][0] == ("mIoU", "60.25\N{NO-BREAK SPACE}%", "1.25 points below the super-net")
    assert summary(table)[1].endswith("; its mIoU is 1.25 points below that of the super-net.")
    assert limits(table)["quality"].above == 0
    assert limits(table)["quality"].none == "The best, F, reaches 61.50\N{NO-BREAK SPACE}%."
    same = replace(table, rows=(Row("F", 61.5, 400, 9), Row("T", 61.500001, 300, 8)))
    assert facts(same)["T"]["lines"][0][2] == "the same as the super-net"


def test_a_quality_without_a_unit():
    table = replace(
        a_table(0),
        rows=(Row("F", 11.5, 400, 9), Row("T", 12.25, 300, 8)),
        quality=Quality("perplexity", higher_is_better=False),
    )
    heads = {column["name"]: column["title"] for column in columns(table, None)}
    assert (heads["quality"], heads["lost"]) == ("perplexity (lower is better)", "Vs. F")
    assert facts(table)["T"]["lines"][0] == ("perplexity", "12.25", "0.75 above the super-net (worse)")


def test_numbers_below_0_have_a_minus():
    table = replace(a_table(0), rows=(Row("F", -3.25, 400, 9), Row("T", -4.5, 300, 8)), quality=GAIN)
    assert quality_of(table).text(-3.25) == "−3.25\N{NO-BREAK SPACE}dB"
    assert limits(table)["quality"].none == "The best, F, reaches −3.25\N{NO-BREAK SPACE}dB."
    shown = limits(table)["quality"].to_json([-4.5, -3.25])
    assert shown["steps"] == [(-4.5, "T", "-4.50"), (-3.25, "F", "-3.25")]  # as they are typed
    assert float(shown["min"]) < -4.5 < -3.25 < float(shown["max"])


def test_a_training_that_knows_no_accuracy_tells_its_loss():
    epochs = (
        Epoch(1, 0.1, 1.5, None, 0.25, None, 900.0, validation={"F": 0.5, "T": 0.625}),
        Epoch(2, 0.1, 0.75, None, 0.125, None, 900.0, validation={"F": 0.25, "T": 0.375}),
    )
    told = training(History(epochs), Quality("RMSE", "m", higher_is_better=False))
    assert told["said"].startswith("2 epochs. In the last one, the loss was 0.75 (base-net 0.125). ")
    assert told["seen"].startswith("Losses and RMSE over the epochs. ")
    assert "Last validation RMSE: F 0.250 m, T 0.375 m." in told["seen"]
    assert told["said"].endswith("Validation during training is before calibration, so it can differ from the table.")
    assert "accuracy" not in told["columns"]
    assert [len(line) for line in told["lines"]] == [len(told["columns"])] * 2


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        ((70.0, 60.0), "A network trained alone is better than F and costs no more: if you need only one depth, train"),
        ((70.0, 62.0), "A network trained alone is better than all 2 depths and costs no more: if you need only one d"),
        ((60.0, None), "No network trained alone is better than one of these depths without costing more."),
        ((None, None), None),
    ],
)
def test_the_summary_says_whether_networks_trained_alone_are_better(alone, said):
    ends = (Row("F", 61.5, 400, 9, alone=alone[0]), Row("T", 60.25, 300, 8, alone=alone[1]))
    told = summary(TradeOffs(ends))[3:]
    assert not told if said is None else told[0].startswith(said)
