"""What a device's time is worth at a given load. For the scheduler and the arbiter."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise


class Price:
    """What a batch is worth while a millisecond of the device is worth `slope`."""

    def __init__(self, slope: float, worth: Sequence[float], times: Sequence[Sequence[float]]) -> None:
        self.slope = slope
        self.largest = len(times[0]) - 1
        self.rooms: list[list[float]] = [[]]
        self.values: list[list[float]] = [[]]
        for size in range(1, self.largest + 1):
            ends = sorted(
                (each[size], size * value - slope * each[size]) for value, each in zip(worth, times, strict=True)
            )
            rooms, values, best = [], [], -math.inf
            for end, value in ends:
                if value > best:
                    rooms.append(end)
                    values.append(value)
                    best = value
            self.rooms.append(rooms)
            self.values.append(values)
        self.each = max(0.0, max(values[-1] / size for size, values in enumerate(self.values) if size))

    def next(self, requests: float, room: float) -> float:
        """What this many requests are worth if the next batch must end within `room`."""
        size = min(self.largest, math.ceil(requests))
        while size:
            place = bisect_right(self.rooms[size], room)
            # Not every size is tried, because planning must take only microseconds.
            if place:
                share = min(1.0, requests / size)
                return share * max(0.0, self.values[size][place - 1]) + max(0.0, requests - size) * self.each
            size //= 2
        return max(0.0, requests - 1) * self.each  # the first one cannot be answered in time


class Prices:
    """What a millisecond of the device is worth at a given load, from the best mixture of depths that sustains it.

    At a load of `load` requests per millisecond, each has `1 / load` of the device's time. What that buys is the upper
    hull of (time of a request, worth of its answer) over all depths, including nothing for no time; the hull's slope
    there is the price.

    Attributes:
        parts: segments of the hull, steepest first: the time of each, and its slope.
    """

    def __init__(self, worth: Sequence[float], times: Sequence[Sequence[float]], deadline: float) -> None:
        points = [(0.0, 0.0)]
        for value, each in zip(worth, times, strict=True):
            # Half of it, because a request also waits for the batch before its own.
            fitting = [size for size in range(1, len(each)) if each[size] <= deadline / 2] or [1]
            points.append((min(each[size] / size for size in fitting), value))
        hull: list[tuple[float, float]] = []
        for point in sorted(points):
            while len(hull) >= 2 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
                hull.pop()
            if not hull or point[1] > hull[-1][1]:
                hull.append(point)
        self._ends = [time for time, _ in hull[1:]]  # in ascending order
        self.parts = [(b[0] - a[0], _slope(a, b)) for a, b in pairwise(hull)]
        self._made: dict[float, Price] = {}
        self._make = lambda slope: Price(slope, worth, times)

    def at(self, load: float) -> Price:
        """
        Arguments:
            load: requests per millisecond.
        """
        place = bisect_right(self._ends, 1 / load) if load > 0 else len(self._ends)
        return self.of(self.parts[place][1] if place < len(self.parts) else 0.0)

    def of(self, slope: float) -> Price:
        """The price if a millisecond is worth `slope`."""
        if slope not in self._made:
            self._made[slope] = self._make(slope)
        return self._made[slope]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else math.inf
