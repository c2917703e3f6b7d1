"""costs.py: what the times of a profile say, worked out by hand."""

import json
import re
from dataclasses import replace

import pytest

from adaptive_depth.choose.costs import Cost, Profile, Saving, median_interval, tokens_a_second
from adaptive_depth.errors import MeasurementError


def timed(**times):
    """A profile of sub-networks with these times; a hundred multiply-adds for each F, and ten."""
    costs = {}
    for skip, passes in times.items():
        low, high = median_interval(passes)
        middle = sorted(passes)[len(passes) // 2]
        costs[skip] = Cost(skip, 100 * skip.count("F") + 10, 5, middle, low, high, times_ms=tuple(passes))
    return Profile(costs, 1, {"type": "cpu", "threads": 1}, {})


DRIFT = [0, 10, 20, 30, 40, 50, 60]  # a machine that slows down; the differences in each round do not change


def shifted(by):
    return [base + by for base in DRIFT]


# -- ties -------------------------------------------------------------------------------------------------------


def test_a_small_difference_in_every_round_is_told_apart_although_the_intervals_overlap():
    profile = timed(F=shifted(11), T=shifted(10))
    assert profile.costs["F"].latency_low_ms < profile.costs["T"].latency_high_ms
    assert profile.ties() == ()


def test_a_difference_whose_median_interval_holds_zero_is_a_tie():
    profile = timed(FF=shifted(10), FT=[10, 21, 29, 41, 49, 61, 69], TT=shifted(5))  # FT: -1 and 1 in turn
    assert profile.ties() == (("FF", "FT"),)
    assert "Statistically indistinguishable in latency: FF, FT." in str(profile)
    assert "TT" not in str(profile).split("indistinguishable in latency:")[1].split(".")[0]


def test_too_few_rounds_tell_nothing():
    profile = timed(F=[2, 2, 2, 2, 2], T=[2, 2, 2, 2, 2])
    assert profile.ties() == ()
    assert profile.savings() == ()
    assert "indistinguishable" not in str(profile)


def test_groups_are_of_those_that_tie_with_the_fastest_of_them():
    even, up = [1, 1, 1, 1, 1, 1], [1, 3, 1, 3, 1, 3]
    profile = timed(FF=[5, 5, 5, 5, 5, 5], FT=up, TF=even, TT=[0.5] * 6)
    assert "Statistically indistinguishable in latency: TF, FT." in str(profile)


def test_pairs_across_groups_are_counted():
    low, middle, high = [1, 1, 1, 1, 1, 1], [0, 5, 0, 5, 0, 5], [3, 3, 3, 3, 3, 3]  # the middle ties with both
    profile = timed(FF=high, FT=middle, TT=low)
    assert set(profile.ties()) == {("FF", "FT"), ("FT", "TT")}
    assert "Other indistinguishable pairs: 1 (ties() lists all)." in str(profile)


def test_a_machine_that_is_not_steady_is_told():
    steady, wild = [10, 11, 10, 11, 10, 11], [10, 40, 10, 40, 10, 40]
    assert "not steady" not in str(timed(F=steady, T=steady))
    assert "The machine was not steady: intervals span 75 % of the median." in str(timed(F=wild, T=wild))


def test_ends_that_tie_save_no_time():
    assert "multiply-adds and" not in str(timed(F=[3, 1, 3, 1, 3, 1], T=[1, 3, 1, 3, 1, 3]))


# -- savings ----------------------------------------------------------------------------------------------------


def test_what_a_stage_saves_is_the_median_over_rounds_of_the_mean_over_depths():
    profile = timed(FF=shifted(100), FT=shifted(99), TF=shifted(90), TT=shifted(87))
    first, second = profile.savings()
    assert first == Saving(1, 100, 11, 11, 11)  # (100 - 90 + 99 - 87) / 2
    assert second == Saving(2, 100, 2, 2, 2)  # (100 - 99 + 90 - 87) / 2
    assert first.is_measurable
    assert "saves no time" not in str(profile)


def test_a_stage_that_buys_no_time_is_named():
    noise = [4, -2, 2, -1, 3, -3, 1]
    slow = [base + 100 + extra for base, extra in zip(DRIFT, noise, strict=True)]
    profile = timed(FF=slow, FT=shifted(100), TF=[ms - 50 for ms in slow], TT=shifted(50))
    first, second = profile.savings()
    assert (first.is_measurable, second.is_measurable) == (True, False)
    assert (second.low_ms, second.ms, second.high_ms) == (-3, 1, 4)
    assert "Skipping stage 2 saves no time beyond noise here: 1.00 ms (-3.00 to 4.00)." in str(profile)


def test_a_stage_that_no_pair_differs_in_alone_has_no_saving():
    assert [saving.stage for saving in timed(FF=shifted(9), FT=shifted(8)).savings()] == [2]
    assert timed(FF=shifted(9), TT=shifted(8)).savings() == ()


def test_time_saved_over_work_saved():
    profile = timed(FF=[10] * 6, TT=[4] * 6)
    assert profile.time_per_work() == pytest.approx((1 - 4 / 10) / (1 - 10 / 210))
    # 10 multiply-adds of 210
    assert "The base-net needs 5 % of the super-net's multiply-adds and 40 % of its time." in str(profile)
    assert timed(FF=[10] * 6, TF=[4] * 6).time_per_work() is None
    assert Profile({"F": Cost("F", 9, 9), "T": Cost("T", 5, 9)}, 1, {}, {}).time_per_work() is None
    assert Profile({"F": Cost("F", 9, 9, 2.0), "T": Cost("T", 9, 9, 1.0)}, 1, {}, {}).time_per_work() is None


# -- the values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([5, 1, 3, 2, 4], None, None), ([6, 5, 1, 3, 2, 4], 1, 6), (range(1, 10), 2, 8), (range(1, 101), 40, 61)],
)
def test_the_interval_is_that_of_the_sign_test(values, low, high):
    assert median_interval(list(values)) == (low, high)


def test_everything_survives_json():
    cost = Cost("F", 9, 8, 1.0, 0.9, 1.1, 7.5, 3.5, {8: 100.0, 1: 20.0}, (1.0, 1.1))
    profile = Profile(
        {"F": cost}, 1, {"type": "cpu"}, {"svd": 1}, "compiled", "0123", {"rounds": 2}, "RAPL", ((1, 3, 8, 8),)
    )
    read = Profile.from_json(json.loads(json.dumps(profile.to_json())))
    assert read == profile
    assert read.conditions == {"rounds": 2}
    assert read.costs["F"].throughput == {8: 100.0, 1: 20.0}


def test_a_profile_of_an_older_release_is_read():
    cost = {"skip": "F", "macs": 9, "parameters": 8, "latency_ms": 1.0, "latency_low_ms": None, "latency_high_ms": None}
    older = {"costs": [cost], "batch_size": 1, "device": {}, "uncounted": {}}
    assert Profile.from_json(older).costs["F"] == Cost("F", 9, 8, 1.0)


def test_memory_energy_throughput_and_backend_are_printed():
    cost = Cost("F", 9_000, 8, 1.0, 0.9, 1.1, 7.5, 3.5, {1: 1000.0, 8: 2000.0})
    said = str(Profile({"F": cost}, 1, {"threads": 2}, {}, backend="compiled", energy="RAPL"))
    head, upper, lower, row, *other, notes = said.splitlines()
    assert "2 CPU threads" in head
    assert ", compiled, batch of 1" in head
    assert row.split() == ["F", "9.000", "8", "1.00", "0.90", "to", "1.10", "7.50", "3.50", "1000.0"]
    assert re.fullmatch(r" +kMACs a +latency +95 % memory energy +samples/s,", upper)
    assert re.fullmatch(r"skip +sample +parameters +ms +interval +MB +mJ +batch 1", lower)
    assert [line.split() for line in other] == [["samples/s,"], ["skip", "batch", "8"], ["F", "2000.0"]]
    assert notes == "Energy: RAPL."
    assert max(map(len, (upper, lower, row))) <= 80
    assert "samples/s" not in str(
        Profile({"F": replace(cost, throughput={1: 1000.0})}, 1, {}, {})
    )  # the latency says it
    conditions = {"rounds": 9, "warmup_rounds": 3, "drift_percent": -1.26}
    said = str(Profile({"F": cost}, 1, {}, {}, conditions=conditions))
    assert "Timed in 9 rounds, after 3 of warm-up; they were 1.3 % shorter in the second half." in said


# -- text -------------------------------------------------------------------------------------------------------


def of_text(skip, times, first, cache):
    return Cost(
        skip,
        1000 * skip.count("F") + 2000,
        5,
        times_ms=times,
        first_token_ms=first,
        token_ms=sorted(times)[len(times) // 2],
        cache_kb=cache,
    )


TEXT = Profile(
    {
        "FF": of_text("FF", (20.0,) * 7, 200.0, 0.512),
        "FT": of_text("FT", (14, 16, 14, 16, 14, 16, 15), 150.0, 0.384),
        "TF": of_text("TF", (15.0,) * 7, 160.0, 0.384),
        "TT": of_text("TT", (10.0,) * 7, 100.0, 0.256),
    },
    2,
    {"processor": "an EPYC", "type": "cpu", "threads": 1, "torch": "2.15"},
    {},
    prompt_tokens=100,
)


def test_costs_of_text_are_printed_with_their_rates():
    lines = str(TEXT).splitlines()
    assert lines[0] == "an EPYC (cpu), 1 CPU thread, torch 2.15, batch of 2, prompt of 100 tokens"
    assert lines[1].split() == ["kMACs", "a", "first", "prompt"]  # the table is in two parts
    assert " ".join(lines[2].split()) == "skip sample parameters token ms tokens/s ms/token 95 % interval tokens/s"
    # 2 x 100 tokens in 200 ms, 2 in 20 ms.
    assert " ".join(lines[3].split()) == "FF 4.000 5 200.00 1000.0 20.00 20.00 to 20.00 100.0"
    assert [" ".join(line.split()) for line in lines[7:10]] == ["cache", "skip kB/token", "FF 0.51"]
    assert lines[13:] == ["Statistically indistinguishable in time per token: FT, TF."]
    assert "latency" not in str(TEXT)
    assert "Energy" not in str(TEXT)


def test_what_skipping_saves_is_said_of_a_token():
    assert TEXT.ties() == (("FT", "TF"),)
    first, second = TEXT.savings()
    assert (first.ms, first.macs) == (5.0, 1000)  # of 20 and 15, and of 14 to 16 and 10: 5 and 4 to 6
    assert second.ms == 5.0
    assert TEXT.interval("FT") == (14, 16)
    assert timed(F=[2, 1, 3, 2, 2, 2]).interval("F") == (1, 3)


def test_times_of_text_that_are_not_steady_are_told():
    wild = Profile({"F": of_text("F", (10, 40, 10, 40, 10, 40, 40), 9.0, 0.0)}, 1, {}, {}, prompt_tokens=4)
    assert "The machine was not steady: intervals span 75 % of the median." in str(wild)


def test_rates_of_what_is_known():
    assert tokens_a_second(TEXT.costs["TT"], 1, 50) == {"prompt": 500.0, "new": 100.0}
    assert tokens_a_second(TEXT.costs["TT"], 1, None) == {"new": 100.0}
    assert tokens_a_second(Cost("T", 1, 1, 5.0), 1, 50) == {}


def test_costs_of_text_survive_json_and_others_are_written_as_before():
    assert Profile.from_json(json.loads(json.dumps(TEXT.to_json()))) == TEXT
    plain = timed(F=[2, 1, 3]).to_json()
    assert "prompt_tokens" not in plain
    assert "token_ms" not in plain["costs"][0]
    assert Profile.from_json(plain) == timed(F=[2, 1, 3])
    for name, value in (("token_ms", 0), ("first_token_ms", -1.0), ("cache_kb", -0.5)):
        damaged = TEXT.to_json()
        damaged["costs"][0][name] = value
        with pytest.raises(MeasurementError, match=name):
            Profile.from_json(damaged)


def test_a_cache_of_fixed_size_is_told():
    said = "The cache does not grow with every token (windows, or a state of fixed size)"
    for grows, told in ((True, False), (False, True)):
        profile = replace(TEXT, conditions={"cache_grows": grows, "cache_tokens": 131})
        assert (said in str(profile)) is told
        assert ("is for 131 tokens and shrinks for longer texts." in str(profile)) is told
