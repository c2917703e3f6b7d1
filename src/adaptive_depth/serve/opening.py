"""An opened network as a model that answers requests: its table, measured on this machine, its queue and reader."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..choose.tradeoffs import Row, TradeOffs
from ..deploy.artifact import Artifact
from ..deploy.predictions import Reader
from ..deploy.session import Session
from ..errors import BudgetError, DataError, MeasurementError
from ..governor.latency import with_latencies
from ..governor.scheduler import DepthScheduler
from ..quality import TOP_1, Quality
from ..schema import Plain, Positive, Size
from ..stopwatch import planned, time_all
from .batching import Batcher, Device, rows_of
from .inputs import Limits
from .metrics import Metrics
from .predicting import About, Predictor

_LOGGER = logging.getLogger(__name__)
OnRound = Callable[[int, int], None]
_SHEDS = ("oldest", "newest", "none")


@dataclass(frozen=True)
class Settings(Plain):
    """How a model is served.

    Attributes:
        target_ms: from a complete request to its answer; requests may set their own deadlines.
        max_batch: the most requests that run together.
        most_waiting: the most that wait.
        shed: which requests are turned away if not all can be answered in time: `"oldest"`, `"newest"` or `"none"`.
        skip: one depth for all requests; None lets the scheduler choose.
        worth: what an answer is worth by skip, if the table's quality is not in percent.
        measure: measure latencies on this machine at startup; otherwise use those of the file's table.
        limits: of requests.

    Raises:
        BudgetError: a value that is out of range.
    """

    reading_error = BudgetError

    target_ms: Positive
    max_batch: Size = 8
    most_waiting: Size = 256
    shed: str = "oldest"
    skip: str | None = None
    worth: dict[str, Positive] = field(default_factory=dict)
    measure: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("target_ms", 0 < self.target_ms < math.inf, "milliseconds, a finite number above 0"),
            ("max_batch", 1 <= self.max_batch <= 1024, "a whole number from 1 to 1024"),
            ("most_waiting", 1 <= self.most_waiting <= 100_000, "a whole number from 1 to 100,000"),
            ("shed", self.shed in _SHEDS, f"one of {', '.join(_SHEDS)}"),
        ):
            if not fits:
                raise BudgetError(f"{name}={getattr(self, name)!r}: expected {expected}")


def open_predictor(
    name: str,
    session: Session,
    known: Artifact,
    settings: Settings,
    *,
    metrics: Metrics | None = None,
    device: Device | None = None,
    on_round: OnRound | None = None,
    clock: Callable[[], float] = perf_counter,
) -> Predictor:
    """A model that answers requests.

    Arguments:
        name: in addresses.
        session: of the network.
        known: what is known about it: `session.artifact`, or more.
        settings: how it is served.
        metrics: where it counts; None for nowhere.
        device: shared with the other models of this process.
        on_round: called with (rounds done, total) while latencies are measured.
        clock: seconds.

    Raises:
        MeasurementError: a table without latencies by batch size, if none are to be measured.
        DataError: a network whose depths were not evaluated, or one that takes inputs of any size.
        ArtifactError: a file with a fixed batch size that is to run larger ones.
        BudgetError, SkipError: settings that do not fit the network.
    """
    known.check_image("a server")
    shape, fixed = _shape(name, known), known.input_shape[0]
    most = settings.max_batch if fixed is None else min(fixed, settings.max_batch)
    table, worth = _judged(name, known, tuple(session.skips), settings)
    if settings.measure:
        table = _measured(session, table, shape, most, fixed, on_round, clock)
    else:
        _check_measured(name, table, most)
    shed = None if settings.shed == "none" else settings.shed
    scheduler = DepthScheduler(table, settings.target_ms, max_batch=most, shed=shed, worth=worth)
    fastest = min((row.skip for row in table.rows), key=lambda skip: scheduler.latency_ms(skip, 1))
    if (least := scheduler.latency_ms(fastest, 1)) > settings.target_ms:
        _LOGGER.warning(
            f"{name}: its fastest depth, {fastest}, takes {least:.1f} ms, more than the target of "
            f"{settings.target_ms:g} ms: no answer will be in time; set a later target"
        )
    judged = None if known.trade_offs is None else table
    watch = None if metrics is None else metrics.of(name)
    batcher = Batcher(
        session,
        scheduler,
        table=judged,
        skips=[row.skip for row in table.rows],
        most_waiting=settings.most_waiting,
        pad_to=fixed,
        worth={row.skip: (worth[row.skip] if worth else row.accuracy) / 100 for row in table.rows},
        watch=watch,
        device=device,
    )
    about = About(
        name,
        {row.skip: None if judged is None else row.accuracy for row in table.rows},
        "" if judged is None else str(table.quality),
        settings.target_ms,
        shape,
        images=known.preprocessing is not None,
        latencies={
            row.skip: {size: scheduler.latency_ms(row.skip, size) for size in sorted({1, most})} for row in table.rows
        },
    )
    preprocessing = known.preprocessing
    if preprocessing is not None:
        preprocessing = preprocessing.of_size(*shape[1:])
    read = Reader.of(known, classes=(known.quality if judged is None else table.quality) == TOP_1)
    return Predictor(about, batcher, preprocessing, read, settings.limits, watch=watch)


def measure_by_batch(
    session: Callable[[Any, str], Any],
    x: Any,
    skips: list[str],
    sizes: list[int],
    *,
    seconds: float = 5.0,
    on_round: OnRound | None = None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, dict[int, float]]:
    """The median time of a pass by depth and batch size; all in turn, in a newly shuffled order each round.

    Arguments:
        session: called as `session(x, skip)`.
        x: an input, `[1, ...]`.
        skips, sizes: what to measure.
        seconds: approximate duration; at least three rounds, at most thirty, after an untimed one.
        on_round: called with (rounds done, estimated total).
        clock: seconds.

    Returns:
        Milliseconds by skip and batch size.

    Raises:
        ArtifactError: outputs without a batch dimension.

    Example:
        >>> found = measure_by_batch(lambda x, skip: x, np.zeros((1, 4)), ["F", "T"], [1, 4], seconds=0)
        >>> [[*times] for times in found.values()]
        [[1, 4], [1, 4]]
    """
    inputs = {size: np.repeat(x, size, axis=0) for size in sizes}
    for skip in skips:  # gets one-time work done, and checks the outputs' batch
        for size in sizes:
            rows_of(session(inputs[size], skip), size, size)
    runs = {f"{skip} {size}": partial(session, inputs[size], skip) for skip in skips for size in sizes}
    plan = partial(planned, None, seconds, least=3, most=30)
    times = time_all(runs, plan, on_round, clock=clock)
    return {skip: {size: median(times[f"{skip} {size}"]) for size in sizes} for skip in skips}


def with_batches(
    table: TradeOffs, latencies: Mapping[str, Mapping[int, float]], *, device: Mapping[str, Any]
) -> TradeOffs:
    """A table's quality with another device's latencies by depth and batch size.

    Example:
        >>> table = TradeOffs((Row("F", 80.0, 400, 9),))
        >>> with_batches(table, {"F": {1: 20.0, 4: 40.0}}, device={}).rows[0].throughput
        {1: 50.0, 4: 100.0}
    """
    alone = with_latencies(table, {skip: times[1] for skip, times in latencies.items()}, device=device)
    rates = {skip: {size: 1000 * size / ms for size, ms in times.items()} for skip, times in latencies.items()}
    return replace(alone, rows=tuple(replace(row, throughput=rates[row.skip]) for row in alone.rows))


def _measured(
    session: Session,
    table: TradeOffs,
    shape: tuple[int, ...],
    most: int,
    fixed: int | None,
    on_round: OnRound | None,
    clock: Callable[[], float],
) -> TradeOffs:
    """The table with this machine's latencies for batches up to a size."""
    # A few sizes are enough: those in between are interpolated.
    sizes = [fixed] if fixed else sorted({1, *(size for size in (4, 16, 64, 256) if size < most), most})
    skips = [row.skip for row in table.rows]
    x = np.zeros((1, *shape), np.float32)
    latencies = measure_by_batch(session, x, skips, sizes, on_round=on_round, clock=clock)
    if fixed:  # smaller ones are padded, and take as long
        latencies = {skip: {1: times[fixed], fixed: times[fixed]} for skip, times in latencies.items()}
    return with_batches(table, latencies, device={"backend": session.backend})


def _check_measured(name: str, table: TradeOffs, most: int) -> None:
    """Raise if a table has no latencies by batch size."""
    if "latency_ms" not in table.measured or most > max(table.batch_size, *table.rows[0].throughput, 0):
        raise MeasurementError(
            f"the table of {name} has no latencies for batches of {most}: have them measured on this machine "
            f"(--measure), or profile with --batch-sizes 1,{most} and export again"
        )


def _judged(
    name: str, known: Artifact, skips: tuple[str, ...], settings: Settings
) -> tuple[TradeOffs, dict[str, float] | None]:
    """The quality of the depths to serve, and what their answers are worth if that does not follow from it."""
    if settings.skip is not None and settings.skip not in skips:
        raise DataError(f"skip={settings.skip} is not in {name}: expected one of {', '.join(skips)}")
    wanted = skips if settings.skip is None else (settings.skip,)
    table = known.own_trade_offs()
    if table is None and settings.skip is None:
        raise DataError(
            f"{name} does not contain the quality of its depths, by which they are chosen: measure it with "
            f"adaptive-depth evaluate RUN and profile RUN, then export again; or serve one depth: --skip {skips[0]}"
        )
    if table is None:
        # One depth: all answers are worth the same.
        return TradeOffs((Row(wanted[0], 100.0, 0, 0),), quality=Quality("worth")), {wanted[0]: 100.0}
    rows = tuple(row for row in table.rows if row.skip in wanted)
    if not rows:
        raise DataError(f"the table of {name} has none of the depths {', '.join(wanted)}: export it again")
    table = replace(table, rows=rows, ties=())
    if settings.worth:
        return table, {**settings.worth}
    percent = table.quality.unit == "%" and table.quality.higher_is_better
    if settings.skip is not None and not percent:
        return table, {settings.skip: 100.0}
    if not percent:
        example = ",".join(f"{row.skip}={100 - 10 * place}" for place, row in enumerate(rows[:2]))
        raise BudgetError(
            f"the worth of an answer of {name} does not follow from {table.quality}: set it for each depth, in percent "
            f"of a perfect one (--worth {example}...), or serve one depth, with --skip {rows[0].skip}"
        )
    return table, None


def _shape(name: str, known: Artifact) -> tuple[int, ...]:
    """The shape of one input; free dimensions are taken from its preprocessing."""
    sides = known.input_shape[1:]
    if None not in sides:
        return tuple(side for side in sides if side is not None)
    if known.preprocessing is None or len(sides) != 3:
        said = ", ".join("any" if side is None else str(side) for side in sides)
        raise DataError(
            f"{name} takes inputs of any size ({said}) and does not know how images are preprocessed: requests of "
            "several sizes cannot run together; export it for one size"
        )
    channels, *rest = sides
    usual = (known.preprocessing.channels, *known.preprocessing.sides)
    return tuple(own if side is None else side for side, own in zip((channels, *rest), usual, strict=True))
