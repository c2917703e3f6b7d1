"""Depth by depth for text: a limit on the time to the first token, and one on the time of each further token."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..choose.tradeoffs import Row, TradeOffs
from ..errors import BudgetError, MeasurementError, SkipError
from .governor import Governor, is_positive, only


class TextGovernor:
    """Picks the depth of the next text, so that it begins in time and is written fast enough.

    Each limit has a governor of its own, for a device may be slow at one (prefill computes) and not at the other
    (decoding reads weights and cache). Both know the same depths; the shallower of their two choices runs, and both
    are told what it took.

    The time to the first token follows the prompt: on a straight line from one token, which costs a step of decoding,
    to the prompt that the table was measured with. What that gets wrong of far longer ones is seen as a slower device.
    Where prompts of many lengths come in turn, the depth is one that the longer ones of them can afford.

    Only depths on the table's Pareto front are used, that of the time per token where it is limited. Threads may share
    one.

    Arguments:
        table: quality, `first_token_ms` and `token_ms` of each depth (`profile_generation`), measured as it will run.
        first_token_ms: a limit for each text, from its arrival to its first token.
        token_ms: a limit for each text on the time of a further token, in the mean of the text.
        prompt_tokens: how long the prompt of the table was; by default what the table says.
        met: the share of texts that should meet each limit.
        hold_s, skips, keep, clock: as of `Governor`.

    Attributes:
        first_token, token: the two governors, each with its `log`; None where there is no such limit.

    Raises:
        BudgetError: no limit, or one that is no number above 0.
        MeasurementError: no table, one without these times, or a first token after a prompt of unknown length.

    Example:
        >>> from adaptive_depth.tasks import Quality
        >>> deep = Row("F", 12.0, 9, 9, first_token_ms=200.0, token_ms=20.0)
        >>> rows = deep, Row("T", 14.0, 5, 5, first_token_ms=100.0, token_ms=10.0)
        >>> table = TradeOffs(rows, quality=Quality("perplexity", higher_is_better=False), prompt_tokens=100)
        >>> governor = TextGovernor(table, first_token_ms=300, token_ms=30)
        >>> governor.choose(prompt_tokens=100), governor.choose(prompt_tokens=250)
        ('F', 'T')
        >>> governor.observe("T", prompt_tokens=250, first_token_ms=240.0, token_ms=11.0)
    """

    def __init__(
        self,
        table: TradeOffs,
        *,
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        prompt_tokens: int | None = None,
        met: float = 0.95,
        hold_s: float = 0.1,
        skips: Iterable[str] | None = None,
        keep: int | None = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = {"token_ms": token_ms, "first_token_ms": first_token_ms}
        limits = {name: limit for name, limit in given.items() if limit is not None}
        if not limits:
            raise BudgetError("a text governor without a limit: give first_token_ms=, token_ms= or both")
        if not isinstance(table, TradeOffs):
            raise MeasurementError(
                f"a text governor received a {type(table).__name__} instead of a table: expected "
                "tradeoffs(perplexity, profile_generation(network, prompt))"
            )
        if skips is not None:
            table = only(table, {*skips})
        for name in limits:
            table.cost_name(name)
        self._ladder = table.front(next(iter(limits)))
        self._places = {row.skip: place for place, row in enumerate(self._ladder)}
        self._prompt_tokens = _length(table.prompt_tokens if prompt_tokens is None else prompt_tokens, first_token_ms)
        settings: dict[str, Any] = {"met": met, "hold_s": hold_s, "keep": keep, "clock": clock}
        governors = {
            name: Governor(_timed(table, self._ladder, name), target_ms=limit, **settings)
            for name, limit in limits.items()
        }
        self.first_token, self.token = governors.get("first_token_ms"), governors.get("token_ms")

    def choose(self, prompt_tokens: int | None = None, waited_ms: float = 0.0) -> str:
        """The skip for the next text.

        Arguments:
            prompt_tokens: how long its prompt is; by default as long as that of the table.
            waited_ms: how long it has waited already.

        Raises:
            BudgetError: a prompt without a token.
        """
        chosen = []
        if self.first_token is not None:
            work = max(self._work(row, prompt_tokens) for row in self._ladder)
            chosen.append(self.first_token.choose(waited_ms, work=work))
        if self.token is not None:
            chosen.append(self.token.choose())
        return min(chosen, key=self._places.__getitem__)

    def observe(
        self,
        skip: str,
        *,
        first_token_ms: float | None = None,
        token_ms: float | None = None,
        prompt_tokens: int | None = None,
        waited_ms: float = 0.0,
    ) -> None:
        """Tell what a text took; what is not known (a text that ended with its first token) is left out.

        Arguments:
            skip: the depth that ran.
            first_token_ms: from the beginning of the prompt's pass to the first token.
            token_ms: the mean time of each further token.
            prompt_tokens, waited_ms: as given to `choose`.

        Raises:
            SkipError: a depth that this governor never chooses.
            BudgetError: a prompt without a token.
            MeasurementError: a time that is no finite number above 0; nothing is counted then.
        """
        if skip not in self._places:
            raise SkipError(
                f"skip {skip!r} is none of the governor's depths: expected one of {', '.join(self._places)}"
            )
        for name, value in (("first_token_ms", first_token_ms), ("token_ms", token_ms)):
            if value is not None and not is_positive(value):
                raise MeasurementError(
                    f"{name}={value!r} of a text at {skip}: expected milliseconds, a finite number above 0; leave it "
                    "out where there is none (of a text that ended with its first token)"
                )
        if self.first_token is not None and first_token_ms is not None:
            work = self._work(self._ladder[self._places[skip]], prompt_tokens)
            self.first_token.observe(skip, first_token_ms, waited_ms, work=work)
        if self.token is not None and token_ms is not None:
            self.token.observe(skip, token_ms)

    def _work(self, row: Row, prompt_tokens: int | None) -> float:
        """How many times as long as in the table the first token of a prompt of that length takes."""
        if prompt_tokens is None:
            return 1.0
        if isinstance(prompt_tokens, bool) or not isinstance(prompt_tokens, int) or prompt_tokens < 1:
            raise BudgetError(f"prompt_tokens={prompt_tokens!r}: expected a whole number of at least 1")
        measured = self._prompt_tokens
        if measured == 1:
            return float(prompt_tokens)
        whole = row.first_token_ms or 1.0
        one = min(row.token_ms or whole / measured, whole) / whole
        return one + (1 - one) * (prompt_tokens - 1) / (measured - 1)

    def __repr__(self) -> str:
        limits = {"to the first token": self.first_token, "a token": self.token}
        told = " and ".join(f"{each.target_ms:g} ms {what}" for what, each in limits.items() if each is not None)
        return f"TextGovernor for {told} over {', '.join(self._places)}"


def _timed(table: TradeOffs, ladder: Iterable[Row], name: str) -> TradeOffs:
    """The same depths for a governor of one of the times.

    A deeper one never counts as faster than a shallower one, which only the noise of the measurement makes it: so each
    governor climbs the same ladder, and what is shallower than its choice meets its limit, too.
    """
    rows, least = [], 0.0
    for row in ladder:
        least = max(getattr(row, name), math.nextafter(least, math.inf))
        rows.append(replace(row, latency_ms=least))
    return replace(table, rows=tuple(rows), ties=())


def _length(prompt_tokens: object, first_token_ms: object) -> int:
    """Of the table's prompt."""
    if prompt_tokens is None and first_token_ms is None:
        return 1
    if isinstance(prompt_tokens, bool) or not isinstance(prompt_tokens, int) or prompt_tokens < 1:
        raise MeasurementError(
            f"the table's first tokens are those of a prompt of {prompt_tokens} tokens: expected its length, "
            "TextGovernor(table, prompt_tokens=512, ...), where the table does not say it"
        )
    return prompt_tokens
