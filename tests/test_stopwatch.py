"""`stopwatch.py`: on a clock that is set by hand."""

from adaptive_depth.stopwatch import drift, planned, time_all


class Clock:
    """Seconds; a run moves it on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def run(self, name: str, seconds: float) -> None:
        self.ran.append(name)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def test_every_run_is_timed_in_every_round_and_the_second_of_two() -> None:
    clock, told = Clock(), []
    runs = {"F": lambda: clock.run("F", 0.004), "T": lambda: clock.run("T", 0.001)}
    times = time_all(runs, lambda done, elapsed: 3, lambda *now: told.append(now), clock=clock)
    assert {name: [round(each, 6) for each in found] for name, found in times.items()} == {
        "F": [4.0] * 3,
        "T": [1.0] * 3,
    }
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert sorted(clock.ran[:2]) == sorted(clock.ran[2:4]) == ["F", "T"]
    clock.ran.clear()
    time_all(runs, lambda done, elapsed: 1, twice=True, clock=clock)
    assert sorted(clock.ran) == ["F", "F", "T", "T"]
    assert clock.ran[0] == clock.ran[1]


def test_what_is_waited_for_counts() -> None:
    clock = Clock()
    times = time_all(
        {"F": lambda: clock.run("F", 0.001)}, lambda *_: 1, wait=lambda: clock.run("wait", 0.5), clock=clock
    )
    assert round(times["F"][0], 6) == 501.0  # before the run, the wait is over when the time starts


def test_rounds_are_as_given_or_what_the_seconds_allow() -> None:
    assert planned(4, 1.0, 0, 0.0) == 4
    assert planned(None, 2.0, 5, 1.0) == 10
    assert planned(None, 0.0, 2, 1.0) == 6
    assert planned(None, 1e6, 2, 1.0) == 100
    assert planned(None, 1.0, 7, 100.0) == 7  # what is done is done
    assert planned(None, 1e6, 2, 1.0, least=3, most=30) == 30


def test_drift_compares_rounds_of_the_second_half_with_those_of_the_first() -> None:
    assert drift({"F": [1, 1, 9, 2, 4], "T": [1, 1, 1, 1, 1]}) == 100.0  # 4 against 2, without the middle
    assert drift({"F": [1]}) is None
