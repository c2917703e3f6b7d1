"""Images that come in their own time, through a session that is made by hand: each is answered or turned away once."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptive_depth import Row, TradeOffs
from adaptive_depth.deploy.queueing import stream_arrivals
from adaptive_depth.deploy.sources import Picture
from adaptive_depth.deploy.streaming import Tally
from adaptive_depth.errors import ArtifactError, DataError
from adaptive_depth.governor.scheduler import DepthScheduler
from adaptive_depth.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(2, 1, (0.0,), (1.0,))
TABLE = TradeOffs((Row("F", 80.0, 400, 9, 20.0), Row("T", 60.0, 200, 5, 10.0)))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Device:
    """Takes what the table says, by the clock; its first pass waits until all images have come."""

    def __init__(self, clock: Clock, *, ready: threading.Event | None = None, slow: float = 1.0) -> None:
        self.clock, self.ready, self.slow = clock, ready, slow
        self.skips: list[str] = []
        self.broken: set[int] = set()

    def __call__(self, x: Any, skip: str) -> Any:
        if self.ready is not None:
            assert self.ready.wait(20)
        self.skips.append(skip)
        self.clock.now += self.slow * {"F": 0.02, "T": 0.01}[skip]
        if len(self.skips) in self.broken:
            raise ArtifactError(f"broken at pass {len(self.skips)}")
        return np.array([[0.0, x[0, 0, 0, 0]]], np.float32)


def coming(number: int, ready: threading.Event | None = None) -> Iterator[Picture]:
    for place in range(number):
        yield Picture(f"{place}.png", Image.new("L", (2, 2), place))
    if ready is not None:
        ready.set()


def streamed(number: int, shed: str | None, deadline_ms: float = 50.0, **options: Any) -> tuple[list[Any], Device]:
    """All come at once, the first one of which runs until all are there."""
    clock, ready = Clock(), threading.Event()
    device = Device(clock, ready=ready, slow=options.pop("slow", 1.0))
    device.broken = options.pop("broken", set())
    scheduler = DepthScheduler(TABLE, deadline_ms, max_batch=1, shed=shed, clock=clock)
    passes = stream_arrivals(device, coming(number, ready), PREPROCESSING, scheduler, per_s=1e9, clock=clock, **options)
    return list(passes), device


def test_each_waits_for_those_before_it() -> None:
    passes, device = streamed(4, None, deadline_ms=1000.0)
    assert [each.image for each in passes] == ["0.png", "1.png", "2.png", "3.png"]
    assert device.skips == ["F"] * 4  # there is time enough
    assert [each.waited_ms for each in passes] == pytest.approx([0, 20, 40, 60], abs=0.01)
    assert [each.taken_ms for each in passes] == pytest.approx([20, 40, 60, 80], abs=0.01)
    assert [each.predictions[0].values["class"] for each in passes[:2]] == ["class 0", "class 1"]


def test_none_is_turned_away_unless_asked_and_the_late_ones_are_counted() -> None:
    passes, device = streamed(9, None)
    assert len(device.skips) == 9
    tally = Tally(50.0, {})
    for each in passes:
        tally.add(each)
    found = tally.summary()
    late = sum(each.taken_ms > 50 for each in passes)
    assert late >= 4
    assert (found.images, found.shed, found.misses) == (9, 0, late)
    assert found.met_percent == pytest.approx(100 * (9 - late) / 9)
    assert found.waited_mean_ms == pytest.approx(np.mean([each.waited_ms for each in passes]))


@pytest.mark.parametrize("shed", ["oldest", "newest"])
def test_who_cannot_be_answered_in_time_is_turned_away_and_the_others_are_in_time(shed: str) -> None:
    passes, device = streamed(9, shed)
    assert sorted(each.image for each in passes) == sorted(f"{place}.png" for place in range(9))  # each of them once
    ran = [each for each in passes if not each.shed]
    assert len(ran) == len(device.skips)
    assert 3 <= len(ran) <= 5  # of 50 ms, 20 for the first one
    assert all(each.taken_ms <= 50.01 for each in ran)
    assert all(each.latency_ms is None for each in passes if each.shed)
    tally = Tally(50.0, {"F": 80.0, "T": 60.0})
    for each in passes:
        tally.add(each)
    found = tally.summary()
    assert (found.images, found.shed, found.misses) == (len(ran), 9 - len(ran), 0)
    assert found.met_percent == pytest.approx(100 * len(ran) / 9)


def test_with_a_full_queue_one_more_is_turned_away() -> None:
    passes, device = streamed(9, None, deadline_ms=1e6, most_waiting=3)
    assert 3 <= len(device.skips) <= 5  # three that wait, and the one or two that have left the queue
    assert len(passes) == 9
    assert sum(each.shed for each in passes) == 9 - len(device.skips)


def test_a_slow_device_is_noticed() -> None:
    """Three times as slow, F takes 60 ms: after the first passes no more than T is planned."""
    _, device = streamed(5, None, deadline_ms=70.0, slow=3.0)
    assert device.skips[1:] == ["T"] * 4


def test_a_backend_that_fails_now_and_then_goes_on() -> None:
    passes, device = streamed(5, None, deadline_ms=1e6, broken={2})
    assert [str(each.error) for each in passes if each.error] == ["broken at pass 2"]
    assert len(device.skips) == 5


def test_a_backend_that_fails_for_good_ends_it() -> None:
    with pytest.raises(ArtifactError, match="10 passes in a row failed, the last one with: broken at pass 10"):
        streamed(20, None, deadline_ms=1e6, broken=set(range(1, 30)))


def test_an_error_of_the_source_comes_after_the_images_before_it() -> None:
    def unplugged() -> Iterator[Picture]:
        yield from coming(2)
        raise DataError("the camera is gone")

    clock = Clock()
    scheduler = DepthScheduler(TABLE, 1e6, max_batch=1, shed=None, clock=clock)
    passes = stream_arrivals(Device(clock), unplugged(), PREPROCESSING, scheduler, per_s=None)
    assert [next(passes).image for _ in range(2)] == ["0.png", "1.png"]
    with pytest.raises(DataError, match="the camera is gone"):
        next(passes)


def test_images_come_at_their_pace() -> None:
    """Ten at 100 a second: the last one comes 90 ms after the first."""
    start, clock = time.monotonic(), Clock()
    scheduler = DepthScheduler(TABLE, 1e6, max_batch=1, shed=None)
    passes = list(stream_arrivals(Device(clock), coming(10), PREPROCESSING, scheduler, per_s=100))
    assert len(passes) == 10
    assert time.monotonic() - start >= 0.09


def test_whoever_stops_looking_stops_the_reading() -> None:
    def endless() -> Iterator[Picture]:
        while True:
            yield from coming(100)

    before = threading.active_count()
    scheduler = DepthScheduler(TABLE, 1e6, max_batch=1, shed=None)
    passes = stream_arrivals(Device(Clock()), endless(), PREPROCESSING, scheduler, per_s=1000)
    next(passes)
    passes.close()
    for _ in range(200):
        if threading.active_count() == before:
            break
        time.sleep(0.01)
    assert threading.active_count() == before
