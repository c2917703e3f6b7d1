"""Images that arrive at their own pace and wait while the network is busy; a scheduler picks which run or are shed."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol

from numpy.typing import NDArray

from ..preprocessing import Placement, Preprocessing
from .predictions import Prediction, Reader
from .preparing import prepare
from .sources import Picture
from .streaming import PATIENCE, Pass, gave_up, run_one

MOST_WAITING = 256  # in the queue; any more are turned away before the scheduler sees them
_LATEST = 0.25  # weight of the latest value in the mean time of reading an output


class Plan(Protocol):
    """A `DepthScheduler`'s plan: positions of those to run and to shed, and the depth."""

    @property
    def batch(self) -> tuple[int, ...]: ...

    @property
    def skip(self) -> str: ...

    @property
    def shed(self) -> tuple[int, ...]: ...


class Planner(Protocol):
    """Plans a queue: a `DepthScheduler` with batches of 1."""

    @property
    def deadline_ms(self) -> float: ...

    def plan(self, left_ms: Sequence[float]) -> Plan: ...

    def observe(self, skip: str, batch: int, latency_ms: float) -> None: ...


@dataclass(frozen=True)
class _Waiting:
    """An image that has arrived: its input, and the time of arrival in seconds."""

    picture: Picture
    x: NDArray[Any]
    prepared_ms: float
    came: float


class _Arrivals:
    """Reads and prepares images in its own thread, as they arrive."""

    def __init__(
        self,
        pictures: Iterable[Picture],
        preprocessing: Preprocessing,
        per_s: float | None,
        clock: Callable[[], float],
        most: int,
    ) -> None:
        self.changed, self.queue = threading.Condition(), list[_Waiting]()
        self.turned_away: deque[Picture] = deque()  # the queue was full
        self.over, self.error, self._most = False, None, most
        self._given = pictures, preprocessing, per_s, clock
        self._closed = threading.Event()
        threading.Thread(target=self._read, name="images", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _read(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # noqa: BLE001 - re-raised by the consumer
            self.error = error
        with self.changed:
            self.over = True
            self.changed.notify()

    def _read_all(self) -> None:
        pictures, preprocessing, per_s, clock = self._given
        due = clock()
        for picture in pictures:
            if self._closed.wait(max(0.0, due - clock())):
                return
            # If reading or preparing is slower than the pace, later images are due later: otherwise each would be
            # further behind than the last, and none in time.
            began = came = clock()
            due = came if per_s is None else max(due + 1 / per_s, came)
            x = prepare(picture.image, preprocessing)[None]
            arrived = _Waiting(picture, x, 1000 * (clock() - began), came)
            with self.changed:
                if len(self.queue) < self._most:
                    self.queue.append(arrived)
                else:
                    self.turned_away.append(picture)
                self.changed.notify()


def stream_arrivals(
    session: Callable[[Any, str], Any],
    pictures: Iterable[Picture],
    preprocessing: Preprocessing,
    scheduler: Planner,
    *,
    per_s: float | None,
    read: Callable[[Any, Placement], tuple[Prediction, ...]] = Reader(),  # noqa: B008 - a plain value
    draw: Callable[[Picture, Placement, Any, tuple[Prediction, ...]], None] | None = None,
    clock: Callable[[], float] = monotonic,
    most_waiting: int = MOST_WAITING,
) -> Iterator[Pass]:
    """Run images as they arrive, one at a time; a scheduler plans those that wait.

    A deadline counts from an image's arrival until its outputs are read. Images are read and prepared in a separate
    thread, which counts as waiting.

    Arguments:
        session: called as `session(x, skip)` with `[1, channels, height, width]`.
        pictures: what `read_images` yields.
        preprocessing: the network's.
        scheduler: a `DepthScheduler` with batches of 1.
        per_s: arrivals per second; None if they have their own pace, as from a camera.
        read, draw: as for `stream`.
        clock: seconds.
        most_waiting: the most in the queue; any more are turned away.

    Raises:
        ArtifactError: the backend has failed ten times in a row.
        DataError, SkipError: an input or a depth that the session does not take, or a camera without images.
    """
    observe = lambda skip, latency_ms: scheduler.observe(skip, 1, latency_ms)  # noqa: E731 - batches of 1
    arrivals, failed, reading_ms = _Arrivals(pictures, preprocessing, per_s, clock, most_waiting), 0, 0.0
    try:
        while True:
            with arrivals.changed:
                while not arrivals.queue and not arrivals.turned_away and not arrivals.over:
                    arrivals.changed.wait()
                turned_away, now = [*arrivals.turned_away], clock()
                arrivals.turned_away.clear()
                waiting = arrivals.queue
                # Reading the output follows the pass, and counts against the deadline.
                left = [scheduler.deadline_ms - 1000 * (now - each.came) - reading_ms for each in waiting]
                plan = scheduler.plan(left)
                shed, batch = [waiting[place] for place in plan.shed], [waiting[place] for place in plan.batch]
                gone = {*plan.shed, *plan.batch}
                arrivals.queue = [each for place, each in enumerate(waiting) if place not in gone]
                over = arrivals.over and not waiting and not turned_away
            for picture in turned_away:
                yield Pass(picture.name, plan.skip, 0.0, shed=True)
            for each in shed:
                yield Pass(
                    each.picture.name, plan.skip, each.prepared_ms, waited_ms=1000 * (now - each.came), shed=True
                )
            if over:
                if arrivals.error is not None:
                    raise arrivals.error
                return
            for each in batch:
                waited_ms = 1000 * (clock() - each.came)
                passed = run_one(session, each.picture, each.x, plan.skip, preprocessing, observe, read, draw, clock)
                passed = replace(passed, prepared_ms=each.prepared_ms, waited_ms=waited_ms)
                failed = 0 if passed.error is None else failed + 1
                yield passed
                if passed.error is None:
                    reading_ms += _LATEST * (passed.read_ms - reading_ms)
                elif failed >= PATIENCE:
                    raise gave_up(passed)
    finally:
        arrivals.close()
