"""One model that answers requests: it reads the body, queues it, and reads the output."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..deploy.predictions import Reader
from ..preprocessing import Placement, Preprocessing
from ..schema import to_plain
from .batching import Batcher
from .inputs import Input, Limits, read_input
from .metrics import Nobody, Watch
from .problems import Problem
from .wishes import Wishes

FORMS = ("labels", "tensors")
_SMALL_IMAGE = b"P6 1 1 255\n\0\0\0"
_LONGEST_MS = 10_000.0  # the most that decoding an image can take; more means that the clock jumped


@dataclass(frozen=True)
class Asked:
    """A request on its way from the server to a model, perhaps on another machine.

    Attributes:
        body: an image or a tensor.
        kind: its media type.
        wishes: its options.
        form: of the answer, one of `FORMS`; if None, labels for an image and tensors for a tensor.
        waited_ms: since it reached the server.
    """

    body: bytes = field(repr=False)
    kind: str = ""
    wishes: Wishes = field(default_factory=Wishes)
    form: str | None = None
    waited_ms: float = 0.0


@dataclass(frozen=True)
class Reply:
    """A model's answer to a request.

    Attributes:
        skip: the depth that ran; `batch` is how many requests ran together.
        late: whether it came after the server's target.
        waited_ms, latency_ms: before its batch, and of its batch.
        predictions: each output's prediction for an image: its `output`, `text` and `values`; None if tensors were
            requested.
        tensors: the outputs by name, `""` for a single one; None if labels were requested.
    """

    skip: str
    batch: int
    late: bool
    waited_ms: float
    latency_ms: float
    predictions: tuple[dict[str, Any], ...] | None = None
    tensors: Mapping[str, NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class About:
    """A model's description.

    Attributes:
        name: in addresses.
        depths: quality by skip, super-net first; None if not measured.
        quality: what that is, in words.
        target_ms: the server's target.
        shape: of a tensor, without the batch.
        images: whether it accepts images.
        latencies: milliseconds by skip and batch size, as measured.
        language: whether it writes text.
    """

    name: str
    depths: Mapping[str, float | None]
    quality: str = ""
    target_ms: float | None = None
    shape: tuple[int, ...] = ()
    images: bool = False
    latencies: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    language: bool = False


class Model(Protocol):
    """A model as the server sees it: in this process, or behind Ray."""

    async def about(self) -> About: ...

    async def predict(self, asked: Asked) -> Reply: ...

    async def status(self) -> tuple[bool, bool]:
        """Whether it is healthy, and whether it accepts requests."""
        ...


class Predictor:
    """A model in this process.

    Arguments:
        about: its description.
        batcher: its queue, which this starts and stops.
        preprocessing: of images; None if only tensors are accepted.
        read: turns outputs into predictions for an image.
        limits: of images.
        watch: counts events, the same as the queue's.
        workers: threads that decode images and read outputs.
        clock: seconds.
    """

    def __init__(
        self,
        about: About,
        batcher: Batcher,
        preprocessing: Preprocessing | None,
        read: Reader,
        limits: Limits | None = None,
        *,
        watch: Watch | None = None,
        workers: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.batcher = batcher
        self._about, self._preprocessing, self._read, self._limits = about, preprocessing, read, limits or Limits()
        self._workers = ThreadPoolExecutor(workers, "images")
        self._watch, self._clock = watch or Nobody(), clock
        self._preparing = 0  # requests whose body is being decoded

    async def __aenter__(self) -> "Predictor":
        if self._preprocessing is not None:
            # The first image of a process is slow to decode, because Pillow loads its decoders then.
            with suppress(Problem):  # limits may be below the network's own size
                await self._decoded(Asked(_SMALL_IMAGE))
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, drain_s: float = 30.0) -> None:
        """Answer those that wait, and accept no more."""
        await self.batcher.stop(drain_s)
        # Not waited for, because that would block the event loop, and nobody reads the results.
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def about(self) -> About:
        return self._about

    async def status(self) -> tuple[bool, bool]:
        return self.batcher.healthy, self.batcher.ready

    async def predict(self, asked: Asked) -> Reply:
        """The answer to a request.

        Raises:
            Problem: why there is none.
        """
        began = self._clock()
        # Before the image is decoded, which is the expensive part.
        self.batcher.check(asked.wishes, self._preparing)
        given = await self._prepared(asked)
        prepared = 1000 * (self._clock() - began)
        waited = asked.waited_ms + (prepared if 0 < prepared < _LONGEST_MS else 0.0)
        answer = await self.batcher.answer(given.x, asked.wishes, waited_ms=waited)
        told = Reply(answer.skip, answer.batch, answer.late, answer.waited_ms, answer.latency_ms)
        if (asked.form or ("tensors" if given.placement is None else "labels")) == "tensors":
            output = answer.output
            parts = output if isinstance(output, Mapping) else {"": output}
            return replace(told, tensors={name: np.asarray(part)[0] for name, part in parts.items()})
        return replace(told, predictions=await self._threaded(self._predictions, answer.output, given))

    async def _prepared(self, asked: Asked) -> Input:
        self._preparing += 1
        try:
            return await self._decoded(asked)
        except Problem as problem:
            self._watch.ended(problem.outcome)
            raise
        finally:
            self._preparing -= 1

    async def _decoded(self, asked: Asked) -> Input:
        return await self._threaded(
            read_input, asked.body, asked.kind, self._preprocessing, self._about.shape, self._limits
        )

    async def _threaded(self, work: Callable[..., Any], *given: Any) -> Any:
        """Run work (decoding images, reading outputs) outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *given)

    def _predictions(self, output: Any, given: Input) -> tuple[dict[str, Any], ...]:
        sides = given.x.shape[:0:-1]  # [channels, height, width] to (width, height)
        whole = Placement(sides, sides, (0, 0), sides) if len(sides) == 2 else None
        return tuple(to_plain(each) for each in self._read(output, given.placement or whole))
