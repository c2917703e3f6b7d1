"""Images through a network one after the other, each at a chosen depth; and a summary."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from ..errors import ArtifactError
from ..preprocessing import Placement, Preprocessing
from ..quality import TOP_1, Quality
from .predictions import Prediction, Reader
from .preparing import prepare
from .sources import Picture

PATIENCE = 10  # consecutive passes that may fail


class Chooser(Protocol):
    """Picks the depth: a governor, or `Fixed`."""

    def choose(self) -> str: ...

    def observe(self, skip: str, latency_ms: float) -> None: ...


@dataclass(frozen=True)
class Fixed:
    """Picks one depth for every input."""

    skip: str

    def choose(self) -> str:
        return self.skip

    def observe(self, skip: str, latency_ms: float) -> None: ...


@dataclass(frozen=True)
class Pass:
    """One image.

    Attributes:
        image: its name.
        skip: the depth that ran.
        prepared_ms: resizing and normalising it, without reading the file.
        latency_ms: of the network only; None if it failed.
        predictions: of each output.
        error: what the backend raised.
        read_ms: reading the outputs, such as a detector's suppression.
        waited_ms: since its arrival, including preparation; None if each image is only read once the last one is done.
        shed: whether it was turned away.
    """

    image: str
    skip: str
    prepared_ms: float
    latency_ms: float | None = None
    predictions: tuple[Prediction, ...] = ()
    error: ArtifactError | None = None
    read_ms: float = 0.0
    waited_ms: float | None = None
    shed: bool = False

    @property
    def taken_ms(self) -> float | None:
        """The time that counts against its deadline: the pass only, or from its arrival until its outputs were read."""
        if self.latency_ms is None or self.waited_ms is None:
            return self.latency_ms
        return self.waited_ms + self.latency_ms + self.read_ms


def stream(
    session: Callable[[Any, str], Any],
    pictures: Iterable[Picture],
    preprocessing: Preprocessing,
    chooser: Chooser,
    *,
    read: Callable[[Any, Placement], tuple[Prediction, ...]] = Reader(),  # noqa: B008 - a plain value
    draw: Callable[[Picture, Placement, Any, tuple[Prediction, ...]], None] | None = None,
    clock: Callable[[], float] = perf_counter,
) -> Iterator[Pass]:
    """Prepare, choose, run, observe: one image after the other, as fast as possible.

    A failure of the backend is reported in the `Pass`, and the next image runs.

    Arguments:
        session: called as `session(x, skip)` with `[1, channels, height, width]`.
        pictures: what `read_images` yields.
        preprocessing: the network's.
        chooser: a governor, or `Fixed`.
        read: turns the outputs for an image into predictions; the most probable class by default.
        draw: called with each picture, its placement in the input, the output and the predictions; not timed.
        clock: seconds.

    Raises:
        ArtifactError: the backend has failed ten times in a row.
        DataError, SkipError: an input or a depth that the session does not take.
    """
    failed = 0
    for picture in pictures:
        began = clock()
        x = prepare(picture.image, preprocessing)[None]
        prepared_ms = 1000 * (clock() - began)
        skip = chooser.choose()
        passed = run_one(session, picture, x, skip, preprocessing, chooser.observe, read, draw, clock)
        # Before giving up, so that the last failure is also reported.
        yield replace(passed, prepared_ms=prepared_ms)
        failed = 0 if passed.error is None else failed + 1
        if failed >= PATIENCE:
            raise gave_up(passed)


def run_one(
    session: Callable[[Any, str], Any],
    picture: Picture,
    x: Any,
    skip: str,
    preprocessing: Preprocessing,
    observe: Callable[[str, float], None],
    read: Callable[[Any, Placement], tuple[Prediction, ...]],
    draw: Callable[[Picture, Placement, Any, tuple[Prediction, ...]], None] | None,
    clock: Callable[[], float],
) -> Pass:
    """Run one prepared image at a depth, report its latency, and read and draw its outputs."""
    name, image = picture
    began = clock()
    try:
        output = session(x, skip)
    except ArtifactError as error:
        return Pass(name, skip, 0.0, error=error)
    latency_ms = 1000 * (clock() - began)
    observe(skip, latency_ms)
    began, placement = clock(), preprocessing.place(*image.size)
    predictions = read(output, placement)
    read_ms = 1000 * (clock() - began)
    if draw is not None:
        draw(picture, placement, output, predictions)
    return Pass(name, skip, 0.0, latency_ms, predictions, read_ms=read_ms)


def gave_up(passed: Pass) -> ArtifactError:
    """The error for a backend that has failed too often."""
    error = ArtifactError(f"{PATIENCE} passes in a row failed, the last one with: {passed.error}")
    error.__cause__ = passed.error
    return error


@dataclass(frozen=True)
class Summary:
    """The results of a stream; survives JSON (`to_json`).

    Attributes:
        images: passes that did not fail; `failures` are those that did.
        target_ms, misses: the deadline, and how many took longer; None without a deadline.
        met_percent: the share of all images that met it, which excludes those turned away.
        latency_mean_ms, latency_p95_ms: of the network only; 95 % of the passes took at most the latter.
        prepared_mean_ms: resizing and normalising an image, including those turned away.
        depths: passes by skip, most used first.
        switches: passes at a different depth from the previous one.
        quality: what depths are judged by.
        expected: the mean measured quality of the depths that ran, in its unit; None if unknown.
        read_mean_ms: reading the outputs of an image, such as a detector's suppression.
        shed: how many were turned away; None if images did not wait.
        waited_mean_ms, waited_p95_ms: of those that ran, before their pass.
    """

    images: int
    failures: int
    target_ms: float | None
    misses: int | None
    met_percent: float | None
    latency_mean_ms: float | None
    latency_p95_ms: float | None
    prepared_mean_ms: float | None
    depths: dict[str, int]
    switches: int
    quality: Quality
    expected: float | None
    read_mean_ms: float | None = None
    shed: int | None = None
    waited_mean_ms: float | None = None
    waited_p95_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, strings and numbers only."""
        return asdict(self)


class Tally:
    """Adds passes up.

    Arguments:
        target_ms: the deadline, if any.
        known: the depths' quality by skip; empty if unknown.
        quality: what that is; top-1 in percent by default.

    Example:
        >>> tally = Tally(30.0, {"F": 80.0, "T": 60.0})
        >>> tally.add(Pass("a.png", "F", 1.0, 40.0))
        >>> tally.add(Pass("b.png", "T", 1.0, 20.0))
        >>> tally.summary().misses, tally.summary().expected
        (1, 70.0)
    """

    def __init__(self, target_ms: float | None, known: Mapping[str, float], quality: Quality = TOP_1) -> None:
        self.target_ms, self.quality, self._known = target_ms, quality, known
        self.failures = self.failures_in_a_row = self.misses = self.switches = 0
        self.depths: Counter[str] = Counter()
        self.shed = 0
        # 8 bytes per image, because a stream may run for days.
        self._latencies, self._prepared, self._read = array("d"), 0.0, 0.0
        self._waited = array("d")
        self._last: str | None = None

    @property
    def images(self) -> int:
        return len(self._latencies)

    @property
    def expected(self) -> float | None:
        """The mean quality of the depths that ran; None if that of any is unknown."""
        if not self.images or any(skip not in self._known for skip in self.depths):
            return None
        return sum(self._known[skip] * passes for skip, passes in self.depths.items()) / self.images

    @property
    def expected_text(self) -> str | None:
        """The same with its unit, in enough digits to distinguish the depths."""
        mean = self.expected
        return None if mean is None else self.quality.text(mean, self.quality.digits(self._known.values()))

    def add(self, passed: Pass) -> None:
        """Count one pass."""
        if passed.shed:
            self.shed += 1
            self._prepared += passed.prepared_ms
            return
        if passed.latency_ms is None:
            self.failures += 1
            self.failures_in_a_row += 1
            return
        self.failures_in_a_row = 0
        self.misses += self.target_ms is not None and (passed.taken_ms or 0.0) > self.target_ms
        self.switches += self._last not in (None, passed.skip)
        self.depths[passed.skip] += 1
        self._latencies.append(passed.latency_ms)
        self._prepared += passed.prepared_ms
        self._read += passed.read_ms
        if passed.waited_ms is not None:
            self._waited.append(passed.waited_ms)
        self._last = passed.skip

    def summary(self) -> Summary:
        """Everything counted so far."""
        images, times, aimed = self.images, np.array(self._latencies), self.target_ms is not None
        came, waited = images + self.shed, np.array(self._waited)
        return Summary(
            images,
            self.failures,
            self.target_ms,
            self.misses if aimed else None,
            100 * (images - self.misses) / came if aimed and came else None,
            float(times.mean()) if images else None,
            float(np.percentile(times, 95)) if images else None,
            self._prepared / came if came else None,
            dict(self.depths.most_common()),
            self.switches,
            self.quality,
            self.expected,
            self._read / images if images else None,
            self.shed if self.shed or len(waited) else None,
            float(waited.mean()) if len(waited) else None,
            float(np.percentile(waited, 95)) if len(waited) else None,
        )
