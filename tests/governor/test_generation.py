"""Limits on text: the depth that both allow, prompts of any length, and a trace on which no fixed depth keeps them."""

import math
import random
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

from adaptive_depth.choose.tradeoffs import Row, TradeOffs
from adaptive_depth.errors import BudgetError, MeasurementError, SkipError
from adaptive_depth.governor.generation import TextGovernor
from adaptive_depth.quality import Quality

SIMULATION = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "simulation.py"))
PERPLEXITY = Quality("perplexity", higher_is_better=False)
TABLE = TradeOffs(
    (
        Row("FF", 12.0, 4000, 900, first_token_ms=200.0, token_ms=20.0),
        Row("FT", 12.5, 3000, 800, first_token_ms=150.0, token_ms=15.0),
        Row("TF", 12.6, 3000, 800, first_token_ms=155.0, token_ms=16.0),  # dominated by FT
        Row("TT", 14.0, 2000, 700, first_token_ms=100.0, token_ms=10.0),
    ),
    quality=PERPLEXITY,
    prompt_tokens=101,
)


def governor(table=TABLE, **settings):
    return TextGovernor(table, **settings, clock=SIMULATION["SimulatedClock"]())


# -- choosing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ({"first_token_ms": 200}, "FF"),
        ({"first_token_ms": 199}, "FT"),
        ({"token_ms": 19.9}, "FT"),
        ({"token_ms": 14.9}, "TT"),
        ({"first_token_ms": 200, "token_ms": 15}, "FT"),
        ({"first_token_ms": 120, "token_ms": 20}, "TT"),
        ({"first_token_ms": 50, "token_ms": 5}, "TT"),  # nothing meets it
    ],
)
def test_it_begins_with_the_deepest_depth_that_both_limits_allow(limits, chosen):
    assert governor(**limits).choose() == chosen


def test_the_first_token_follows_the_prompt():
    # At FF from 20 ms for one token to 200 for 101: 1.8 ms for each one; at FT 1.35, at TT 0.9.
    for tokens, chosen in ((1, "FF"), (50, "FF"), (101, "FF"), (111, "FF"), (113, "FT"), (152, "FT"), (154, "TT")):
        assert governor(first_token_ms=220).choose(prompt_tokens=tokens) == chosen


def test_of_a_table_without_the_time_per_token_each_token_counts_as_much():
    rows = Row("F", 12.0, 9, 9, first_token_ms=200.0), Row("T", 14.0, 5, 5, first_token_ms=100.0)
    table = TradeOffs(rows, quality=PERPLEXITY)
    chosen = [governor(table, first_token_ms=220, prompt_tokens=100).choose(tokens) for tokens in (109, 111)]
    assert chosen == ["F", "T"]
    assert governor(table, first_token_ms=450, prompt_tokens=1).choose(prompt_tokens=3) == "T"


def test_a_text_that_has_waited_has_less_time_to_its_first_token_and_is_written_as_fast():
    assert governor(first_token_ms=220).choose(waited_ms=30) == "FT"
    assert governor(token_ms=20).choose(waited_ms=1000) == "FF"


# -- observing ----------------------------------------------------------------------------------------------------


def test_each_limit_is_told_of_its_own_time():
    both = governor(first_token_ms=250, token_ms=25)
    both.observe("FF", first_token_ms=300.0, token_ms=20.0)
    assert (both.first_token.slowdown, both.token.slowdown) == (1.5, 1.0)
    assert both.choose() == "FT"  # 1.5 x 150 x 1.05 = 236 ms
    assert (both.first_token.log[-1].skip, both.token.log[-1].skip) == ("FT", "FF")
    both.observe("FT", token_ms=30.0)  # a text whose first token was not timed
    assert (both.first_token.slowdown, both.token.slowdown) == (1.5, 2.0)
    assert both.choose() == "TT"


def test_a_long_prompt_that_takes_long_is_no_slow_device():
    one = governor(first_token_ms=1000)
    one.observe("FF", first_token_ms=380.0, prompt_tokens=201)
    assert one.first_token.slowdown == pytest.approx(1.0)
    one.observe("TT", first_token_ms=10.0, prompt_tokens=1)
    assert one.first_token.slowdown == pytest.approx(1.0)


def test_noise_of_the_table_makes_no_deeper_one_the_faster():
    """The first token of FT took longer than that of FF: it is never taken to be faster, whatever the depth."""
    rows = (
        Row("FF", 12.0, 4000, 900, first_token_ms=190.0, token_ms=20.0),
        Row("FT", 12.5, 3000, 800, first_token_ms=195.0, token_ms=15.0),
        Row("TT", 14.0, 2000, 700, first_token_ms=100.0, token_ms=10.0),
    )
    table = TradeOffs(rows, quality=PERPLEXITY, prompt_tokens=101)
    assert governor(table, first_token_ms=192, token_ms=30).choose() == "TT"
    assert governor(table, first_token_ms=196, token_ms=30).choose() == "FF"
    assert governor(table, first_token_ms=196, token_ms=15).choose() == "FT"


# -- on a trace ---------------------------------------------------------------------------------------------------


class Fixed:
    def __init__(self, skip):
        self.skip = skip

    def choose(self, **_):
        return self.skip

    def observe(self, *_, **__):
        pass


def load(kind, texts=800):
    """Prompts of four lengths; for a hundred texts in two the device is 1.7 times as slow."""
    rng = random.Random(0)
    for number in range(texts):
        busy = 1.7 if number // 100 % 2 else 1.0
        slow = {"both": (busy, busy), "prefill": (busy, 1.0), "decoding": (1.0, busy), "in turn": (busy, 2.7 - busy)}[
            kind
        ]
        yield rng.choice((25, 50, 100, 120)), *(each * rng.uniform(0.95, 1.05) for each in slow)


@pytest.mark.parametrize("kind", ["both", "prefill", "decoding", "in turn"])
@pytest.mark.parametrize("attention", [0.0, 0.2])
def test_it_keeps_19_of_20_limits_where_a_fixed_depth_keeps_fewer(kind, attention):
    limits = {"first_token_ms": 330.0, "token_ms": 28.0}
    trace, clock = [*load(kind)], SIMULATION["SimulatedClock"]()
    chooser = TextGovernor(TABLE, **limits, clock=clock)
    run = SIMULATION["simulate_texts"](chooser, clock, TABLE, trace, **limits, attention=attention)
    skips, *met = run
    assert min(met) >= 0.95
    assert len(set(skips)) > 1
    clock = SIMULATION["SimulatedClock"]()
    _, *fixed = SIMULATION["simulate_texts"](Fixed("FF"), clock, TABLE, trace, **limits, attention=attention)
    assert min(fixed) < 0.9
    points = {row.skip: row.accuracy for row in TABLE.rows}
    assert sum(points[skip] for skip in skips) / len(skips) < 13  # of 12 to 14: not the base-net all the time
    assert sum(a != b for a, b in pairwise(skips)) < len(skips) / 4


# -- what is refused ----------------------------------------------------------------------------------------------


UNTIMED = TradeOffs((Row("F", 12.0, 9, 9, latency_ms=3.0),), quality=PERPLEXITY)
UNKNOWN = TradeOffs(TABLE.rows, quality=PERPLEXITY)


@pytest.mark.parametrize(
    ("table", "settings", "error", "message"),
    [
        (TABLE, {}, BudgetError, "a text governor without a limit: give first_token_ms=, token_ms= or both"),
        (TABLE, {"token_ms": -1}, BudgetError, "target_ms=-1: expected a finite number above 0"),
        (TABLE, {"token_ms": 9, "met": 1}, BudgetError, "met=1: expected a share"),
        (UNTIMED, {"token_ms": 9}, MeasurementError, "token_ms was not measured, only .*: profile_generation"),
        ({}, {"token_ms": 9}, MeasurementError, "a text governor received a dict instead of a table"),
        (UNKNOWN, {"first_token_ms": 9}, MeasurementError, "a prompt of None tokens: expected its length"),
        (UNKNOWN, {"first_token_ms": 9, "prompt_tokens": 0}, MeasurementError, "a prompt of 0 tokens"),
        (TABLE, {"token_ms": 9, "skips": ["F"]}, SkipError, r"skips=\['F'\]: expected some of those in the table"),
    ],
)
def test_what_cannot_be_governed_is_refused(table, settings, error, message):
    with pytest.raises(error, match=message):
        governor(table, **settings)


def test_the_length_of_the_prompt_is_not_needed_for_further_tokens():
    assert governor(UNKNOWN, token_ms=15).choose(prompt_tokens=999) == "FT"


@pytest.mark.parametrize("tokens", [0, -3, 2.5, True])
def test_a_prompt_that_is_none_is_refused(tokens):
    one = governor(first_token_ms=300, token_ms=30)
    for call in (one.choose, lambda **given: one.observe("FF", first_token_ms=9.0, **given)):
        with pytest.raises(BudgetError, match=f"prompt_tokens={tokens}: expected a whole number of at least 1"):
            call(prompt_tokens=tokens)
    assert one.token.log == ()


def test_a_depth_that_it_never_chooses_cannot_be_observed():
    one = governor(token_ms=30)
    for skip in ("TF", "F"):
        with pytest.raises(
            SkipError, match=f"skip '{skip}' is not one of the governor's depths: expected one of TT, FT, FF"
        ):
            one.observe(skip, token_ms=9.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, "9", True])
def test_a_time_that_is_none_is_refused_and_not_counted(value):
    one = governor(first_token_ms=300, token_ms=30)
    for bad in ("first_token_ms", "token_ms"):
        with pytest.raises(MeasurementError, match=f"^{bad}={value!r} for a text at FF: expected"):
            one.observe("FF", **{"first_token_ms": 600.0, "token_ms": 60.0, bad: value})
    for each in (one.first_token, one.token):
        assert (each.slowdown, each.ignored, each.log) == (1.0, 0, ())


def test_some_depths_alone():
    assert governor(token_ms=30, skips=["TT", "FT"]).choose() == "FT"


def test_it_says_what_it_holds():
    said = repr(governor(first_token_ms=300, token_ms=30))
    assert said == "TextGovernor for 300 ms to the first token and 30 ms per token over TT, FT, FF"
