"""show.py: progress, which a log has as lines."""

import pytest

from adaptive_depth.cli import show


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [100.0]
    monkeypatch.setattr(show, "monotonic", lambda: now[0])
    return now


def test_a_log_says_twice_a_minute_how_far_the_work_is(clock, capsys):
    with show.progress("training", "steps") as advance:
        for step in range(1001, 4001, 30):  # resumed after 1,000
            clock[0] += 1
            advance(step, 4000, live=lambda: "loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "training: 1,871 of 4,000 steps, about 71 s left: loss 0.5",
        "training: 2,771 of 4,000 steps, about 41 s left: loss 0.5",
        "training: 3,671 of 4,000 steps, about 11 s left: loss 0.5",
    ]


def test_short_work_says_nothing_in_a_log(clock, capsys):
    with show.progress("evaluating") as advance:
        for step in range(29):
            clock[0] += 1
            advance(step, 29)
    assert capsys.readouterr().err == ""


def test_a_note_is_a_line_at_once_and_what_is_done_may_change(clock, capsys):
    with show.progress("exporting") as advance:
        clock[0] += 29
        advance(note="epoch 1")
        clock[0] += 29
        advance(1, 4)  # a line was written 29 seconds ago
        clock[0] += 1
        advance(2, 4, "comparing")
    assert capsys.readouterr().err.splitlines() == ["exporting: epoch 1", "comparing: 2 of 4, about 2 s left"]


def test_of_several_processes_only_the_first_reports(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with show.progress("training") as advance:
        clock[0] += 60
        advance(1, 4, note="epoch 1")
    assert capsys.readouterr().err == ""
