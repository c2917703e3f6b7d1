"""training/schedule.py: which pass learns from which batch, worked out by hand."""

import itertools
from collections import Counter

import pytest

import adaptive_depth as ad
from adaptive_depth.training.schedule import Schedule


def passes(schedule, batches):
    return [f"{due.letter}{due.batch}" for batch in range(batches) for due in schedule.due(batch)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("SBSBR", delay=0), "S0 B0 S1 B1 R1 S2 B2 S3 B3 R3"),
        (Schedule("SBSBR", delay=1), "S0 S1 B0 S2 B1 S3 B2 R1 S4 B3 S5 B4 R3"),
        (Schedule("SB", delay=2), "S0 S1 S2 B0 S3 B1"),
        (Schedule("SRB", delay=1), "S0 S1 B0 S2 R0 B1 S3 R1 B2"),
        (Schedule("SSB", delay=0), "S0 S1 B1 S2 S3 B3"),
        (Schedule("SBSBR", fresh=True), "S0 B1 S2 B3 R4 S5 B6 S7 B8 R9"),
    ],
)
def test_passes_by_hand(schedule, expected):
    expected = expected.split()
    batches = 1 + max(int(each[1:]) for each in expected)
    assert passes(schedule, batches) == expected


@pytest.mark.parametrize("pattern", ["SB", "SBSBR", "SSB", "SRB", "SBSBSBR", "SBR"])
@pytest.mark.parametrize("fields", [{"delay": 0}, {"delay": 1}, {"delay": 7}, {"delay": 16}, {"fresh": True}])
def test_steps_are_counted_as_they_are_made(pattern, fields):
    schedule = Schedule(pattern, **fields)
    for batches in range(60):
        assert schedule.steps(batches) == len(passes(schedule, batches))


@pytest.mark.parametrize("pattern", ["SB", "SBSBR", "SSB", "SRB"])
def test_no_two_passes_use_the_same_batch_within_a_delay(pattern):
    schedule = Schedule(pattern, delay=5)
    last = {}
    for batch in range(100):
        for due in schedule.due(batch):
            if due.batch in last:
                assert batch - last[due.batch] >= 5
            last[due.batch] = batch
            assert batch - due.batch < schedule.kept


def test_the_ends_see_every_image_and_all_in_between_together_half():
    counted = Counter(letter for letter, *_ in passes(Schedule("SBSBR"), 1032))
    assert counted == {"S": 1032, "B": 1032 - 16, "R": (1032 - 32) // 2}


def test_skips_are_drawn_equally_often_and_from_the_seed_alone():
    skips = ad.all_skips(3)

    def drawn(seed, **fields):
        schedule = Schedule("SBSBR", delay=0, seed=seed, **fields)
        dues = itertools.chain.from_iterable(schedule.due(batch) for batch in range(120))
        return [(due.letter, schedule.skip_of(due, skips)) for due in dues]

    first = drawn(0)
    assert {skip for letter, skip in first if letter == "S"} == {"FFF"}
    assert {skip for letter, skip in first if letter == "B"} == {"TTT"}
    assert Counter(skip for letter, skip in first if letter == "R") == dict.fromkeys(skips[1:-1], 10)
    assert first == drawn(0)
    assert first != drawn(1)
    chain = Counter(skip for letter, skip in drawn(0, intermediate=("TFF", "TTF")) if letter == "R")
    assert chain == {"TFF": 30, "TTF": 30}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pattern": "B"}, "pattern='B' has no S: the super-net would never learn; expected one such as 'SBSBR'"),
        ({"pattern": ""}, "pattern='' has no S"),
        ({"pattern": "SXB"}, r"pattern='SXB' has the unknown letter 'X': expected S \(the super-net\), B"),
        ({"pattern": "sb"}, "has the unknown letter 'b'.* did you mean 'SB'"),
        ({"pattern": "algorithm1"}, "has the unknown letter '1'.*, or in a recipe 'algorithm 1'$"),
        ({"pattern": 3}, "pattern=3: expected text such as 'SBSBR'"),
        ({"delay": 1.5}, r"delay=1\.5: expected a whole number of batches, 0 or more"),
        ({"delay": "a"}, "delay='a': expected a whole number of batches"),
        (
            {"pattern": "SB", "intermediate": ("TF",)},
            r"pattern='SB' has no R, the only pass that uses intermediate=\('TF'",
        ),
        ({"pattern": "SSS"}, "pattern='SSS' has only S, so no sub-network would learn .* 'SB' or 'SBSBR'"),
        ({"pattern": "BS"}, "pattern='BS' begins with B: expected S first, because it loads the batch"),
        ({"delay": -1}, "delay=-1: expected a whole number of batches, 0 or more"),
        ({"fresh": True, "delay": 3}, "fresh=True keeps no batch: leave delay and teacher_share out"),
        ({"fresh": True, "teacher_share": 0.5}, "fresh=True keeps no batch"),
        ({"teacher_share": 1.5}, r"teacher_share=1.5: expected a share from 0 \(labels only\) to 1"),
        ({"teacher_start": -1}, "teacher_start=-1: expected a whole number of batches, 0 or more"),
    ],
)
def test_bad_input(fields, said):
    with pytest.raises(ad.TrainingError, match=said):
        Schedule(**fields)


def test_what_does_not_fit_a_network():
    with pytest.raises(ad.TrainingError, match="network of one stage has no intermediate sub-networks: expected 'SB'"):
        Schedule("SBR").drawn_from(1)
    with pytest.raises(ad.TrainingError, match=r"intermediate='TF': expected a tuple .*, such as \('TF',\)"):
        Schedule(intermediate="TF").drawn_from(2)  # type: ignore[arg-type]
    with pytest.raises(ad.TrainingError, match=r"intermediate=\(\) leaves R nothing to draw from"):
        Schedule(intermediate=()).drawn_from(2)
    with pytest.raises(ad.TrainingError, match="intermediate has 'FF', which S or B trains: expected intermediate"):
        Schedule(intermediate=("TF", "FF")).drawn_from(2)
    with pytest.raises(ad.SkipError, match="'TFF' is for 3 stages, but the network has 2"):
        Schedule(intermediate=("TFF",)).drawn_from(2)
