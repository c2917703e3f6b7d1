"""What a governor logs: plain values, enough to replay every decision."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import MeasurementError, one_line
from ..schema import Letters, NotNegative, Number, Plain, Positive, Size, one_of, parse_json


@dataclass(frozen=True)
class Seen(Plain):
    """One input's times: `waited_ms` before it started, then `latency_ms`; `at_s` and `work` as in `Decision`."""

    at_s: NotNegative
    skip: Letters
    latency_ms: Positive
    waited_ms: NotNegative
    work: Positive = 1.0


@dataclass(frozen=True)
class Decision(Plain):
    """One decision of a governor and everything it was based on; survives JSON.

    Attributes:
        number: counted from 1.
        at_s: seconds on the governor's own clock, which never goes back.
        waited_ms: how long the input had waited.
        limits: what the callback allowed.
        skip: the depth.
        why: `"start"`, `"stay"`, `"deeper"` or `"shallower"`.
        slowdown: the device's expected latency as a multiple of its profile.
        seen: what was observed since the previous decision.
        work: the input's expected work as a multiple of that of the table's input.
    """

    reading_error = MeasurementError

    number: Size
    at_s: NotNegative
    waited_ms: NotNegative
    limits: Mapping[str, Number]
    skip: Letters
    why: Annotated[str, one_of("start", "stay", "deeper", "shallower")]
    slowdown: Positive
    seen: tuple[Seen, ...]
    work: Positive = 1.0


def read_log(path: str | os.PathLike[str]) -> tuple[Decision, ...]:
    """The decisions in a file that `adaptive-depth run --log` wrote, one per line, for `replay`.

    Raises:
        MeasurementError: a file that cannot be read, or a line that is not a decision (the first one is named).
    """
    decisions, mend = [], "expected one decision per line, as adaptive-depth run --log writes them"
    try:
        with Path(path).open("rb") as file:
            lines = iter(lambda: file.readline(_LONGEST), b"")
            for number, line in enumerate(lines, 1):
                plain = parse_json(line, MeasurementError, f"line {number} of {path}", mend)
                decisions.append(Decision.from_json(plain))
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({one_line(error)}): {mend}") from error
    return tuple(decisions)


_LONGEST = 1 << 20  # bytes per line; a longer one is read in pieces, none of which is a decision
