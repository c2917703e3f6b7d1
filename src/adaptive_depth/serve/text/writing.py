"""A language model that writes requested texts one after the other, each at its own depth."""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from ...choose.tradeoffs import TradeOffs
from ...core.network import AdaptiveNetwork
from ...errors import AdaptiveDepthError, one_line
from ...governor.generation import TextGovernor
from ...hugging_face import context_of
from ...language import generate
from ...language.texts import sampling, text_behind, tokens_of
from ...skip import parse_skip
from ...training.interrupting import seeded
from ..batching import PATIENCE
from ..metrics import Nobody, Watch
from ..predicting import About
from ..problems import Problem
from ..thread import Thread
from .asking import TextAsked
from .pieces import Piece, Stops, Usage

_GOVERNORS = 16  # kept, one for each pair of limits
_USUAL_TOKENS = 1024  # of a conversation if the model has no limit


@dataclass(frozen=True)
class TextSettings:
    """Defaults for requests.

    Attributes:
        skip: the depth; the super-net if None and without limits.
        first_token_ms, token_ms: limits, which determine the depth.
        most_waiting: the most texts that wait; any more are refused.
    """

    skip: str | None = None
    first_token_ms: float | None = None
    token_ms: float | None = None
    most_waiting: int = 64


class Writer:
    """Writes texts in one thread, in order of arrival. Used inside one event loop.

    Arguments:
        name: in requests.
        network: an adapted causal language model of transformers.
        tokenizer: its own.
        table: quality and text times by depth, for limits; None if unknown.
        settings: defaults for requests.
        watch: counts events.
        clock: seconds.

    Raises:
        BudgetError, MeasurementError, SkipError: settings that do not fit the network.
    """

    def __init__(
        self,
        name: str,
        network: AdaptiveNetwork,
        tokenizer: Any,
        *,
        table: TradeOffs | None = None,
        settings: TextSettings | None = None,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.network, self.tokenizer, self.table = network.eval(), tokenizer, table
        self.settings = settings or TextSettings()
        self._watch, self._clock = watch or Nobody(), clock
        self._governors: OrderedDict[tuple[float | None, float | None], TextGovernor] = OrderedDict()
        self._thread = Thread()
        self._inside, self._failed, self._stopping = 0, 0, False
        self._idle = asyncio.Event()
        self._idle.set()
        quality = {} if table is None else {row.skip: row.accuracy for row in table.rows}
        depths = {skip: quality.get(skip) for skip in network.skips}
        self._about = About(name, depths, "" if table is None else str(table.quality), language=True)
        # Raises here if the settings do not fit, instead of at the first request.
        self._depth(replace(TextAsked(), skip=self.settings.skip), 1, 0.0)

    async def __aenter__(self) -> "Writer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def about(self) -> About:
        return self._about

    async def status(self) -> tuple[bool, bool]:
        healthy = self._failed < PATIENCE
        return healthy, healthy and not self._stopping

    async def stop(self, drain_s: float = 30.0) -> None:
        """Finish the texts that are in progress or waiting, and accept no more."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        self._thread.end()

    async def write(self, asked: TextAsked) -> AsyncIterator[Piece]:
        """A text, piece by piece; the last one says why it ended. Closing the iterator early ends the text.

        Raises:
            Problem: why there is none.
        """
        try:
            ids, most = self._prompt(asked)
            self._check_room()
        except Problem as problem:
            self._watch.ended(problem.outcome)
            raise
        pieces: asyncio.Queue[Piece | Problem] = asyncio.Queue()
        loop, left = asyncio.get_running_loop(), threading.Event()
        came = self._clock()

        def tell(piece: Piece | Problem) -> None:
            # asyncio's queues are not safe to use from another thread.
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        self._inside += 1
        self._idle.clear()
        self._watch.waiting(self._inside - 1)
        task = self._thread.run(lambda: self._write(asked, ids, most, came, left, tell))
        task.add_done_callback(self._done)
        outcome, skip = "cancelled", ""
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Problem):
                    outcome = piece.outcome
                    raise piece
                skip = piece.skip
                if piece.finish is not None:
                    outcome = "in_time"
                yield piece
                if piece.finish is not None:
                    return
        finally:
            left.set()
            self._watch.ended(outcome)
            if outcome == "in_time":
                self._watch.answered(skip, max(0.0, self._clock() - came), 0.0)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _done(self, task: "asyncio.Future[Any]") -> None:
        self._inside -= 1
        self._watch.waiting(max(0, self._inside - 1))
        if not self._inside:
            self._idle.set()
        task.exception()  # already reported

    def _check_room(self) -> None:
        if self._stopping:
            raise Problem("stopping", "the server is stopping: use another one")
        if self._inside > self.settings.most_waiting:
            raise Problem("full", f"{self._inside - 1} texts wait, the limit: retry in 5 s", 5)

    def _prompt(self, asked: TextAsked) -> tuple[list[int], int]:
        """The prompt's tokens, and how many may follow."""
        if asked.messages:
            ids = self._of_messages(asked)
        elif isinstance(asked.prompt, str):
            ids = tokens_of(self.tokenizer, asked.prompt)
        else:
            ids = list(asked.prompt or ())
        if not ids:
            raise Problem("wish", "the prompt is empty: expected text to continue")
        model: Any = self.network.model
        # The rows of the embedding count, because a tokenizer may have more tokens.
        rows = model.get_input_embeddings().num_embeddings
        if strange := [each for each in ids if not 0 <= each < rows]:
            raise Problem("wish", f"prompt has the token {strange[0]}: expected ids from 0 to {rows - 1}")
        context = context_of(self.network.model)
        room = asked.most or _USUAL_TOKENS
        if context is not None:
            left = context - len(ids)
            if left < (asked.most or 1):
                raise Problem(
                    "wish",
                    f"a prompt of {len(ids)} tokens and {asked.most or 1} new ones exceed the model's context of "
                    f"{context}: expected a shorter prompt, or a smaller max_tokens",
                )
            room = min(room, left) if asked.most else left
        return ids, room

    def _of_messages(self, asked: TextAsked) -> list[int]:
        if not self.tokenizer.chat_template:
            raise Problem("wish", "the model has no chat template, so no conversations: use /v1/completions")
        try:
            found = self.tokenizer.apply_chat_template([*asked.messages], add_generation_prompt=True, return_dict=True)
        except Exception as error:  # from the template, which is the folder's code
            raise Problem("wish", f"the chat template rejects these messages ({one_line(error)})") from error
        return list(found["input_ids"])

    def _depth(self, asked: TextAsked, tokens: int, waited_ms: float) -> tuple[str, TextGovernor | None]:
        """The depth for a prompt of `tokens` tokens, and the governor that chose it."""
        if asked.skip is not None:
            return self._known(asked.skip), None
        limits = asked.first_token_ms, asked.token_ms
        if limits == (None, None):
            limits = self.settings.first_token_ms, self.settings.token_ms
            if limits == (None, None):
                return self._known(self.settings.skip or self.network.skips[0]), None
        if limits not in self._governors:
            if self.table is None:
                raise Problem("wish", "this model's times were not measured (text table): set a skip")
            first, each = limits
            try:
                self._governors[limits] = TextGovernor(self.table, first_token_ms=first, token_ms=each)
            except AdaptiveDepthError as error:
                raise Problem("wish", f"{error}; or set a skip") from error
            if len(self._governors) > _GOVERNORS:
                self._governors.popitem(last=False)
        self._governors.move_to_end(limits)
        governor = self._governors[limits]
        return governor.choose(tokens, waited_ms), governor

    def _known(self, skip: str) -> str:
        try:
            found = parse_skip(skip, len(self.network.stages))
        except AdaptiveDepthError as error:
            raise Problem("wish", str(error)) from error
        if found not in self.network.skips:
            raise Problem("wish", f"skip={skip}: expected one of {', '.join(self.network.skips)}")
        return found

    def _write(
        self,
        asked: TextAsked,
        ids: list[int],
        most: int,
        came: float,
        left: threading.Event,
        tell: Callable[[Piece | Problem], None],
    ) -> None:
        """Write all pieces of a text, in the thread."""
        if left.is_set():  # its reader left before its turn
            return
        began = self._clock()
        # An hour at most: more means that the clock jumped.
        waited_ms = asked.waited_ms + 1000 * max(0.0, min(began - came, 3600.0))
        try:
            skip, governor = self._depth(asked, len(ids), waited_ms)
            pen = _Pen(self.tokenizer, ids, skip, Stops(asked.stop), left, tell, self._clock)
            options = sampling(self.network, self.tokenizer, asked.temperature, asked.top_p)
            with seeded(asked.seed):
                found = generate(
                    self.network, [ids], skip=skip, max_new_tokens=most, streamer=pen, stopping_criteria=[pen.ended],
                    **options,
                )  # fmt: skip
            new = found.shape[1] - len(ids)
            pen.finish(self._ends(options), most, Usage(len(ids), new))
            self._failed = 0
            if governor is not None and pen.first is not None:
                self._observe(governor, skip, len(ids), waited_ms, 1000 * (pen.first - began), pen.each_ms)
        except Problem as problem:
            tell(problem)
        except Exception as error:  # noqa: BLE001 - any error of the network goes to its text
            self._failed += 1
            tell(Problem("failed", f"{one_line(error)}; other requests are not affected"))

    def _observe(
        self, governor: TextGovernor, skip: str, tokens: int, waited_ms: float, first_ms: float, each_ms: float | None
    ) -> None:
        if first_ms > 0 and (each_ms is None or each_ms > 0):  # otherwise the clock jumped
            governor.observe(skip, first_token_ms=first_ms, token_ms=each_ms, prompt_tokens=tokens, waited_ms=waited_ms)

    def _ends(self, options: dict[str, Any]) -> set[int]:
        """The tokens that end a text."""
        model: Any = self.network.model
        known = options.get("eos_token_id", model.generation_config.eos_token_id)
        return {*(known if isinstance(known, list) else [known])} - {None}


class _Pen:
    """A streamer for transformers: takes tokens as they come, and emits the text that is certain."""

    def __init__(
        self,
        tokenizer: Any,
        ids: list[int],
        skip: str,
        stops: Stops,
        left: threading.Event,
        tell: Callable[[Piece | Problem], None],
        clock: Callable[[], float],
    ) -> None:
        self._tokenizer, self._ids, self._behind, self._skip = tokenizer, list(ids), len(ids), skip
        self._stops, self._left, self._tell, self._clock = stops, left, tell, clock
        self._prompt_seen = False
        self.first: float | None = None
        self._last = 0.0

    def put(self, value: Any) -> None:
        if not self._prompt_seen:  # transformers puts the prompt first
            self._prompt_seen = True
            return
        self._last = self._clock()
        self.first = self._last if self.first is None else self.first
        self._ids += value.reshape(-1).tolist()
        self._say(self._stops.take(text_behind(self._tokenizer, self._ids, self._behind)))

    def end(self) -> None: ...

    def ended(self, ids: Any, *_: Any, **__: Any) -> Any:
        """Whether the text is over: it met a stop word, or its reader left."""
        import torch

        return torch.full((len(ids),), self._stops.met or self._left.is_set(), device=ids.device)

    @property
    def each_ms(self) -> float | None:
        """The mean time per token except the first."""
        more = len(self._ids) - self._behind - 1
        return None if more < 1 or self.first is None else 1000 * (self._last - self.first) / more

    def finish(self, ends: set[int], most: int, usage: Usage) -> None:
        self._say(self._stops.rest(text_behind(self._tokenizer, self._ids, self._behind)))
        stopped = self._stops.met or self._ids[-1] in ends or len(self._ids) - self._behind < most
        self._tell(Piece("", self._skip, "stop" if stopped else "length", usage))

    def _say(self, text: str) -> None:
        if text:
            self._tell(Piece(text, self._skip))
