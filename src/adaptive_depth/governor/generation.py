"""A depth for each text, with a limit on the time to the first token and one on the time per further token."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..choose.tradeoffs import Row, TradeOffs
from ..errors import BudgetError, MeasurementError, SkipError
from .governor import Governor, is_positive, only


class TextGovernor:
    """Picks the depth of the next text so that it starts in time and is written fast enough.

    Each limit has its own governor, because a device may be slow at one (prefill is compute-bound) and not at the other
    (decoding reads weights and cache). Both use the same depths; the shallower of their two choices runs, and both
    observe how long it took.

    The time to the first token is assumed to grow linearly with the prompt, along the line through a prompt of one
    token, which costs a step of decoding, and the prompt that the table was measured with. Far longer prompts may take
    longer than that; the governor then reacts as if the device had become slower. If prompts of different lengths
    alternate, the chosen depth is one that the longer ones can afford.

    Only depths on the table's Pareto front are used: that of time per token if it is limited. Threads may share one
    governor.

    Arguments:
        table: quality, `first_token_ms` and `token_ms` of each depth (`profile_generation`), measured as it will run.
        first_token_ms: a limit for each text, from its arrival to its first token.
        token_ms: a limit for each text on the mean time per further token.
        prompt_tokens: length of the table's prompt; by default what the table says.
        met: the share of texts that should meet each limit.
        hold_s, skips, keep, clock: as for `Governor`.

    Attributes:
        first_token, token: the two governors, each with its `log`; None without such a limit.

    Raises:
        BudgetError: no limit, or one that is not a number above 0.
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
            prompt_tokens: length of its prompt; by default that of the table's.
            waited_ms: how long it has already waited.

        Raises:
            BudgetError: a prompt without a token.
        """
        chosen = []
        if self.first_token is not None:
            # The worst case over depths, because the depth is not chosen yet.
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
        """Report how long a text took; leave out what is unknown (for a text that ended with its first token).

        Arguments:
            skip: the depth that ran.
            first_token_ms: from the start of the prompt's pass to the first token.
            token_ms: the mean time of each further token.
            prompt_tokens, waited_ms: as given to `choose`.

        Raises:
            SkipError: a depth that this governor never chooses.
            BudgetError: a prompt without a token.
            MeasurementError: a time that is not a finite number above 0; nothing is then recorded.
        """
        if skip not in self._places:
            raise SkipError(
                f"skip {skip!r} is not one of the governor's depths: expected one of {', '.join(self._places)}"
            )
        for name, value in (("first_token_ms", first_token_ms), ("token_ms", token_ms)):
            if value is not None and not is_positive(value):
                raise MeasurementError(
                    f"{name}={value!r} for a text at {skip}: expected milliseconds, a finite number above 0; leave it "
                    "out if there is none (for a text that ended with its first token)"
                )
        if self.first_token is not None and first_token_ms is not None:
            work = self._work(self._ladder[self._places[skip]], prompt_tokens)
            self.first_token.observe(skip, first_token_ms, waited_ms, work=work)
        if self.token is not None and token_ms is not None:
            self.token.observe(skip, token_ms)

    def _work(self, row: Row, prompt_tokens: int | None) -> float:
        """Time to first token for a prompt of this length, as a multiple of the table's."""
        if prompt_tokens is None:
            return 1.0
        if isinstance(prompt_tokens, bool) or not isinstance(prompt_tokens, int) or prompt_tokens < 1:
            raise BudgetError(f"prompt_tokens={prompt_tokens!r}: expected a whole number of at least 1")
        measured = self._prompt_tokens
        if measured == 1:
            return float(prompt_tokens)
        whole = row.first_token_ms or 1.0
        # Because of noise, a decoding step may appear slower than the whole prompt.
        one = min(row.token_ms or whole / measured, whole) / whole
        return one + (1 - one) * (prompt_tokens - 1) / (measured - 1)

    def __repr__(self) -> str:
        limits = {"to the first token": self.first_token, "per token": self.token}
        told = " and ".join(f"{each.target_ms:g} ms {what}" for what, each in limits.items() if each is not None)
        return f"TextGovernor for {told} over {', '.join(self._places)}"


def _timed(table: TradeOffs, ladder: Iterable[Row], name: str) -> TradeOffs:
    """The same depths for a governor of one of the times.

    A deeper one never counts as faster than a shallower one, since only measurement noise can cause that: so both
    governors climb the same ladder, and whatever is shallower than a choice meets its limit, too.
    """
    rows, least = [], 0.0
    for row in ladder:
        # Strictly increasing, because the Pareto front would drop one of two depths with equal times.
        least = max(getattr(row, name), math.nextafter(least, math.inf))
        rows.append(replace(row, latency_ms=least))
    return replace(table, rows=tuple(rows), ties=())


def _length(prompt_tokens: object, first_token_ms: object) -> int:
    """Length of the table's prompt."""
    if prompt_tokens is None and first_token_ms is None:
        return 1  # without a limit on the first token, no length matters
    if isinstance(prompt_tokens, bool) or not isinstance(prompt_tokens, int) or prompt_tokens < 1:
        raise MeasurementError(
            f"the table's time to first token is for a prompt of {prompt_tokens} tokens: expected its length, "
            "TextGovernor(table, prompt_tokens=512, ...), if the table does not have it"
        )
    return prompt_tokens
