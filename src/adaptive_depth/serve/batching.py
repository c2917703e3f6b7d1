"""Requests that wait for a network: planned by the scheduler, run in batches, each answered once. No engine, no HTTP.

Everything except the passes happens in one event loop, so no locks are needed.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..choose.tradeoffs import TradeOffs
from ..errors import ArtifactError, one_line
from ..governor.arbiter import Arbiter
from ..governor.scheduler import DepthScheduler, Plan
from ..stopwatch import Steps
from .metrics import Nobody, Watch
from .problems import Problem
from .thread import Thread
from .wishes import Wishes

PATIENCE = 10  # consecutive failed passes after which a server reports itself unhealthy
_TICK = 0.05  # seconds between checks of the deadlines while a batch runs


@dataclass(frozen=True)
class Answer:
    """The result of a request.

    Attributes:
        output: the session's output for it: a batch of one.
        skip: the depth that ran.
        batch: how many requests ran together.
        waited_ms: before its batch started; `latency_ms` is the batch's duration.
        late: whether it came after the server's target.
    """

    output: Any
    skip: str
    batch: int
    waited_ms: float
    latency_ms: float
    late: bool


@dataclass(eq=False)  # by identity, because arrays have no single truth value
class _Request:
    x: NDArray[np.float32]
    accepted: tuple[str, ...] | None
    came: float  # seconds of the batcher's clock
    deadline: float
    promised: bool  # no answer after the deadline
    future: "asyncio.Future[Answer]" = field(repr=False)


class Device:
    """What networks run on, one batch at a time. If several share one, an `Arbiter` decides whose batch is next.

    Each `Batcher` has its own, unless it is given one.

    Attributes:
        stuck: whether a pass does not return. The process should be restarted.
    """

    def __init__(self) -> None:
        self.stuck = False
        self._batchers: list[Batcher] = []
        self._arbiter: Arbiter | None = None
        self._choosing = asyncio.Lock()
        self._going: asyncio.Task[None] | None = None
        self._left = 0

    @property
    def batchers(self) -> "Sequence[Batcher]":
        """The batchers whose networks run on it."""
        return self._batchers

    def join(self, batcher: "Batcher") -> None:
        """Add a network."""
        self._batchers.append(batcher)
        if len(self._batchers) > 1:
            self._arbiter = Arbiter({str(place): each.scheduler for place, each in enumerate(self._batchers)})

    def leave(self) -> None:
        """Note that one has stopped. Once all have, a pass that does not return is abandoned."""
        self._left += 1
        if self._going is not None and self._left == len(self._batchers):
            self._going.cancel()

    async def turn(self) -> None:
        """Run the next batch of all that wait, whosever it is. Any of the batchers may call it, even concurrently.

        If a caller is cancelled, the batch keeps running: it may be another batcher's.
        """
        async with self._choosing:
            if self._going is None or self._going.done():
                plans = self._plans()
                for batcher, plan in plans:  # before any await: positions in a queue are only valid now
                    batcher.take(plan)
                running = [batcher.run(plan.skip) for batcher, plan in plans if plan.batch]
                if not running:
                    return
                self._going = asyncio.create_task(running[0])
            await asyncio.shield(self._going)

    def _plans(self) -> "list[tuple[Batcher, Plan]]":
        if self._arbiter is None:
            (only,) = self._batchers
            return [(only, only.scheduler.plan(*only.left()))] if only.waiting else []
        asked = {str(place): batcher.left() for place, batcher in enumerate(self._batchers)}
        plans = self._arbiter.plan(
            {name: left for name, (left, _) in asked.items()}, {name: accepted for name, (_, accepted) in asked.items()}
        )
        return [(self._batchers[int(name)], plan) for name, plan in plans.items()]


class Batcher:
    """A queue in front of a network. Made and used inside one event loop.

    The scheduler decides which waiting requests run next, at which depth, and which are turned away. A failed batch is
    run again one by one, so that each request gets its own answer or error. A request whose client has disconnected
    leaves the queue.

    Arguments:
        run: called as `run(x, skip)` with `[batch, ...]` in a separate thread, such as a `Session`.
        scheduler: plans the queue.
        table: quality by depth, for requests that ask for an accuracy; None if unknown.
        skips: the depths that can run.
        most_waiting: the most requests in the queue; any more are refused.
        pad_to: the batch size of `run`, if it takes only one: batches are padded with zeros.
        stuck_s: a pass that takes longer counts as stuck: from then on all requests are refused.
        watch: counts events.
        device: where it runs, if shared with other networks.
        clock: seconds; a jump ahead counts as one second, a jump back as none.

    Example:
        >>> from adaptive_depth import Row
        >>> table = TradeOffs((Row("F", 80.0, 400, 9, 20.0, throughput={1: 50.0, 4: 125.0}),))
        >>> async def serve():
        ...     scheduler = DepthScheduler(table, deadline_ms=50)
        ...     async with Batcher(lambda x, skip: 2 * x, scheduler, table=table, skips=("F",)) as batcher:
        ...         return await batcher.answer(np.ones(2, np.float32), Wishes(skip="F"))
        >>> answer = asyncio.run(serve())
        >>> answer.output.tolist(), answer.skip, answer.batch
        ([[2.0, 2.0]], 'F', 1)
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32], str], Any],
        scheduler: DepthScheduler,
        *,
        table: TradeOffs | None,
        skips: Iterable[str],
        most_waiting: int = 256,
        pad_to: int | None = None,
        stuck_s: float = 30.0,
        worth: Mapping[str, float] | None = None,
        watch: Watch | None = None,
        device: Device | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler, self.table, self.skips = scheduler, table, tuple(skips)
        self.most_waiting, self.stuck_s = most_waiting, stuck_s
        self._device = device or Device()
        self._run, self._pad_to, self._watch = run, pad_to, watch or Nobody()
        self._worth = dict(worth or {})
        self._step, self._time = Steps(clock), 0.0
        self._waiting: list[_Request] = []
        self._running: Sequence[_Request] = ()
        self._wake, self._stopping = asyncio.Event(), False
        self._failed = 0  # consecutive passes
        self._thread = Thread()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Batcher":
        self._device.join(self)
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- for the server -------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return len(self._waiting)

    @property
    def stuck(self) -> bool:
        """Whether a pass of this network, or of one on the same device, does not return. Then restart the process."""
        return self._device.stuck

    @property
    def healthy(self) -> bool:
        """Whether the network responds; if not, the process should be restarted."""
        return not self.stuck and self._failed < PATIENCE

    @property
    def ready(self) -> bool:
        """Whether it accepts requests and answers them."""
        return self.healthy and not self._stopping

    async def answer(self, x: NDArray[np.float32], wishes: Wishes | None = None, *, waited_ms: float = 0.0) -> Answer:
        """The answer to one request. If the task is cancelled, the request leaves the queue.

        Arguments:
            x: the input of one request, without the batch: `[channels, height, width]`.
            wishes: its options.
            waited_ms: since it reached the server.

        Raises:
            Problem: it was turned away, is too late or failed; each request ends with its answer or one of these.
        """
        wishes = wishes or Wishes()
        accepted = self.check(wishes)
        now = self._now()
        left = (wishes.deadline_ms or self.scheduler.deadline_ms) / 1000
        came = now - max(0.0, waited_ms) / 1000
        future = asyncio.get_running_loop().create_future()
        request = _Request(x, accepted, came, came + left, wishes.deadline_ms is not None, future)
        self._waiting.append(request)
        self._watch.waiting(len(self._waiting))
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if request in self._waiting:
                self._waiting.remove(request)
                self._watch.waiting(len(self._waiting))
            if future.cancelled():  # unless it was answered just now
                self._watch.ended("cancelled")
            raise

    def check(self, wishes: Wishes, coming: int = 0) -> tuple[str, ...] | None:
        """The depths that a request accepts, None for any, if it can be accepted now.

        Arguments:
            wishes: its options.
            coming: how many others are about to join the queue.

        Raises:
            Problem: its options cannot be met, or the queue is full.
        """
        try:
            self._check_room(coming)
            return self._accepted(wishes)
        except Problem as problem:
            self._watch.ended(problem.outcome)
            raise

    async def stop(self, drain_s: float = 30.0) -> None:
        """Accept no more requests, and answer those that wait; after `drain_s` seconds the rest is refused."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=0 if self.stuck else drain_s)
            self._task.cancel()
        for request in (*self._running, *self._waiting):
            self._refuse(request, Problem("stopping", "the server has stopped: use another one"))
        self._waiting.clear()
        self._device.leave()
        self._thread.end()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _accepted(self, wishes: Wishes) -> tuple[str, ...] | None:
        accepted = wishes.depths(self.table, self.skips)
        if wishes.deadline_ms is not None:
            fastest = min(accepted or self.skips, key=lambda skip: self.scheduler.latency_ms(skip, 1))
            least = self.scheduler.latency_ms(fastest, 1)
            if wishes.deadline_ms < least:
                raise Problem(
                    "wish",
                    f"deadline_ms={wishes.deadline_ms:g}: even the fastest depth that the request accepts, {fastest}, "
                    f"takes {least:.3g} ms; expected a later deadline, or none",
                )
        return accepted

    def _check_room(self, coming: int) -> None:
        if self._stopping:
            raise Problem("stopping", "the server is stopping: use another one")
        if self.stuck:
            raise Problem("stuck", f"a pass has not returned for {self.stuck_s:g} s: the server must be restarted")
        if (waiting := len(self._waiting) + coming) >= self.most_waiting:
            seconds = self._until_free()
            raise Problem("full", f"{waiting} requests wait, the limit: retry in {seconds} s", seconds)

    def _until_free(self) -> int:
        """Seconds that the waiting requests take in full batches at the fastest depth."""
        most = self.scheduler.max_batch
        each = min(self.scheduler.latency_ms(skip, most) for skip in self.skips) * self.scheduler.slowdown
        return max(1, math.ceil((len(self._waiting) / most) * each / 1000))

    def _now(self) -> float:
        self._time += self._step()
        return self._time

    async def _work(self) -> None:
        while True:
            if self._waiting:
                await self._device.turn()
            elif self._stopping:
                return
            else:
                # Nothing is awaited in between, so no request is missed.
                self._wake.clear()
                await self._wake.wait()

    # -- for the device --------------------------------------------------------------------------------------------

    def left(self) -> tuple[list[float], list[tuple[str, ...] | None] | None]:
        """The milliseconds that each waiting request has left, and the depths that each accepts."""
        now = self._now()
        accepted = [request.accepted for request in self._waiting]
        return [1000 * (request.deadline - now) for request in self._waiting], accepted if any(accepted) else None

    def take(self, plan: Plan) -> None:
        """Shed requests, and take the next batch out of the queue."""
        waiting = self._waiting
        self._running, shed = [waiting[place] for place in plan.batch], [waiting[place] for place in plan.shed]
        gone = {*plan.batch, *plan.shed}
        self._waiting = [request for place, request in enumerate(waiting) if place not in gone]
        self._watch.waiting(len(self._waiting))
        if shed:
            seconds = self._until_free()
            said = f"the request could no longer be answered in time: retry in {seconds} s, or with a later deadline_ms"
            for request in shed:
                self._refuse(request, Problem("shed", said, seconds))

    async def run(self, skip: str) -> None:
        """Run the batch that was taken."""
        try:
            await self._answer(self._running, skip)
        finally:
            self._running = ()

    def refuse_late(self) -> None:
        """While a batch runs, refuse requests whose deadline has passed."""
        now = self._now()
        for request in [*self._running, *self._waiting]:
            if request.promised and now > request.deadline:
                self._refuse(request, _late(request))
        self._waiting = [request for request in self._waiting if not request.future.done()]

    def give_up(self) -> None:
        """Refuse all, because the device does not respond."""
        for request in [*self._running, *self._waiting]:
            self._refuse(
                request, Problem("stuck", f"the network has not returned for {self.stuck_s:g} s: restart the server")
            )
        self._waiting = []

    async def _answer(self, batch: Sequence[_Request], skip: str) -> None:
        """Run a batch or, if it fails, its requests one by one."""
        began = self._now()
        try:
            outputs, latency_ms = await self._pass([request.x for request in batch], skip)
        except Exception as error:  # noqa: BLE001 - any backend error goes to its requests
            self._failed += 1
            if len(batch) > 1:
                for request in batch:
                    if not request.future.done():
                        await self._answer([request], skip)
            else:
                self._refuse(batch[0], _failure(error))
            return
        self._failed = 0
        self._watch.ran(skip, len(batch))
        if len(batch) <= self.scheduler.max_batch:
            self.scheduler.observe(skip, len(batch), latency_ms)
        ended = self._now()
        for request, output in zip(batch, outputs, strict=True):
            late = ended > request.deadline
            if late and request.promised:
                self._refuse(request, _late(request))
                continue
            waited = 1000 * (began - request.came)
            if not request.future.done():
                request.future.set_result(Answer(output, skip, len(batch), waited, latency_ms, late))
                self._watch.ended("answered_late" if late else "in_time")
                self._watch.answered(skip, ended - request.came, 0.0 if late else self._worth.get(skip, 0.0))

    async def _pass(self, inputs: Sequence[NDArray[np.float32]], skip: str) -> tuple[list[Any], float]:
        """The output of each, and milliseconds; meanwhile, requests whose deadline passes are refused."""

        def passing() -> tuple[list[Any], float]:
            # In the thread, because copying large inputs would block the event loop.
            x = np.stack(inputs)
            if self._pad_to is not None and len(x) < self._pad_to:
                x = np.concatenate([x, np.zeros((self._pad_to - len(x), *x.shape[1:]), np.float32)])
            start = perf_counter_ns()
            output = self._run(x, skip)
            took = (perf_counter_ns() - start) / 1e6
            return rows_of(output, len(inputs), len(x)), took

        began, future = self._now(), self._thread.run(passing)
        # Not `wait_for`, which would cancel the pass's future at the first timeout.
        while not (await asyncio.wait({future}, timeout=_TICK))[0]:
            for batcher in self._device.batchers:
                batcher.refuse_late()
            if self._now() - began > self.stuck_s:
                self._device.stuck = True
                for batcher in self._device.batchers:
                    batcher.give_up()
        self._device.stuck = False  # it returned after all
        return future.result()

    def _refuse(self, request: _Request, problem: Problem) -> None:
        if not request.future.done():
            request.future.set_exception(problem)
            self._watch.ended(problem.outcome)


def rows_of(output: Any, wanted: int, given: int) -> list[Any]:
    """The output of each request, as a batch of one.

    Raises:
        ArtifactError: outputs without a batch dimension.
    """
    if isinstance(output, Mapping):
        parts = {name: rows_of(part, wanted, given) for name, part in output.items()}
        return [{name: rows[place] for name, rows in parts.items()} for place in range(wanted)]
    if given == 1:  # a batch of one may lack the dimension
        return [output]
    if not np.ndim(output) or len(output) != given:
        raise ArtifactError(
            f"{given} inputs produced an output of shape {list(np.shape(output))}: expected {given} rows; serve it "
            "with max_batch=1"
        )
    return [output[place : place + 1] for place in range(wanted)]


def _late(request: _Request) -> Problem:
    promised = 1000 * (request.deadline - request.came)
    return Problem("late", f"there was no answer within {promised:g} ms: set a later deadline, or send fewer at once")


def _failure(error: Exception) -> Problem:
    return Problem("failed", f"{one_line(error)}; other requests are not affected")
