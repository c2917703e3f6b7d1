"""One model that answers requests: what a body means, its place in the queue, and what the output says of it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
_LONGEST_MS = 10_000.0  # that unpacking an image can have taken; more comes from a clock that jumped


@dataclass(frozen=True)
class Asked:
    """A request, as it goes from the server to a model, perhaps on another machine.

    Attributes:
        body: an image or a tensor.
        kind: its media type.
        wishes: what it asks for.
        form: of the answer, one of `FORMS`; labels of an image and tensors of a tensor where None.
        waited_ms: since it came to the server.
    """

    body: bytes = field(repr=False)
    kind: str = ""
    wishes: Wishes = field(default_factory=Wishes)
    form: str | None = None
    waited_ms: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What a model says to a request.

    Attributes:
        skip: the depth that ran; `batch` is how many requests ran together.
        late: it came after the server's target.
        waited_ms, latency_ms: before its batch, and of its batch.
        predictions: what each output says of an image: its `output`, `text` and `values`; None where tensors were asked
            for.
        tensors: the outputs by name, `""` of a network that has only one; None where labels were asked for.
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
    """What a server says of a model.

    Attributes:
        name: in addresses.
        depths: quality by skip, super-net first; None where it was not measured.
        quality: what that is, in words.
        target_ms: the server's aim.
        shape: of a tensor, without the batch.
        images: does it take images?
        latencies: milliseconds by skip and batch size, as measured.
        language: does it write text?
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
    """What a server has of each model: in this process, or behind Ray."""

    async def about(self) -> About: ...

    async def predict(self, asked: Asked) -> Reply: ...

    async def status(self) -> tuple[bool, bool]:
        """Is it healthy, and does it take requests?"""
        ...


class Predictor:
    """A model in this process.

    Arguments:
        about: what it is.
        batcher: its queue, which this starts and stops.
        preprocessing: of images; None where only tensors are taken.
        read: what outputs say of an image.
        limits: of images.
        watch: who counts, the same as the queue's.
        workers: threads that unpack images and read outputs.
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
        self._preparing = 0  # requests whose body is unpacked at present

    async def __aenter__(self) -> "Predictor":
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, drain_s: float = 30.0) -> None:
        """Answer those that wait, and take no more."""
        await self.batcher.stop(drain_s)
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
            return await self._threaded(
                read_input, asked.body, asked.kind, self._preprocessing, self._about.shape, self._limits
            )
        except Problem as problem:
            self._watch.ended(problem.outcome)
            raise
        finally:
            self._preparing -= 1

    async def _threaded(self, work: Callable[..., Any], *given: Any) -> Any:
        """Images are unpacked, and outputs read, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *given)

    def _predictions(self, output: Any, given: Input) -> tuple[dict[str, Any], ...]:
        sides = given.x.shape[:0:-1]
        whole = Placement(sides, sides, (0, 0), sides) if len(sides) == 2 else None
        return tuple(to_plain(each) for each in self._read(output, given.placement or whole))
